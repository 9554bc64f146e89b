"""What criteria read of a forward: hidden states by position, and the loss of each example."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.errors import DataError
from har_prune.runtime.batches import logits_of
from har_prune.runtime.feature_hook import channels_first, mask_of_positions


def as_positions(states: Tensor, block: nn.Module) -> Tensor:
    """[N, positions, D]: images [N, D, H, W] by pixel, series [N, D, T] by time, plain features [N, D] as one.

    Other models keep features last, whatever they have between (PatchTST: [N, channels, patches, D]).
    """
    if states.ndim == 4 and any(isinstance(module, nn.Conv2d) for module in block.modules()):
        return states.flatten(2).mT
    if states.ndim == 3 and channels_first(block):
        return states.mT
    return states[:, None] if states.ndim == 2 else states.flatten(1, -2)


def positions_mask(model: PreTrainedModel, states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """1 where a position of a network's hidden states [N, positions, D] counts, [N, positions]."""
    mask = mask_of_positions(model, attention_mask, states)
    if mask is not None:
        return mask.to(states.device).double()
    return torch.ones(states.shape[:2], dtype=torch.float64, device=states.device)


def losses_of(output: Any, labels: Tensor) -> Tensor:
    """Cross-entropy of each example in nats, [N]."""
    logits = logits_of(output)
    if logits.ndim != 2:
        raise DataError("the criterion needs a classifier, whose output has logits [N, classes].")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise DataError(
            f"labels go from {int(labels.min())} to {int(labels.max())} and the model tells {logits.shape[1]} classes "
            "apart (0 to one less): leave out examples without a label (-100), or choose a criterion that needs none."
        )
    return nn.functional.cross_entropy(logits.double(), labels.to(logits.device).long(), reduction="none")
