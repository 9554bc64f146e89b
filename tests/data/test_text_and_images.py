import numpy as np
import pytest
import tiny_checkpoints
import torch
from datasets import Dataset, Features, Image, Value, load_dataset
from families import classifier, llama
from PIL.Image import fromarray
from torch.nn.functional import cross_entropy
from transformers import (
    AutoImageProcessor,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    EfficientNetImageProcessor,
    MobileViTImageProcessor,
    XLNetConfig,
)

from har_prune import TrainConfig, evaluate_model, train_model
from har_prune.checkpoints.load import Checkpoint, load_model, load_processor
from har_prune.data import load as load_module
from har_prune.data.batches import ImageInputs, TextInputs, make_loader, preprocess_for
from har_prune.data.config import DataConfig
from har_prune.data.images import ImageColumn
from har_prune.data.load import LabelledData, load_data
from har_prune.data.protocols import make_splits
from har_prune.errors import CheckpointError, DataError, RecipeError
from har_prune.evaluation.cost import measure_cost
from har_prune.evaluation.macs import count_macs
from har_prune.recipe.original import load_original, make_original
from har_prune.recipe.prepare import prepared_for
from har_prune.runtime.batches import most_tokens


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return {name: make(folder / name) for name, make in tiny_checkpoints.MAKERS.items()}


def _official(**fields):
    return DataConfig(**{"name_or_path": "x", "protocol": "official", "validation_fraction": 0.3, **fields})


def test_images_of_several_sizes_are_read_when_needed_and_resized(made):
    folder, checkpoint = made["resnet50"]
    data = load_data(str(folder))
    assert isinstance(data.values, ImageColumn)
    assert [image.shape for image in data.raw([0, 1, 2])] == [(40, 30, 3), (30, 40, 3), (36, 36, 3)]
    splits = make_splits(data, _official(test_split="validation"), 0)
    assert len(splits.test) == 15
    inputs = preprocess_for(data, AutoImageProcessor.from_pretrained(checkpoint), str(checkpoint))
    batch = next(iter(make_loader(data, splits.train, inputs, 4)))
    assert batch["pixel_values"].shape[:2] == (4, 3)
    assert batch["pixel_values"].shape[2] == batch["pixel_values"].shape[3]
    loader = make_loader(data, splits.train, inputs, 4, augment=["random_resized_crop", "flip"])
    whole = next(iter(loader))
    assert loader.augment(whole, 0)["pixel_values"].shape == whole["pixel_values"].shape
    with pytest.raises(RecipeError, match=r"give model\.name_or_path"):
        make_original({"model_type": "resnet"}, data, splits.train)
    with pytest.raises(DataError, match=r"a split called 'test' \(test_split\).*'train', 'validation'"):
        make_splits(data, _official(), 0)


@pytest.mark.parametrize("twice", [False, True])
def test_images_are_the_processor_s_whether_they_come_as_an_array_or_one_by_one(twice):
    """EfficientNet's normalises twice, which its numbers do not say; MobileViT's turns the channels round."""
    size = {"height": 16, "width": 16}
    for processor in (
        EfficientNetImageProcessor(size=size, include_top=twice),
        MobileViTImageProcessor(size=size, do_center_crop=False, do_flip_channel_order=twice),
    ):
        images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8))
        inputs, one_by_one = ImageInputs(processor), list(images.permute(0, 2, 3, 1).numpy())
        expected = processor(images=one_by_one, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(inputs(images)["pixel_values"], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(inputs(one_by_one)["pixel_values"], expected)
        black, white = inputs.limits
        flat = [np.full((16, 16, 3), value, dtype=np.uint8) for value in (0, 255)]
        ends = processor(images=flat, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(torch.stack([black, white]).expand(2, 3, 16, 16), ends)


def test_images_that_do_not_fit_in_memory_are_read_when_needed(made, monkeypatch):
    folder, _ = made["vit"]
    whole = load_data(str(folder))
    assert whole.values.shape == (69, 3, 24, 24)
    monkeypatch.setattr("har_prune.data.images._LARGEST", 1000)
    column = load_data(str(folder))
    assert isinstance(column.values, ImageColumn)
    pixels = torch.from_numpy(np.stack(column.raw([3, 1]))).permute(0, 3, 1, 2)
    assert torch.equal(pixels, whole.raw([3, 1]))


def test_one_odd_image_among_many_is_no_error(tmp_path):
    sizes = [(8, 8)] * 300 + [(9, 8)]
    rows = {"image": [np.zeros((*size, 3), np.uint8) for size in sizes], "label": ["x"] * 301}
    table = Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("string")}))
    table.class_encode_column("label").to_parquet(tmp_path / "train-00000-of-00001.parquet")
    assert isinstance(load_data(str(tmp_path)).values, ImageColumn)


@pytest.mark.parametrize("mode", ["uint16", "int32", "float32"])
def test_images_of_more_than_eight_bits_are_refused(mode, tmp_path):
    rows = {"image": [fromarray(np.full((8, 8), 300 + n).astype(mode)) for n in range(2)], "label": ["a", "b"]}
    table = Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("string")}))
    table.class_encode_column("label").to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="image 0 of column 'image' has more than 8 bits"):
        load_data(str(tmp_path))


