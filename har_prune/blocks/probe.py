"""Finds residual blocks in a model nobody described, by what the modules do and not by what they are called.

A container (ModuleList or Sequential, children of one class) holds blocks when a child
1. returns a hidden state of the shape and dtype it was given, and
2. with the weights of its linear and convolution layers at zero still passes its input on: it has a shortcut.
The innermost such container wins, which leaves out whole stages.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from har_prune.blocks.example_inputs import example_inputs, no_example_inputs
from har_prune.errors import ShapeError
from har_prune.runtime.batches import to_device

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)
# Share of the input's variation between two examples that must survive with the weights at zero.
_FOLLOWS = 1e-3


@dataclass(frozen=True, eq=False)
class ProbedContainer:
    """A module list that holds residual blocks; `why_fixed` has one entry a child, None where it is removable."""

    name: str
    module: nn.Module
    why_fixed: list[str | None]


@dataclass
class _Call:
    args: tuple
    kwargs: dict[str, Any]
    output: Tensor


@torch.no_grad()
def probe_containers(model: PreTrainedModel, inputs: dict[str, Tensor] | None = None) -> list[ProbedContainer]:
    """Finds the containers of residual blocks with one forward on two examples.

    Args:
        model: Any Transformers model.
        inputs: Model inputs with at least two different examples; made up when None.

    Returns:
        The containers in module order; empty when the model has no residual blocks.
    """
    candidates = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and _of_one_class(list(module.children()))
    ]
    was_training, use_cache = model.training, getattr(model.config, "use_cache", None)
    model.eval()
    if use_cache:  # a block that runs again would find its first run in the cache
        model.config.use_cache = False
    try:
        calls = _record(model, [child for _, module in candidates for child in module.children()], inputs)
        found = []
        for name, module in candidates:
            reasons = [_why_fixed(child, calls.get(child)) for child in module.children()]
            if None in reasons:
                found.append(ProbedContainer(name, module, reasons))
    finally:
        model.train(was_training)
        if use_cache:
            model.config.use_cache = use_cache
    return [
        outer
        for outer in found
        if not any(inner is not outer and inner.name.startswith(outer.name + ".") for inner in found)
    ]


def _of_one_class(children: list[nn.Module]) -> bool:
    return len({type(child) for child in children}) == 1 and all(any(True for _ in c.parameters()) for c in children)


def _record(model: PreTrainedModel, modules: list[nn.Module], inputs: dict[str, Tensor] | None) -> dict:
    calls: dict[nn.Module, _Call] = {}

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) and output else output
        if module not in calls and isinstance(tensor, Tensor):
            # Cloned: a ResNet adds the shortcut in place, behind the hook's back.
            args = tuple(value.clone() if isinstance(value, Tensor) else value for value in args)
            kwargs = {key: value.clone() if isinstance(value, Tensor) else value for key, value in kwargs.items()}
            calls[module] = _Call(args, kwargs, tensor.clone())

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        # One example cannot show that an output follows its input.
        usable = inputs is not None and all(len(value) > 1 for value in inputs.values() if isinstance(value, Tensor))
        given = to_device(inputs, model.device) if inputs is not None and usable else example_inputs(model)
        try:
            model(**given)
        except Exception as error:  # whatever a forward raises on inputs it was not made for
            raise ShapeError(no_example_inputs(model, f"{type(error).__name__}: {str(error)[:200]}")) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _why_fixed(block: nn.Module, call: _Call | None) -> str | None:
    if call is None:
        return "it did not run in the probe's forward, or returned no tensor"
    hidden = next((v for v in (*call.args, *call.kwargs.values()) if isinstance(v, Tensor)), None)
    if hidden is None or (hidden.shape, hidden.dtype) != (call.output.shape, call.output.dtype):
        return "it changes the shape of the hidden state"
    with _zeroed(block):
        output = block(*call.args, **call.kwargs)
    output = output[0] if isinstance(output, tuple) else output
    if _variation(output) <= _FOLLOWS * _variation(hidden):
        return "it has no shortcut"
    return None


def _variation(hidden: Tensor) -> float:
    """How much two examples differ, as a mean square."""
    return (hidden[0] - hidden[1]).double().square().mean().item()


@contextmanager
def _zeroed(block: nn.Module) -> Iterator[None]:
    parameters = [p for m in block.modules() if isinstance(m, _WEIGHTED) for p in m.parameters(recurse=False)]
    before = [p.clone() for p in parameters]
    try:
        for parameter in parameters:
            parameter.zero_()
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
