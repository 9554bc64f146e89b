"""Choosing micro-batch, threads and memory format by timing the work on a few examples."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from har_prune.runtime.batches import rows_of, size_of
from har_prune.scoring.config import ExecutionPlan

_MOST_EXAMPLES = 32  # timed at once on a CPU: with the rows of all candidates caches decide, and more is never faster
_SMALLEST = 4
_USUAL = 16


def choose_execution_plan(
    run: Callable[[ExecutionPlan, Mapping[str, Any]], None],
    batch: Mapping[str, Any],
    device: torch.device,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> ExecutionPlan:
    """The fastest of the execution plans that differ in one respect at a time: memory format, micro-batch, threads.

    Args:
        run: Measures a batch under an execution plan and returns when it is done.
        batch: A typical batch, on the device.
        device: Where the work is done.
        clock: Seconds since some moment.

    Returns:
        The plan. Timings decide, so two machines, and seldom two runs on one, may choose differently.
    """
    size = size_of(batch)
    if size == 1:
        return ExecutionPlan(micro_batch=_USUAL)  # one example says nothing about many
    on_cpu = device.type == "cpu"
    images = any(isinstance(v, Tensor) and v.ndim == 4 and v.is_floating_point() for v in batch.values())
    threads = torch.get_num_threads() if on_cpu else 1
    largest = min(size, _MOST_EXAMPLES) if on_cpu else size
    examples = rows_of(batch, slice(largest))

    def fastest(plans: list[ExecutionPlan]) -> ExecutionPlan:
        seconds = []
        for plan in plans if len(plans) > 1 else ():
            run(plan, rows_of(examples, slice(plan.micro_batch * plan.workers)))  # warm: the first forward allocates
            start = clock()
            run(plan, examples)
            seconds.append(clock() - start)
        return plans[seconds.index(min(seconds))] if seconds else plans[0]

    usual = min(_USUAL, largest) if on_cpu else largest
    sizes = {2**power for power in range(int(math.log2(_SMALLEST)), 20)} | {usual}
    best = fastest(
        [ExecutionPlan(micro_batch=usual, channels_last=last) for last in ((True, False) if images else (False,))]
    )
    best = fastest([best.model_copy(update={"micro_batch": n}) for n in sorted(sizes) if n <= largest] or [best])
    if threads == 1 or largest < threads:
        return best
    own = min(best.micro_batch, largest // threads)
    return fastest([best, best.model_copy(update={"workers": threads, "micro_batch": own})])
