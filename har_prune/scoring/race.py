"""The race: at an iteration only the least important block matters, so the others are dropped as soon as it is clear.

All candidates are scored on a growing sample. After each stretch the difference of each to the leader is compared with
its standard error, from a jackknife over groups of examples (paired: both were measured on the same examples). A block
clearly behind is dropped and costs nothing from then on. The race ends with one block, with blocks that are equal
within a margin, or with the data.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from scipy.stats import t as student
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.runtime.batches import checked
from har_prune.runtime.progress import Progress, count_of
from har_prune.scoring.config import ExecutionPlan, RaceConfig, ScoringConfig
from har_prune.scoring.criteria.base import refuse_race
from har_prune.scoring.score import BlockScore, block_scores
from har_prune.scoring.scorer import Batches, BlockScorer
from har_prune.scoring.statistics import GROUPS

_LOOKS = 16  # decisions the confidence is shared among; at growth 1.5 they reach from 256 to 112,000 examples


@dataclass(frozen=True)
class Race:
    """How a race went.

    Args:
        scores: Every candidate, by index, as it stood when it was dropped or the race ended.
        tied: Blocks that were left at the end, by index; one when the race was decided.
        ended: "decided": one block is left. "tie": those left are equal within the margin. "budget": the data ended.
        winner: The least important block: of those left the one with the lowest importance, of equals the first.
        samples: Examples seen.
        execution_plan: How the work was cut.
        block_evaluations: Blocks run, each counted once for every example; all processes together.
    """

    scores: tuple[BlockScore, ...]
    tied: tuple[int, ...]
    ended: Literal["decided", "tie", "budget"]
    winner: int
    samples: int
    execution_plan: ExecutionPlan | None
    block_evaluations: int


def race_blocks(
    model: PreTrainedModel | BlockStack,
    batches: Batches,
    race: RaceConfig,
    *,
    criterion: str = "cka",
    accelerator: Accelerator | None = None,
    candidates: Iterable[int] | None = None,
    reference: PreTrainedModel | None = None,
    representation: str | None = None,
    config: ScoringConfig | None = None,
) -> Race:
    """Finds the least important block with as few examples and block evaluations as the data allow.

    Args:
        model: The network.
        batches: As for `score_blocks`, in random order: the first examples have to be a fair sample.
        race: Confidence, margin, schedule.
        criterion: One that looks at data, and no consensus.
        accelerator: As for `score_blocks`.
        candidates: As for `score_blocks`.
        reference: As for `score_blocks`.
        representation: As for `score_blocks`.
        config: As for `score_blocks`.

    Raises:
        UnknownCriterionError: The criterion does not exist, or cannot race.
        HarPruneError: As for `score_blocks`.
    """
    batches = checked(batches, "calibration")
    scorer = BlockScorer(
        model,
        [criterion],
        candidates,
        config or ScoringConfig(),
        accelerator=accelerator,
        reference=reference,
        representation=representation,
        groups=GROUPS,
    )
    progress = Progress("race", count_of(batches), accelerator)
    with closing(progress), closing(scorer):
        return run_race(scorer, progress.counting(batches), race, progress)


def run_race(scorer: BlockScorer, batches: Batches, race: RaceConfig, progress: Progress | None = None) -> Race:
    """Runs a race on a scorer of one criterion, made with `statistics.GROUPS` groups.

    Raises:
        UnknownCriterionError: The criterion cannot race.
    """
    (criterion,) = scorer.names
    refuse_race(criterion)
    total, next_look = len(scorer.candidates), float(race.first)
    dropped: dict[int, BlockScore] = {}
    ended: Literal["decided", "tie", "budget"] = "budget"
    for batch in batches:
        scorer.feed([batch])
        if scorer.samples < next_look:
            continue
        while next_look <= scorer.samples:
            next_look *= race.growth
        scores = block_scores(scorer)[criterion]
        verdict = judge([score.importance for score in scores], scorer.jackknife(), race, total)
        losers = {score.index: score for score, lost in zip(scores, verdict.lost, strict=True) if lost}
        dropped |= losers
        if losers:
            scorer.drop(set(losers))
        if progress is not None:
            progress.note(f"{len(scorer.candidates)} left of {total}, {scorer.samples} samples")
        if len(scorer.candidates) == 1 or verdict.equal:
            ended = "decided" if len(scorer.candidates) == 1 else "tie"
            break
    left = block_scores(scorer)[criterion]
    dropped |= {score.index: score for score in left}
    return Race(
        scores=tuple(dropped[index] for index in sorted(dropped)),
        tied=tuple(score.index for score in left),
        ended=ended,
        winner=min(left, key=lambda score: (score.importance, score.index)).index,
        samples=scorer.samples,
        execution_plan=scorer.execution_plan,
        block_evaluations=scorer.all_block_evaluations(),
    )


@dataclass(frozen=True)
class Verdict:
    """`lost`: for each candidate whether it is clearly behind. `equal`: whether all others are equal for all ends."""

    lost: list[bool]
    equal: bool


def judge(importances: list[float], jackknife: Tensor, race: RaceConfig, candidates: int) -> Verdict:
    """Compares each candidate with the leader.

    Args:
        importances: Of the candidates left, C of them.
        jackknife: The same with each of G groups of examples left out, [C, G].
        race: Confidence and margin.
        candidates: How many there were at the start: the confidence is shared among all comparisons.

    Source: delete-a-group jackknife, Kott 2001 (Journal of Official Statistics 17); Bonferroni over the candidates
    and looks, as in a successive-rejects race (Maron and Moore 1994, Hoeffding races).
    """
    values = torch.tensor(importances, dtype=torch.float64)
    leader = int(values.argmin())
    ahead = values - values[leader]
    left_out = (jackknife - jackknife[leader]).double().cpu()
    groups = left_out.shape[1]
    error = ((left_out - left_out.mean(1, keepdim=True)).square().sum(1) * (groups - 1) / groups).sqrt()
    share = (1 - race.confidence) / (max(1, candidates - 1) * _LOOKS)
    bound = error * float(student.ppf(1 - share, groups - 1))
    lost = ahead > bound
    equal = ahead + error * float(student.ppf(race.confidence, groups - 1)) <= race.tie_margin
    return Verdict(lost.tolist(), bool(equal[~lost].all()))
