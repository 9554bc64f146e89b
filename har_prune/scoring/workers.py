"""Sweeps over replicas of a model, each in a thread of its own where that pays."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.runtime.batches import inputs_of, rows_of, size_of
from har_prune.scoring.ablation import BlockAblation, Wanted
from har_prune.scoring.config import ExecutionPlan
from har_prune.scoring.measurements import Measurements
from har_prune.scoring.replica import fold_batch_norm, is_placed, replica, to_channels_last, working_device


class Workers:
    """Runs ablations micro-batch by micro-batch and gives their results back in order.

    Args:
        stack: Blocks of the network, which is left alone, except that one accelerate has placed is used as it is.
        candidates: Blocks to leave out, one at a time.
        wanted: What to measure.
        execution_plan: Micro-batch, threads, memory format.
        example_inputs: Some examples on the device, to prepare with.
        precision: "bf16" runs under autocast.
        representation: As in `FeatureHook`.
        reference: A network whose representation is the reference; None = the model itself.
    """

    def __init__(
        self,
        stack: BlockStack,
        candidates: list[int],
        wanted: Wanted,
        execution_plan: ExecutionPlan,
        example_inputs: Mapping[str, Any],
        *,
        precision: str = "fp32",
        representation: str | None = None,
        reference: PreTrainedModel | None = None,
    ):
        self.execution_plan, model = execution_plan, stack.model
        self._autocast = torch.bfloat16 if precision == "bf16" else None
        self._device = working_device(model).type
        placed = is_placed(model)
        first = model if placed else self._prepared(model, example_inputs, representation)
        count = 1 if placed else execution_plan.workers
        twins = [first, *(replica(first) for _ in range(count - 1))]
        others = None if reference is None else self._prepared(reference, example_inputs, representation)
        self.ablations = [
            BlockAblation(
                stack.on(twin),
                candidates,
                wanted,
                representation,
                None if others is None else replica(others),
            )
            for twin in twins
        ]
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def _prepared(
        self, model: PreTrainedModel, example_inputs: Mapping[str, Any], representation: str | None
    ) -> PreTrainedModel:
        twin = replica(model)
        fold_batch_norm(twin, inputs_of(example_inputs), representation)
        if self.execution_plan.channels_last:
            to_channels_last(twin)
        return twin

    def check_replay(self, example_inputs: Mapping[str, Any]) -> None:
        """See `BlockAblation.check_replay`."""
        self._on(self.ablations[0], lambda ablation: ablation.check_replay(example_inputs))
        for ablation in self.ablations[1:]:
            ablation.replays = self.ablations[0].replays

    def measure_examples(self, example_inputs: Mapping[str, Any]) -> Measurements:
        """Measures a few examples at once, in this thread."""
        measurements = self._on(self.ablations[0], lambda ablation: ablation.run(self._arranged(example_inputs)))
        self.ablations[0].block_evaluations = 0
        return measurements

    @property
    def block_evaluations(self) -> int:
        """Blocks run, each for one micro-batch."""
        return sum(ablation.block_evaluations for ablation in self.ablations)

    def drop(self, blocks: set[int]) -> None:
        """Leaves candidates out from now on."""
        for ablation in self.ablations:
            ablation.candidates = [index for index in ablation.candidates if index not in blocks]

    def whole(self, batch: Mapping[str, Any]) -> None:
        """Runs the whole network over a batch, to time it."""
        for _ in self._map(
            self._split([(batch, torch.empty(0))]), lambda ablation, batch: ablation.hook.read(inputs_of(batch))
        ):
            pass

    def measure(self, batches: Iterable[tuple[Mapping[str, Any], Tensor]]) -> Iterator[tuple[Measurements, Tensor]]:
        """Measures batches.

        Args:
            batches: (batch, position of each of its rows among all examples [N]).

        Returns:
            What each micro-batch gave, and the positions of its rows, in order.
        """
        return self._map(self._split(batches), BlockAblation.run)

    def _split(self, batches: Iterable[tuple[Mapping[str, Any], Tensor]]) -> Iterator[tuple[dict[str, Any], Tensor]]:
        step = self.execution_plan.micro_batch
        for batch, positions in batches:
            for start in range(0, size_of(batch), step):
                part = rows_of(batch, slice(start, start + step))
                yield self._arranged(part), positions[start : start + step]

    def _arranged(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        if not self.execution_plan.channels_last:
            return dict(batch)
        return {
            key: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for key, value in batch.items()
        }

    def _map(
        self, parts: Iterable[tuple[dict[str, Any], Tensor]], run: Callable[..., Any]
    ) -> Iterator[tuple[Any, Tensor]]:
        if self._pool is None:
            for part, positions in parts:
                yield self._on(self.ablations[0], partial(run, batch=part)), positions
            return
        free: SimpleQueue[BlockAblation] = SimpleQueue()
        for ablation in self.ablations:
            free.put(ablation)

        def work(part: dict[str, Any]) -> Any:
            torch.set_num_threads(1)
            ablation = free.get()
            try:
                return self._on(ablation, partial(run, batch=part))
            finally:
                free.put(ablation)

        with _threads_restored():
            waiting: deque[tuple[Future, Tensor]] = deque()
            for part, positions in parts:
                waiting.append((self._pool.submit(work, part), positions))
                if len(waiting) >= 2 * len(self.ablations):  # so that memory does not grow with the data
                    future, rows = waiting.popleft()
                    yield future.result(), rows
            for future, rows in waiting:
                yield future.result(), rows

    def _on(self, ablation: BlockAblation, run: Callable[[BlockAblation], Any]) -> Any:
        # Both are settings of a thread, and this may be any.
        with torch.no_grad(), torch.autocast(self._device, self._autocast, enabled=self._autocast is not None):
            return run(ablation)

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def _threads_restored() -> Iterator[None]:
    """torch.set_num_threads in any thread is also the setting of threads to come."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
