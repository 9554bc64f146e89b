"""What a network answers in training, replayed from a CUDA graph where that is wanted."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from har_prune.errors import RecipeError
from har_prune.runtime.batches import as_computed, logits_of


class Logits(nn.Module):
    """Logits of a network, computed in the precision of the training and given in float32.

    A small network keeps a GPU waiting for the CPU that starts its kernels. A CUDA graph starts all of them at once:
    it is recorded at the first batch and replayed for every other of the same shape; what has another shape is
    computed as usual. Dropout draws new numbers at every replay.

    Args:
        network: Whose logits; it keeps its mode, and its parameters stay where they are in memory.
        accelerator: Device and precision.
        graph: Whether to record one, on a GPU in one process. The network then must not need hooks, and each answer
            is overwritten by the next.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator, *, graph: bool = False):
        super().__init__()
        self.network, self.accelerator = network, accelerator
        self.training = network.training
        self.graph = graph and accelerator.device.type == "cuda" and accelerator.num_processes == 1
        self._recorded: list[tuple[str, torch.Size, torch.dtype]] | None = None
        self._names: list[str] = []

    def forward(self, *values: Tensor) -> Tensor:
        """Of inputs in the order of `of`."""
        return self._computed(dict(zip(self._names, values, strict=True)))

    def _computed(self, inputs: Mapping[str, Any]) -> Tensor:
        # Weights of half precision are trained in float32, on batches that were made for what they came in.
        with self.accelerator.autocast():
            return logits_of(self.network(**as_computed(inputs, self.network))).float()

    def of(self, inputs: Mapping[str, Any]) -> Tensor:
        """Logits for a batch, in float32.

        Raises:
            RecipeError: The network cannot be recorded.
        """
        if not self.graph:
            return self._computed(inputs)
        if self._recorded is None:
            self._record(inputs)
        return self(*inputs.values()) if self._kind(inputs) == self._recorded else self._computed(inputs)

    @staticmethod
    def _kind(inputs: Mapping[str, Any]) -> list[tuple[str, torch.Size, torch.dtype]]:
        return [(name, value.shape, value.dtype) for name, value in inputs.items()]

    def _record(self, inputs: Mapping[str, Any]) -> None:
        # What is recorded is also run a few times: running statistics must not have seen this batch more than once.
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        self._names, self._recorded = list(inputs), self._kind(inputs)
        # Recording leaves accumulators of gradients on a stream of its own: one wait a step, and no error.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        device = self.accelerator.device
        numbers = torch.cuda.get_rng_state(device)  # a training that goes on records in another step
        try:
            torch.cuda.make_graphed_callables(
                self, tuple(value.clone() for value in inputs.values()), allow_unused_input=True
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RecipeError(
                f"cuda_graphs: {type(self.network).__name__} does something that a CUDA graph cannot hold ({error}): "
                "set cuda_graphs to false."
            ) from error
        torch.cuda.set_rng_state(numbers, device)
        with torch.no_grad():
            for buffer, former in buffers:
                buffer.copy_(former)
