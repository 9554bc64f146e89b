"""Loss, accuracy and macro-F1 on a data loader: of a classifier, or of a language model token by token."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch
from accelerate import Accelerator
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from har_prune.checkpoints.auto_class import auto_class_of
from har_prune.errors import DataError
from har_prune.runtime.batches import (
    IGNORED,
    INDEX,
    LABELS,
    as_computed,
    checked,
    inputs_of,
    logits_of,
    shard_batch,
    to_device,
)
from har_prune.runtime.devices import is_placed, working_device

_CONFUSED_CLASSES = 64  # a larger matrix nobody looks at, and every iteration would keep several


@dataclass(frozen=True)
class EvalMetrics:
    """How well a model classifies. A language model classifies tokens: each is one of the vocabulary.

    Args:
        accuracy: Share of correct predictions, in [0, 1].
        macro_f1: Unweighted mean F1 over the classes that occur, in [0, 1].
        loss: Mean cross-entropy in nats; of a language model its exponential is the perplexity.
        samples: Examples (tokens) it was measured on.
        per_class: {class name: {precision, recall, f1, support}}; empty for a language model.
        task: "classification", or "next-token" for a language model.
        confusion: Examples by true class (row) and predicted class (column), where there are 64 classes or fewer.
        balanced_accuracy: Mean recall over the classes that occur, in [0, 1]; None for a language model.
        per_group: {subject: {accuracy, samples}}; empty where the data have no subjects.
        trial_accuracy: Share of trials (an activity of a continuous recording) whose windows are most often given
            the right class, in [0, 1]; None where the data have no trials.
        calibration_error: Expected calibration error of the class probabilities, in [0, 1], over 15 bins of equal
            width (Guo et al. 2017, arXiv:1706.04599); None for a language model and in older records.
    """

    accuracy: float
    macro_f1: float
    loss: float
    samples: int
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    task: str = "classification"
    confusion: list[list[int]] = field(default_factory=list)
    balanced_accuracy: float | None = None
    per_group: dict[str, dict[str, float]] = field(default_factory=dict)
    trial_accuracy: float | None = None
    calibration_error: float | None = None

    @property
    def figures(self) -> dict[str, float]:
        """What reports show of it, with units in the names."""
        if self.task == "next-token":
            return {"perplexity": math.exp(min(self.loss, 700.0)), "token accuracy %": 100 * self.accuracy}
        return {"accuracy %": 100 * self.accuracy, "macro-F1 %": 100 * self.macro_f1}


def load_metric() -> evaluate.Metric:
    """The package's metric through `evaluate.load`; needs no network."""
    return evaluate.load(str(Path(__file__).with_name("har_classification.py")), keep_in_memory=True)


def is_language_model(model: PreTrainedModel) -> bool:
    """Whether a model's task is to predict the next token."""
    return auto_class_of(model) is AutoModelForCausalLM


def classified(logits: Tensor, labels: Tensor, *, language_model: bool) -> tuple[Tensor, Tensor]:
    """Logits [M, classes] and labels [M] of everything that is classified.

    Args:
        logits: [B, classes], or of a language model [B, T, vocabulary].
        labels: [B], or tokens [B, T] with -100 where there is none; each is predicted from those before it.
        language_model: See `is_language_model`.

    Raises:
        DataError: The model has another task.
    """
    if logits.ndim != (3 if language_model else 2) or labels.ndim != logits.ndim - 1 or labels.is_floating_point():
        raise DataError(
            f"logits {tuple(logits.shape)} with labels {tuple(labels.shape)} of {labels.dtype}: expected a classifier "
            "[B, classes] with one class index for each example, or a causal language model [B, T, vocabulary] with "
            "its tokens."
        )
    if not language_model:
        return logits, labels.long()
    logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().long()
    counts = labels != IGNORED
    return logits[counts], labels[counts]


