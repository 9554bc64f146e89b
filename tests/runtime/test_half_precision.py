"""Networks in half precision, whose batches are in single."""

import pytest
import torch
from families import har_resnet, har_transformer
from tiny_data import loader

from har_prune import PruneConfig, prune, score_blocks


@pytest.mark.parametrize("make", [har_resnet, har_transformer])
def test_sensor_networks_in_half_precision_are_scored_and_pruned(make):
    scores = score_blocks(make().to(torch.bfloat16), loader(16))
    assert scores
    result = prune(
        make().to(torch.bfloat16), None, loader(16), loader(16), PruneConfig(target={"macs_reduction": 0.1})
    )
    assert result.history.removed
    assert result.model.dtype == torch.bfloat16
