"""Whether two networks compute the same: the check behind every removal and every save."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.runtime.batches import inputs_for
from har_prune.runtime.devices import exact_float32

TOLERANCE = 1e-5  # of the largest output, in float32


@torch.no_grad()
def outputs_of(model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Tensor]:
    """The floating-point tensors of the first thing a model returns, in eval mode; the mode comes back.

    In TF32, which a graphics card takes for convolutions, another number of channels rounds otherwise by 1e-4.
    """
    was_training = model.training
    model.eval()
    try:
        with exact_float32(True):
            first = model(**inputs_for(model, inputs))[0]
    finally:
        model.train(was_training)
    return [tensor for tensor in _flat(first) if tensor.is_floating_point()]


def difference(expected: list[Tensor], actual: list[Tensor]) -> float:
    """Largest difference, as a share of the largest expected output; infinity where shapes differ."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in actual] or not expected:
        return math.inf
    scale = max(tensor.abs().max().item() for tensor in expected) or 1.0
    largest = max(
        (a.float() - b.float().to(a.device)).abs().max().item() for a, b in zip(expected, actual, strict=True)
    )
    return largest / scale


def _flat(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, Mapping):
        yield from _flat(list(value.values()))


@contextmanager
def computing_in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a model with weights in half precision computes in float32; one module at a time is held in both.

    In half precision noise hides what a wrong layer does: an output may differ by a percent for either reason.
    """
    halves = (torch.bfloat16, torch.float16)
    if not any(parameter.dtype in halves for parameter in model.parameters()):
        yield
        return
    stored: dict[nn.Module, tuple[dict, dict]] = {}

    def widen(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        stored[module] = dict(module._parameters), dict(module._buffers)
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dtype in halves:
                module._parameters[name] = nn.Parameter(parameter.detach().float(), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.dtype in halves:
                module._buffers[name] = buffer.float()
        return _widened(args), _widened(kwargs)

    def narrow(module: nn.Module, args: tuple, output: Any) -> None:
        parameters, buffers = stored.pop(module)
        module._parameters.update(parameters)
        module._buffers.update(buffers)

    handles: list[Any] = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(widen, with_kwargs=True))
        handles.append(module.register_forward_hook(narrow, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() and value.dtype != torch.float64 else value
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_widened(item) for item in value)
    if isinstance(value, dict) and type(value) is dict:
        return {key: _widened(item) for key, item in value.items()}
    return value
