"""HarStream: samples as they come, one prediction per hop."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np

from data_prep.tables import STEPS_OF_A_RATE, is_another_rate, measured_rate_hz
from har_prune.errors import DataError
from har_prune.inference.pipeline import HarPipeline
from har_prune.inference.recording import check_values, warn_of_units
from har_prune.inference.smoothing import Activities, ForwardFilter
from har_prune.inference.windows import Stretch, Window


@dataclass(frozen=True)
class Prediction:
    """What a window shows, or that there was none.

    Args:
        start_s: When it starts, in seconds from the first sample.
        end_s: When it ends.
        label: The likeliest activity; None for a gap, and for a stretch of less than half a window.
        probability: Of that activity.
        probabilities: Of every class, [K].
    """

    start_s: float
    end_s: float
    label: str | None
    probability: float | None
    probabilities: np.ndarray | None


class HarStream:
    """A classifier of sensor windows over samples that come in chunks of any size.

    The predictions of all chunks together are, to the bit, the windows of `HarPipeline` over the whole recording, one
    at a time (`batch_size=1`). One comes as soon as its window is full: a window behind its own start, and where rates
    differ half a filter later (10 samples of the slower rate). What is held is a window and the chunk. Chunks may come
    from several threads; they count in the order in which `push` was entered.

    Args:
        pipeline: The classifier.
        sampling_rate_hz: Of the samples; None = the network's.
        units: Of the channels, in the network's order; None = the network's own.
        hop_s: Seconds between two predictions; None = what the network's record says.
        activities: How activities follow each other: probabilities are then those of the forward filter, which knows
            the windows so far and no later one. None = each window by itself.
        mirror: Whether the device is on the other wrist, as in `HarPipeline`.

    Raises:
        DataError: A hop, a rate or a number of activities that does not fit.
        CheckpointError: A unit does not convert.
    """

    def __init__(
        self,
        pipeline: HarPipeline,
        sampling_rate_hz: float | None = None,
        *,
        units: Sequence[str] | None = None,
        hop_s: float | None = None,
        activities: Activities | None = None,
        mirror: bool = False,
    ):
        self.pipeline, self._factors = pipeline, pipeline.factors_of(units, mirror=mirror)
        rate = pipeline.rate if sampling_rate_hz is None else sampling_rate_hz
        if not 0 < rate < float("inf"):
            raise DataError(f"sampling_rate_hz={rate}: must be above 0.")
        if activities is not None:
            activities.check(len(pipeline.labels))
        self._rate, self._clock = rate, np.empty(0)  # times of the first samples
        self._cutter = pipeline.cutter(rate, hop_s)
        self._filter = ForwardFilter(activities, pipeline.share_of(self._cutter.hop)) if activities else None
        self._before_s = 0.0
        self._timed: bool | None = None
        self._ended = self._looked_at = False
        self._lock = Lock()

    def push(self, samples: np.ndarray, times_s: np.ndarray | None = None) -> list[Prediction]:
        """The predictions that these samples complete, in order of time.

        Args:
            samples: [n, C] in the network's order of channels, NaN where nothing was measured; n may be 0.
            times_s: When each was taken, [n], in seconds: in every chunk or in none.

        Raises:
            DataError: Another number of channels, infinity, times that go back or are those of another rate, or the
                stream has ended. What was given is then not taken.
        """
        samples = np.asarray(samples, dtype=np.float64)
        channels = len(self.pipeline.facts["channels"])
        if samples.ndim != 2 or samples.shape[1] != channels:
            raise DataError(
                f"samples [n, {channels}] are wanted (got {list(samples.shape)}): channels "
                f"{', '.join(self.pipeline.facts['channels'])}."
            )
        check_values(samples, "the chunk")
        times = None if times_s is None else np.asarray(times_s, dtype=np.float64)
        if times is not None and times.shape != samples.shape[:1]:
            raise DataError(f"{len(samples)} samples have times of shape {times.shape}: give one for each.")
        with self._lock:
            if self._ended:
                raise DataError("this stream has ended: make another.")
            if not len(samples):
                return []
            if self._timed not in (None, times is not None):
                raise DataError("times come in every chunk or in none.")
            clock = self._clock if times is None else np.append(self._clock, times)[: STEPS_OF_A_RATE + 1]
            if len(clock) > STEPS_OF_A_RATE and is_another_rate(measured := measured_rate_hz(clock), self._rate):
                raise DataError(
                    f"by their times there are {measured:g} samples a second, and the stream expects {self._rate:g}: "
                    "times are in seconds; where they are, give sampling_rate_hz."
                )
            found = self._predicted(self._cutter.push(samples, times))
            self._clock = clock
            self._timed = times is not None
            return found

    def finish(self) -> list[Prediction]:
        """The rest, where the stream stops: a last window that ends with it."""
        with self._lock:
            if self._ended:
                return []
            self._ended = True
            return self._predicted(self._cutter.finish())

    def _predicted(self, parts: Iterable[Window | Stretch]) -> list[Prediction]:
        found = []
        for part in parts:
            if isinstance(part, Window):
                found.append(self._of(part))
                continue
            if self._filter is not None:
                self._filter.forget()
            if not part.looked_at:
                found.append(Prediction(part.start_s, part.end_s, None, None, None))
        return found

    def _of(self, window: Window) -> Prediction:
        samples = window.samples * self._factors
        if not self._looked_at:
            self._looked_at = True
            warn_of_units(samples, self.pipeline.facts)
        chances = self.pipeline.probabilities([samples])[0]
        if self._filter is not None:
            chances = self._filter.step(chances, max(window.start_s - self._before_s, 0.0))
            self._before_s = window.start_s
        best = int(chances.argmax())
        return Prediction(window.start_s, window.end_s, self.pipeline.labels[best], float(chances[best]), chances)
