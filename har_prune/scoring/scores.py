"""What scoring finds: one record a block, and how it was measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from har_prune.scoring.config import ExecutionPlan


@dataclass(frozen=True)
class BlockScore:
    """Importance of one block.

    Args:
        index: Index of the block in the scored model; the first of its `BlockStack.removal_group`.
        name: Its dotted module path there.
        importance: Higher = keep. For "cka" 1 - CKA, in [0, 1].
        samples: Examples it was measured on; 0 for criteria that look at no data.
        criterion: What was measured.
        interval: Bootstrap interval of the importance, where one was asked for.
        seed: Seed of the bootstrap and of what the criterion drew.
        reference: "current" where the scored network itself was the reference, "other" where another one was.
        precision: "fp32" for the weights' own type, "bf16" for autocast.
        estimator: How the number was computed: "exact", or the approximation and its error.
    """

    index: int
    name: str
    importance: float
    samples: int
    criterion: str = "cka"
    interval: tuple[float, float] | None = None
    seed: int = 0
    reference: str = "current"
    precision: str = "fp32"
    estimator: str = "exact"


@dataclass(frozen=True)
class Race:
    """How a race went.

    Args:
        ended: "decided": one block is left. "tie": those left are equal within the margin. "budget": the data ended.
        tied: Blocks that were left at the end, by index; one when the race was decided.
    """

    ended: Literal["decided", "tie", "budget"]
    tied: tuple[int, ...]


@dataclass(frozen=True)
class CriterionCost:
    """What a criterion takes by itself; several in one pass share it.

    Args:
        forward: Blocks run for an example.
        backward: Blocks whose gradient is taken for an example.
        bytes: Memory of its statistics, however many examples there are.
    """

    forward: int
    backward: int
    bytes: int


@dataclass(frozen=True)
class Scores(Sequence[BlockScore]):
    """Scores of all candidates, by index; of several criteria one after the other.

    Args:
        by_criterion: {criterion: one score for each candidate, by index}.
        samples: Examples that were measured.
        execution_plan: How the work was cut; None where no network ran.
        block_evaluations: Blocks run, each counted once for every example; all processes together.
        costs: {criterion: what it takes}; a consensus has its parts.
        race: How the race went, where there was one; blocks it dropped early have fewer samples.
    """

    by_criterion: dict[str, tuple[BlockScore, ...]]
    samples: int
    execution_plan: ExecutionPlan | None
    block_evaluations: int
    costs: dict[str, CriterionCost]
    race: Race | None = None

    def least(self, criterion: str | None = None) -> list[int]:
        """Blocks from the least important by a criterion (None = the first), the winner of a race first of all."""
        scores = next(iter(self.by_criterion.values())) if criterion is None else self.by_criterion[criterion]
        left = self.race.tied if self.race else ()
        return [s.index for s in sorted(scores, key=lambda s: (s.index not in left, s.importance, s.index))]

    @property
    def winner(self) -> int:
        """The least important block by the first criterion."""
        return self.least()[0]

    def _all(self) -> list[BlockScore]:
        return [score for scores in self.by_criterion.values() for score in scores]

    def __iter__(self) -> Iterator[BlockScore]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, place: Any) -> Any:
        """One by its place; all by a criterion by its name."""
        return self.by_criterion[place] if isinstance(place, str) else self._all()[place]
