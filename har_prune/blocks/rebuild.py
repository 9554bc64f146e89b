"""Removing blocks: edit the config, build a smaller model from it, move the weights over.

Rebuilding, and not deleting from a module list, gets layer indices, layer types, drop-path rates and window shifts
right by construction, and the result is by definition what `from_pretrained` will build.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from har_prune.blocks.depth import smaller_config
from har_prune.blocks.equivalence import TOLERANCE, computing_in_float32, difference, outputs_of
from har_prune.blocks.example_inputs import example_inputs as make_example_inputs
from har_prune.blocks.families import family_of
from har_prune.blocks.find import stack_of
from har_prune.blocks.stack import ONLY_ONE, Block, BlockStack, config_at
from har_prune.checkpoints.load import KEY_PROBLEMS, MERGE
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
        example_inputs: Inputs for the check; None = those the stack was found with, else made up.
        copy: False lets the new model take over the weights instead of copying them, for models that do not fit in
            memory twice: what is done to one is then done to both, and the removed blocks' memory is free once the
            old model is gone.

    Returns:
        A new model, in eval mode; of the same class, except where the stock config of a family cannot say which
        blocks are left (MobileNetV2).

    Raises:
        NotRemovableError: A block is fixed, or the config of this family cannot express the removal.
        UndeclaredLayerListError: A config list is as long as the model is deep and the family does not mention it.
        UnknownFamilyError: No blocks were found.
        ShapeError: No inputs can be made up for this model; give example_inputs.
    """
    return without_blocks(stack_of(model, example_inputs), indices, example_inputs=example_inputs, copy=copy).model


def without_blocks(
    stack: BlockStack,
    indices: Iterable[int],
    *,
    example_inputs: dict[str, Tensor] | None = None,
    copy: bool = True,
) -> BlockStack:
    """As `remove_blocks`, from stack to stack: nothing has to be found again in the smaller network.

    Raises:
        NotRemovableError: As `remove_blocks`.
        UndeclaredLayerListError: Likewise.
        ShapeError: Likewise.
    """
    removed = stack.check_removable(indices)
    inputs = example_inputs or stack.inputs or make_example_inputs(stack.model)
    refuse_unreadable(stack.model)
    model_class = class_without_blocks(stack)
    names = _new_names(stack, removed)
    state = {new: value for key, value in stack.model.state_dict().items() if (new := names(key)) is not None}
    config = smaller_config(stack, removed, model_class)
    smaller = build_checked(
        Smaller(
            stack, f"without blocks {removed}", config, copied(state) if copy else state, names,
            bypassed=lambda: stack.bypassed(removed), gone=[stack.blocks[index].module for index in removed],
        ),
        model_class,
        inputs,
    )  # fmt: skip
    return _stack_without(stack, removed, smaller, names)


@dataclass(frozen=True)
class Smaller:
    """A smaller network, before it is built.

    Args:
        stack: Blocks of the network it is made from.
        description: What it is, for errors: "without blocks [3]".
        config: Its config.
        state: Its weights, by their names in it.
        names: Name of a parameter before -> its name in the smaller network; None for what is gone.
        bypassed: Inside this, the network it is made from computes what the smaller one has to.
        gone: Modules that have to run for the comparison to say anything.
    """

    stack: BlockStack
    description: str
    config: Any
    state: dict[str, Tensor]
    names: Callable[[str], str | None]
    bypassed: Callable[[], AbstractContextManager]
    gone: list[nn.Module]

    @property
    def cannot(self) -> str:
        """Start of an error."""
        return f"{self.stack.config.model_type} cannot express a network {self.description}: "


def build_checked(smaller: Smaller, model_class: type[PreTrainedModel], inputs: dict[str, Tensor]) -> PreTrainedModel:
    """Builds a smaller network and compares it with the one it is made from, what is gone bypassed.

    Raises:
        NotRemovableError: It cannot be built, or computes something else.
    """
    model = smaller.stack.model
    refuse_unreadable(model)
    try:
        built = build_from(model, model_class, smaller.config, smaller.state)
    except _OF_BUILDING as error:
        raise NotRemovableError(
            f"{smaller.cannot}the weights that are left do not fit a model built from the edited config ({error})"
        ) from error
    _hand_on(model, built, smaller.names)
    _check_equals_bypassed(smaller, built, inputs)
    return built


def _stack_without(
    stack: BlockStack, removed: list[int], smaller: PreTrainedModel, names: Callable[[str], str | None]
) -> BlockStack:
    """The blocks that are left, in the smaller network."""
    config = config_at(smaller.config, stack.config_path)
    family = family_of(config) if stack.family else None
    blocks: list[Block] = []
    for number, stage in enumerate(stack.stages):
        kept = [stack.blocks[index] for index in stage if index not in removed]
        for block in kept:
            name = (names(f"{block.name}.") or "").removesuffix(".")
            module = smaller.get_submodule(name)
            reason = ONLY_ONE if len(kept) == 1 else block.why_fixed
            blocks.append(Block(len(blocks), block.original_index, name, number, module, reason))
    return BlockStack(smaller, blocks, family, stack.config_path, stack.inputs, stack.within)


