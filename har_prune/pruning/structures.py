"""What one step may remove: a group of blocks, or units inside blocks. Each can be bypassed, and built for real."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from har_prune.blocks.rebuild import without_blocks
from har_prune.blocks.stack import BlockStack
from har_prune.evaluation.macs import count_macs, macs_of_modules
from har_prune.pruning.config import PruneSettings, WidthSettings
from har_prune.widths.find import find_widths
from har_prune.widths.rebuild import without_units
from har_prune.widths.stack import Width, WidthStack

WITHIN = 0.1  # of the MACs that a removal should save, where it is compared with another one


def widths_of(stack: BlockStack, settings: WidthSettings, protected: set[int]) -> WidthStack:
    """The widths that settings name; those of protected blocks, by index in the original network, stay as they are."""
    found = find_widths(stack, settings.kinds)
    return WidthStack(
        stack,
        [
            width.fixed("its block is protected") if width.block.original_index in protected else width
            for width in found.widths
        ],
    )


@dataclass(frozen=True)
class BlockRemoval:
    """Blocks that go together.

    Args:
        stack: The blocks they are of.
        blocks: Their indices.
    """

    stack: BlockStack
    blocks: list[int]

    @property
    def removed(self) -> tuple[int, ...]:
        """Blocks that go, as indices in the original network."""
        return tuple(self.stack.blocks[index].original_index for index in self.blocks)

    @property
    def removed_units(self) -> dict[str, int]:
        """Units that go, by kind: none."""
        return {}

    def bypassed(self) -> AbstractContextManager:
        """Inside, the network computes as it will without them."""
        return self.stack.bypassed(self.blocks)

    def to_json(self) -> dict[str, Any]:
        """What `removal_from_json` reads."""
        return {"blocks": self.blocks}

    def built(self, *, copy: bool) -> BlockStack:
        """The smaller network."""
        return without_blocks(self.stack, self.blocks, copy=copy)

    def macs_left(self, example_inputs: dict[str, Tensor]) -> int:
        """Multiply-accumulates of the smaller network."""
        with self.bypassed():
            count_macs(self.stack.model, example_inputs)  # the first one still runs a block to see what it returns
            return count_macs(self.stack.model, example_inputs)


@dataclass(frozen=True)
class UnitRemoval:
    """Units that go together.

    Args:
        widths: The widths they are of.
        units: {index of a width: its units}.
    """

    widths: WidthStack
    units: dict[int, list[int]]

    @property
    def removed(self) -> tuple[int, ...]:
        """Blocks that go: none."""
        return ()

    @property
    def removed_units(self) -> dict[str, int]:
        """Units that go, by kind."""
        found: dict[str, int] = {}
        for index, units in self.units.items():
            kind = self.widths.widths[index].kind.name
            found[kind] = found.get(kind, 0) + len(units)
        return found

    def bypassed(self) -> AbstractContextManager:
        """Inside, the network computes as it will without them."""
        return self.widths.masked(self.units)

    def to_json(self) -> dict[str, Any]:
        """What `removal_from_json` reads."""
        return {"units": self.units}

    def built(self, *, copy: bool) -> BlockStack:
        """The narrower network."""
        return without_units(self.widths, self.units, copy=copy)

    def macs_left(self, example_inputs: dict[str, Tensor]) -> int:
        """Multiply-accumulates of the narrower network."""
        counts = macs_of_modules(self.widths.stack.model, example_inputs)
        of_units = (len(units) * _macs_of(self.widths.widths[index], counts) for index, units in self.units.items())
        return counts.get("", 0) - sum(of_units)


Removal = BlockRemoval | UnitRemoval


def removal_from_json(
    stack: BlockStack, settings: PruneSettings, protected: set[int], value: dict[str, Any]
) -> Removal:
    """A removal from a network, as it was kept."""
    if "blocks" in value:
        return BlockRemoval(stack, value["blocks"])
    widths = widths_of(stack, settings.widths, protected)
    return UnitRemoval(widths, {int(index): units for index, units in value["units"].items()})


@dataclass(frozen=True)
class _Bite:
    """Units that go at once: one, or where all blocks keep the same number some of each.

    Args:
        order: Bites go from the lowest; those of a width in their order.
        group: The widths it is of.
        units: {width: units}.
        macs: What it saves.
    """

    order: float
    group: int
    units: dict[int, list[int]]
    macs: int


class UnitQueue:
    """Units of a network in the order in which they go.

    Args:
        widths: The widths.
        importance: Of the units of each width, [units].
        example_inputs: Model inputs of one example, to count MACs on.
        settings: Ranking and floor.
    """

    def __init__(
        self,
        widths: WidthStack,
        importance: Sequence[Tensor],
        example_inputs: dict[str, Tensor],
        settings: WidthSettings,
    ):
        self.widths = widths
        counts = macs_of_modules(widths.stack.model, example_inputs)
        bites: list[_Bite] = []
        for number, group in enumerate(widths.together):
            members = [widths.widths[index] for index in group]
            macs = sum(_macs_of(width, counts) for width in members)
            bites += _bites(number, members, [importance[i] for i in group], macs, settings)
        self._bites = sorted(bites, key=lambda bite: (bite.order, bite.group))  # stable: in a group as they were

    def __len__(self) -> int:
        return len(self._bites)

    def first(self, count: int) -> UnitRemoval:
        """The removal of the first bites."""
        return self._removal(self._bites[:count])

    def saving(self, macs: float, within: float | None = None) -> UnitRemoval | None:
        """The removal of the least important units that save so many MACs.

        Args:
            macs: What it saves at least, or all that can be.
            within: Share of it by which it may save more or less; units that would be too much are passed over.

        Returns:
            None where there is none.
        """
        taken: list[_Bite] = []
        passed: set[int] = set()
        saved = 0
        for bite in self._bites:
            if saved >= macs:
                break
            if within is not None and saved + bite.macs > (1 + within) * macs:
                passed.add(bite.group)  # and with it all that would come after it there
            if bite.group not in passed:
                taken.append(bite)
                saved += bite.macs
        enough = saved >= macs * (1 - (1 if within is None else within))
        return self._removal(taken) if taken and enough else None

    def _removal(self, bites: Sequence[_Bite]) -> UnitRemoval:
        units: dict[int, list[int]] = {}
        for bite in bites:
            for index, some in bite.units.items():
                units.setdefault(index, []).extend(some)
        return UnitRemoval(self.widths, units)


def _macs_of(width: Width, counts: dict[str, int]) -> int:
    """Multiply-accumulates of one unit: what is in proportion to them goes in equal parts."""
    kind = width.kind
    paths = (*kind.rows, *kind.columns) if kind.scope is None else (kind.scope,)
    return sum(counts.get(f"{width.block.name}.{path}", 0) for path in paths) // width.units


def _bites(
    group: int, members: list[Width], importance: list[Tensor], macs: int, settings: WidthSettings
) -> Iterator[_Bite]:
    """Of widths that keep the same number of units, from the least important, down to the floor."""
    if any(width.why_fixed is not None for width in members):
        return  # all of them keep the same number
    first = members[0]
    sizes = [size for size in first.sizes if size >= settings.min_units]
    orders = [values.argsort(stable=True).tolist() for values in importance]
    shares = [values / values.mean().clamp_min(1e-300) for values in importance]
    for smaller, larger in reversed(list(pairwise(sizes))):
        gone, count = first.units - larger, larger - smaller
        units = {w.index: order[gone : gone + count] for w, order in zip(members, orders, strict=True)}
        if settings.ranking == "layer":
            order = 1 - smaller / first.original_units
        else:
            of_each = [share[some].mean() for share, some in zip(shares, units.values(), strict=True)]
            order = float(sum(of_each)) / len(of_each)
        yield _Bite(order, group, units, count * macs)


def fewest_bites(queue: UnitQueue, holds: Callable[[UnitRemoval], bool]) -> UnitRemoval | None:
    """The smallest removal that something holds for, by bisection; None where it does for none."""
    low, high = 0, len(queue)
    if not high or not holds(queue.first(high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if holds(queue.first(middle)):
            high = middle
        else:
            low = middle
    return queue.first(high)
