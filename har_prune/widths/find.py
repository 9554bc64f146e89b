"""find_widths: what can be narrowed inside the blocks of a model, by its family."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.blocks.depth import edited_config
from har_prune.blocks.families import WidthKind, family_of, registered_families
from har_prune.blocks.find import stack_of
from har_prune.blocks.rebuild import class_without_blocks
from har_prune.blocks.stack import Block, BlockStack
from har_prune.errors import NotRemovableError, did_you_mean
from har_prune.widths.stack import Width, WidthStack

_FEW = 64  # units of which each number is tried on the config: heads, of which a config may allow some numbers only


def find_widths(
    model: PreTrainedModel | BlockStack,
    kinds: Iterable[str] | str | None = None,
    example_inputs: dict[str, Tensor] | None = None,
) -> WidthStack:
    """Finds what can be narrowed inside the residual blocks of a model.

    Args:
        model: A model whose family has widths, or the stack `find_blocks` returned for it.
        kinds: Names of the kinds wanted, e.g. ["channels"], or one of them; None = all that the family has.
        example_inputs: As for `find_blocks`.

    Returns:
        One `Width` for each block and kind.

    Raises:
        NotRemovableError: The family has no widths, or no such kind.
        UnknownFamilyError: No blocks were found.
    """
    stack = stack_of(model, example_inputs)
    config = stack.config
    offered = stack.family.widths if stack.family else ()
    if not offered:
        raise NotRemovableError(
            f"nothing inside the blocks of {config.model_type} can be narrowed: its config could not state it, or "
            f"nobody has described it. There are widths of {', '.join(_families_with_widths())}."
        )
    names = [kind.name for kind in offered]
    wanted = names if kinds is None else [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    for name in wanted:
        if name not in names:
            raise NotRemovableError(
                f"the blocks of {config.model_type} have no width called {name!r}: choose from {', '.join(names)}."
                f"{did_you_mean(name, names)}"
            )
    found: list[Width] = []
    for kind in (kind for kind in offered if kind.name in wanted):
        sizes = None if kind.per_block else _sizes_of_all(stack, kind)
        for block in stack.blocks:
            units = units_of(block, kind, config)
            outside = stack.within is not None and not f"{block.name}.".startswith(f"{stack.within}.")
            why_fixed = f"it lies outside of {stack.within!r}" if outside else _why_fixed(block, kind, units)
            why_fixed = why_fixed or (None if sizes is None or len(sizes) > 1 else _STATED)
            allowed = tuple(range(1, units + 1)) if sizes is None else sizes
            found.append(
                Width(len(found), kind, block, units, _before(block, kind, units, config), allowed, why_fixed)
            )
    return WidthStack(stack, list(_without_shared(found)))


_STATED = "the config can state no smaller number"


def units_of(block: Block, kind: WidthKind, config: Any) -> int:
    """How many units of a kind a block has."""
    if kind.counted_by is not None:
        return int(getattr(config, kind.counted_by))
    if kind.counted_in is not None:
        return int(attrgetter(kind.counted_in)(block.module))
    return int(_module(block, kind.columns[0]).weight.shape[1])


def _before(block: Block, kind: WidthKind, units: int, config: Any) -> int:
    """Units before the first was removed, as `config.har_prune` tells it."""
    record = (getattr(config, "har_prune", None) or {}).get("original_widths", {}).get(kind.name, ())
    return (record[block.original_index] if block.original_index < len(record) else None) or units


def _module(block: Block, path: str) -> Any:
    try:
        return block.module.get_submodule(path)
    except AttributeError as error:
        raise NotRemovableError(
            f"the family says that a width of block {block.index} ({block.name!r}) lies in {path!r}, and there is no "
            "such module: correct `rows` and `columns`."
        ) from error


def _why_fixed(block: Block, kind: WidthKind, units: int) -> str | None:
    for path in (*kind.rows, *kind.columns):
        module = _module(block, path)
        if getattr(module, "groups", 1) > 1:
            return f"{path} is a grouped convolution, whose groups tie units together"
        axis = 1 if path in kind.columns else 0
        sizes = {value.shape[axis] for value in module.state_dict().values() if value.ndim > axis}
        if any(size % units for size in sizes):
            return f"{units} units do not divide {path} ({min(sizes)})"
    return "it has one unit" if units == 1 else None


def _sizes_of_all(stack: BlockStack, kind: WidthKind) -> tuple[int, ...]:
    """Numbers of units that the config can state for all blocks, the present one included."""
    config = stack.config
    units = units_of(stack.blocks[0], kind, config)
    if units > _FEW:
        return tuple(range(1, units + 1))
    found = []
    for size in range(1, units):
        edit = partial(set_units, kind=kind, before=units, after=size)
        try:
            edited_config(stack, edit, class_without_blocks(stack), f"with {size} {kind.name}")
        except NotRemovableError:
            continue
        found.append(size)
    return (*found, units)


def set_units(fields: dict[str, Any], kind: WidthKind, before: int, after: int) -> None:
    """Fields of a config that has one value for all blocks, with another number of units."""
    for name in kind.fields:
        fields[name] = fields[name] * after // before


def _without_shared(found: list[Width]) -> Iterator[Width]:
    """Weights that several blocks share (ALBERT) cannot be cut for one of them."""
    users: dict[nn.Parameter, set[int]] = {}
    for width in found:
        for parameter in _parameters(width):
            users.setdefault(parameter, set()).add(width.block.index)
    for width in found:
        shared = set().union(*(users[parameter] for parameter in _parameters(width)))
        yield width if len(shared) == 1 else width.fixed(f"blocks {sorted(shared)} share its weights")


def _parameters(width: Width) -> list[nn.Parameter]:
    return [
        parameter
        for path in (*width.kind.rows, *width.kind.columns)
        for parameter in width.block.module.get_submodule(path).parameters()
    ]


def _families_with_widths() -> list[str]:
    from transformers import AutoConfig

    found = []
    for name in registered_families():
        with suppress(ValueError):  # a plugin's family, of a config that transformers does not know
            family = family_of(AutoConfig.for_model(name))
            found += [name] if family and family.widths else []
    return found
