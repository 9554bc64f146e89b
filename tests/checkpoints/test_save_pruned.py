import json
import os
import shutil
import warnings

import pytest
import torch
from families import TINY, cifar_resnet, har_transformer, llama, vit
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_checkpoints import MAKERS
from tiny_history import history
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    pipeline,
)

from har_prune import HarFeatureExtractor, PruneConfig, find_blocks, prune, remove_blocks, save_pruned
from har_prune.blocks.example_inputs import example_inputs
from har_prune.checkpoints.auto_class import auto_class_of
from har_prune.checkpoints.contents import files_of
from har_prune.checkpoints.load import Checkpoint, load_model, load_processor
from har_prune.errors import CheckpointError, NotRemovableError, OutputFolderError, SaveVerificationError
from har_prune.pruning.history import PruningHistory
from har_prune.recipe.schema import SaveConfig
from har_prune.runtime.digest import weights_sha256


@pytest.mark.parametrize("name", TINY)
def test_the_auto_class_loads_every_family_back(name, tmp_path):
    model = TINY[name].make()
    folder = save_pruned(model, tmp_path / "model")
    assert set(files_of(folder)) == {path.name for path in folder.iterdir()}, "what push would take"
    inputs = example_inputs(model)
    with torch.no_grad():
        torch.testing.assert_close(load_model(auto_class_of(model), folder).eval()(**inputs)[0], model(**inputs)[0])


def test_processor_history_and_card_lie_in_the_folder(tmp_path):
    model = remove_blocks(har_transformer(), [2])
    extractor = HarFeatureExtractor(num_channels=6, window_size=32, channel_mean=[1.0] * 6)
    folder = save_pruned(
        model, tmp_path / "a" / "model", history=history(), processor=extractor, command="accelerate launch x.yaml"
    )
    assert AutoFeatureExtractor.from_pretrained(folder).channel_mean == [1.0] * 6
    assert load_processor(folder, "sensor").window_size == 32
    assert PruningHistory.from_json(json.loads((folder / "history.json").read_text())) == history()
    card = ModelCard.load(folder / "README.md")
    assert "har_prune" in card.data.tags
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "accuracy": 0.85,
        "f1": 0.8,
    }
    assert "AutoModelForSequenceClassification.from_pretrained" in card.text
    for said in ("1 of 4 residual blocks", "index in the original network: 2", "    accelerate launch x.yaml",
                 "](trajectory.png)", "trust_remote_code=True"):  # fmt: skip
        assert said in card.text
    assert (folder / "trajectory.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*.bin"))
    assert not list(folder.glob("*.pt"))
    assert {path.name for path in folder.parent.iterdir()} == {"model"}
    base = AutoModel.from_pretrained(folder)
    assert type(base).__name__ == "HarTransformerModel"


