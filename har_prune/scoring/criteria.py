"""The registry of importance criteria. A criterion sees features batch by batch and gives one number a block.

To add one, write a class with the methods of `Criterion` and decorate it with `@register_criterion("name")`.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor

from har_prune.errors import UnknownCriterionError
from har_prune.scoring.cka import PairMoments, cka
from har_prune.spelling import did_you_mean


class Criterion(Protocol):
    """What a criterion must offer. State is sums over examples, so that processes can add theirs."""

    def update(self, reference: Tensor, features: Iterable[tuple[int, Tensor]]) -> None:
        """Takes one batch.

        Args:
            reference: Representation of the reference network, [N, D].
            features: (block, representation without that block [N, D]) for every candidate; read it once.
        """

    def sums(self) -> list[Tensor]:
        """Tensors that add up across processes, in one order in every process."""

    def load_sums(self, sums: list[Tensor]) -> None:
        """Puts back what `sums` gave, added up over all processes."""

    def importance(self, block: int) -> float:
        """Importance of a block; higher = keep."""


_CRITERIA: dict[str, Callable[[list[int]], Criterion]] = {}


def register_criterion(name: str) -> Callable:
    """Decorator: registers a class, called with the list of candidate blocks, as a criterion.

    Raises:
        ValueError: The name is taken.
    """

    def register(make: Callable[[list[int]], Criterion]) -> Callable[[list[int]], Criterion]:
        if name in _CRITERIA:
            raise ValueError(f"criterion {name!r} is registered already")
        _CRITERIA[name] = make
        return make

    return register


def make_criterion(name: str, candidates: list[int]) -> Criterion:
    """A fresh criterion for the given candidate blocks.

    Raises:
        UnknownCriterionError: Nothing is registered under the name.
    """
    if name not in _CRITERIA:
        known = sorted(_CRITERIA)
        raise UnknownCriterionError(
            f"unknown criterion {name!r} (known: {', '.join(known)}).{did_you_mean(name, known)}"
        )
    return _CRITERIA[name](candidates)


@register_criterion("cka")
class CkaCriterion:
    """1 - linear CKA between the representation with and without the block, in [0, 1].

    Costs one forward and, for each candidate, the blocks behind it; no backward.
    Source: Pons et al., ICPR 2024, arXiv:2405.17081.
    """

    debiased = False

    def __init__(self, candidates: list[int]):
        self._reference = PairMoments()  # shared by all candidates
        self._cross = {block: PairMoments() for block in candidates}
        self._own = {block: PairMoments() for block in candidates}

    def update(self, reference: Tensor, features: Iterable[tuple[int, Tensor]]) -> None:
        reference = reference.double()
        self._reference.update(reference, reference)
        for block, without in features:
            without = without.double()
            self._cross[block].update(reference, without)
            self._own[block].update(without, without)

    def _moments(self) -> list[PairMoments]:
        return [self._reference, *self._cross.values(), *self._own.values()]

    def sums(self) -> list[Tensor]:
        return [value for moments in self._moments() for value in moments.sums]

    def load_sums(self, sums: list[Tensor]) -> None:
        values = iter(sums)
        for moments in self._moments():
            moments.sums = [next(values) for _ in moments.sums]

    def importance(self, block: int) -> float:
        return 1.0 - cka(self._reference, self._cross[block], self._own[block], debiased=self.debiased)


@register_criterion("cka_debiased")
class DebiasedCkaCriterion(CkaCriterion):
    """As "cka" with the debiased estimator: no upward bias when there are few examples for the width.

    Costs the same as "cka". Source: Nguyen et al. 2021, arXiv:2010.15327.
    """

    debiased = True
