"""One iteration's scores: all candidates on all samples, or a race; and the record of how they were measured."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.history import Calibration, RaceRecord
from har_prune.pruning.plan import ranked
from har_prune.runtime.progress import Progress, count_of
from har_prune.scoring.config import ExecutionPlan
from har_prune.scoring.race import run_race
from har_prune.scoring.score import BlockScore, block_scores
from har_prune.scoring.scorer import BlockScorer
from har_prune.scoring.statistics import GROUPS

LOWEST = "lowest importance"


@dataclass(frozen=True)
class Ranking:
    """Candidates by index in the network at hand, the least important first, with their scores and the record."""

    order: list[int]
    scores: Sequence[BlockScore]
    calibration: Calibration


def rank_candidates(
    stack: BlockStack,
    batches: Iterable[Mapping[str, Any]],
    settings: PruneSettings,
    candidates: list[int],
    *,
    original: PreTrainedModel,
    seed: int,
    execution_plan: ExecutionPlan | None,
    accelerator: Accelerator,
) -> Ranking:
    """Ranks the candidates for removal.

    Args:
        stack: Blocks of the network of this iteration.
        batches: Calibration batches.
        settings: Criterion, reference, calibration.
        candidates: Indices in the stack.
        original: The unpruned network.
        seed: Of this iteration.
        execution_plan: The one this run has used so far; None = choose.
        accelerator: Device and processes.
    """
    race = settings.calibration.race
    scorer = BlockScorer(
        stack,
        [settings.criterion],
        candidates,
        settings.calibration.scoring(seed, execution_plan),
        accelerator=accelerator,
        reference=original if settings.reference == "original" else None,
        representation=settings.representation,
        groups=1 if race is None and settings.calibration.interval is None else GROUPS,
    )
    progress = Progress("score", count_of(batches), accelerator)
    with closing(progress), closing(scorer):
        if race is None:
            scorer.feed(progress.counting(batches))
            scores: Sequence[BlockScore] = block_scores(scorer)[settings.criterion]
            order, record = ranked(scores), None
        else:
            run = run_race(scorer, progress.counting(batches), race, progress)
            scores = run.scores
            order = [run.winner, *(index for index in ranked(scores) if index != run.winner)]
            tied = tuple(stack.blocks[index].original_index for index in run.tied)
            record = RaceRecord(run.ended, tied, LOWEST if len(tied) > 1 else None)
        evaluations = scorer.all_block_evaluations()
    calibration = Calibration(
        criterion=settings.criterion,
        samples=scorer.samples,
        seed=seed,
        reference=settings.reference,
        precision=settings.calibration.precision,
        estimator=scores[0].estimator,
        execution_plan=None if scorer.execution_plan is None else scorer.execution_plan.model_dump(),
        block_evaluations=evaluations,
        race=record,
    )
    return Ranking(order, scores, calibration)
