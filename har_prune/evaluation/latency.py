"""Wall-clock time of a forward."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class LatencyStats:
    """Time of one forward in milliseconds, over `repeats` forwards after a warm-up."""

    median_ms: float
    p90_ms: float
    batch_size: int
    repeats: int
    threads: int
    device: str


@torch.no_grad()
def measure_latency(
    model: PreTrainedModel, example_inputs: dict[str, Tensor], *, warmup: int = 5, repeats: int = 30
) -> LatencyStats:
    """Measures the time of one forward in eval mode.

    Args:
        model: The network, on the device to measure.
        example_inputs: Model inputs, [B, ...] each; B = 1 is what a watch sees.
        warmup: Forwards that are not counted.
        repeats: Forwards that are; at least 2.
    """
    if repeats < 2:
        raise ValueError(f"repeats={repeats}: at least 2, for a median and a spread.")
    inputs = {name: value.to(model.device) for name, value in example_inputs.items()}
    was_training = model.training
    model.eval()
    times = []
    try:
        for number in range(warmup + repeats):
            start = time.perf_counter()
            model(**inputs)
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            if number >= warmup:
                times.append(1000 * (time.perf_counter() - start))
    finally:
        model.train(was_training)
    return LatencyStats(
        median_ms=statistics.median(times),
        p90_ms=statistics.quantiles(times, n=10)[-1],
        batch_size=len(next(iter(inputs.values()))),
        repeats=repeats,
        threads=torch.get_num_threads(),
        device=str(model.device),
    )