def test_rows_without_a_label_are_left_out(made):
    data = load_data(str(made["bert"][0]))
    assert data.kind == "text"
    assert len(data) == 45 + 9 + 15
    assert data.labels.min() == 0
    assert {part: int((data.splits == part).sum()) for part in ("train", "validation", "test")} == {
        "train": 45, "validation": 9, "test": 15,
    }  # fmt: skip


def test_sentences_are_cut_padded_and_masked(made):
    folder, checkpoint = made["bert"]
    data = load_data(str(folder))
    inputs = preprocess_for(data, AutoTokenizer.from_pretrained(checkpoint), "x", max_tokens=4)
    batch = next(iter(make_loader(data, range(8), inputs, 8)))
    assert batch["input_ids"].shape == (8, 4)
    assert batch["labels"].shape == (8,)
    lengths = [min(4, len(text.split())) for text in data.raw(range(8))]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    with pytest.raises(CheckpointError, match=r"has no tokenizer \(tokenizer\.json\)"):
        preprocess_for(data, None, "x")


def test_costs_of_texts_are_those_of_the_longest_that_are_let_through(made):
    """Whatever the texts that happen to calibrate, 28 tokens are 28."""
    folder, checkpoint = made["bert"]
    fields = {"name_or_path": str(folder), "protocol": "official", "validation_fraction": 0.3}
    found = [prepared_for(Checkpoint(checkpoint), DataConfig(**fields, max_tokens=28), seed) for seed in (0, 1)]
    costs = [measure_cost(each.model, each.one_example, latency=False) for each in found]
    assert costs[0] == costs[1]
    assert costs[0].tokens == 28
    by_hand = {
        "input_ids": torch.zeros(1, 28, dtype=torch.long),
        "attention_mask": torch.ones(1, 28, dtype=torch.long),
    }
    assert costs[0].macs == count_macs(found[0].model, by_hand)
    assert most_tokens(found[0].model.config, 128) == 32, "of 34 positions RoBERTa has no use for two"
    assert most_tokens(XLNetConfig(), 128) == 128


def test_text_without_classes_is_predicted_token_by_token(made):
    folder, checkpoint = made["llama"]
    data = load_data(str(folder))
    assert data.labels is None
    assert all(text.strip() for text in data.raw(range(len(data)))), "empty lines are left out"
    _, tokenizer = load_original(Checkpoint(checkpoint), data)
    assert tokenizer.pad_token == "</s>", "it has none of its own"
    inputs = preprocess_for(data, tokenizer, "x")
    batches = list(make_loader(data, range(12), inputs, 5))
    assert (batches[0]["labels"] == -100).sum() == (batches[0]["attention_mask"] == 0).sum() > 0

    model = llama().double()
    quality = evaluate_model(model, batches)
    losses, hits = [], []
    for text in data.raw(range(12)):  # one by one and by hand: no padding, no batch
        tokens = inputs.tokenizer(text, return_tensors="pt")["input_ids"]
        logits = model(input_ids=tokens).logits.float()[0, :-1]
        losses.append(cross_entropy(logits, tokens[0, 1:], reduction="none"))
        hits.append(logits.argmax(1) == tokens[0, 1:])
    assert quality.loss == pytest.approx(torch.cat(losses).double().mean().item(), rel=1e-6)
    assert quality.accuracy == pytest.approx(torch.cat(hits).double().mean().item())
    assert quality.samples == len(torch.cat(losses))
    assert quality.figures["perplexity"] == pytest.approx(np.exp(quality.loss))
    assert quality.per_class == {}


def test_a_masked_language_model_is_not_taken_for_a_causal_one(made, tmp_path):
    data = load_data(str(made["llama"][0]))
    model = classifier(BertForMaskedLM, num_hidden_layers=2, **tiny_checkpoints.WIDTHS, **tiny_checkpoints.TOKENS)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(made["bert"][1]).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is no causal language model"):
        load_original(Checkpoint(tmp_path), data)


def test_other_tasks_are_refused():
    widths = {**tiny_checkpoints.WIDTHS, **tiny_checkpoints.TOKENS}
    tokens = torch.randint(3, 50, (2, 8))
    model = classifier(BertForTokenClassification, num_hidden_layers=2, **widths)
    with pytest.raises(DataError, match="expected a classifier"):
        evaluate_model(model, [{"input_ids": tokens, "labels": tokens % 3}])
    model = classifier(BertForSequenceClassification, num_hidden_layers=2, **widths)
    for labels in (torch.zeros(2, 3), torch.zeros(2), tokens):
        with pytest.raises(DataError, match="expected a classifier"):
            evaluate_model(model, [{"input_ids": tokens, "labels": labels}])


def test_a_checkpoint_without_its_tokenizer_gets_no_invented_one(made, tmp_path):
    _, checkpoint = made["bert"]
    AutoModelForSequenceClassification.from_pretrained(checkpoint).save_pretrained(tmp_path / "bare")
    assert load_processor(tmp_path / "bare", "text") is None
    (tmp_path / "bare" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="its AutoTokenizer cannot be loaded"):
        load_processor(tmp_path / "bare", "text")
    assert load_processor(checkpoint, "text").pad_token == "[PAD]"


