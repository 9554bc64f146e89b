"""From measurements to importances: statistics that add up, by criterion and group of examples. Runs no network."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from scipy.stats import rankdata
from torch import Tensor

from har_prune.blocks.stack import BlockStack
from har_prune.errors import DegenerateFeaturesError, HarPruneError
from har_prune.scoring.config import ScoringConfig
from har_prune.scoring.criteria.base import Criterion, Task, make_criterion, members
from har_prune.scoring.measurements import Measurements
from har_prune.scoring.scores import BlockScore
from har_prune.scoring.statistics import GROUPS, ROWS, GroupedStatistics, grouped

_WAITING_ROWS = GROUPS * ROWS  # each group once: then one batched product does for all
_WAITING_BYTES = 2**26


class Aggregate:
    """Adds up what criteria make of measurements, and turns the sums into importances.

    Args:
        names: Criteria, registered names or "consensus(a, b, ...)".
        stack: Blocks, for their names and for criteria of weights.
        candidates: Blocks to score.
        config: Seed; whether intervals or races need statistics by groups.
        reference: "current" or "other", for the record.

    Attributes:
        candidates: Those still scored.
        streamed: {name: criterion} of those that look at data.

    Raises:
        UnknownCriterionError: Nothing is registered under a name.
    """

    def __init__(
        self,
        names: list[str],
        stack: BlockStack,
        candidates: Iterable[int],
        config: ScoringConfig,
        reference: str = "current",
    ):
        self.names, self.stack, self.candidates, self.config = names, stack, [*candidates], config
        self.shared = {"seed": config.seed, "precision": config.precision, "reference": reference}
        self.groups = 1 if config.interval is None and config.race is None else GROUPS
        task = Task([stack.blocks[index] for index in self.candidates], config.seed, self.groups)
        self.criteria = {part: make_criterion(part, task) for name in names for part in members(name)}
        self._fixed = {
            part: torch.tensor([[self._fixed_value(i, part, criterion)] for i in self.candidates], dtype=torch.float64)
            for part, criterion in self.criteria.items()
            if criterion.needs == "nothing"
        }
        self.streamed: dict[str, Criterion] = {k: c for k, c in self.criteria.items() if c.needs != "nothing"}
        self._statistics: dict[str, GroupedStatistics] = {}
        self._waiting: list[Measurements] = []

    def start(self, first: Measurements) -> None:
        """Shows the criteria a few examples, the same in every process.

        Raises:
            TypeError: The statistics of a criterion do not add up over examples.
        """
        together, apart = (first.rows(torch.tensor(rows)) for rows in ([[0, len(first) - 1]], [[0], [len(first) - 1]]))
        for name, criterion in self.streamed.items():
            criterion.start(first.of(name))
            self._statistics[name] = GroupedStatistics(criterion.statistics(together.of(name)), self.groups)
            sums, parts = (criterion.statistics(one.candidate(0).of(name)) for one in (together, apart))
            for whole, part in zip(sums, parts, strict=True):
                _check_sums(name, whole, part)

    def add(self, measurements: Measurements) -> None:
        """Takes measurements; several small ones are summed at once."""
        self._waiting.append(measurements)
        waiting = self._waiting
        if sum(map(len, waiting)) >= _WAITING_ROWS or sum(part.bytes for part in waiting) >= _WAITING_BYTES:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._waiting:
            return
        measurements, self._waiting = Measurements.joined(self._waiting), []
        for groups, rows in grouped(measurements.positions, self.groups):
            part = measurements.rows(rows)
            for name, criterion in self.streamed.items():
                self._statistics[name].add(groups, criterion.statistics(part.of(name)))

    def drop(self, blocks: set[int]) -> None:
        """Stops scoring some candidates."""
        self._sum_up()
        kept = [place for place, index in enumerate(self.candidates) if index not in blocks]
        self.candidates = [self.candidates[place] for place in kept]
        for statistics in self._statistics.values():
            statistics.keep(kept)
        self._fixed = {name: values[kept] for name, values in self._fixed.items()}

    def joined(self, accelerator: Accelerator | None) -> dict[str, GroupedStatistics]:
        """What all processes have added so far, by criterion."""
        self._sum_up()
        return {name: found.joined(accelerator) for name, found in self._statistics.items()}

    @property
    def bytes(self) -> dict[str, int]:
        """Memory that the statistics of each criterion take."""
        return {name: statistics.bytes for name, statistics in self._statistics.items()}

    def scores(self, joined: dict[str, GroupedStatistics], samples: int) -> dict[str, tuple[BlockScore, ...]]:
        """{criterion: one score for each candidate}.

        Args:
            joined: Of all processes.
            samples: Examples that were measured.

        Raises:
            DegenerateFeaturesError, ShapeError: A score is not defined; the message names block and criterion.
        """
        intervals = {} if self.config.interval is None else self._intervals(joined, self.config.interval)
        found = {}
        for name, values in self._combined(self._values(joined, GroupedStatistics.of_all)).items():
            parts = members(name)
            estimators = dict.fromkeys(getattr(self.criteria[part], "estimator", "exact") for part in parts)
            common: dict[str, Any] = {
                "criterion": name,
                "samples": samples if any(part in self.streamed for part in parts) else 0,
                "estimator": "; ".join(estimators),
                **self.shared,
            }
            rows = zip(self.candidates, values[:, 0].tolist(), intervals.get(name, repeat(None)), strict=False)
            found[name] = tuple(
                BlockScore(index, self.stack.names[index], value, interval=interval, **common)
                for index, value, interval in rows
            )
        return found

    def jackknife(self, joined: dict[str, GroupedStatistics]) -> Tensor:
        """Importance of each candidate by the one criterion, with each group left out, [C, groups with examples]."""
        (values,) = self._values(joined, GroupedStatistics.without_one_group).values()
        return values

    def _intervals(self, joined: dict[str, GroupedStatistics], level: float) -> dict[str, list[tuple[float, float]]]:
        """Bootstrap percentile interval of each candidate's importance, at a level such as 0.95."""
        resampled = partial(GroupedStatistics.resampled, seed=self.config.seed)
        bounds = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        return {
            name: [tuple(torch.quantile(row, bounds).tolist()) for row in values.double().cpu()]
            for name, values in self._combined(self._values(joined, resampled)).items()
        }

    def _values(self, joined: dict[str, GroupedStatistics], make: Callable[..., Tensor]) -> dict[str, Tensor]:
        """Something, [C, K], of each criterion: `make(statistics, place, criterion)` gives it for a candidate."""
        found = dict(self._fixed)
        for name, statistics in joined.items():
            of = partial(make, statistics, criterion=self.streamed[name])
            rows = [self._named(i, name, partial(of, place)) for place, i in enumerate(self.candidates)]
            found[name] = torch.stack(rows) if rows else torch.empty((0, 1))
        return found

    def _fixed_value(self, index: int, name: str, criterion: Any) -> float:
        """Of a criterion without data: the mean over the blocks that would go."""
        blocks = self.stack.blocks
        return fmean(
            self._named(i, name, partial(criterion.value, blocks[i])) for i in self.stack.removal_group(index)
        )

    def _named(self, index: int, name: str, compute: Callable[[], Any]) -> Any:
        """A value of a block; an error, or a number that is none, names block and criterion."""
        block = self.stack.blocks[index]
        try:
            value = compute()
        except HarPruneError as error:
            raise type(error)(f"block {index} ({block.name!r}) has no score by {name!r}: {error}") from error
        finite = bool(value.isfinite().all()) if isinstance(value, Tensor) else math.isfinite(value)
        if not finite:
            raise DegenerateFeaturesError(
                f"block {index} ({block.name!r}) has no score by {name!r}: the criterion gave NaN or infinity."
            )
        return value

    def _combined(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values [C, K] by the names asked for: a consensus is the mean rank of a block, scaled to [0, 1]."""
        found = {}
        for name in self.names:
            if members(name) == [name]:
                found[name] = parts[name]
                continue
            columns = max(parts[part].shape[1] for part in members(name))
            ranks = [
                torch.as_tensor(rankdata(parts[part].double().cpu().numpy(), axis=0) - 1).expand(-1, columns)
                for part in members(name)
            ]
            found[name] = torch.stack(ranks).mean(0) / max(1, len(self.candidates) - 1)
        return found


def _check_sums(name: str, sums: Tensor, parts: Tensor) -> None:
    """Two examples in one group must give what they give in a group each, added."""
    fits = sums.shape[:2] == (1, 1) and parts.shape == (1, 2, *sums.shape[2:])
    if not (fits and torch.allclose(sums[:, 0], parts.sum(1), rtol=1e-6, atol=1e-9, equal_nan=True)):
        raise TypeError(
            f"criterion {name!r}: its statistics do not add up over examples. They are tensors [C, G, ...], or "
            "[1, G, ...], of measurements [C, G, N, D] and values [C, G, N], summed over the N examples alone; of one "
            f"candidate, 2 examples in a group gave {tuple(sums.shape)}, and in a group each {tuple(parts.shape)}."
        )
