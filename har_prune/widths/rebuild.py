"""Taking units out: the config with smaller widths, a model built from it, the weights that are left, compared."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.depth import edited_config
from har_prune.blocks.example_inputs import example_inputs as make_example_inputs
from har_prune.blocks.rebuild import Smaller, build_checked, class_without_blocks, copied, refuse_unreadable
from har_prune.blocks.stack import BlockStack
from har_prune.checkpoints.provenance import origin_of
from har_prune.widths.find import find_widths, set_units
from har_prune.widths.stack import Units, Width, WidthStack


def remove_units(
    model: PreTrainedModel | BlockStack | WidthStack,
    units: Units,
    *,
    example_inputs: dict[str, Tensor] | None = None,
    copy: bool = True,
) -> PreTrainedModel:
    """Builds a narrower model without the given units; the input model is untouched.

    The result is checked against the original with those units masked. `config.har_prune` of the result records how
    many units each block had before.

    Args:
        model: Any model `find_widths` understands, or what it returned.
        units: {index of a width: indices of its units that go}. Where the config has one number for all blocks, as
            many from each block.
        example_inputs: Inputs for the check; None = those the blocks were found with, else made up.
        copy: False lets the new model share the weights that stay as they are.

    Returns:
        A new model of the same class, in eval mode.

    Raises:
        NotRemovableError: A unit has to stay, or the config of this family cannot state the smaller width.
        UnknownFamilyError: No blocks were found.
        ShapeError: No inputs can be made up for this model; give example_inputs.
    """
    widths = model if isinstance(model, WidthStack) else find_widths(model, None, example_inputs)
    return without_units(widths, units, example_inputs=example_inputs, copy=copy).model


def without_units(
    widths: WidthStack, units: Units, *, example_inputs: dict[str, Tensor] | None = None, copy: bool = True
) -> BlockStack:
    """As `remove_units`, from widths to the blocks of the narrower network.

    Raises:
        NotRemovableError: As `remove_units`.
        ShapeError: Likewise.
    """
    chosen, stack = widths.check(units), widths.stack
    inputs = example_inputs or stack.inputs or make_example_inputs(stack.model)
    refuse_unreadable(stack.model)
    model_class = class_without_blocks(stack)
    description = "without " + ", ".join(f"{len(gone)} of {widths.widths[i].name!r}" for i, gone in chosen.items())
    config = edited_config(stack, lambda fields: _edit(widths, chosen, fields), model_class, description)
    state = dict(stack.model.state_dict())
    for index, gone in chosen.items():
        _cut(widths.widths[index], gone, state)
    smaller = build_checked(
        Smaller(
            stack, description, config, copied(state) if copy else state, names=str,
            bypassed=partial(widths.masked, chosen), gone=widths.modules(chosen),
        ),
        model_class,
        inputs,
    )  # fmt: skip
    return stack.on(smaller)


def _cut(width: Width, gone: list[int], state: dict[str, Tensor]) -> None:
    """Leaves units out of the weights of a block."""
    kept = torch.tensor([unit for unit in range(width.units) if unit not in gone])
    for paths, axis in ((width.kind.rows, 0), (width.kind.columns, 1)):
        for path in paths:
            prefix = f"{width.block.name}.{path}."
            for key in [key for key in state if key.startswith(prefix)]:
                value = state[key]
                if value.ndim > axis:  # not a count of batches, not the bias of what reads
                    parts = value.unflatten(axis, (width.units, -1)).index_select(axis, kept.to(value.device))
                    state[key] = parts.flatten(axis, axis + 1)


def _edit(widths: WidthStack, chosen: dict[int, list[int]], fields: dict[str, Any]) -> None:
    stack = widths.stack
    record = dict(getattr(stack.config, "har_prune", None) or origin_of(stack.model.config))
    depth = record.setdefault("original_depth", len(stack))
    record.setdefault("removed_blocks", [])
    before = {kind: list(units) for kind, units in record.get("original_widths", {}).items()}
    for group in widths.together:
        kind = widths.widths[group[0]].kind
        of_kind = before.setdefault(kind.name, [None] * depth)
        for width in (widths.widths[index] for index in group):
            of_kind[width.block.original_index] = width.original_units
        if not kind.per_block and group[0] in chosen:
            units = widths.widths[group[0]].units
            set_units(fields, kind, units, units - len(chosen[group[0]]))
    for kind in {width.kind.name: width.kind for width in widths.widths if width.kind.per_block}.values():
        left = [w.units - len(chosen.get(w.index, [])) for w in widths.widths if w.kind is kind]
        for name in kind.fields:
            fields[name] = left
    fields["har_prune"] = {**record, "original_widths": before}