@torch.no_grad()
def evaluate_model(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], accelerator: Accelerator | None = None
) -> EvalMetrics:
    """Classifies every example once, in eval mode.

    Args:
        model: A classifier, whose forward returns `logits` [B, num_labels], or a causal language model.
        batches: Dicts of model inputs with `labels` [B] (see `classified`). With several processes every process
            iterates the same batches and works on its rows.
        accelerator: Decides the device and joins processes; None = one process, the device the model is on.

    Raises:
        DataError: There is no example, or labels are missing or are not those of the model.
    """
    device = accelerator.device if accelerator and not is_placed(model) else working_device(model)
    found: _Found = []
    names: list[str] | None = None
    language_model = is_language_model(model)
    was_training = model.training
    if not is_placed(model):
        model.to(device)
    model.eval()
    try:
        for batch in checked(batches, "evaluation"):
            rows = shard_batch(batch, accelerator)
            if "labels" not in batch:
                raise DataError(f"an evaluation batch has no labels; it has {', '.join(batch)}.")
            if rows is not None:
                labels = rows[LABELS].to(device)
                inputs = as_computed(to_device(inputs_of(rows), device), model)
                logits = logits_of(model(**inputs)).float().to(device)
                logits, labels = classified(logits, labels, language_model=language_model)
                if not language_model:
                    names = [str(name) for _, name in sorted(model.config.id2label.items())]
                    _refuse_unnamed(names, logits.shape[1])
                _refuse_unknown(labels, logits.shape[1])
                losses = nn.functional.cross_entropy(logits, labels, reduction="none")
                index = rows.get(INDEX, torch.empty(0, dtype=torch.long))
                predicted, sure = logits.argmax(dim=1), torch.empty(0)
                if not language_model:
                    sure = nn.functional.cross_entropy(logits, predicted, reduction="none").neg().exp()
                found.append((predicted.cpu(), labels.cpu(), losses.cpu(), sure.cpu(), index.cpu()))
    finally:
        model.train(was_training)
    predictions, labels, losses, sure, index, names = _gathered(found, names, accelerator)
    quality = _quality(predictions, labels, losses, names)
    if names is not None and bool(sure.isfinite().all()):  # a loss that is not says what happened
        quality = replace(quality, calibration_error=calibration_error(sure.numpy(), (predictions == labels).numpy()))
    groups = getattr(getattr(batches, "dataset", None), "groups", {})
    if len(index) != len(labels) or not groups:
        return quality
    of_examples = {name: values[index.numpy()] for name, values in groups.items()}
    return replace(quality, **_by_group(predictions.numpy(), labels.numpy(), of_examples))


# Predictions, labels, losses, probabilities of the predictions, and index of each batch.
_Found = list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, on the mean over all examples.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.

    Args:
        confidence: Probability of each prediction, [N], in [0, 1].
        right: Whether it is right, [N].
        bins: Of equal width.

    >>> calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    place = np.minimum((confidence.astype(np.float64) * bins).astype(int), bins - 1)
    apart = np.bincount(place, weights=confidence.astype(np.float64) - right, minlength=bins)
    return float(np.abs(apart).sum() / len(confidence))


def _by_group(predictions: np.ndarray, labels: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`per_group` and `trial_accuracy` of `EvalMetrics`, as far as the groups of the examples are known."""
    found: dict[str, Any] = {}
    right = predictions == labels
    if "subject" in groups:
        names, code_of = np.unique(groups["subject"], return_inverse=True)
        counts = np.bincount(code_of)
        hits = np.bincount(code_of, weights=right)
        found["per_group"] = {
            str(name): {"accuracy": float(hit / count), "samples": int(count)}
            for name, hit, count in zip(names, hits, counts, strict=True)
        }
    if "trial" in groups:
        _, trial_of = np.unique(groups["trial"], return_inverse=True)
        if "subject" in groups:  # a trial is of one subject, also where each numbers their own
            _, trial_of = np.unique(trial_of * len(names) + code_of, return_inverse=True)
        classes = int(max(predictions.max(), labels.max())) + 1
        # A recording may hold several activities: each is a trial of its own here.
        keys, group_of = np.unique(trial_of * classes + labels, return_inverse=True)
        votes = np.bincount(group_of * classes + predictions, minlength=len(keys) * classes).reshape(-1, classes)
        most = votes == votes.max(axis=1, keepdims=True)  # labels that share the most votes share the trial
        found["trial_accuracy"] = float(np.mean(most[np.arange(len(keys)), keys % classes] / most.sum(axis=1)))
    return found


def _gathered(
    found: _Found, names: list[str] | None, accelerator: Accelerator | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[str] | None]:
    if accelerator is not None and accelerator.num_processes > 1:
        parts: list[Any] = [None] * accelerator.num_processes
        torch.distributed.all_gather_object(parts, (found, names))
        found = [batch for part in parts for batch in part[0]]
        names = next((part[1] for part in parts if part[1]), None)
    if not sum(len(batch[1]) for batch in found):
        raise DataError("there are no examples to evaluate on.")
    predictions, labels, losses, sure, index = (torch.cat(column) for column in zip(*found, strict=True))
    return predictions, labels, losses, sure, index, names


def _refuse_unnamed(names: list[str], classes: int) -> None:
    if len(names) != classes:
        raise DataError(
            f"the model tells {classes} classes apart and its config names {len(names)} (id2label): correct "
            "num_labels or id2label."
        )


def _refuse_unknown(labels: Tensor, classes: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"labels go from {int(labels.min())} to {int(labels.max())} and the model tells {classes} classes "
            "apart (0 to one less): use the data it was trained for, or train a new head."
        )


def _quality(predictions: Tensor, labels: Tensor, losses: Tensor, names: list[str] | None) -> EvalMetrics:
    scores = load_metric().compute(predictions=predictions.tolist(), references=labels.tolist(), label_names=names)
    loss = losses.double().mean().item()
    figures = scores["accuracy"], scores["macro_f1"], loss, len(labels)
    if names is None:
        return EvalMetrics(*figures, task="next-token")
    confusion: list[list[int]] = []
    if len(names) <= _CONFUSED_CLASSES:
        confusion = confusion_matrix(labels.numpy(), predictions.numpy(), labels=range(len(names))).tolist()
    return EvalMetrics(
        *figures, scores["per_class"], confusion=confusion, balanced_accuracy=scores["balanced_accuracy"]
    )
