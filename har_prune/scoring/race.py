"""The race: at an iteration only the least important block matters, so the others are dropped as soon as it is clear.

All candidates are scored on a growing sample. After each stretch the difference of each to the leader is compared with
its standard error, from a jackknife over groups of examples (paired: both were measured on the same examples). A block
clearly behind is dropped and costs nothing from then on. The race ends with one block, with blocks that are equal
within a margin, or with the data.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from scipy.stats import t as student
from torch import Tensor

from har_prune.runtime.processes import agreed
from har_prune.runtime.progress import Progress
from har_prune.scoring.aggregate import Aggregate
from har_prune.scoring.config import RaceConfig
from har_prune.scoring.measure import Measurer
from har_prune.scoring.scores import BlockScore, Race

_LOOKS = 16  # decisions the confidence is shared among; at growth 1.5 they reach from 256 to 112,000 examples


def run_race(
    measurer: Measurer,
    aggregate: Aggregate,
    batches: Iterable[Any],
    race: RaceConfig,
    progress: Progress | None = None,
) -> tuple[dict[str, tuple[BlockScore, ...]], Race]:
    """Runs a race of one criterion to its end.

    What is dropped is the main process's decision, in all processes.

    Returns:
        {criterion: every candidate, by index, as it stood when it was dropped or the race ended}, and how it ended.
    """
    (criterion,) = aggregate.names
    total, next_look = len(aggregate.candidates), float(race.first)
    dropped: dict[int, BlockScore] = {}
    ended: Literal["decided", "tie", "budget"] = "budget"
    stream = iter(batches)

    def stretch() -> Iterator[Any]:
        while measurer.samples < next_look and (batch := next(stream, None)) is not None:
            yield batch

    while ended == "budget":
        for measurements in measurer.measure(stretch()):
            aggregate.add(measurements)
        if measurer.samples < next_look:
            break
        while next_look <= measurer.samples:
            next_look *= race.growth
        joined = aggregate.joined(measurer.accelerator)
        scores = aggregate.scores(joined, measurer.samples)[criterion]
        verdict = judge([score.importance for score in scores], aggregate.jackknife(joined), race, total)
        scores, (behind, equal) = agreed((scores, verdict), measurer.accelerator)
        losers = {score.index: score for score, lost in zip(scores, behind, strict=True) if lost}
        dropped |= losers
        if losers:
            measurer.drop(set(losers))
            aggregate.drop(set(losers))
        if progress is not None:
            progress.note(f"{len(aggregate.candidates)} left of {total}, {measurer.samples} samples")
        if len(aggregate.candidates) == 1 or equal:
            ended = "decided" if len(aggregate.candidates) == 1 else "tie"
    joined = aggregate.joined(measurer.accelerator)
    left = agreed(aggregate.scores(joined, measurer.samples)[criterion], measurer.accelerator)
    everyone = dropped | {score.index: score for score in left}
    race_ended = Race(ended, tuple(score.index for score in left))
    return {criterion: tuple(everyone[index] for index in sorted(everyone))}, race_ended


def judge(importances: list[float], jackknife: Tensor, race: RaceConfig, candidates: int) -> tuple[list[bool], bool]:
    """Compares each candidate with the leader.

    Args:
        importances: Of the candidates left, C of them.
        jackknife: The same with each of G groups of examples left out, [C, G].
        race: Confidence and margin.
        candidates: How many there were at the start: the confidence is shared among all comparisons.

    Returns:
        For each candidate whether it is clearly behind, and whether all others are equal for all ends.

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
    return lost.tolist(), bool(equal[~lost].all())
