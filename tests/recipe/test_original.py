"""A network that does not fit the data is refused in a few words."""

import numpy as np
import PIL.Image
import pytest
import tiny_checkpoints
import torch
import transformers as t
from console import refused, run_recipe
from families import TOKENS, WIDTHS, classifier, har_transformer, llama, tiny
from tiny_checkpoints import make_bert
from transformers import (
    AutoTokenizer,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2ForSequenceClassification,
    T5ForSequenceClassification,
    ViTForImageClassification,
    ViTImageProcessor,
)
from typer.testing import CliRunner

from har_prune.blocks.example_inputs import example_inputs
from har_prune.blocks.find import find_blocks
from har_prune.checkpoints.load import Checkpoint
from har_prune.commands.app import app
from har_prune.data.load import LabelledData, load_data
from har_prune.errors import CheckpointError, UnknownFamilyError
from har_prune.recipe.load import load_recipe
from har_prune.recipe.original import load_original, named_as
from har_prune.recipe.prepare import prepare, try_on


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return {name: make(folder / name) for name, make in tiny_checkpoints.MAKERS.items()}


def test_texts_for_an_image_model_are_refused_without_a_list_of_all_configs(made):
    with pytest.raises(
        CheckpointError, match=r"ViTConfig.*have no such head: give a checkpoint made for the"
    ) as error:
        load_original(Checkpoint(made["vit"][1]), load_data(str(made["bert"][0])))
    assert len(str(error.value)) < 600


def test_texts_without_labels_for_a_classifier_are_refused_in_few_words(made, tmp_path):
    model = DistilBertForSequenceClassification(DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48))
    model.save_pretrained(tmp_path / "distilbert")
    data = load_data(str(made["llama"][0]))
    with pytest.raises(CheckpointError, match=r"DistilBertConfig.*have no such head") as error:
        load_original(Checkpoint(tmp_path / "distilbert"), data)
    assert len(str(error.value)) < 600
    bert = classifier(BertForSequenceClassification, num_hidden_layers=2, **WIDTHS, **TOKENS)
    bert.save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match="does not fit BertLMHeadModel: weights the model needs") as error:
        load_original(Checkpoint(tmp_path / "bert"), data)
    assert len(str(error.value)) < 900


def test_validation_rows_a_checkpoint_may_have_been_trained_on_are_said(made, root, recwarn):
    def prepared(name):
        data, checkpoint = made[name]
        places = [f"data.name_or_path={data}", f"model.name_or_path={checkpoint}", "data.subset=null"]
        more = ["data.validation_fraction=0.3", "prune.target={blocks: 2}", "prune.protected=[]", "output_dir=x"]
        return prepare(load_recipe(root / "recipes" / f"{name}.yaml", [*places, *more]))

    assert prepared("vit").splits.validation_from == "the data set's own split 'validation'"
    assert not [warning for warning in recwarn if "may have been trained on them" in str(warning.message)]
    with pytest.warns(
        UserWarning, match=r"31 % of the training examples, drawn at random\. .* may have been trained on"
    ):
        prepared("llama")


def test_an_encoder_decoder_model_is_refused_by_name():
    model = tiny(T5ForSequenceClassification, d_model=32, num_layers=4, num_heads=4, d_kv=8, d_ff=48, vocab_size=50)
    with pytest.raises(
        UnknownFamilyError, match=r"T5ForSequenceClassification \(model_type='t5'\) is an encoder-decod"
    ):
        find_blocks(model)


