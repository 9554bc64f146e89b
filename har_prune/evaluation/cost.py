"""What a network costs: work, size, memory and time of one example."""

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from har_prune.evaluation.config import LatencyBudget
from har_prune.evaluation.latency import Latency, measure_latency
from har_prune.evaluation.macs import count_macs
from har_prune.runtime.batches import inputs_for
from har_prune.runtime.devices import uses_gpu

# Below, a second thread gains 10 % on an idle machine and costs up to 1000 times on a busy one, where it spins.
_SMALL_MACS = 100_000_000


@dataclass(frozen=True)
class Cost:
    """What one example costs.

    Args:
        macs: Multiply-accumulates.
        parameters: Number of parameters.
        size_bytes: Bytes of weights and buffers as they are saved; tied ones count once. None in records of 0.1.
        activation_bytes: Most memory that hidden states take at one moment of a forward; None in records of 0.1.
        latency: Time of a forward; None when not measured. A timing: differs between runs.
        tokens: Length of the example, where the network takes tokens: cost grows with it.
    """

    macs: int
    parameters: int
    size_bytes: int | None = None
    activation_bytes: int | None = None
    latency: Latency | None = None
    tokens: int | None = None


def measure_cost(
    model: PreTrainedModel,
    example_inputs: dict[str, Tensor],
    *,
    original: PreTrainedModel | None = None,
    latency: bool = True,
    budget: LatencyBudget | None = None,
) -> Cost:
    """Measures what one example costs; the model comes back as it was.

    Args:
        model: The network.
        example_inputs: Model inputs of one example, [1, ...] each.
        original: The unpruned network, which takes turns with this one where time is measured; None = `model` is it.
        latency: Whether to measure time. Where the original is small, on a CPU, on one thread.
        budget: How time is measured, where there is a budget of it; it is measured then in any case.
    """
    tokens = example_inputs.get("input_ids")
    return Cost(
        macs=count_macs(model, example_inputs),
        parameters=model.num_parameters(),
        size_bytes=sum(_stored(model).values()),
        activation_bytes=peak_activation_bytes(model, example_inputs),
        latency=timed(model, example_inputs, original or model, budget) if latency or budget else None,
        tokens=None if tokens is None else tokens.shape[1],
    )


def timed(
    model: PreTrainedModel, example_inputs: dict[str, Tensor], original: PreTrainedModel, budget: LatencyBudget | None
) -> Latency:
    """Time of a forward, in turns with another network, under the conditions of a budget.

    Args:
        model: The network.
        example_inputs: Model inputs of one example.
        original: The network it takes turns with.
        budget: Batch, threads and device; None = one example, where the network is.
    """
    threads, limit = threads_for(original, example_inputs), None
    if budget is not None:
        threads, limit = budget.threads or threads, budget.at_most
        example_inputs = {name: torch.cat([value] * budget.batch) for name, value in example_inputs.items()}
        device = torch.device(budget.device or ("cuda" if uses_gpu() else "cpu"))
        if device.type != model.device.type or device.index not in (None, model.device.index):
            same = original is model
            model = copy.deepcopy(model).to(device)
            original = model if same else copy.deepcopy(original).to(device)
    return measure_latency(model, example_inputs, original=original, threads=threads, budget_ms=limit)


def threads_for(original: PreTrainedModel, example_inputs: dict[str, Tensor]) -> int | None:
    """CPU threads that networks made of this one are timed on, all alike: one where it is small; None = all."""
    return 1 if count_macs(original, example_inputs) < _SMALL_MACS else None


def _stored(model: PreTrainedModel) -> dict[int, int]:
    """Bytes of each distinct tensor of the state dict."""
    return {value.data_ptr() or id(value): value.nbytes for value in model.state_dict().values()}


@torch.no_grad()
def peak_activation_bytes(model: PreTrainedModel, example_inputs: dict[str, Tensor]) -> int:
    """Most bytes that tensors made by one forward in eval mode hold at one moment, inputs and weights left out."""
    inputs = inputs_for(model, example_inputs)
    was_training = model.training
    model.eval()
    try:
        with _Alive() as alive:
            model(**inputs)
    finally:
        model.train(was_training)
    return alive.peak


class _Alive(TorchDispatchMode):
    """Adds up the memory of tensors from when an operation makes them to when the last reference to them goes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._watched: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, operation: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = operation(*args, **(kwargs or {}))
        given = {id(value.untyped_storage()) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        for value in tree_leaves(output):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                key, size = id(storage), storage.nbytes()
                if key not in given and key not in self._watched:
                    self._watched[key] = weakref.ref(storage, partial(self._gone, key, size))
                    self.now += size
                    self.peak = max(self.peak, self.now)
        return output

    def _gone(self, key: int, size: int, storage: weakref.ref) -> None:
        del self._watched[key]
        self.now -= size
