"""What a pruned network is compared with: networks that the same training might have made as good."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import nn

from har_prune.blocks.example_inputs import example_inputs
from har_prune.blocks.find import find_blocks
from har_prune.blocks.rebuild import without_blocks
from har_prune.blocks.stack import BlockStack
from har_prune.errors import NotRemovableError, UnreachableTargetError
from har_prune.evaluation.macs import count_macs
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.plan import candidates
from har_prune.pruning.structures import WITHIN, UnitQueue, widths_of
from har_prune.scoring.units import score_units

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def control_network(
    name: str,
    original: BlockStack,
    pruned: BlockStack,
    settings: PruneSettings,
    protected: set[int],
    seed: int,
    data: str | None = None,
) -> BlockStack:
    """A network to compare a pruned one with, before it is trained.

    Args:
        name: "scratch" and "scratch_full": the pruned network's architecture from random weights. "original": the
            unpruned network. "random" and "last": as many blocks removed as of the pruned one, drawn at random or the
            last removable ones, under the same guards; where units go, as many MACs of units drawn at random or the
            last of each.
        original: The unpruned network; left as it is.
        pruned: The pruned network; left as it is.
        settings: The guards.
        protected: Indices in the original network that stay.
        seed: Of random weights and of the draw.
        data: Fingerprint of the data, which the draw follows from too: one draw for all folds would be one network.

    Raises:
        UnreachableTargetError: No more blocks can be removed that way.
    """
    if name in ("scratch", "scratch_full"):
        return _scratch(pruned, seed)
    if name == "original":
        return find_blocks(copy.deepcopy(original.model), original.inputs, within=original.within)
    draw = np.random.SeedSequence([seed, int(data or "0", 16)])
    order = np.random.default_rng(draw)
    pick: Callable[[list[int]], list[int]] = (
        (lambda allowed: order.permutation(allowed).tolist()) if name == "random" else (lambda allowed: allowed[::-1])
    )
    stack = original
    while (more := len(stack) - len(pruned)) > 0:
        allowed = [i for i in candidates(stack, settings, protected) if len(stack.removal_group(i)) <= more]
        stack = _one_less(stack, pick(allowed), copies=stack is original)
    if "widths" in settings.structures:
        stack = _as_narrow(stack, pruned, settings, protected, name, int(draw.generate_state(1)[0]))
    return stack


def _as_narrow(
    stack: BlockStack, pruned: BlockStack, settings: PruneSettings, protected: set[int], name: str, seed: int
) -> BlockStack:
    """Without as many MACs of units as the pruned network lacks."""
    inputs = pruned.inputs or example_inputs(pruned.model)
    more = count_macs(stack.model, inputs) - count_macs(pruned.model, inputs)
    if more <= 0:
        return stack
    widths = widths_of(stack, settings.widths, protected)
    if name == "random":
        importance = score_units(widths, (), "random", seed=seed)
    else:  # the last of each
        importance = [torch.arange(width.units, 0, -1, dtype=torch.float64) for width in widths.widths]
    removal = UnitQueue(widths, importance, inputs, settings.widths).saving(more, WITHIN)
    if removal is None:
        raise UnreachableTargetError(
            "a control needs as many units removed as the pruned network, and no more can go."
        )
    return removal.built(copy=True)


def _one_less(stack: BlockStack, order: list[int], *, copies: bool) -> BlockStack:
    for index in order:
        try:
            return without_blocks(stack, stack.removal_group(index), copy=copies)
        except NotRemovableError:
            continue
    raise UnreachableTargetError("a control needs as many blocks removed as the pruned network, and no more can go.")


def _scratch(pruned: BlockStack, seed: int) -> BlockStack:
    """The same architecture from random weights. What no training makes, e.g. a mean image, is taken over."""
    set_seed(seed)
    # In its precision from the start: cast later, tables of rotary embeddings would be rounded as well.
    model = type(pruned.model)._from_config(copy.deepcopy(pruned.model.config), dtype=pruned.model.dtype)
    model.to(pruned.model.device).eval()
    statistics = {
        f"{name}.{buffer}"
        for name, module in model.named_modules()
        if isinstance(module, _BATCH_NORMS)
        for buffer, _ in module.named_buffers(recurse=False)
    }
    given = dict(pruned.model.named_buffers())
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name not in statistics:
                buffer.copy_(given[name])
    return find_blocks(model, pruned.inputs, within=pruned.within)
