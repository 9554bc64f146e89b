"""From a network to measurements: the rows of this process, micro-batch by micro-batch, in threads where that pays."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.runtime.batches import inputs_for, rows_of, shard_batch, size_of, to_device
from har_prune.runtime.devices import computing_in_place, exact_float32, is_placed, working_device
from har_prune.runtime.processes import agreed
from har_prune.runtime.replica import fold_batch_norm, replica, to_channels_last
from har_prune.scoring.ablation import BlockAblation
from har_prune.scoring.config import ExecutionPlan, ScoringConfig
from har_prune.scoring.criteria.base import Criterion
from har_prune.scoring.execution_plan import choose_execution_plan
from har_prune.scoring.measurements import Measurements

Batch = Mapping[str, Any]
_POSITION = "har_prune.position"  # of an example among all, beside a batch's own keys


class Measurer:
    """Measures a network with and without candidate blocks.

    Args:
        stack: Blocks of the network. It is moved to the device and otherwise left alone, except that one accelerate
            has placed is used where it is.
        candidates: Blocks to leave out, one at a time.
        criteria: {name: criterion} of those that look at data.
        first: The first batch, whole, as every process is given it: to prepare with.
        config: Precision, execution plan.
        accelerator: Device and processes; None = one process, the device the model is on.
        reference: A network whose representation is the reference; None = the model itself.
        representation: As in `FeatureHook`.

    Attributes:
        execution_plan: How the work is cut. It is chosen by timing where none is given, and cut smaller where memory
            does not do.
        samples: Examples this process was given, those of other processes included.
    """

    def __init__(
        self,
        stack: BlockStack,
        candidates: list[int],
        criteria: Mapping[str, Criterion],
        first: Batch,
        config: ScoringConfig,
        *,
        accelerator: Accelerator | None = None,
        reference: PreTrainedModel | None = None,
        representation: str | None = None,
    ):
        model = stack.model
        self.stack, self.candidates, self.criteria, self.accelerator = stack, candidates, criteria, accelerator
        self.reference, self.representation = reference, representation
        self.device = accelerator.device if accelerator and not is_placed(model) else working_device(model)
        self._autocast = torch.bfloat16 if config.precision == "bf16" else None
        for network in (model, reference):
            if network is not None and not is_placed(network):
                network.to(self.device)
        self._first = to_device(first, self.device)
        with self._working():
            # The main process's choice: the one on record, from which a resumed run computes the same bits.
            plan = config.execution_plan or agreed(self._chosen(), accelerator)
            self._start(plan, self._made(plan))

    def _start(self, plan: ExecutionPlan, ablations: list[BlockAblation]) -> None:
        self.execution_plan, self._ablations, self.samples = plan, ablations, 0
        self._pool = ThreadPoolExecutor(len(ablations)) if len(ablations) > 1 else None

    def first(self, batches: Iterable[Batch], rows: int) -> Measurements:
        """Measurements of the first examples of some batches, the same in every process; they are not counted."""
        ablation, parts, seen = self._ablations[0], [], 0
        with self._working():
            for batch in batches:
                few = rows_of(batch, slice(rows - seen))
                few[_POSITION] = torch.arange(seen, seen + size_of(few))
                seen += size_of(few)
                parts += [found for part in self._micro_batches(few) for found in self._counted(ablation, part)]
        ablation.block_evaluations = 0
        return Measurements.joined(parts)

    def measure(self, batches: Iterable[Batch]) -> Iterator[Measurements]:
        """Measures batches. Every process must be given the same; each works on its rows.

        Raises:
            DataError: A criterion needs labels and there are none.
            NotRemovableError: The network does not run without a candidate.
        """
        with self._working():
            yield from self._alone(batches) if self._pool is None else self._threaded(batches, self._pool)

    def drop(self, blocks: set[int]) -> None:
        """Leaves candidates out from now on."""
        for ablation in self._ablations:
            ablation.candidates = [index for index in ablation.candidates if index not in blocks]

    def block_evaluations(self) -> int:
        """Blocks that all processes ran together, each counted once for every example."""
        own = torch.tensor(sum(ablation.block_evaluations for ablation in self._ablations), device=self.device)
        return int(self.accelerator.reduce(own, "sum")) if self.accelerator else int(own)

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _made(self, plan: ExecutionPlan) -> list[BlockAblation]:
        """One ablation for each thread, checked."""
        model = self.stack.model
        first = model if is_placed(model) else self._prepared(model, plan)
        other = self.reference
        if other is not None and not is_placed(other):
            other = self._prepared(other, plan)
        twins = [first, *(replica(first) for _ in range(0 if is_placed(model) else plan.workers - 1))]
        measured = self.candidates, self.criteria, self.representation
        others = [other if other is None or is_placed(other) else replica(other) for _ in twins]
        found = [BlockAblation(self.stack.on(twin), *measured, its) for twin, its in zip(twins, others, strict=True)]
        for ablation in found:
            with self._arithmetic():
                ablation.check_stacking(_arranged(self._first, plan))
            ablation.block_evaluations = 0
        return found

    def _prepared(self, model: PreTrainedModel, plan: ExecutionPlan) -> PreTrainedModel:
        twin = replica(model)
        # Not under autocast, whose rounding would pass for a difference.
        fold_batch_norm(twin, inputs_for(twin, rows_of(self._first, slice(2))), self.representation)
        if plan.channels_last:
            to_channels_last(twin)
        return twin

    def _chosen(self) -> ExecutionPlan:
        """The fastest plan on this machine, each tried on the real work."""
        if is_placed(self.stack.model):
            return ExecutionPlan(micro_batch=size_of(self._first))
        known: dict[tuple[int, bool], list[BlockAblation]] = {}

        def run(plan: ExecutionPlan, some: Batch) -> None:
            key = (plan.workers, plan.channels_last)
            if key not in known:
                known[key] = self._made(plan)
            self._start(plan, known[key])
            for _ in self._alone([some]) if self._pool is None else self._threaded([some], self._pool):
                pass
            self.close()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return choose_execution_plan(run, self._first, self.device)

    def _parts(self, batches: Iterable[Batch]) -> Iterator[dict[str, Any]]:
        """This process's rows of each batch, a micro-batch at a time."""
        for batch in batches:
            size = size_of(batch)
            counted = {**batch, _POSITION: torch.arange(self.samples, self.samples + size)}
            own = shard_batch(counted, self.accelerator)
            self.samples += size
            yield from self._micro_batches(own or {})

    def _micro_batches(self, rows: Batch) -> Iterator[dict[str, Any]]:
        start = 0
        while rows and start < size_of(rows):
            part = slice(start, start + self.execution_plan.micro_batch)
            start = part.stop
            yield rows_of(rows, part)

    def _alone(self, batches: Iterable[Batch]) -> Iterator[Measurements]:
        for part in self._parts(batches):
            yield from self._counted(self._ablations[0], part)

    def _threaded(self, batches: Iterable[Batch], pool: ThreadPoolExecutor) -> Iterator[Measurements]:
        free: SimpleQueue[BlockAblation] = SimpleQueue()
        for ablation in self._ablations:
            free.put(ablation)

        def work(part: Batch) -> list[Measurements]:
            torch.set_num_threads(1)
            ablation = free.get()
            try:
                return self._counted(ablation, part)
            finally:
                free.put(ablation)

        threads = torch.get_num_threads()  # torch.set_num_threads in any thread is also the setting of threads to come
        waiting: deque[Future] = deque()
        try:
            for part in self._parts(batches):
                waiting.append(pool.submit(work, part))
                if len(waiting) >= 2 * len(self._ablations):  # so that memory does not grow with the data
                    yield from waiting.popleft().result()
            for future in waiting:
                yield from future.result()
        finally:
            torch.set_num_threads(threads)

    def _counted(self, ablation: BlockAblation, part: Batch) -> list[Measurements]:
        """Measures a part; where memory does not do its halves, and those to come are as small."""
        rows = to_device({key: value for key, value in part.items() if key != _POSITION}, self.device)
        size = size_of(rows)
        try:
            return [replace(self._on(ablation, rows), positions=part[_POSITION])]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        half = (size + 1) // 2  # behind the handler: its traceback holds the tensors
        self.execution_plan = self.execution_plan.model_copy(update={"micro_batch": half})
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        halves = (rows_of(part, slice(0, half)), rows_of(part, slice(half, size)))
        return [found for one in halves for found in self._counted(ablation, one)]

    def _on(self, ablation: BlockAblation, rows: Batch) -> Measurements:
        with self._arithmetic():
            return ablation.run(_arranged(rows, self.execution_plan))

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        # Both are settings of a thread, and this may be any.
        with torch.no_grad(), torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            yield

    @contextmanager
    def _working(self) -> Iterator[None]:
        with computing_in_place(self.stack.model, self.reference), exact_float32(self._autocast is None):
            yield


def _arranged(rows: Batch, plan: ExecutionPlan) -> dict[str, Any]:
    if not plan.channels_last:
        return dict(rows)
    return {
        key: value.contiguous(memory_format=torch.channels_last) if getattr(value, "ndim", 0) == 4 else value
        for key, value in rows.items()
    }
