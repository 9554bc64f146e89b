"""score_blocks: the importance of every removable block on a stream of batches."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.stack import find_blocks
from har_prune.errors import DataError, DegenerateFeaturesError
from har_prune.processes import own_rows
from har_prune.progress import Progress
from har_prune.scoring.criteria import Criterion, make_criterion
from har_prune.scoring.representation import RepresentationTap
from har_prune.scoring.sweep import Sweep


@dataclass(frozen=True)
class BlockScore:
    """Importance of one block.

    Args:
        index: Index of the block in the scored model.
        name: Its dotted module path there.
        importance: Higher = keep. For "cka" 1 - CKA, in [0, 1].
        samples: Examples it was measured on.
    """

    index: int
    name: str
    importance: float
    samples: int


@torch.no_grad()
def score_blocks(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Any]],
    *,
    criterion: str = "cka",
    accelerator: Accelerator | None = None,
    candidates: Iterable[int] | None = None,
    reference: PreTrainedModel | None = None,
    representation: str | None = None,
) -> list[BlockScore]:
    """Scores blocks by what the network's representation loses without each of them.

    A pure function of model, batches and arguments: the model comes back as it was, in float32 or whatever its
    weights are (no autocast), and nothing is drawn at random.

    Args:
        model: The network.
        batches: Dicts of model inputs; labels are ignored. Memory does not grow with their number. With several
            processes every process iterates the same batches and works on its rows, so there are no padding rows.
        criterion: A registered name, e.g. "cka" or "cka_debiased".
        accelerator: Decides the device and joins processes; None = one process, the device the model is on.
        candidates: Block indices to score; None = every removable block.
        reference: Another network to compare with, e.g. the unpruned parent; None = `model` itself.
        representation: Dotted module name; None = the input of the classification head.

    Returns:
        One score for each candidate, by index.

    Raises:
        UnknownFamilyError, UnknownCriterionError: Nothing is registered under the name.
        DataError: There are no batches.
        ShapeError: Too few examples, or no such representation.
        DegenerateFeaturesError: A score is undefined; the message names the block.
    """
    stack = find_blocks(model)
    chosen = sorted(set(stack.removable if candidates is None else candidates))
    for index in chosen:
        stack.check_removable([index])
    scorer = make_criterion(criterion, chosen)
    device = accelerator.device if accelerator else model.device
    rows = torch.zeros((), dtype=torch.float64, device=device)
    progress = Progress("score", len(batches) if isinstance(batches, Sized) else None, accelerator)
    with _evaluating(model, device), _evaluating(reference, device), closing(progress):
        sweep = Sweep(stack, chosen, representation)
        reference_tap = None if reference is None else RepresentationTap(reference, representation)
        for batch in _share(batches, accelerator, progress):
            inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
            if not rows:
                sweep.check_replay(inputs)
            own, features = sweep.run(inputs)
            rows += len(own)
            scorer.update(own if reference_tap is None else reference_tap(inputs), features)
    samples = _join_processes(scorer, rows, accelerator)
    return [BlockScore(i, stack.names[i], _importance(scorer, i, stack.names[i]), samples) for i in chosen]


@contextmanager
def _evaluating(model: PreTrainedModel | None, device: torch.device) -> Iterator[None]:
    """Eval mode on the device, without a key-value cache; the former mode comes back."""
    if model is None:
        yield
        return
    if getattr(model, "hf_device_map", None) is None:
        model.to(device)
    was_training, use_cache = model.training, getattr(model.config, "use_cache", None)
    model.eval()
    if use_cache:
        model.config.use_cache = False
    try:
        yield
    finally:
        model.train(was_training)
        if use_cache:
            model.config.use_cache = use_cache


def _share(
    batches: Iterable[Mapping[str, Any]], accelerator: Accelerator | None, progress: Progress
) -> Iterator[Mapping[str, Any]]:
    """This process's rows of every batch."""
    processes, fewest = accelerator.num_processes if accelerator else 1, 0
    for batch in batches:
        rows = own_rows(batch, accelerator)
        if rows is not None:
            yield rows
        fewest += len(next(iter(batch.values()))) // processes  # what the last process gets
        progress.advance()
    if fewest == 0:
        raise DataError(
            f"there are no calibration samples for {processes} process(es): give at least one a process in some batch."
        )


def _join_processes(scorer: Criterion, rows: Tensor, accelerator: Accelerator | None) -> int:
    """Adds the sums of all processes; returns the number of examples they have seen together."""
    if accelerator is not None and accelerator.num_processes > 1:
        *sums, rows = (accelerator.reduce(value, "sum") for value in [*scorer.sums(), rows])
        scorer.load_sums(sums)
    return int(rows.item())


def _importance(scorer: Criterion, index: int, name: str) -> float:
    try:
        importance = scorer.importance(index)
    except DegenerateFeaturesError as error:
        raise DegenerateFeaturesError(f"block {index} ({name!r}) has no score: {error}") from error
    if not math.isfinite(importance):
        raise DegenerateFeaturesError(f"block {index} ({name!r}) has no score: the criterion gave {importance}.")
    return importance
