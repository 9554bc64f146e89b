"""Padding counts for nothing: windows that are padded have the scores of the same windows given short."""

import pytest
import torch
from families import har_transformer

from har_prune import find_widths, score_blocks, score_units
from har_prune.models.har_resnet import HarResNetConfig, HarResNetForSequenceClassification
from har_prune.runtime.feature_hook import FeatureHook


def _resnet():
    config = HarResNetConfig(
        num_channels=6, window_size=32, hidden_sizes=[8, 12, 16], depths=[2, 2, 2], num_labels=3, kernel_size=3,
        stem_kernel_size=3,
    )  # fmt: skip
    return HarResNetForSequenceClassification(config)


NETWORKS = {
    "har_resnet": _resnet,
    "har_transformer": lambda: har_transformer(4, patch_size=4, patch_stride=4),
    "with a stem": lambda: har_transformer(4, stem_channels=[8], stem_kernel_size=1, patch_size=2, patch_stride=2),
    "with a class token": lambda: har_transformer(4, patch_size=4, patch_stride=4, pooling="cls"),
}


@pytest.fixture(params=NETWORKS)
def given(request):
    torch.manual_seed(0)
    model = NETWORKS[request.param]().eval()
    short, labels = torch.randn(24, 16, 6), torch.arange(24) % 3
    padded, mask = torch.cat([short, torch.zeros(24, 16, 6)], dim=1), torch.arange(32).expand(24, 32) < 16
    batches = (
        {"input_values": short, "labels": labels},
        {"input_values": padded, "attention_mask": mask.long(), "labels": labels},
    )
    with torch.no_grad():
        logits = [
            model(**{name: value for name, value in batch.items() if name != "labels"}).logits for batch in batches
        ]
    torch.testing.assert_close(*logits)
    return model, batches


@pytest.mark.parametrize("criterion", ["cka", "block_influence", "angular_distance", "taylor"])
def test_blocks_have_the_scores_of_windows_without_padding(given, criterion):
    model, batches = given
    short, padded = ([score.importance for score in score_blocks(model, [batch], criterion)] for batch in batches)
    assert padded == pytest.approx(short, rel=1e-3, abs=1e-7)


def test_units_have_the_scores_of_windows_without_padding(given):
    model, batches = given
    widths = find_widths(model)
    for one, other in zip(*(score_units(widths, [batch], "activation") for batch in batches), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_representation_by_name_is_that_of_windows_without_padding(given):
    model, batches = given
    name = "har_resnet.encoder.stages.1" if hasattr(model, "har_resnet") else "har_transformer.norm"
    hook = FeatureHook(model, name)
    with torch.no_grad():
        read = [hook.read({key: value for key, value in batch.items() if key != "labels"})[0] for batch in batches]
    torch.testing.assert_close(*read)
