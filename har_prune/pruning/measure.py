"""One iteration's scores: all candidates on all samples, or a race; and the record of how they were measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.pruning.config import PruneSettings
from har_prune.pruning.history import Calibration, RaceRecord
from har_prune.pruning.plan import ranked
from har_prune.scoring.config import Layout
from har_prune.scoring.race import race_blocks
from har_prune.scoring.score import BlockScore, measure

LOWEST = "lowest importance"


@dataclass(frozen=True)
class Ranking:
    """Candidates by index in the network at hand, the least important first, with their scores and the record."""

    order: list[int]
    scores: Sequence[BlockScore]
    calibration: Calibration


def rank_candidates(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Any]],
    settings: PruneSettings,
    candidates: list[int],
    originals: Sequence[int],
    *,
    parent: PreTrainedModel,
    seed: int,
    layout: Layout | None,
    accelerator: Accelerator,
) -> Ranking:
    """Ranks the candidates for removal.

    Args:
        model: The network of this iteration.
        batches: Calibration batches.
        settings: Criterion, reference, calibration.
        candidates: Indices in `model`.
        originals: Index in the original network of every block of `model`, for the record.
        parent: The unpruned network.
        seed: Of this iteration.
        layout: The one this run has used so far; None = choose.
        accelerator: Device and processes.
    """
    arguments: dict[str, Any] = {
        "accelerator": accelerator,
        "candidates": candidates,
        "reference": parent if settings.reference == "original" else None,
        "representation": settings.representation,
        "config": settings.calibration.scoring(seed, layout),
    }
    race = settings.calibration.race
    record = None
    if race is None:
        found = measure(model, batches, [settings.criterion], **arguments)
        scores: Sequence[BlockScore] = found.scores[settings.criterion]
        order, work = ranked(scores), (found.samples, found.layout, found.block_evaluations)
    else:
        run = race_blocks(model, batches, race, criterion=settings.criterion, **arguments)
        scores, work = run.scores, (run.samples, run.layout, run.block_evaluations)
        order = [run.winner, *(index for index in ranked(scores) if index != run.winner)]
        tied = tuple(originals[index] for index in run.tied)
        record = RaceRecord(run.ended, tied, LOWEST if len(tied) > 1 else None)
    samples, used, evaluations = work
    calibration = Calibration(
        criterion=settings.criterion,
        samples=samples,
        seed=seed,
        reference=settings.reference,
        precision=settings.calibration.precision,
        estimator=scores[0].estimator,
        layout=None if used is None else used.model_dump(),
        block_evaluations=evaluations,
        race=record,
    )
    return Ranking(order, scores, calibration)
