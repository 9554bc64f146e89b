"""Statistics of a criterion by groups of examples, and what follows: importance, its spread, its interval."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from har_prune.errors import ShapeError
from har_prune.scoring.cka import Statistics
from har_prune.scoring.criteria.base import Criterion

GROUPS = 32  # parts for intervals and races
ROWS = 8  # neighbours in the data that stay in one group
_FEWEST = 8  # groups a spread can be told from
_RESAMPLES = 1000
_CHUNK_BYTES = 2**24  # of resampled statistics at a time: what stays in the caches


class GroupedStatistics:
    """Statistics [C or 1, G, ...] of one criterion for C candidates in G groups.

    Args:
        example: Statistics of one group of a few examples, [C or 1, 1, ...], for shapes; they are not counted.
        groups: G; 1 where only the total is wanted. Memory is taken for those that have examples.
    """

    def __init__(self, example: Statistics, groups: int):
        self.groups = groups
        self._statistics = [value.new_zeros((len(value), 0, *value.shape[2:])) for value in example]

    def _hold(self, groups: int) -> None:
        for place, total in enumerate(self._statistics):
            if groups > (held := total.shape[1]):
                more = total.new_zeros((len(total), groups - held, *total.shape[2:]))
                self._statistics[place] = torch.cat([total, more], 1) if held else more

    def add(self, groups: Tensor, statistics: Statistics) -> None:
        """Adds the statistics [C or 1, K, ...] of K groups, given by index [K]."""
        self._hold(int(groups.max()) + 1)
        for total, new in zip(self._statistics, statistics, strict=True):
            total.index_add_(1, groups.to(new.device), new)

    def keep(self, candidates: list[int]) -> None:
        """Forgets all candidates but those at the given places."""
        self._statistics = [total if len(total) == 1 else total[candidates] for total in self._statistics]

    def joined(self, accelerator: Accelerator | None) -> "GroupedStatistics":
        """The statistics of all processes; these stay as they are."""
        if accelerator is None or accelerator.num_processes == 1:
            return self
        self._hold(self.groups)  # each process may have seen others
        statistics = GroupedStatistics([], self.groups)
        statistics._statistics = [accelerator.reduce(total.clone(), "sum") for total in self._statistics]
        return statistics

    @property
    def bytes(self) -> int:
        """Memory they take."""
        return sum(total.numel() * total.element_size() for total in self._statistics)

    def of_all(self, candidate: int, criterion: Criterion) -> Tensor:
        """Importance by all groups together, [1]."""
        return criterion.importance([total.sum(0, keepdim=True) for total in self._of(candidate)])

    def without_one_group(self, candidate: int, criterion: Criterion) -> Tensor:
        """Importance with each group left out in turn, [G]: the jackknife. Groups without rows are skipped."""
        statistics = self._filled(candidate)
        return self._weighted(statistics, 1 - torch.eye(len(statistics[0]), dtype=torch.float64), criterion)

    def resampled(self, candidate: int, criterion: Criterion, seed: int) -> Tensor:
        """Importance on groups drawn with replacement, [1000]: the bootstrap. One seed draws the same for all."""
        statistics = self._filled(candidate)
        groups, generator = len(statistics[0]), torch.Generator().manual_seed(seed)
        drawn = torch.randint(groups, (_RESAMPLES, groups), generator=generator)
        counts = torch.zeros((_RESAMPLES, groups), dtype=torch.float64)
        return self._weighted(statistics, counts.scatter_add_(1, drawn, torch.ones_like(counts)), criterion)

    @staticmethod
    def _weighted(statistics: Statistics, weights: Tensor, criterion: Criterion) -> Tensor:
        """Importance of weighted sums of groups, [K] for weights [K, G]."""
        weights = weights.to(statistics[0].device)
        kind = next(kind for kind in type(criterion).__mro__ if {"importance", "of_groups"} & set(vars(kind)))
        if vars(kind).get("of_groups"):  # not inherited by a class with another importance
            return criterion.of_groups(statistics, weights)  # type: ignore[attr-defined]
        largest = max(total[0].numel() for total in statistics)
        parts = weights.split(max(1, _CHUNK_BYTES // (8 * largest)))
        return torch.cat([
            criterion.importance([torch.tensordot(part, total, 1) for total in statistics]) for part in parts
        ])  # fmt: skip

    def _filled(self, candidate: int) -> Statistics:
        """One candidate's statistics of the groups that have rows; a criterion's first tensor counts them."""
        statistics = self._of(candidate)
        filled = statistics[0].nonzero().flatten()
        if len(filled) < _FEWEST:
            raise ShapeError(f"an interval or a race needs at least {_FEWEST * ROWS} examples; there are too few.")
        return [total[filled] for total in statistics]

    def _of(self, candidate: int) -> Statistics:
        """One candidate's statistics, [G, ...]."""
        return [total[0 if len(total) == 1 else candidate] for total in self._statistics]


def grouped(positions: Tensor, groups: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Examples by group, all groups with equally many at once, so that sums over groups are one batched product.

    Args:
        positions: Of the examples in the data, [N].
        groups: G.

    Yields:
        (groups [K], places [K, n] of their examples among the N).
    """
    if groups == 1:
        yield torch.zeros(1, dtype=torch.long), torch.arange(len(positions))[None]
        return
    marks = positions // ROWS % groups
    order, counts = marks.argsort(stable=True), marks.bincount(minlength=groups)
    starts = counts.cumsum(0) - counts
    for count in counts[counts > 0].unique().tolist():
        same = (counts == count).nonzero().flatten()
        yield same, order[starts[same][:, None] + torch.arange(count)]
