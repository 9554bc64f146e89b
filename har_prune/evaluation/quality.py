"""Loss, accuracy and macro-F1 of a classifier on a data loader."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import evaluate
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.errors import DataError
from har_prune.processes import own_rows


@dataclass(frozen=True)
class Quality:
    """How well a model classifies.

    Args:
        accuracy: Share of correct predictions, in [0, 1].
        macro_f1: Unweighted mean F1 over the classes that occur, in [0, 1].
        loss: Mean cross-entropy in nats.
        samples: Examples it was measured on.
        per_class: {class name: {precision, recall, f1, support}}.
    """

    accuracy: float
    macro_f1: float
    loss: float
    samples: int
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)


def load_metric() -> evaluate.Metric:
    """The package's metric through `evaluate.load`; needs no network."""
    return evaluate.load(str(Path(__file__).with_name("har_classification.py")), keep_in_memory=True)


@torch.no_grad()
def evaluate_model(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], accelerator: Accelerator | None = None
) -> Quality:
    """Classifies every example once, in eval mode.

    Args:
        model: A classifier; its forward returns `logits` [B, num_labels].
        batches: Dicts of model inputs with `labels` [B]. With several processes every process iterates the same
            batches and works on its rows.
        accelerator: Decides the device and joins processes; None = one process, the device the model is on.
    """
    device = accelerator.device if accelerator else model.device
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    was_training = model.training
    model.to(device).eval()
    try:
        for batch in batches:
            rows = own_rows(batch, accelerator)
            if "labels" not in batch:
                raise DataError(f"an evaluation batch has no labels; it has {', '.join(batch)}.")
            if rows is not None:
                labels.append(rows.pop("labels").cpu())
                inputs = {key: value.to(device) for key, value in rows.items()}
                logits.append(model(**inputs).logits.float().cpu())
    finally:
        model.train(was_training)
    return _quality(model, *_gathered(logits, labels, accelerator))


def _gathered(logits: list[Tensor], labels: list[Tensor], accelerator: Accelerator | None) -> tuple[Tensor, Tensor]:
    if accelerator is not None and accelerator.num_processes > 1:
        parts: list[Any] = [None] * accelerator.num_processes
        torch.distributed.all_gather_object(parts, (logits, labels))
        logits = [item for part in parts for item in part[0]]
        labels = [item for part in parts for item in part[1]]
    if not labels:
        raise DataError("there are no examples to evaluate on.")
    return torch.cat(logits), torch.cat(labels)


def _quality(model: PreTrainedModel, logits: Tensor, labels: Tensor) -> Quality:
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise DataError(
            f"labels go from {int(labels.min())} to {int(labels.max())} and the model tells {logits.shape[1]} classes "
            "apart (0 to one less): use the data it was trained for, or train a new head."
        )
    names = [str(model.config.id2label[index]) for index in range(logits.shape[1])]
    scores = load_metric().compute(
        predictions=logits.argmax(dim=1).tolist(), references=labels.tolist(), label_names=names
    )
    loss = nn.functional.cross_entropy(logits, labels).item()
    return Quality(scores["accuracy"], scores["macro_f1"], loss, len(labels), scores["per_class"])
