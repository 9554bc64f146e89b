"""Batches: dicts of tensors whose first dimension counts examples, and how processes share them."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

LABELS = "labels"


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the labels."""
    return {key: value for key, value in batch.items() if key != LABELS}


def size_of(batch: Mapping[str, Any]) -> int:
    """Examples in a batch."""
    return len(next(iter(batch.values())))


def rows_of(batch: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Some examples of a batch."""
    return {key: value[rows] for key, value in batch.items()}


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on a device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def shard_batch(batch: Mapping[str, Any], accelerator: Accelerator | None) -> dict[str, Any] | None:
    """This process's rows of a batch that all processes see: every num_processes-th.

    Nothing is padded and nothing is seen twice, whatever the batch size.

    Returns:
        The rows; None when there are none for this process.
    """
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    rows = rows_of(batch, slice(rank, None, processes))
    return rows if size_of(rows) else None
