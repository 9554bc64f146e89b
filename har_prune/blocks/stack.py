"""BlockStack: the residual blocks of a model, in the order the hidden state passes them."""

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.blocks.families import Family
from har_prune.errors import NotRemovableError

ONLY_ONE = "it is the only block of its stage"


@dataclass(frozen=True, eq=False)
class Block:
    """One residual block.

    Args:
        index: Position among all blocks of the model, from 0.
        original_index: Its index in the network before the first removal; equal to `index` in one that lost no block.
        name: Dotted module path, e.g. "vit.layers.3".
        stage: Index of its stage; 0 everywhere in a model without stages.
        module: The block itself.
        why_fixed: Why it cannot be removed, or None when it can.
    """

    index: int
    original_index: int
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
        config_path: Names that lead from `model.config` to the config that states the depth of these blocks; empty
            for the config itself, ("vision_config",) for a vision tower. None when it is not in there.
        inputs: Example inputs the blocks were found with; None where none were given.
        within: Path of the module that was asked for; None = the whole model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: list[Block],
        family: Family | None,
        config_path: tuple[str, ...] | None = (),
        inputs: dict[str, Tensor] | None = None,
        within: str | None = None,
    ):
        self.model, self.blocks, self.family, self.config_path = model, blocks, family, config_path
        self.inputs, self.within = inputs, within
        # What a block returns behind its hidden state: None = nothing, it returns a bare tensor. Learned when it runs.
        self._rest: dict[nn.Module, tuple | None] = {}
        self._by_class: dict[type, tuple | None] = {}

    @property
    def original_indices(self) -> list[int]:
        """For every block its index in the network before the first removal."""
        return [block.original_index for block in self.blocks]

    def on(self, twin: PreTrainedModel) -> "BlockStack":
        """The same blocks of a copy of the model."""
        blocks = [replace(block, module=twin.get_submodule(block.name)) for block in self.blocks]
        return BlockStack(twin, blocks, self.family, self.config_path, self.inputs, self.within)

    @property
    def config(self) -> Any:
        """The config that states the depth of these blocks."""
        return config_at(self.model.config, self.config_path)

    @property
    def period(self) -> int:
        """Blocks of a stage alternate with this period; 1 = they are all alike."""
        return self.family.period if self.family else 1

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def names(self) -> list[str]:
        """Dotted module path of every block."""
        return [block.name for block in self.blocks]

    @property
    def removable(self) -> list[int]:
        """Indices of the blocks that can be removed, one `removal_group` at a time."""
        free = [block.index for block in self.blocks if block.why_fixed is None]
        if self.period == 1:
            return free
        return [index for index in free if len(self.removal_group(index)) < len(self._stage_of(index))]

    def removal_group(self, index: int) -> list[int]:
        """The blocks that have to go so that this one can: itself, and behind it the rest of its period.

        Removing one block of an alternating stage would turn all behind it into the other kind; the last has none
        behind it and goes alone.
        """
        stage = self._stage_of(index)
        start = stage.index(index)
        return stage[start : start + self.period]

    def unit(self, index: int) -> list[int]:
        """The name `removal_group` had in 0.1."""
        warnings.warn("BlockStack.unit is now removal_group (since 0.2)", DeprecationWarning, stacklevel=2)
        return self.removal_group(index)

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
        chosen = sorted(_as_indices(indices))
        for index in chosen:
            self._stage_of(index)
            block = self.blocks[index]
            if block.why_fixed is not None:
                allowed = [i for i in self._stage_of(index) if i in self.removable]
                raise NotRemovableError(
                    f"block {index} ({block.name!r}) cannot be removed: {block.why_fixed}.\n"
                    f"Removable in this stage: {', '.join(map(str, allowed)) or 'none'}."
                )
        for stage in self.stages:
            if set(stage) <= set(chosen):
                raise NotRemovableError(
                    f"removing blocks {stage} would leave a stage without a block: keep at least one of them."
                )
            self._refuse_broken_period(stage, chosen)
        return chosen

    def _refuse_broken_period(self, stage: list[int], chosen: list[int]) -> None:
        kept = [index for index in stage if index not in chosen]
        for position, index in enumerate(kept):
            if (stage.index(index) - position) % self.period:
                gone = max(i for i in chosen if i in stage and i < index)
                raise NotRemovableError(
                    f"block {gone} ({self.blocks[gone].name!r}) cannot be removed alone: blocks of this stage "
                    f"alternate (period {self.period}), and those behind it would become another kind. Remove "
                    f"{self.period} neighbours at a time, e.g. {self.removal_group(gone)}, or the last of a stage."
                )

    def _stage_of(self, index: int) -> list[int]:
        for stage in self.stages:
            if index in stage:
                return stage
        raise NotRemovableError(f"block {index} does not exist: this model has blocks 0-{len(self) - 1}.")

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
            rest = self._by_class.get(type(module), ...)
            if rest is ... or _has_tensors(rest):  # T5 hands its position bias from block to block
                self.note_output(module, original(*args, **kwargs))
            return self.as_output(module, first_tensor(args, kwargs))

        return forward

    def note_output(self, module: nn.Module, output: Any) -> None:
        """Remembers what a block returns behind its hidden state."""
        rest = tuple(output[1:]) if isinstance(output, tuple) else None
        self._by_class[type(module)] = rest
        if _has_tensors(rest):
            self._rest[module] = rest

    def as_output(self, module: nn.Module, hidden_states: Tensor) -> Any:
        """A hidden state in the form in which the block would return it."""
        rest = self._rest.get(module, self._by_class[type(module)])
        return hidden_states if rest is None else (hidden_states, *rest)


def config_at(config: Any, path: tuple[str, ...] | None) -> Any:
    """The config inside a config that some names lead to."""
    return reduce(getattr, path or (), config)


def _has_tensors(values: Any) -> bool:
    return values is not None and any(isinstance(value, Tensor) for value in values)


def _as_indices(indices: Iterable[int]) -> set[int]:
    try:
        found = list(indices)
        if any(isinstance(index, bool) for index in found):
            raise TypeError("bool")
        chosen = {operator.index(index) for index in found}
    except TypeError as error:
        raise NotRemovableError(f"blocks are given as a list of indices, e.g. [3, 7]; this is {indices!r}.") from error
    if not chosen:
        raise NotRemovableError("there is no block in the list: give at least one index.")
    return chosen


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
