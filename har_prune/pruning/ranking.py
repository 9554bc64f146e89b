"""One iteration's scores: all candidates on all samples, or a race; and the record of how they were measured."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.history import Calibration, RaceRecord
from har_prune.runtime.batches import rows_of, size_of
from har_prune.scoring.config import ExecutionPlan
from har_prune.scoring.score import score_blocks
from har_prune.scoring.scores import BlockScore, Race

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
    """Ranks the candidates for removal; all processes are given the main process's ranking.

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
    scores = score_blocks(
        stack,
        batches,
        criterion=settings.criterion,
        accelerator=accelerator,
        candidates=candidates,
        reference=original if settings.reference == "original" else None,
        representation=settings.representation,
        config=settings.calibration.scoring(seed, execution_plan),
    )
    calibration = Calibration(
        criterion=settings.criterion,
        samples=scores.samples,
        seed=seed,
        reference=settings.reference,
        precision=settings.calibration.precision,
        estimator=scores[0].estimator,
        execution_plan=None if scores.execution_plan is None else scores.execution_plan.model_dump(),
        block_evaluations=scores.block_evaluations,
        race=_record_of(scores.race, stack),
    )
    return Ranking(scores.least(), scores, calibration)


@dataclass(frozen=True)
class FirstExamples:
    """The first examples of some batches.

    Args:
        batches: All of them.
        samples: How many examples, at most.
    """

    batches: Iterable[Mapping[str, Any]]
    samples: int

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        left = self.samples
        for batch in self.batches:
            size = size_of(batch)
            yield batch if size <= left else rows_of(batch, slice(left))
            left -= size
            if left <= 0:
                return


def _record_of(race: Race | None, stack: BlockStack) -> RaceRecord | None:
    if race is None:
        return None
    tied = tuple(stack.blocks[index].original_index for index in race.tied)
    return RaceRecord(race.ended, tied, LOWEST if len(tied) > 1 else None)
