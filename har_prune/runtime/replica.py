"""Copies of a model for scoring: they share its weights, and what is done to them never reaches the user's model."""

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from transformers import PreTrainedModel

from har_prune.runtime.feature_hook import FeatureHook

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_EXACT = 1e-6  # relative; what folding may change


def replica(model: PreTrainedModel) -> PreTrainedModel:
    """A module tree of its own over the same weights, in eval mode and without a key-value cache."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, shared).eval()
    if getattr(twin.config, "use_cache", None):
        twin.config.use_cache = False
    return twin


@torch.no_grad()
def fold_batch_norm(
    twin: PreTrainedModel, batch: Mapping[str, Any], representation: str | None = None, tolerance: float = _EXACT
) -> None:
    """Folds batch normalisation into the convolution before it, where that changes the representation next to nothing.

    Args:
        twin: A replica; changed in place.
        batch: A few examples, to see which normalisation reads which convolution and to compare.
        representation: As in `FeatureHook`.
        tolerance: Largest change, relative to the largest feature.
    """
    hook = FeatureHook(twin, representation)
    pairs, before = _adjacent(hook, batch)
    if not pairs:
        return
    names = {module: name for name, module in twin.named_modules()}
    former = [(conv, conv.weight, conv.bias, norm) for conv, norm in pairs]
    for conv, norm in pairs:
        weight, bias = _folded(conv, norm)
        conv.weight, conv.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        twin.set_submodule(names[norm], nn.Identity())
    after, _ = hook.read(batch)
    if not bool((after - before).abs().max() <= tolerance * before.abs().max()):
        for conv, weight, bias, norm in former:
            conv.weight, conv.bias = weight, bias
            twin.set_submodule(names[norm], norm)


def _folded(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what both do, computed in float64."""
    values = (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    in_float64: list[Any] = [None if value is None else value.double() for value in values]
    weight, bias, mean, variance, scale, shift = in_float64
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def _adjacent(hook: FeatureHook, batch: Mapping[str, Any]) -> tuple[list[tuple[Any, Any]], Tensor]:
    """Pairs of a convolution and the normalisation that reads its output, each module in one; the representation."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    pairs: list[tuple[Any, Any]] = []
    handles: list[Any] = []

    def convolved(conv: nn.Module, args: tuple, output: Tensor) -> None:
        made[id(output)] = conv, output  # alive, so that its id stays its own

    def normalising(norm: nn.Module, args: tuple) -> None:
        if id(args[0]) in made:
            pairs.append((made[id(args[0])][0], norm))

    for module in hook.model.modules():
        if isinstance(module, _CONVOLUTIONS):
            handles.append(module.register_forward_hook(convolved))
        elif isinstance(module, _BATCH_NORMS) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(normalising))
    try:
        before, _ = hook.read(batch)
    finally:
        for handle in handles:
            handle.remove()
    modules = [module for pair in pairs for module in pair]
    return [pair for pair in pairs if all(modules.count(module) == 1 for module in pair)], before


def to_channels_last(twin: PreTrainedModel) -> None:
    """Gives the 2-D convolutions of a replica weights of their own, channels last in memory."""
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
