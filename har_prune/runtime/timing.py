"""Calls timed in turns on one thread: what a machine does beside slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

_WARMUP = 5


def medians_in_turns(calls: Mapping[str, Callable[[], Any]], repeats: int = 30) -> dict[str, float]:
    """Median milliseconds of each call, by its name.

    Args:
        calls: What to time.
        repeats: How often each is counted, after five calls that are not.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(_WARMUP + repeats):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                if number >= _WARMUP:
                    times[name].append(1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(found) for name, found in times.items()}