def _folder_of_many(folder, count):
    """The layout of ImageNet: a folder a class, called by a number, under train and val."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for number in range(count):
            (folder / split / f"n{number:08}").mkdir(parents=True)
            for copy in range(2 if split == "train" else 1):
                PIL.Image.fromarray(np.roll(pixels, number + copy, 1)).save(
                    folder / split / f"n{number:08}" / f"{copy}.png"
                )
    return folder


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_a_folder_as_imagenet_is_dry_run_with_its_thousand_classes(name, root, tmp_path):
    data = _folder_of_many(tmp_path / "imagenet", 1000)
    names = [f"class {number}" for number in range(1000)]
    if name == "resnet50":
        config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[2, 3], id2label=dict(enumerate(names)))
        model, processor = t.ResNetForImageClassification(config), t.ConvNextImageProcessor(size={"shortest_edge": 32})
    else:
        names = ["background", *names]
        config = t.MobileNetV2Config(image_size=32, depth_multiplier=0.1, id2label=dict(enumerate(names)))
        model, processor = (
            t.MobileNetV2ForImageClassification(config),
            t.MobileNetV2ImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
        )
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    done = run_recipe(
        root / "recipes" / f"{name}.yaml", tmp_path / "out", "--dry-run", f"data.name_or_path={data}",
        f"model.name_or_path={tmp_path / 'model'}", "data.label_names=checkpoint",
        "prune.target={macs_reduction: 0.02}",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1,000 test" in done.output or "1000 test" in done.output, done.output
    assert ("(background) leave its head" in " ".join(done.output.split())) == (name == "mobilenet_v2")
    other = run_recipe(
        root / "recipes" / f"{name}.yaml", tmp_path / "out", "--dry-run", f"data.name_or_path={data}",
        f"model.name_or_path={tmp_path / 'model'}",
    )  # fmt: skip
    refused(other, "classes")


def test_options_alone_reach_every_setting_of_data(tmp_path):
    """A command without a recipe, on folders called by numbers and without a split called test."""
    data = _folder_of_many(tmp_path / "imagenet", 5)
    _saved_vit(tmp_path / "vit", [f"class {number}" for number in range(5)])
    drafted = ["init", str(tmp_path / "vit"), "--data", str(data), "--output", str(tmp_path / "draft.yaml")]
    refused(CliRunner().invoke(app, [*drafted, "test_split=validation"]), "data.test_split=validation")
    refused(CliRunner().invoke(app, [*drafted, "data.tst_split=validation"]), "Did you mean 'test_split'?")
    drafted += ["data.test_split=validation"]
    refused(CliRunner().invoke(app, drafted), "data.label_names=checkpoint")
    done = CliRunner().invoke(app, [*drafted, "data.label_names=checkpoint"])
    assert done.exit_code == 0, done.output
    assert load_recipe(tmp_path / "draft.yaml").data.label_names == "checkpoint"


def test_the_same_classes_in_another_order_are_met_by_name(tmp_path):
    """By their order the checkpoint would say "red" of what is blue."""
    _saved_vit(tmp_path / "model", ["red", "green", "blue"])
    images, checkpoint = np.zeros((4, 3, 16, 16), np.uint8), Checkpoint(str(tmp_path / "model"))
    data = LabelledData("image", images, np.array([0, 1, 2, 0]), ["blue", "green", "red"], np.full(4, "train"))
    with pytest.raises(CheckpointError, match=r"by the same names, say data\.label_names=checkpoint"):
        load_original(checkpoint, data)
    met = named_as(checkpoint, data)
    assert (met.labels.tolist(), met.label_names) == ([2, 1, 0, 2], ["red", "green", "blue"])
    load_original(checkpoint, met)
    numbered = LabelledData("image", images, data.labels, ["n1", "n2", "n3"], data.splits)
    assert named_as(checkpoint, numbered).labels.tolist() == [0, 1, 2, 0]
    loud = LabelledData("image", images, data.labels, ["Blue", "GREEN", "red "], data.splits)
    assert named_as(checkpoint, loud).labels.tolist() == [2, 1, 0, 2]
    partly = LabelledData("image", images, data.labels, ["azure", "green", "red"], data.splits)
    with pytest.raises(CheckpointError, match="'red' stands at another place"):
        named_as(checkpoint, partly)


def test_a_classifier_that_reads_its_padding_and_a_tokenizer_that_pads_otherwise_are_refused(tmp_path):
    """The last token that is not the config's padding would be the tokenizer's, in any text shorter than another."""
    folder, checkpoint = make_bert(tmp_path / "made")
    data = load_data(str(folder))
    torch.manual_seed(0)
    reads = tiny(GPT2ForSequenceClassification, n_embd=32, n_layer=2, n_head=4, n_positions=34, vocab_size=50,
                 pad_token_id=7, initializer_range=0.3, id2label=dict(enumerate(data.label_names)))  # fmt: skip
    reads.save_pretrained(checkpoint)
    with pytest.raises(CheckpointError, match=r"pad_token_id 7 and the tokenizer pads with 0 \('\[PAD\]'\)"):
        load_original(Checkpoint(str(checkpoint)), data)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(checkpoint)
    model, tokenizer = load_original(Checkpoint(str(checkpoint)), data)
    assert tokenizer.pad_token_id == model.config.pad_token_id == 7
    lines = LabelledData("text", data.values, None, [], data.splits)
    llama(pad_token_id=-1).save_pretrained(checkpoint)
    _, tokenizer = load_original(Checkpoint(str(checkpoint)), lines)
    assert tokenizer.pad_token == tokenizer.eos_token, "there is no token -1"


def test_weights_that_inputs_do_not_fit_say_what_to_do(tmp_path):
    model = har_transformer().to(torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"in bfloat16, and HarTransformer.*dtype=torch.float32"):
        try_on(model, example_inputs(har_transformer()))


def _saved_vit(folder, names):
    made = tiny(ViTForImageClassification, image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=2,
                num_attention_heads=2, intermediate_size=48, id2label=dict(enumerate(names)))  # fmt: skip
    made.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return made


def test_classes_that_nobody_asks_for_leave_the_head_and_the_others_keep_their_logits(tmp_path):
    names = ["background", "cat", "dog", "ship"]
    made = _saved_vit(tmp_path / "model", names)
    images = np.zeros((3, 3, 16, 16), np.uint8)
    data = LabelledData("image", images, np.arange(3), ["ship", "cat", "dog"], np.full(3, "train"))
    with pytest.warns(UserWarning, match=r"\(background\) leave its head"):
        model, _ = load_original(Checkpoint(str(tmp_path / "model")), data)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, made(pixels).logits[:, [3, 1, 2]])
    assert [model.config.id2label[i] for i in range(model.config.num_labels)] == ["ship", "cat", "dog"]
    model.save_pretrained(tmp_path / "again")
    assert type(model).from_pretrained(tmp_path / "again").classifier.out_features == 3


def test_two_classes_of_one_name_are_told_apart_by_their_order(tmp_path):
    names = ["background", "crane", "dog", "crane"]
    made = _saved_vit(tmp_path / "model", names)
    images, source = np.zeros((3, 3, 16, 16), np.uint8), Checkpoint(str(tmp_path / "model"))
    data = LabelledData("image", images, np.arange(3), ["n1", "n2", "n3"], np.full(3, "train"))
    with pytest.warns(UserWarning, match="leave its head"):
        model, _ = load_original(source, named_as(source, data))
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, made(pixels).logits[:, 1:])
    with pytest.raises(CheckpointError, match="cannot be read"):
        named_as(Checkpoint(str(tmp_path / "none")), data)


def test_both_heads_of_a_distilled_network_lose_the_class(tmp_path):
    made = tiny(t.DeiTForImageClassificationWithTeacher, image_size=16, patch_size=8, hidden_size=32,
                num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                id2label={0: "background", 1: "cat", 2: "dog"})  # fmt: skip
    made.save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    data = LabelledData("image", np.zeros((2, 3, 16, 16), np.uint8), np.arange(2), ["cat", "dog"], np.full(2, "train"))
    with pytest.warns(UserWarning, match="leave its head"):
        model, _ = load_original(Checkpoint(str(tmp_path / "model")), data)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        loaded = type(model).from_pretrained(tmp_path / "model").eval()
        torch.testing.assert_close(model(pixels).logits, loaded(pixels).logits[:, 1:])