def _cannot_write(*arguments, **options):
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def test_a_full_disk_is_said_to_be_one_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", _cannot_write)
    with pytest.raises(OutputFolderError, match=r"model \(I/O error: No space left.*is the disk full\?"):
        save_pruned(vit(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_saved_files_have_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        folder = save_pruned(vit(), tmp_path / "model")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}


@pytest.mark.parametrize("size", ["0KB", 0, "-1GB", "0.0GB"])
def test_shards_of_nothing_are_refused(size, tmp_path):
    with pytest.raises(ValueError, match="above 0"):
        save_pruned(vit(), tmp_path / "model", max_shard_size=size)
    with pytest.raises(ValueError, match=r"above 0|valid string"):
        SaveConfig(max_shard_size=size)
    assert SaveConfig(max_shard_size="0.5GB").max_shard_size == "0.5GB"


@pytest.mark.parametrize("kind", ["vit", "resnet50", "bert", "llama"])
def test_the_processor_of_the_origin_is_carried_along(kind, tmp_path):
    _, parent = MAKERS[kind](tmp_path / "parent")
    auto_class = {"bert": AutoModelForSequenceClassification, "llama": AutoModelForCausalLM}
    model = auto_class.get(kind, AutoModelForImageClassification).from_pretrained(parent)
    removable = find_blocks(model).removable
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        folder = save_pruned(remove_blocks(model, removable[:1]), tmp_path / "pruned")
    if kind in ("vit", "resnet50"):
        assert pipeline("image-classification", str(folder))(Image.new("RGB", (40, 30)))[0]["label"]
    elif kind == "bert":
        assert pipeline("text-classification", str(folder))("a good film")[0]["label"] in ("joy", "anger", "fear")
    else:
        assert load_processor(folder, "text")("a good film").input_ids
    assert not any(str(tmp_path) in path.read_bytes().decode(errors="replace") for path in folder.iterdir())


def test_a_model_without_a_processor_is_saved_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"not loaded from a checkpoint .*give save_pruned\(processor=\.\.\.\)"):
        parent = save_pruned(vit(), tmp_path / "parent")
    model = load_model(AutoModelForImageClassification, parent)
    with pytest.warns(UserWarning, match=r"parent has none"):
        save_pruned(model, tmp_path / "again")
    shutil.rmtree(parent)
    with pytest.warns(UserWarning, match="that is still there"):
        save_pruned(model, tmp_path / "gone")


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputFolderError, match="not empty: choose another directory"):
        save_pruned(vit(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_does_not_load_back_is_not_left_behind(tmp_path, monkeypatch):
    model = vit()

    def forgets_a_layer(folder, **kwargs):
        type(model).save_pretrained(model, folder)
        state = load_file(folder / "model.safetensors")
        state.pop(next(key for key in state if "layer.3" in key or "layers.3" in key))
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(model, "save_pretrained", forgets_a_layer)
    with pytest.raises(SaveVerificationError, match="weights the model needs and the checkpoint lacks"):
        save_pruned(model, tmp_path / "model")

    def changes_a_weight(folder, **kwargs):
        type(model).save_pretrained(model, folder)
        state = load_file(folder / "model.safetensors")
        state["classifier.weight"] *= 2
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(model, "save_pretrained", changes_a_weight)
    with pytest.raises(SaveVerificationError, match="outputs of the reloaded model differ"):
        save_pruned(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_stale_surgery_is_caught(tmp_path):
    """The trap of FACTS: a layer deleted by hand, the config untouched."""
    model = vit()
    del model.vit.layers[1]
    with pytest.raises(SaveVerificationError, match="does not load back"):
        save_pruned(model, tmp_path / "model")


def test_a_damaged_checkpoint_is_named(tmp_path):
    folder = save_pruned(cifar_resnet(), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model: a safetensors file is corrupt or cut off"):
        load_model(auto_class_of(cifar_resnet()), folder)
    with pytest.raises(CheckpointError, match="does not exist: make it first"):
        load_model(AutoModelForSequenceClassification, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(AutoModelForSequenceClassification, tmp_path / "empty")


def test_an_originals_license_goes_with_the_result_and_its_path_does_not(tmp_path):
    parent = save_pruned(vit(), tmp_path / "secret-place" / "parent")
    card = (parent / "README.md").read_text().replace("library_name:", "license: mit\nlibrary_name:", 1)
    (parent / "README.md").write_text(card)
    smaller = remove_blocks(load_model(AutoModelForImageClassification, parent), [1])
    assert smaller.config.har_prune == {
        "original": "parent", "license": "mit", "original_depth": 4, "removed_blocks": [1],
    }  # fmt: skip
    of_a_run = save_pruned(vit(), tmp_path / "runs" / "beans" / "original")
    smaller_one = remove_blocks(load_model(AutoModelForImageClassification, of_a_run), [1])
    assert smaller_one.config.har_prune["original"] == "beans"
    folder = save_pruned(smaller, tmp_path / "pruned")
    assert ModelCard.load(folder / "README.md").data.license == "mit"
    assert not any("secret-place" in path.read_text(errors="replace") for path in folder.iterdir())


def test_sharded_weights_go_in_and_out(tmp_path):
    model = llama()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    smaller = remove_blocks(load_model(AutoModelForCausalLM, tmp_path / "sharded"), [1, 2])
    folder = save_pruned(smaller, tmp_path / "pruned", max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    inputs = example_inputs(model)
    with torch.no_grad():
        loaded = load_model(AutoModelForCausalLM, folder).eval()
        torch.testing.assert_close(loaded(**inputs).logits, smaller(**inputs).logits)


def test_pickles_and_quantised_checkpoints_are_refused_with_a_way_out(tmp_path):
    vit().save_pretrained(tmp_path / "bin")
    state = load_file(tmp_path / "bin" / "model.safetensors")
    (tmp_path / "bin" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin and no safetensors.*use_safetensors=False"):
        load_model(AutoModelForImageClassification, tmp_path / "bin")
    converted = AutoModelForImageClassification.from_pretrained(tmp_path / "bin", use_safetensors=False)
    converted.save_pretrained(tmp_path / "converted")
    assert load_model(AutoModelForImageClassification, tmp_path / "converted").config.num_hidden_layers == 4

    llama().save_pretrained(tmp_path / "packed")
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"is quantised \(gptq\).*prune the checkpoint it was made from"):
        load_model(AutoModelForCausalLM, tmp_path / "packed")


@pytest.mark.parametrize("name", ["shard.bin", "../shard.safetensors", "/etc/passwd"])
def test_an_index_names_only_safetensors_beside_it(name, tmp_path):
    model = llama()
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    key = next(iter(content["weight_map"]))
    torch.save({key: model.state_dict()[key]}, tmp_path / "model" / "shard.bin")
    save_file({key: model.state_dict()[key]}, tmp_path / "shard.safetensors", metadata={"format": "pt"})
    content["weight_map"][key] = name
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"index\.json names {name}, .* beside it only"):
        load_model(AutoModelForCausalLM, tmp_path / "model")
    index.write_text("{}")
    with pytest.raises(CheckpointError, match=r"index\.json is damaged"):
        load_model(AutoModelForCausalLM, tmp_path / "model")


@pytest.mark.parametrize("name", ["adapter_model.bin", "sub/other.safetensors.index.json"])
def test_a_config_names_only_safetensors_beside_it(name, tmp_path):
    vit().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
    with pytest.raises(CheckpointError, match=rf"transformers_weights='{name}'"):
        load_model(AutoModelForImageClassification, tmp_path)


_CODE = """
from transformers import ViTConfig, ViTForImageClassification


class StrangeConfig(ViTConfig):
    model_type = "strange_vit"


class StrangeForImageClassification(ViTForImageClassification):
    config_class = StrangeConfig
"""


def _strange(folder):
    """A checkpoint that brings its own code."""
    fields = json.loads(vit().config.to_json_string())
    auto_map = {"AutoConfig": "strange.StrangeConfig",
                "AutoModelForImageClassification": "strange.StrangeForImageClassification"}  # fmt: skip
    fields |= {"model_type": "strange_vit", "auto_map": auto_map, "architectures": ["StrangeForImageClassification"]}
    vit().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "strange.py").write_text(_CODE)
    return folder


def test_code_of_others_runs_only_where_it_is_allowed(tmp_path):
    _strange(tmp_path / "strange")
    with pytest.raises(CheckpointError, match=r"brings its own code.*model\.trust_remote_code=true"):
        load_model(AutoModelForImageClassification, tmp_path / "strange")
    allowed = Checkpoint(tmp_path / "strange", trust_remote_code=True)
    model = load_model(AutoModelForImageClassification, allowed)
    assert find_blocks(model).family is None
    smaller = remove_blocks(model, [1])
    folder = save_pruned(smaller, tmp_path / "pruned")
    assert (folder / "strange.py").read_text() == _CODE
    again = load_model(AutoModelForImageClassification, Checkpoint(folder, trust_remote_code=True)).eval()
    with torch.no_grad():
        inputs = example_inputs(model)
        torch.testing.assert_close(again(**inputs).logits, smaller(**inputs).logits)


def test_a_run_of_a_network_with_its_own_code_goes_on(tmp_path):
    source = Checkpoint(_strange(tmp_path / "strange"), trust_remote_code=True)
    model = load_model(AutoModelForImageClassification, source)
    images = [{"pixel_values": torch.randn(8, 3, 16, 16), "labels": torch.arange(8) % 2}]

    class StoppedError(Exception):
        pass

    def stop(step, history):
        if step.iteration == 1:
            raise StoppedError

    config = PruneConfig(target={"blocks": 2}, heal=None, output_dir=tmp_path / "out")
    with pytest.raises(StoppedError):
        prune(model, None, images, images, config, on_step=stop)
    gone_on = prune(model, None, images, images, config)
    at_once = prune(model, None, images, images, config.model_copy(update={"output_dir": None}))
    assert type(gone_on.model) is type(at_once.model) is type(model)
    assert weights_sha256(gone_on.model) == weights_sha256(at_once.model)


def test_a_bfloat16_model_of_another_attention_is_saved(tmp_path):
    model = llama().to(torch.bfloat16)
    model = type(model).from_pretrained(
        model.save_pretrained(tmp_path / "start") or tmp_path / "start", attn_implementation="eager",
        dtype=torch.bfloat16,
    )  # fmt: skip
    folder = save_pruned(model, tmp_path / "model")
    assert load_model(type(model), folder, dtype=torch.bfloat16).config._attn_implementation != "eager"


def test_weights_without_a_place_are_named_with_a_way_to_drop_them(tmp_path):
    folder = tmp_path / "model"
    vit().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors") | {"vit.pooler.dense.weight": torch.zeros(2, 2)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"no place for: \['vit.pooler.dense.weight'\].*save_pretrained\(NEW_PATH\)"
    ):
        load_model(AutoModelForImageClassification, folder)
    AutoModelForImageClassification.from_pretrained(folder).save_pretrained(tmp_path / "new")
    load_model(AutoModelForImageClassification, tmp_path / "new")


def test_an_adapter_is_to_be_merged_first(tmp_path):
    peft = pytest.importorskip("peft")
    model = llama()
    peft.get_peft_model(llama(), peft.LoraConfig(target_modules="all-linear")).save_pretrained(tmp_path / "adapter")
    model.load_adapter(str(tmp_path / "adapter"))
    with pytest.raises(NotRemovableError, match=r"carries an adapter.*merge_and_unload"):
        remove_blocks(model, [1])
    model.config.save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="adapter"):
        load_model(auto_class_of(llama()), tmp_path / "adapter")
