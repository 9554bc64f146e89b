"""What networks answer, under the names that their classes give it; and what is none."""

from functools import partial

import pytest
import torch
from families import TINY, har_transformer, tiny
from tiny_data import loader
from transformers import (
    PatchTSMixerForTimeSeriesClassification,
    PatchTSTForClassification,
    ViTModel,
)

from har_prune import HealConfig, PruneConfig, evaluate_model, prune
from har_prune.errors import DataError

_SERIES = {"num_input_channels": 6, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 32}
_CLASSES = {"num_targets": 3, "num_labels": 3}
FORECASTERS = {
    "PatchTST": partial(
        tiny, PatchTSTForClassification,
        **_SERIES, **_CLASSES, num_hidden_layers=3, num_attention_heads=4, ffn_dim=48,
    ),
    "PatchTSMixer": partial(tiny, PatchTSMixerForTimeSeriesClassification, **_SERIES, **_CLASSES, num_layers=3),
}  # fmt: skip


def _named(batches):
    return [{"past_values": batch["input_values"], "labels": batch["labels"].int()} for batch in batches]


@pytest.mark.parametrize("name", FORECASTERS)
def test_classifiers_of_series_are_pruned_and_healed(name):
    torch.manual_seed(0)
    model, train, other = FORECASTERS[name](), _named(loader(48, 0)), _named(loader(48, 1))
    for criterion in ("cka", "taylor"):
        settings = {"target": {"blocks": 2}, "criterion": criterion, "evaluate": {"latency": False}}
        result = prune(model, None, train, other, PruneConfig(heal=None, **settings))
        assert len(result.history.after.remaining) == 2
    rows = [{key: value[row] for key, value in batch.items()} for batch in train for row in range(16)]
    heal = HealConfig(epochs=2, distill=True)
    healed = prune(model, torch.utils.data.DataLoader(rows, batch_size=16), train, other,
                   PruneConfig(heal=heal, **settings))  # fmt: skip
    with torch.no_grad():
        answers = next(iter(healed.model(past_values=other[0]["past_values"]).values()))
    assert answers.shape == (16, 3)


def test_a_body_alone_is_no_classifier():
    body = tiny(ViTModel, num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=48,
                image_size=16, patch_size=8)  # fmt: skip
    images = [{"pixel_values": torch.randn(2, 3, 16, 16), "labels": torch.tensor([0, 1])}]
    with pytest.raises(DataError, match="returns a BaseModelOutputWithPooling without logits: a classifier is wanted"):
        evaluate_model(body, images)


def test_classes_without_a_name_are_refused():
    model = TINY["patchtst"].make()
    series = [{"past_values": torch.randn(2, 32, 3), "labels": torch.tensor([0, 1])}]
    with pytest.raises(DataError, match="tells 3 classes apart and its config names 2"):
        evaluate_model(model, series)


def test_labels_of_any_whole_numbers_are_classes():
    model = har_transformer(2)
    as_they_are = evaluate_model(model, loader())
    short = [{**batch, "labels": batch["labels"].short()} for batch in loader()]
    assert evaluate_model(model, short) == as_they_are


def test_an_input_that_is_none_is_not_given():
    """As collators write one that a model does not need."""
    model, train = har_transformer(3), [{**batch, "attention_mask": None} for batch in loader()]
    assert evaluate_model(model, train) == evaluate_model(model, loader())
    config = PruneConfig(target={"blocks": 2}, heal=None, evaluate={"latency": False})
    assert prune(model, None, train, train, config).history.removed
