"""WidthStack: the widths inside the blocks of one model, and what it computes without some of their units."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from har_prune.blocks.families import WidthKind
from har_prune.blocks.stack import Block, BlockStack
from har_prune.errors import NotRemovableError

Units = Mapping[int, Iterable[int]]  # of widths, by index: the units that go


@dataclass(frozen=True, eq=False)
class Width:
    """One width: units of one kind inside one block.

    Args:
        index: Position among all widths of the model, from 0.
        kind: What its units are, and where.
        block: The block.
        units: How many there are.
        original_units: How many there were before the first was removed.
        sizes: Numbers of units the config can state, in order; `units` is the last.
        why_fixed: Why it cannot be narrowed, or None when it can.
    """

    index: int
    kind: WidthKind
    block: Block
    units: int
    original_units: int
    sizes: tuple[int, ...]
    why_fixed: str | None = None

    @property
    def name(self) -> str:
        """Its block's dotted module path and its kind, e.g. "vit.layers.3 intermediate"."""
        return f"{self.block.name} {self.kind.name}"

    @property
    def reader(self) -> nn.Module:
        """The module that reads the units: their values are its input."""
        return self.block.module.get_submodule(self.kind.columns[0])

    def fixed(self, why: str) -> "Width":
        """The same, not to be narrowed."""
        return replace(self, why_fixed=why)

    def by_unit(self, values: Tensor) -> Tensor:
        """What a reader is given, as [N, positions, units, values of a unit].

        Args:
            values: [N, channels, ...] for a convolution, else [..., features] with N first.
        """
        if isinstance(self.reader, nn.modules.conv._ConvNd):
            values = values.flatten(2).mT if values.ndim > 2 else values[:, None]
        else:
            values = values.flatten(1, -2) if values.ndim > 2 else values[:, None]
        return values.unflatten(-1, (self.units, -1))


class WidthStack:
    """The widths of one model.

    Attributes:
        stack: Its blocks.
        widths: Every width, one for each block and kind, kind by kind.
    """

    def __init__(self, stack: BlockStack, widths: list[Width]):
        self.stack, self.widths = stack, widths

    def __len__(self) -> int:
        return len(self.widths)

    @property
    def narrowable(self) -> list[int]:
        """Indices of the widths that can lose units: no width that has to keep the same number is fixed."""
        free = [group for group in self.together if all(self.widths[index].why_fixed is None for index in group)]
        return sorted(index for group in free for index in group)

    @property
    def together(self) -> list[list[int]]:
        """Indices of widths that have to keep the same number of units: each alone, or those of all blocks."""
        found: list[list[int]] = []
        for kind in dict.fromkeys(width.kind for width in self.widths):
            of_kind = [width.index for width in self.widths if width.kind is kind]
            found += [[index] for index in of_kind] if kind.per_block else [of_kind]
        return found

    @property
    def units(self) -> dict[str, tuple[int, ...]]:
        """{kind: units of each block}."""
        found: dict[str, tuple[int, ...]] = {}
        for width in self.widths:
            found[width.kind.name] = (*found.get(width.kind.name, ()), width.units)
        return found

    def check(self, units: Units) -> dict[int, list[int]]:
        """The units that go, sorted and without repeats, when all of them can go together.

        Raises:
            NotRemovableError: A width or a unit does not exist or has to stay, or the config could not state what is
                left.
        """
        if not isinstance(units, Mapping):
            raise NotRemovableError(f"units are given by width, e.g. {{0: [3, 7]}}; this is {units!r}.")
        chosen = {index: _sorted(index, some) for index, some in units.items()}
        chosen = {index: some for index, some in sorted(chosen.items()) if some}
        if not chosen:
            raise NotRemovableError("there is no unit in the list: give at least one, e.g. {0: [3]}.")
        for index, some in chosen.items():
            if not 0 <= index < len(self):
                raise NotRemovableError(f"width {index} does not exist: this model has widths 0-{len(self) - 1}.")
            width = self.widths[index]
            if width.why_fixed is not None:
                raise NotRemovableError(f"width {index} ({width.name!r}) cannot be narrowed: {width.why_fixed}.")
            if some[0] < 0 or some[-1] >= width.units:
                wrong = some[0] if some[0] < 0 else some[-1]
                raise NotRemovableError(
                    f"width {index} ({width.name!r}) has units 0-{width.units - 1}; there is no unit {wrong}."
                )
            if (left := width.units - len(some)) not in width.sizes:
                raise NotRemovableError(
                    f"width {index} ({width.name!r}) cannot be left with {left} of {width.units} units: the config "
                    f"can state {_listed(width.sizes)}."
                )
        for group in self.together:
            counts = {len(chosen.get(index, [])) for index in group}
            if len(counts) > 1:
                width = self.widths[group[0]]
                raise NotRemovableError(
                    f"{self.stack.config.model_type} has one number of {width.kind.name} for all blocks, and from "
                    f"some {min(counts)} would go, from others {max(counts)}: take as many from each of widths "
                    f"{group[0]}-{group[-1]}."
                )
        return chosen

    @contextmanager
    def masked(self, units: Units) -> Iterator[None]:
        """Inside, the given units are zero where they are read, so that they count for nothing.

        Raises:
            NotRemovableError: As `check`.
        """
        handles: list[Any] = []
        for index, some in self.check(units).items():
            handles += self._masking(self.widths[index], some)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def _masking(width: Width, gone: list[int]) -> list[Any]:
        handles = []
        for path in width.kind.columns:
            reader = width.block.module.get_submodule(path)
            channels = isinstance(reader, nn.modules.conv._ConvNd)

            def mask(module: nn.Module, args: tuple, channels: bool = channels) -> tuple:
                values = args[0]
                axis = 1 if channels else values.ndim - 1
                kept = torch.ones(width.units, dtype=values.dtype, device=values.device)
                kept[gone] = 0
                kept = kept.repeat_interleave(values.shape[axis] // width.units)
                shape = [-1 if place == axis else 1 for place in range(values.ndim)]
                return (values * kept.view(shape), *args[1:])

            handles.append(reader.register_forward_pre_hook(mask))
        return handles

    def modules(self, units: Units) -> list[nn.Module]:
        """Modules that read the given widths."""
        return [self.widths[index].reader for index in units]


def _sorted(index: Any, units: Any) -> list[int]:
    try:
        operator.index(index)
        found = list(units)
        if any(isinstance(unit, bool) for unit in found):
            raise TypeError("bool")
        return sorted({operator.index(unit) for unit in found})
    except TypeError as error:
        raise NotRemovableError(
            f"units are given by width, as a list of indices, e.g. {{0: [3, 7]}}; this is {{{index!r}: {units!r}}}."
        ) from error


def _listed(sizes: tuple[int, ...]) -> str:
    if len(sizes) > 1 and sizes[-1] - sizes[0] == len(sizes) - 1:
        return f"{sizes[0]} to {sizes[-1]}"
    return ", ".join(map(str, sizes))
