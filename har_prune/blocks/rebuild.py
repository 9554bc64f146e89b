"""Removing blocks: edit the config, build a smaller model from it, move the weights over.

Rebuilding, and not deleting from a module list, gets layer indices, layer types, drop-path rates and window shifts
right by construction, and the result is by definition what `from_pretrained` will build.
"""

import math
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.inputs import example_inputs as make_example_inputs
from har_prune.blocks.stack import BlockStack, find_blocks
from har_prune.errors import NotRemovableError, UndeclaredLayerListError

# Where models without a family keep their depth; the checks after rebuilding catch a wrong guess.
_USUAL_DEPTH_FIELDS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depths")


def remove_blocks(
    model: PreTrainedModel, indices: Iterable[int], *, example_inputs: dict[str, Tensor] | None = None
) -> PreTrainedModel:
    """Builds a smaller model without the given blocks; the input model is untouched.

    The result is checked against the original run with those blocks bypassed.
    `config.har_prune` of the result records the removed blocks by their index in the original network.

    Args:
        model: Any model `find_blocks` understands.
        indices: Blocks to remove, as indices into `find_blocks(model)`.
        example_inputs: Inputs for the check; made up when None.

    Returns:
        A new model of the same class, in eval mode, with memory of its own.

    Raises:
        NotRemovableError: A block is fixed, or the config of this family cannot express the removal.
        UndeclaredLayerListError: A config list is as long as the model is deep and the family does not mention it.
    """
    stack = find_blocks(model, example_inputs)
    removed = stack.check_removable(indices)
    config = _smaller_config(stack, removed)
    smaller = build_like(model, config)
    try:
        smaller.load_state_dict(_remapped(stack, removed))
    except RuntimeError as error:
        raise NotRemovableError(
            f"{model.config.model_type} cannot express a network without blocks {removed}: the weights that are left "
            f"do not fit a model built from the edited config ({error})"
        ) from error
    _check_equals_bypassed(stack, removed, smaller, example_inputs)
    return smaller


def build_like(model: PreTrainedModel, config: Any) -> PreTrainedModel:
    """A model of the same class, dtype, device and attention from another config, in eval mode; weights random."""
    config._attn_implementation = model.config._attn_implementation
    with torch.random.fork_rng(devices=[]):  # building must not move the caller's random numbers
        built = type(model)(config)
    if model.can_generate():
        built.generation_config = deepcopy(model.generation_config)
    return built.to(device=model.device, dtype=model.dtype).eval()


def original_indices(model: PreTrainedModel) -> list[int]:
    """For every block of a model its index in the network before the first removal."""
    provenance = getattr(model.config, "har_prune", None) or {}
    removed = set(provenance.get("removed_blocks", ()))
    depth = provenance.get("original_depth", len(find_blocks(model)))
    return [index for index in range(depth) if index not in removed]


def _smaller_config(stack: BlockStack, removed: list[int]) -> Any:
    config, family = stack.model.config, stack.family
    fields = config.to_dict()
    depth_field = family.depth_field if family else _guess_depth_field(stack, fields)
    per_layer = family.per_layer_fields if family else ()
    for name in family.derived_fields if family else ():
        fields.pop(name, None)
    _refuse_undeclared_lists(stack, fields, {depth_field, *per_layer, *(family.unrelated_fields if family else ())})

    kept = [[index for index in stage if index not in removed] for stage in stack.stages]
    if isinstance(fields[depth_field], int):
        fields[depth_field] = sum(map(len, kept))
    else:
        fields[depth_field] = [len(stage) for stage in kept]
    for name in per_layer:
        if fields.get(name) is not None:
            fields[name] = [fields[name][index] for stage in kept for index in stage]

    fields["har_prune"] = _provenance(stack, removed)
    fields.pop("num_labels", None)  # follows from id2label; giving both is an error in some versions
    return type(config)(**fields)


def _provenance(stack: BlockStack, removed: list[int]) -> dict[str, Any]:
    """What `config.har_prune` of the smaller model says: where it comes from and what is gone."""
    config, originals = stack.model.config, original_indices(stack.model)
    before = getattr(config, "har_prune", None) or {}
    gone = before.get("removed_blocks", [])
    parent = before.get("parent") or config.name_or_path
    return {
        **before,
        **({"parent": str(parent)} if parent else {}),
        "original_depth": len(originals) + len(gone),
        "removed_blocks": sorted([*gone, *(originals[index] for index in removed)]),
    }


def _guess_depth_field(stack: BlockStack, fields: dict) -> str:
    depths = [len(stage) for stage in stack.stages]
    for name in _USUAL_DEPTH_FIELDS:
        value = fields.get(name)
        if value == sum(depths) or (isinstance(value, (list, tuple)) and list(value) == depths):
            return name
    raise NotRemovableError(
        f"no config field of {stack.model.config.model_type} states its depth {sum(depths)} (looked at "
        f"{', '.join(_USUAL_DEPTH_FIELDS)}): describe the family with register_family."
    )


def _refuse_undeclared_lists(stack: BlockStack, fields: dict, declared: set[str]) -> None:
    for name, value in fields.items():
        if isinstance(value, (list, tuple)) and len(value) == len(stack) > 1 and name not in declared:
            raise UndeclaredLayerListError(
                f"config.{name} of {stack.model.config.model_type} has {len(value)} entries, as many as the model has "
                f"blocks, and its family does not mention it. If it has one entry a block, add {name!r} to "
                "per_layer_fields of the family; if not, to unrelated_fields."
            )


def _remapped(stack: BlockStack, removed: list[int]) -> dict[str, Tensor]:
    """The state dict without the removed blocks, the others renumbered within their container."""
    new_names: dict[str, str | None] = {}
    for stage in stack.stages:
        position = 0
        for index in stage:
            name = stack.names[index]
            container = name.rpartition(".")[0]
            new_names[name] = None if index in removed else f"{container}.{position}"
            position += index not in removed
    state = {}
    for key, value in stack.model.state_dict().items():
        block = next((name for name in new_names if key.startswith(name + ".")), None)
        if block is None:
            state[key] = value
        elif new_names[block] is not None:
            state[f"{new_names[block]}{key[len(block) :]}"] = value
    return state


@torch.no_grad()
def _check_equals_bypassed(
    stack: BlockStack, removed: list[int], smaller: PreTrainedModel, inputs: dict[str, Tensor] | None
) -> None:
    model = stack.model
    inputs = make_example_inputs(model) if inputs is None else inputs
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    was_training = model.training
    model.eval()
    try:
        with stack.bypassed(removed):
            expected = model(**inputs)[0]
    finally:
        model.train(was_training)
    actual = smaller(**inputs)[0]
    scale = expected.abs().max().item()
    error = (actual - expected).abs().max().item() / (scale or 1.0)
    allowed = 1e-5 if expected.dtype in (torch.float32, torch.float64) else 2e-2
    if not math.isfinite(error):
        raise NotRemovableError("the outputs of this model are not finite: its weights hold NaN or infinity.")
    if not error <= allowed:
        raise NotRemovableError(
            f"{model.config.model_type} cannot express a network without blocks {removed}: rebuilt from its config it "
            f"differs from the original with those blocks bypassed by {error:.1e} of the largest output "
            f"(allowed {allowed:.0e}). Some layer depends on its position; remove other blocks."
        )