def test_labels_without_names_are_no_language_model_task(tmp_path):
    rows = {"text": ["a b", "c d"], "label": [0, 1]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"class labels called 'label' with names \(ClassLabel\).*class_encode_column"):
        load_data(str(tmp_path))


def test_texts_of_a_csv_file_are_texts(tmp_path):
    """Which pandas reads as large_string; the advice for its labels leads to data that load."""
    raw, new = tmp_path / "raw", tmp_path / "new"
    raw.mkdir()
    (raw / "train.csv").write_text("text,label\na b,yes\nc d,no\n")
    with pytest.raises(DataError, match=r"class_encode_column\('label'\)\.save_to_disk"):
        load_data(str(raw))
    load_dataset(str(raw), cache_dir=str(tmp_path / "cache")).class_encode_column("label").save_to_disk(new)
    data = load_data(str(new))
    assert (data.kind, data.values.tolist(), data.label_names) == ("text", ["a b", "c d"], ["no", "yes"])


def test_of_two_columns_of_texts_it_is_said_which_one_is_read(tmp_path):
    rows = {"question": ["a b", "c d"], "sentence": ["e", "f"], "label": ["no", "yes"]}
    Dataset.from_dict(rows).class_encode_column("label").to_parquet(tmp_path / "train.parquet")
    with pytest.warns(UserWarning, match="texts are of column 'sentence'; question is not read"):
        assert load_data(str(tmp_path)).values.tolist() == ["e", "f"]


def test_a_missing_text_and_a_file_for_a_folder_are_named(tmp_path):
    Dataset.from_dict({"text": ["a b", None], "label": ["no", "yes"]}).class_encode_column("label").to_parquet(
        tmp_path / "train.parquet"
    )
    with pytest.raises(DataError, match="row 1 has no text"):
        load_data(str(tmp_path))
    with pytest.raises(DataError, match=r"train\.parquet is a file: give the folder that it is in"):
        load_data(str(tmp_path / "train.parquet"))


def test_texts_are_cut_at_what_the_network_has_positions_for(made):
    """Whatever its tokenizer says."""
    folder, checkpoint = made["bert"]
    config = DataConfig(name_or_path=str(folder), protocol="official", validation_fraction=0.3, max_tokens=500)
    found = prepared_for(Checkpoint(checkpoint), config, 0)
    cut = TextInputs(found.preprocess.tokenizer, 500, next_token=False)
    cut.max_tokens = 500  # as of a tokenizer that knows no limit
    cut.fit(found.model.config)
    assert cut([" ".join(["a"] * 200)])["input_ids"].shape == (1, most_tokens(found.model.config, 500))
    assert found.preprocess.max_tokens <= most_tokens(found.model.config, 500)


def test_a_local_checkpoint_has_no_revision(made):
    with pytest.raises(CheckpointError, match="has no revisions: leave revision out"):
        load_model(AutoModelForSequenceClassification, Checkpoint(made["bert"][1], revision="v2"))


def test_half_precision_weights_are_trained_in_full_and_come_back_in_half(made):
    folder, checkpoint = made["bert"]
    data = load_data(str(folder))
    model = classifier(BertForSequenceClassification, num_hidden_layers=2, **tiny_checkpoints.WIDTHS,
                       **tiny_checkpoints.TOKENS).to(torch.bfloat16)  # fmt: skip
    name = "bert.embeddings.LayerNorm.weight"
    before = model.state_dict()[name].clone()
    inputs = preprocess_for(data, AutoTokenizer.from_pretrained(checkpoint), "x")
    loader = make_loader(data, range(45), inputs, 5, augment=[])
    train_model(model, loader, None, TrainConfig(epochs=15, learning_rate=1e-4, weight_decay=0, schedule="constant"))
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    # Near 1 neighbours in bf16 are 0.004 apart: single steps of 1e-4 would all be rounded away.
    assert not torch.equal(model.state_dict()[name], before)


def test_subset_and_revision_reach_the_hub(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        raise FileNotFoundError("no network here")

    monkeypatch.setattr(load_module, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="neither a folder here nor reachable on the Hub"):
        load_data("owner/name", "split", "v2")
    assert asked == [(("owner/name", "split"), {"revision": "v2"})]


def test_only_windows_have_channels_to_rename(made):
    for name in ("vit", "llama"):
        with pytest.raises(DataError, match="rename_channels is for sensor windows"):
            load_data(str(made[name][0]), rename_channels={"ax": "acc_x"})


def test_a_folder_has_no_revision(made):
    with pytest.raises(DataError, match=r"has no revisions: leave data\.revision out"):
        load_data(str(made["bert"][0]), revision="v2")


def test_labels_are_only_optional_for_text():
    data = LabelledData("text", np.array(["a b"], dtype=object), None, [], np.array(["test"]))
    assert data.raw([0]) == ["a b"]
