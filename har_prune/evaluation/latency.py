"""Wall-clock time of a forward: of one network, or of two in turns, so that their ratio means something."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from scipy.stats import binom
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.runtime.batches import inputs_for, size_of

# A p90 above this many medians says that something else ran on the machine: 758 ms was seen for 0.7.
_STEADY = 1.5
_PATIENCE = 10


@dataclass(frozen=True)
class Latency:
    """Time of one forward in milliseconds.

    Args:
        median_ms: Median over the counted forwards.
        p90_ms: 90th percentile of the same; this and what follows is None in records of 0.1.
        batch: Examples in a forward.
        threads: CPU threads it ran on.
        device: Where it ran, e.g. "cpu" or "cuda:0".
        dtype: Type of the weights, e.g. "float32".
        original_ms: Median of the unpruned network, measured in turns with this one; None where there was none.
        interval_ms: 99 % interval of the median, by order statistics; None in records before 0.2.
    """

    median_ms: float
    p90_ms: float | None
    batch: int
    threads: int | None
    device: str | None
    dtype: str | None
    original_ms: float | None = None
    interval_ms: tuple[float, float] | None = None

    @property
    def lower_ms(self) -> float:
        """Lower end of the interval of the median."""
        return self.median_ms if self.interval_ms is None else self.interval_ms[0]

    @property
    def upper_ms(self) -> float:
        """Upper end of the interval of the median: a budget above it holds."""
        return self.median_ms if self.interval_ms is None else self.interval_ms[1]

    def is_undecided(self, budget_ms: float) -> bool:
        """Whether a budget lies inside the interval of the median, so that nothing says whether it holds."""
        return self.lower_ms <= budget_ms < self.upper_ms

    @property
    def is_steady(self) -> bool:
        """Whether the spread is small enough for the median to mean something."""
        return self.p90_ms is None or self.p90_ms <= _STEADY * self.median_ms

    @property
    def speedup(self) -> float | None:
        """How many times faster than the unpruned network, measured in the same minute."""
        return None if self.original_ms is None else self.original_ms / self.median_ms


@torch.no_grad()
def measure_latency(
    model: PreTrainedModel,
    example_inputs: dict[str, Tensor],
    *,
    original: PreTrainedModel | None = None,
    threads: int | None = None,
    warmup: int = 5,
    repeats: int = 30,
    budget_ms: float | None = None,
) -> Latency:
    """Measures the time of one forward in eval mode.

    Args:
        model: The network, on the device to measure.
        example_inputs: Model inputs, [B, ...] each; B = 1 is what a watch sees.
        original: A network to compare with; the two take turns.
        threads: CPU threads; None = as many as are set.
        warmup: Forwards that are not counted.
        repeats: Forwards that are; at least 2.
        budget_ms: Where given, up to ten times as many are counted, until the interval of the median lies on one side.

    Raises:
        ValueError: Fewer than 2 repeats.
    """
    if repeats < 2:
        raise ValueError(f"repeats={repeats}: at least 2, for a median and a spread.")
    networks = [model] if original is None or original is model else [model, original]
    times: list[list[float]] = [[] for _ in networks]
    before = [network.training for network in networks]
    with _on_threads(threads):
        used = torch.get_num_threads()
        looks = {repeats * 2**doubled for doubled in range(4)}  # few, and at 99 %: each look may err
        try:
            for number in range(warmup + repeats * (1 if budget_ms is None else _PATIENCE)):
                for network, found in zip(networks, times, strict=True):
                    seconds = _one_forward(network.eval(), example_inputs)
                    if number >= warmup:
                        found.append(1000 * seconds)
                if budget_ms is not None and len(times[0]) in looks:
                    low, high = _interval(times[0])
                    if not low <= budget_ms < high:
                        break
        finally:
            for network, was_training in zip(networks, before, strict=True):
                network.train(was_training)
    return Latency(
        median_ms=statistics.median(times[0]),
        p90_ms=statistics.quantiles(times[0], n=10)[-1],
        batch=size_of(example_inputs),
        threads=used,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        original_ms=None if original is None else statistics.median(times[-1]),
        interval_ms=_interval(times[0]),
    )


def _interval(times: list[float]) -> tuple[float, float]:
    """99 % interval of the median: half of all forwards are faster, so ranks around it are binomial."""
    ordered, low = sorted(times), int(binom.ppf(0.005, len(times), 0.5))
    return ordered[max(low - 1, 0)], ordered[min(len(times) - low, len(times) - 1)]


def _one_forward(model: PreTrainedModel, example_inputs: dict[str, Tensor]) -> float:
    inputs = inputs_for(model, example_inputs)
    start = time.perf_counter()
    model(**inputs)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - start


@contextmanager
def _on_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        yield
    finally:
        torch.set_num_threads(before)
