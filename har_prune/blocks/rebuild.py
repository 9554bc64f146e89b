"""Removing blocks: edit the config, build a smaller model from it, move the weights over.

Rebuilding, and not deleting from a module list, gets layer indices, layer types, drop-path rates and window shifts
right by construction, and the result is by definition what `from_pretrained` will build.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from har_prune.blocks.depth import smaller_config
from har_prune.blocks.find import stack_of
from har_prune.blocks.inputs import example_inputs as make_example_inputs
from har_prune.blocks.stack import BlockStack
from har_prune.errors import NotRemovableError


def remove_blocks(
    model: PreTrainedModel | BlockStack,
    indices: Iterable[int],
    *,
    example_inputs: dict[str, Tensor] | None = None,
    copy: bool = True,
) -> PreTrainedModel:
    """Builds a smaller model without the given blocks; the input model is untouched.

    The result is checked against the original run with those blocks bypassed.
    `config.har_prune` of the result (of the tower's config, in a model of several) records the removed blocks by their
    index in the original network.

    Args:
        model: Any model `find_blocks` understands, or the stack it returned.
        indices: Blocks to remove, as indices into the stack.
        example_inputs: Inputs for the check; made up when None.
        copy: False lets the new model take over the weights instead of copying them, for models that do not fit in
            memory twice: what is done to one is then done to both, and the removed blocks' memory is free once the
            old model is gone.

    Returns:
        A new model, in eval mode; of the same class, except where the stock config of a family cannot say which
        blocks are left (MobileNetV2).

    Raises:
        NotRemovableError: A block is fixed, or the config of this family cannot express the removal.
        UndeclaredLayerListError: A config list is as long as the model is deep and the family does not mention it.
    """
    stack = stack_of(model, example_inputs)
    removed = stack.check_removable(indices)
    _refuse_unreadable(stack.model)
    model_class = _class_without_blocks(stack)
    state = _remapped(stack, removed)
    try:
        config = smaller_config(stack, removed, model_class)
        smaller = build_from(stack.model, model_class, config, copied(state) if copy else state)
    except (RuntimeError, StrictDataclassError) as error:
        raise NotRemovableError(
            f"{stack.config.model_type} cannot express a network without blocks {removed}: the weights that are left "
            f"do not fit a model built from the edited config ({error})"
        ) from error
    _check_equals_bypassed(stack, removed, smaller, example_inputs)
    return smaller


def build_from(
    like: PreTrainedModel, model_class: type[PreTrainedModel], config: Any, state: dict[str, Tensor]
) -> PreTrainedModel:
    """What `from_pretrained` would build from a config and these weights; it takes the tensors over, uncopied.

    Args:
        like: Model to take device, dtype, attention and generation settings from.
        model_class: Class to build.
        config: Its config.
        state: Its state dict; tied weights may stand in it once or several times.

    Raises:
        RuntimeError: Weights are missing, left over or of another shape.
    """
    with torch.random.fork_rng(devices=[]), _without_bars():  # building must not move the caller's random numbers
        built, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=like.dtype,
            attn_implementation=like.config._attn_implementation,
            output_loading_info=True,
            # Without a place from_pretrained would take weights of a GPU to the CPU.
            **({} if like.device.type == "cpu" else {"device_map": {"": like.device}}),
        )
    problems = {key: sorted(map(str, info[key])) for key in _KEY_PROBLEMS if info[key]}
    if problems:
        raise RuntimeError("; ".join(f"{key}: {names[:3]}" for key, names in problems.items()))
    built.__dict__.pop("hf_device_map", None)  # one device is no placement
    if like.can_generate():
        built.generation_config = deepcopy(like.generation_config)
    return built.eval()


_KEY_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


@contextmanager
def _without_bars() -> Iterator[None]:
    """No bar for weights that are in memory already."""
    shown = transformers_logging.is_progress_bar_enabled()
    hub_shown = not are_progress_bars_disabled()
    try:
        transformers_logging.disable_progress_bar()  # hides the Hub's as well
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
        if hub_shown:
            enable_progress_bars()


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights in memory of their own; tied ones stay one tensor."""
    copies: dict[tuple, Tensor] = {}
    result = {}
    for key, value in state.items():
        place = (value.data_ptr(), value.shape, value.stride())
        if place not in copies:
            copies[place] = value.detach().clone()
        result[key] = copies[place]
    return result


def _refuse_unreadable(model: PreTrainedModel) -> None:
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None) is not None:
        raise NotRemovableError(
            "this model is quantised, and its packed weights cannot be rebuilt: load the checkpoint it was quantised "
            "from, remove the blocks there, and quantise the result."
        )
    if any(value.is_meta for value in model.state_dict().values()):
        raise NotRemovableError(
            "some weights of this model are offloaded (device_map) and cannot be moved: load it without offload to "
            "remove blocks. Scoring works on it as it is."
        )


def _class_without_blocks(stack: BlockStack) -> type[PreTrainedModel]:
    model_class = type(stack.model)
    others = stack.family.rebuilt_as if stack.family else {}
    if model_class in others:
        return others[model_class]
    if others and model_class not in others.values():
        raise NotRemovableError(
            f"{model_class.__name__} cannot express a network without some blocks, and there is no class that can; "
            f"there is for {', '.join(known.__name__ for known in others)}."
        )
    return model_class


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
    try:
        actual = smaller(**inputs)[0]
    except (RuntimeError, IndexError, KeyError, ValueError) as error:
        raise NotRemovableError(
            f"{stack.config.model_type} cannot express a network without blocks {removed}: what its config builds "
            f"does not run ({error})."
        ) from error
    scale = expected.abs().max().item()
    difference = (actual - expected).abs().max().item() / (scale or 1.0)
    allowed = 1e-5 if expected.dtype in (torch.float32, torch.float64) else 2e-2
    if not math.isfinite(difference):
        raise NotRemovableError("the outputs of this model are not finite: its weights hold NaN or infinity.")
    if not difference <= allowed:
        raise NotRemovableError(
            f"{stack.config.model_type} cannot express a network without blocks {removed}: rebuilt from its config it "
            f"differs from the original with those blocks bypassed by {difference:.1e} of the largest output "
            f"(allowed {allowed:.0e}). Some layer depends on its position; remove other blocks."
        )
