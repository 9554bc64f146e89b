"""BlockStack: the residual blocks of a model, in the order the hidden state passes them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.blocks.families import Family, family_of, unknown_family
from har_prune.blocks.probe import probe_containers
from har_prune.errors import NotRemovableError


@dataclass(frozen=True, eq=False)
class Block:
    """One residual block.

    Args:
        index: Position among all blocks of the model, from 0.
        name: Dotted module path, e.g. "vit.layers.3".
        stage: Index of its stage; 0 everywhere in a model without stages.
        module: The block itself.
        why_fixed: Why it cannot be removed, or None when it can.
    """

    index: int
    name: str
    stage: int
    module: nn.Module
    why_fixed: str | None


class BlockStack:
    """The blocks of one model.

    Attributes:
        model: The model they belong to.
        family: What the registry says about it; None when the probe found the blocks.
        blocks: Every residual block, removable or not, in order.
    """

    def __init__(self, model: PreTrainedModel, blocks: list[Block], family: Family | None):
        self.model, self.blocks, self.family = model, blocks, family
        # Length of the tuple a block returns, by class; None = a bare tensor. Learned in the first forward.
        self._tuple_lengths: dict[type, int | None] = {}

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def names(self) -> list[str]:
        """Dotted module path of every block."""
        return [block.name for block in self.blocks]

    @property
    def removable(self) -> list[int]:
        """Indices of the blocks that can be removed one at a time."""
        return [block.index for block in self.blocks if block.why_fixed is None]

    @property
    def stages(self) -> list[list[int]]:
        """Block indices of every stage, in order."""
        stages: dict[int, list[int]] = {}
        for block in self.blocks:
            stages.setdefault(block.stage, []).append(block.index)
        return list(stages.values())

    def check_removable(self, indices: Iterable[int]) -> list[int]:
        """The indices sorted and without repeats, when all of them can be removed together.

        Raises:
            NotRemovableError: One does not exist or is fixed, or a stage would be left without a block.
        """
        chosen = sorted(set(indices))
        for index in chosen:
            if not 0 <= index < len(self):
                raise NotRemovableError(f"block {index} does not exist: this model has blocks 0-{len(self) - 1}.")
            block = self.blocks[index]
            if block.why_fixed is not None:
                allowed = [i for i in self.stages[self._stage_position(index)] if i in self.removable]
                raise NotRemovableError(
                    f"block {index} ({block.name!r}) cannot be removed: {block.why_fixed}.\n"
                    f"Removable in this stage: {', '.join(map(str, allowed)) or 'none'}."
                )
        for stage in self.stages:
            if set(stage) <= set(chosen):
                raise NotRemovableError(
                    f"removing blocks {stage} would leave a stage without a block: keep at least one of them."
                )
        return chosen

    def _stage_position(self, index: int) -> int:
        return next(position for position, stage in enumerate(self.stages) if index in stage)

    @contextmanager
    def bypassed(self, indices: Iterable[int]) -> Iterator[None]:
        """Inside, the given blocks act as the identity: they return the hidden state they are given.

        Raises:
            NotRemovableError: As `check_removable`.
        """
        blocks = [self.blocks[index] for index in self.check_removable(indices)]
        with patched_forward({block.module: self._identity(block.module) for block in blocks}):
            yield

    def _identity(self, module: nn.Module) -> Callable:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if type(module) not in self._tuple_lengths:
                self.note_output(module, original(*args, **kwargs))
            return self.as_output(module, first_tensor(args, kwargs))

        return forward

    def note_output(self, module: nn.Module, output: Any) -> None:
        """Remembers whether blocks of this class return a tensor or a tuple."""
        self._tuple_lengths[type(module)] = len(output) if isinstance(output, tuple) else None

    def as_output(self, module: nn.Module, hidden_states: Tensor) -> Any:
        """A hidden state in the form in which the block would return it."""
        length = self._tuple_lengths[type(module)]
        return hidden_states if length is None else (hidden_states, *[None] * (length - 1))


def find_blocks(model: PreTrainedModel, example_inputs: dict[str, Tensor] | None = None) -> BlockStack:
    """Finds the residual blocks of a model.

    Asks the family registry by `config.model_type`; a model without a family is probed in one small forward.

    Args:
        model: Any Transformers model.
        example_inputs: Inputs of at least two examples for the probe; made up when None.

    Returns:
        The stack; `removable` lists what may go one at a time.

    Raises:
        UnknownFamilyError: No family, and the probe found nothing.
    """
    family = family_of(model.config)
    if family is None:
        containers = probe_containers(model, example_inputs)
        if not containers:
            raise unknown_family(model.config)
        stages = [(container.name, container.module, container.why_fixed) for container in containers]
    else:
        stages = [
            (name, module, _reasons(family, stage, module))
            for stage, (name, module) in enumerate(_expand(model, family))
        ]
    blocks: list[Block] = []
    for stage, (name, container, why_fixed) in enumerate(stages):
        children = list(container.children())
        if len(children) == 1:
            why_fixed = ["it is the only block of its stage"]
        for position, child in enumerate(children):
            blocks.append(Block(len(blocks), f"{name}.{position}", stage, child, why_fixed[position]))
    return BlockStack(model, blocks, family)


def _reasons(family: Family, stage: int, container: nn.Module) -> list[str | None]:
    return [family.why_fixed(stage, position, block) for position, block in enumerate(container.children())]


def _expand(model: PreTrainedModel, family: Family) -> list[tuple[str, nn.Module]]:
    """The family's containers as (dotted path, module), `*` expanded."""
    base = model.base_model
    prefix = "" if base is model else f"{model.base_model_prefix}."
    head, star, tail = family.containers.partition(".*.")
    if not star:
        return [(prefix + head, base.get_submodule(head))]
    count = len(list(base.get_submodule(head).children()))
    paths = [f"{head}.{i}.{tail}" for i in range(count)]
    return [(prefix + path, base.get_submodule(path)) for path in paths]


def first_tensor(args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden state among a block's arguments: the first tensor, positional before keyword."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


@contextmanager
def patched_forward(forwards: Mapping[nn.Module, Callable]) -> Iterator[None]:
    """Replaces `module.forward` of single modules and puts back what was there, also after an error."""
    # accelerate's hooks live in the same instance attribute, so it is restored and not just deleted.
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, former in before.items():
            if former is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = former
