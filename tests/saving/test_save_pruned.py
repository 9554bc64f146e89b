import json

import pytest
import torch
from families import TINY, cifar_resnet, har_transformer, vit
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

from har_prune import HarFeatureExtractor, remove_blocks, save_pruned
from har_prune.blocks.inputs import example_inputs
from har_prune.errors import CheckpointError, OutputFolderError, SaveVerificationError
from har_prune.loading import load_model, load_processor
from har_prune.pruning.history import (
    Calibration,
    PruningHistory,
    PruningStep,
    Quality,
    RaceRecord,
    ScoredBlock,
)
from har_prune.saving import auto_class_of


def _history():
    quality = {"validation": Quality(0.9, 0.88, 0.3, 40), "test": Quality(0.85, 0.8, 0.4, 40)}
    race = RaceRecord("tie", (1, 2), "lowest importance")
    how = Calibration("cka", 64, 1, "current", "fp32", "exact", {"micro_batch": 8}, 640, race)
    scores = (ScoredBlock(1, "a.1", 0.1, 64, (0.05, 0.2)), ScoredBlock(2, "a.2", 0.1, 32))
    steps = tuple(
        PruningStep(
            n, (2,) * n, (0, 1, 2, 3)[: 4 - n], scores[: 2 * n], how if n else None, quality, 1000 - 200 * n, 500,
            False, 0, "", 1.5, 2.0,
        )
        for n in (0, 1)
    )  # fmt: skip
    recipe = {"data": {"name_or_path": "data/wharf"}, "prune": {"criterion": "cka"}}
    return PruningHistory(recipe, 0, {"torch": "2"}, steps, selected=1)


@pytest.mark.parametrize("name", TINY)
def test_the_auto_class_loads_every_family_back(name, tmp_path):
    model = TINY[name].make()
    folder = save_pruned(model, tmp_path / "model")
    inputs = example_inputs(model)
    with torch.no_grad():
        torch.testing.assert_close(load_model(auto_class_of(model), folder).eval()(**inputs)[0], model(**inputs)[0])


def test_processor_history_and_card_lie_in_the_folder(tmp_path):
    model = remove_blocks(har_transformer(), [2])
    extractor = HarFeatureExtractor(num_channels=6, window_size=32, channel_mean=[1.0] * 6)
    folder = save_pruned(model, tmp_path / "a" / "model", history=_history(), processor=extractor)
    assert AutoFeatureExtractor.from_pretrained(folder).channel_mean == [1.0] * 6
    assert load_processor(folder).window_size == 32
    assert PruningHistory.from_json(json.loads((folder / "history.json").read_text())) == _history()
    card = ModelCard.load(folder / "README.md")
    assert "har_prune" in card.data.tags
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "accuracy": 0.85,
        "f1": 0.8,
    }
    assert "AutoModelForSequenceClassification.from_pretrained" in card.text
    assert not list(folder.glob("*.bin"))
    assert not list(folder.glob("*.pt"))
    assert {path.name for path in folder.parent.iterdir()} == {"model"}
    base = AutoModel.from_pretrained(folder)
    assert type(base).__name__ == "HarTransformerModel"


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputFolderError, match="not empty: choose another directory"):
        save_pruned(vit(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_does_not_load_back_is_not_left_behind(tmp_path, monkeypatch):
    model = vit()

    def forgets_a_layer(folder):
        type(model).save_pretrained(model, folder)
        state = load_file(folder / "model.safetensors")
        state.pop(next(key for key in state if "layer.3" in key or "layers.3" in key))
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(model, "save_pretrained", forgets_a_layer)
    with pytest.raises(SaveVerificationError, match="weights the model needs and the checkpoint lacks"):
        save_pruned(model, tmp_path / "model")

    def changes_a_weight(folder):
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