# A config or a model class says in as many ways as it has lines that it was not made for this.
_OF_BUILDING = (RuntimeError, StrictDataclassError, ValueError, TypeError, LookupError, AttributeError)


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
            ignore_mismatched_sizes=True,  # reported below, in our words
            # Without a place from_pretrained would take weights of a GPU to the CPU.
            **({} if like.device.type == "cpu" else {"device_map": {"": like.device}}),
        )
    problems = [f"{words}: {sorted(map(str, info[key]))[:3]}" for key, words in KEY_PROBLEMS.items() if info[key]]
    if problems:
        raise RuntimeError("; ".join(problems))
    built.__dict__.pop("hf_device_map", None)  # one device is no placement
    built.config._name_or_path = like.config.name_or_path  # where it comes from; never written to disk
    built.config._commit_hash = getattr(like.config, "_commit_hash", None)
    if like.can_generate():
        built.generation_config = deepcopy(like.generation_config)
    return built.eval()


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


def refuse_unreadable(model: PreTrainedModel) -> None:
    """Refuses a model whose weights cannot be moved.

    Raises:
        NotRemovableError: They are packed, or not here.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise NotRemovableError(f"this model carries an adapter, whose weights lie beside its own: {MERGE}")
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None) is not None:
        raise NotRemovableError(
            "this model is quantised, and its packed weights cannot be rebuilt: load the checkpoint it was quantised "
            "from, prune that, and quantise the result."
        )
    if any(value.is_meta for value in model.state_dict().values()):
        raise NotRemovableError(
            "some weights of this model are offloaded (device_map) and cannot be moved: load it without offload to "
            "prune it. Scoring works on it as it is."
        )


def class_without_blocks(stack: BlockStack) -> type[PreTrainedModel]:
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


def _new_names(stack: BlockStack, removed: list[int]) -> Callable[[str], str | None]:
    """Name of a parameter -> its name in the smaller network, where blocks are renumbered; None for what is gone."""
    prefixes: dict[str, str | None] = {}
    for stage in stack.stages:
        position = 0
        for index in stage:
            name = stack.names[index]
            container = name.rpartition(".")[0]
            prefixes[f"{name}."] = None if index in removed else f"{container}.{position}."
            position += index not in removed

    def renamed(key: str) -> str | None:
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is None:
            return key
        new = prefixes[prefix]
        return None if new is None else new + key[len(prefix) :]

    return renamed


def carry_over(stack: BlockStack, smaller: PreTrainedModel, removed: list[int]) -> None:
    """Gives a smaller network what neither config nor weights say: frozen parameters, gradient checkpointing.

    Args:
        stack: Blocks of the network it was made from.
        smaller: The network without some of them; changed in place.
        removed: Which, as indices into the stack.
    """
    _hand_on(stack.model, smaller, _new_names(stack, removed))


def _hand_on(model: PreTrainedModel, smaller: PreTrainedModel, names: Callable[[str], str | None]) -> None:
    """What a config does not say: frozen parameters, types of single ones, gradient checkpointing."""
    new = dict(smaller.named_parameters())
    for key, parameter in model.named_parameters():
        twin = new.get(names(key) or "")
        if twin is not None:
            twin.requires_grad_(parameter.requires_grad)
            if twin.dtype != parameter.dtype:
                twin.data = twin.data.to(parameter.dtype)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        smaller.gradient_checkpointing_enable()


def _check_equals_bypassed(smaller: Smaller, built: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    stack, cannot = smaller.stack, smaller.cannot
    model = stack.model
    inputs = {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    ran: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda module, args: ran.add(module)) for module in smaller.gone]
    try:
        with smaller.bypassed(), computing_in_float32(model):
            expected = outputs_of(model, inputs)
    except _OF_BUILDING as error:
        raise NotRemovableError(f"{cannot}so it does not run ({type(error).__name__}: {error}).") from error
    finally:
        for handle in handles:
            handle.remove()
    if len(ran) < len(smaller.gone):
        raise NotRemovableError(
            f"the example inputs ({', '.join(inputs)}) never reach all that is gone of a network "
            f"{smaller.description}, so nothing can be checked: give example_inputs that run this part of the model."
        )
    try:
        with computing_in_float32(built), _same_tables(model, built, stack):
            actual = outputs_of(built, inputs)
    except _OF_BUILDING as error:
        raise NotRemovableError(f"{cannot}what its config builds does not run ({error}).") from error
    if not all(bool(tensor.isfinite().all()) for tensor in expected):
        raise NotRemovableError("the outputs of this model are not finite: its weights hold NaN or infinity.")
    if not (found := difference(expected, actual)) <= TOLERANCE:
        raise NotRemovableError(
            f"{cannot}rebuilt from its config it differs from the original with what is gone bypassed by {found:.1e} "
            f"of the largest output (allowed {TOLERANCE:.0e}). Some layer depends on its position, or the model draws "
            "at random; remove something else."
        )


@contextmanager
def _same_tables(model: PreTrainedModel, smaller: PreTrainedModel, stack: BlockStack) -> Iterator[None]:
    """Inside, tables the model computed for itself (rotary frequencies) are those of the original.

    `model.to(bfloat16)` rounds them, and a network built anew, as a reload is, has them exact. Tables inside blocks
    are left alone: they may depend on the place of the block.
    """
    kept = set(model.state_dict()) | {
        f"{block.name}.{name}" for block in stack.blocks for name, _ in block.module.named_buffers()
    }
    theirs = dict(smaller.named_buffers())
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for name, table in model.named_buffers():
            twin = theirs.get(name)
            if name not in kept and twin is not None and twin.shape == table.shape and twin.is_floating_point():
                before.append((twin, twin.clone()))
                twin.copy_(table)
        yield
    finally:
        for twin, value in before:
            twin.copy_(value)
