"""The registry of importance criteria, and what a criterion is.

To add one, write a class with the members of `Criterion` and decorate it with `@register_criterion("name")`; what it
lacks for its `needs` is said there and then. A criterion keeps nothing: it turns measurements into statistics that add
up over examples, and statistics into importances. So every criterion streams, adds up across processes, and has
confidence intervals and races, without doing anything for it.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from har_prune.blocks.stack import Block
from har_prune.errors import UnknownCriterionError, did_you_mean
from har_prune.scoring.cka import Statistics
from har_prune.scoring.measurements import Measurements

# What is measured for a criterion. features: representation with and without each block. losses: the same for the
# loss. hidden_states: input and output of each block. gradients: these, and the gradient of the loss at the output.
Needs = Literal["features", "losses", "hidden_states", "gradients", "nothing"]
_STREAMS = ("start", "statistics", "importance")
_MEMBERS: dict[str, tuple[str, ...]] = {
    "features": _STREAMS,
    "losses": _STREAMS,
    "hidden_states": (*_STREAMS, "of_block"),
    "gradients": (*_STREAMS, "of_block"),
    "nothing": ("value",),
}


@dataclass(frozen=True)
class Task:
    """What a criterion is made for.

    Args:
        blocks: The candidates.
        seed: Seed of everything a criterion draws.
        groups: Parts the examples are summed in; each takes the memory of one set of statistics.
    """

    blocks: list[Block]
    seed: int = 0
    groups: int = 1


class Criterion(Protocol):
    """What a criterion must offer. It is made by calling the class with a `Task`.

    One that needs "nothing" offers `value` alone; all others `start`, `statistics` and `importance`, and those that
    need "hidden_states" or "gradients" also `of_block`. `block.MeanCriterion` has all but `of_block`.

    Attributes:
        needs: What is to be measured for it; an attribute of the class.
        estimator: How the number is computed, for the record, where there is more than one way; "exact" if left out.
        first_rows: Examples `start` needs; may be left out for 2.
    """

    needs: Needs
    estimator: str

    def value(self, block: Block) -> float:
        """Importance of a block, for a criterion that needs nothing."""

    def of_block(self, before: Tensor, after: Tensor, mask: Tensor, gradient: Tensor | None) -> Tensor:
        """One number for each example, [N], of what a block does to it; `statistics` finds them in `measurements.own`.

        Args:
            before: Its input, [N, positions, D].
            after: Its output, likewise.
            mask: 1 where a position counts, [N, positions].
            gradient: Of the loss at the output, like it; None unless `needs` is "gradients".
        """

    def start(self, first: Measurements) -> None:
        """Sees a few examples, the same in every process, before any are summed."""

    def statistics(self, measurements: Measurements) -> Statistics:
        """Sums over examples, by group: float64 tensors [C, G, ...], or [1, G, ...] where candidates share them.

        The first counts examples, [1, G].

        Args:
            measurements: Of G groups of N examples: features [C, G, N, D] and [1, G, N, D], numbers [C, G, N].
        """

    def importance(self, statistics: Statistics) -> Tensor:
        """Importance [K] from statistics with K leading entries (or 1, shared by all); higher = keep.

        Raises:
            HarPruneError: It is not defined.
        """

    # A criterion may also have of_groups(statistics, weights): the importances [K] of K weighted sums, given the
    # statistics of G groups [G, ...] and weights [K, G], where that takes less than to form the sums.


_CRITERIA: dict[str, Callable[[Task], Any]] = {}


def register_criterion(name: str) -> Callable:
    """Decorator: registers a class, called with a `Task`, as a criterion.

    Raises:
        ValueError: The name is taken.
        TypeError: The class does not say what it needs, or lacks a member that goes with it.
    """

    def register(make: Callable[[Task], Any]) -> Callable[[Task], Any]:
        if name in _CRITERIA or name == CONSENSUS:
            raise ValueError(f"criterion {name!r} is registered already")
        needs = getattr(make, "needs", None)
        if needs not in _MEMBERS:
            raise TypeError(
                f"criterion {name!r}: its class has needs = {needs!r}; choose from {', '.join(get_args(Needs))}."
                f"{did_you_mean(str(needs), _MEMBERS)}"
            )
        if hasattr(make, "sums") and not hasattr(make, "statistics"):
            warnings.warn(f"{name!r}: `sums` is now called `statistics` (since 0.2)", DeprecationWarning, stacklevel=2)
            make.statistics = make.sums  # type: ignore[attr-defined]
        missing = [member for member in _MEMBERS[needs] if not callable(getattr(make, member, None))]
        if missing:
            raise TypeError(f"criterion {name!r} needs {needs!r} and has no {', '.join(missing)}; see `Criterion`.")
        _CRITERIA[name] = make
        return make

    return register


CONSENSUS = "consensus"


def members(name: str) -> list[str]:
    """The criteria a name stands for: itself, or those of "consensus(a, b, ...)".

    >>> members("consensus(cka, block_influence)")
    ['cka', 'block_influence']

    Raises:
        UnknownCriterionError: Nothing is registered under a name.
    """
    head, _, rest = name.partition("(")
    if head.strip() == CONSENSUS:
        inner = [part.strip() for part in rest.removesuffix(")").split(",") if part.strip()]
        if len(inner) < 2 or not rest.endswith(")"):
            raise UnknownCriterionError(
                f"criterion {name!r}: name the criteria whose ranks to average, e.g. 'consensus(cka, taylor)'."
            )
    else:
        inner = [name]
    known = sorted(_registered())
    for part in inner:
        if part not in known:
            raise UnknownCriterionError(
                f"unknown criterion {part!r} (known: {', '.join([*known, 'consensus(a, b, ...)'])})."
                f"{did_you_mean(part, [*known, CONSENSUS])}"
            )
    return inner


def refuse_race(names: list[str]) -> None:
    """Refuses to race several criteria, or one whose spread examples do not tell.

    Raises:
        UnknownCriterionError: They are several, or one is a consensus, or looks at no data.
    """
    for name in names:
        if members(name) != [name] or make_criterion(name, Task([])).needs == "nothing":
            raise UnknownCriterionError(
                f"criterion {name!r} cannot race: it is a consensus or looks at no data. Leave calibration.race out."
            )
    if len(names) != 1:
        raise UnknownCriterionError(f"one criterion at a time can race; these are {', '.join(names)}.")


def make_criterion(name: str, task: Task) -> Criterion:
    """A fresh criterion.

    Raises:
        UnknownCriterionError: Nothing is registered under the name.
    """
    members(name)
    return _registered()[name](task)


def _registered() -> dict[str, Callable[[Task], Any]]:
    """All criteria; har_prune's own register themselves when one is first asked for."""
    for module in ("block", "representation", "weights"):
        import_module(f"har_prune.scoring.criteria.{module}")
    return _CRITERIA
