"""The depth of a network as its config states it: the config of a smaller one, and what it records of itself."""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.checkpoints.provenance import origin_of
from har_prune.errors import NotRemovableError, UndeclaredLayerListError

# Where models without a family keep their depth; the checks after rebuilding catch a wrong guess.
_USUAL_DEPTH_FIELDS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depths")
_OF_PLACES = ("_indices", "_indexes", "_idxs", "_layers", "_blocks")  # ends of names: `window_block_indices`
_USUAL_PER_LAYER_FIELDS = ("layer_types",)  # has one meaning throughout transformers 5


def smaller_config(stack: BlockStack, removed: list[int], model_class: type[PreTrainedModel]) -> Any:
    """The whole model's config with the fields of the tower that loses blocks edited."""
    return edited_config(stack, lambda fields: _edit(stack, removed, fields), model_class, f"without blocks {removed}")


def edited_config(
    stack: BlockStack, edit: Callable[[dict[str, Any]], None], model_class: type[PreTrainedModel], network: str
) -> Any:
    """The whole model's config with the fields of the blocks' tower edited.

    Args:
        stack: The blocks.
        edit: Changes the fields of their tower in place.
        model_class: Class of the model that the config is for.
        network: What it describes, for errors: "without blocks [3]".

    Raises:
        NotRemovableError: There is no such config, or its class refuses.
    """
    if stack.config_path is None:
        raise NotRemovableError(
            f"the config of {type(stack.model).__name__} does not hold the config of the blocks' tower, so no config "
            "could state the smaller network: prune that tower as a model of its own."
        )
    config = stack.model.config
    config_class, whole = type(config), config.to_dict()
    if model_class is not type(stack.model):
        config_class = model_class.config_class
        whole.pop("model_type")
        whole.pop("num_labels", None)
        whole = config_class(**whole).to_dict()  # with the field that names the blocks
    fields = reduce(operator.getitem, stack.config_path, whole)
    edit(fields)
    for level in (whole, fields):
        level.pop("num_labels", None)  # follows from id2label; giving both is an error in some versions
    try:
        return config_class(**whole)
    except (ValueError, TypeError, LookupError, AttributeError, StrictDataclassError) as error:
        raise NotRemovableError(
            f"{config_class.__name__} refuses to describe the network {network}: {error}"
        ) from error


def _edit(stack: BlockStack, removed: list[int], fields: dict[str, Any]) -> None:
    family = stack.family
    depth_field = family.depth_field if family else _guess_depth_field(stack, fields)
    per_layer = family.per_layer_fields if family else _USUAL_PER_LAYER_FIELDS
    for name in family.derived_fields if family else _usual_derived_fields(stack, fields):
        fields.pop(name, None)
    places = family.index_fields if family else ()
    if not (getattr(stack.config, "har_prune", None) or {}).get("removed_blocks"):  # in a smaller one it is by chance
        declared = {depth_field, *per_layer, *places, *(family.unrelated_fields if family else ())}
        _refuse_undeclared_lists(stack, fields, declared)
    if depth_field is not None and depth_field not in fields:
        raise NotRemovableError(
            f"the family of {stack.config.model_type} says that config.{depth_field} states the depth, and there is "
            "no such field: correct `depth_field`."
        )
    kept = [index for index in range(len(stack)) if index not in removed]
    if depth_field is not None and isinstance(fields[depth_field], int):
        fields[depth_field] = len(kept)
    elif depth_field is not None:
        depths = list(fields[depth_field])
        for index in removed:
            depths[stack.blocks[index].stage] -= 1
        fields[depth_field] = depths
    for name in per_layer:
        if fields.get(name) is not None:
            fields[name] = [fields[name][index] for index in kept]
    for name in places:
        if fields.get(name) is not None:
            fields[name] = [kept.index(index) for index in fields[name] if index in kept]
    fields["har_prune"] = _provenance(stack, removed)


def _provenance(stack: BlockStack, removed: list[int]) -> dict[str, Any]:
    """What `config.har_prune` of the smaller model says: where it comes from and what is gone."""
    originals = stack.original_indices
    before = getattr(stack.config, "har_prune", None) or {}
    gone = before.get("removed_blocks", [])
    return {
        **(before or origin_of(stack.model.config)),
        "original_depth": len(originals) + len(gone),
        "removed_blocks": sorted([*gone, *(originals[index] for index in removed)]),
    }


def _usual_derived_fields(stack: BlockStack, fields: dict) -> tuple[str, ...]:
    """Backbones of one stage a block (BEiT, DINOv3) compute a name for each, and which of them are read."""
    names = fields.get("stage_names") or ()
    return ("stage_names", "out_features", "out_indices") if len(names) == len(stack) + 1 else ()


def _guess_depth_field(stack: BlockStack, fields: dict) -> str:
    depths = [len(stage) for stage in stack.stages]
    for name in _USUAL_DEPTH_FIELDS:
        value = fields.get(name)
        if value == sum(depths) or (isinstance(value, (list, tuple)) and list(value) == depths):
            return name
    raise NotRemovableError(
        f"no config field of {stack.config.model_type} states its depth {sum(depths)} (looked at "
        f"{', '.join(_USUAL_DEPTH_FIELDS)}): describe the family with register_family."
    )


def _refuse_undeclared_lists(stack: BlockStack, fields: dict, declared: set[str | None]) -> None:
    for name, value in fields.items():
        if isinstance(value, (list, tuple)) and len(value) == len(stack) > 1 and name not in declared:
            raise UndeclaredLayerListError(
                f"config.{name} of {stack.config.model_type} has {len(value)} entries, as many as the model has "
                f"blocks, and its family does not mention it. If it has one entry a block, add {name!r} to "
                "per_layer_fields of the family; if not, to unrelated_fields."
            )
        if (
            name not in declared
            and name.endswith(_OF_PLACES)
            and name != "out_indices"
            and _are_places(value, len(stack))
        ):
            raise UndeclaredLayerListError(
                f"config.{name} of {stack.config.model_type} is {list(value)}, which may be places of blocks, and its "
                f"family does not mention it. If it is, add {name!r} to index_fields of the family; if not, to "
                "unrelated_fields."
            )


def _are_places(value: Any, depth: int) -> bool:
    places = list(value) if isinstance(value, (list, tuple)) else []
    whole = all(isinstance(place, int) and 0 <= place < depth for place in places)
    return bool(places) and whole and len(set(places)) == len(places)
