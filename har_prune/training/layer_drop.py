"""Stochastic depth: a network trained with blocks left out can lose blocks.

Source: LayerDrop, Fan et al. 2020, arXiv:1909.11556; for ResNets Huang et al. 2016, arXiv:1603.09382.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.blocks.find import find_blocks
from har_prune.blocks.stack import BlockStack
from har_prune.errors import RecipeError
from har_prune.runtime.batches import inputs_of, rows_of


class LayerDrop:
    """Leaves out each removable block of a step with a probability.

    Args:
        model: The network, or its blocks where they are known.
        probability: Of leaving a block out, in [0, 1).
        accelerator: Several processes are refused.

    Raises:
        RecipeError: DistributedDataParallel would wait for gradients of blocks that were left out.
    """

    def __init__(self, model: PreTrainedModel | BlockStack, probability: float, accelerator: Accelerator):
        self.probability = probability
        self._model = model.model if isinstance(model, BlockStack) else model
        self._stack = model if isinstance(model, BlockStack) else None
        self._known: BlockStack | None = None
        if probability and accelerator.num_processes > 1:
            raise RecipeError("layer_drop works in one process so far: set it to 0, or start one.")

    def __call__(self, batch: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Inside, blocks drawn from torch's global generator are left out."""
        if not self.probability:
            return nullcontext()
        stack = self._known or self._look(inputs_of(rows_of(batch, slice(2))))
        if not stack.removable:
            return nullcontext()
        drawn = self._drawn(stack)
        return stack.bypassed(drawn) if drawn else nullcontext()

    def _look(self, inputs: dict[str, Any]) -> BlockStack:
        """Finds the blocks and what they return: the first run of a bypassed one shows it, and may draw numbers."""
        stack = self._stack or find_blocks(self._model, inputs)
        self._known = stack
        if not stack.removable:
            return stack
        self._model.eval()
        with torch.random.fork_rng(), torch.no_grad(), stack.bypassed(stack.removal_group(stack.removable[0])):
            self._model(**inputs)
        self._model.train()
        return stack

    def _drawn(self, stack: BlockStack) -> list[int]:
        """Blocks to leave out; of each stage one group stays at least."""
        dropped: list[int] = []
        for stage in stack.stages:
            groups = [stage[start : start + stack.period] for start in range(0, len(stage), stack.period)]
            luck = torch.rand(len(groups)).tolist()
            stays = luck.index(max(luck))
            for number, group in enumerate(groups):
                free = all(stack.blocks[index].why_fixed is None for index in group)
                if free and number != stays and luck[number] < self.probability:
                    dropped += group
        return dropped
