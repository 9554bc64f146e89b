"""What every data set is read into, and how it is cut into windows."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import PrepError
from data_prep.signals import resampled, whole_stretches


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is true of a whole data set, or of one configuration of it.

    Args:
        name: Short name, also on the command line.
        title: Full name.
        sampling_rate_hz: Samples a second.
        channels: Channel names, in order.
        units: Unit of each channel, physical: "m/s^2", "rad/s".
        activities: Activity names; their order is the label index.
        subjects: Who was recorded.
        license: Terms of use.
        citation: How to cite.
        url: Where the publisher offers it.
        layout: What the folder, or the archive, must hold.
        about: A sentence or two for the card: sensors, their places, what was converted.
        window_s: Usual length of a window in seconds.
        overlap: Usual share of a window that the next one repeats.
        fixed_windows: Whether the publisher cut the windows, so that no others can be had.
        unchecked: NAME of channels NAME_x, NAME_y, NAME_z whose length may be any, such as acceleration without
            gravity; `plausibility` looks at all others.
    """

    name: str
    title: str
    sampling_rate_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    activities: tuple[str, ...]
    subjects: str
    license: str
    citation: str
    url: str
    layout: str
    about: str
    window_s: float = 5.0
    overlap: float = 0.5
    fixed_windows: bool = False
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recording:
    """One continuous recording of one activity.

    Args:
        values: Samples [T, C] in the data set's units; NaN where a sensor gave nothing.
        activity: One of the data set's.
        subject: Who.
        trial: Name of the continuous recording this is from.
        start_s: When in the trial it starts.
        split: The publisher's own split, "train" where there is none.
        left_out: Whether it was sampled at another rate than the data set: it is counted, and no window is cut of it.
        repaired: How many samples were dropped, averaged or given another time because of their stamps, by what was;
            a recording without samples may say it alone.
        not_worn: Samples at which the device was not worn, [T]; None = nobody looked.
        clock_s: When it starts in seconds since 1970, where no other may have recorded the subject meanwhile; None =
            that is not looked at.
        rate_hz: Samples a second; None = the data set's.
    """

    values: np.ndarray
    activity: str
    subject: str
    trial: str
    start_s: float = 0.0
    split: str = "train"
    left_out: bool = False
    repaired: Mapping[str, int] = field(default_factory=dict)
    not_worn: np.ndarray | None = None
    clock_s: float | None = None
    rate_hz: float | None = None


@dataclass(frozen=True)
class Reader:
    """Reads a data set: what is true of its configurations, and how its files are read.

    Args:
        infos: Its configurations; most have one.
        parts: (folder, info) -> independent pieces, files mostly; each goes to one process.
        read: (part, info) -> its recordings, in order.
    """

    infos: tuple[DatasetInfo, ...]
    parts: Callable[[Path, DatasetInfo], list[Any]]
    read: Callable[[Any, DatasetInfo], Iterator[Recording]]


@dataclass
class Windowing:
    """Cuts recordings into windows and counts what it leaves out.

    Windows never cross a recording, nor a gap that is too long to fill; what is left at the end is dropped.

    Args:
        info: The data set.
        window_s: Length of a window in seconds; None = the data set's usual one.
        overlap: Share of a window that the next one repeats, in [0, 1); None = the data set's usual one.
        drop: Activities to leave out.
        rate_hz: Sampling rate of the windows; None = that of the data set.
        max_gap_s: Longest gap that is filled on a straight line, in seconds.
        worn: Whether recordings say when the device was not worn: windows then have a column `worn`; none is left out.

    Attributes:
        too_short: For each activity the number of recordings shorter than a window.
        gaps: Number of cuts made at gaps.
        other_rate: For each subject the number of recordings left out because of their rate.
        repaired: Samples whose time stamps were repaired, and recordings that lack a channel, by what it was.
        samples: Samples that windows could be cut from.
        filled: For each channel, how many of those were missing and are on a straight line between others.
        spans: Subject, trial, start and end in seconds since 1970 of each recording whose clock is looked at.

    Raises:
        PrepError: An activity to drop does not exist, or a window or hop has no sample.
    """

    info: DatasetInfo
    window_s: float | None = None
    overlap: float | None = None
    drop: tuple[str, ...] = ()
    rate_hz: float | None = None
    max_gap_s: float = 0.25
    worn: bool = False
    too_short: Counter = field(default_factory=Counter)
    gaps: int = 0
    other_rate: Counter = field(default_factory=Counter)
    repaired: Counter = field(default_factory=Counter)
    samples: int = 0
    filled: Counter = field(default_factory=Counter)
    spans: list[tuple[str, str, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        info = self.info
        if info.fixed_windows and (
            self.window_s not in (None, info.window_s)
            or self.overlap not in (None, info.overlap)
            or self.rate_hz not in (None, info.sampling_rate_hz)
        ):
            raise PrepError(
                f"{info.name} is published as windows of {info.window_s} s with overlap {info.overlap}: leave "
                "--window-s, --overlap and --sampling-rate-hz out."
            )
        self.window_s = info.window_s if self.window_s is None else self.window_s
        self.overlap = info.overlap if self.overlap is None else self.overlap
        self.rate_hz = info.sampling_rate_hz if self.rate_hz is None else self.rate_hz
        unknown = [name for name in self.drop if name not in info.activities]
        if unknown:
            raise PrepError(f"--drop {unknown[0]}: no such activity; choose from {', '.join(info.activities)}.")
        if not self.activities:
            raise PrepError("every activity is dropped; keep at least one.")
        finite = all(map(math.isfinite, (self.rate_hz, self.window_s, self.overlap, self.max_gap_s)))
        if not finite or self.rate_hz <= 0 or self.size < 1 or not 0 <= self.overlap < 1 or self.max_gap_s < 0:
            raise PrepError(
                f"window of {self.window_s} s with overlap {self.overlap} at {self.rate_hz} Hz: the rate must be "
                "above 0, the window hold a sample, the overlap be at least 0 and less than 1, and a gap at least 0."
            )

    @property
    def rate(self) -> float:
        """Samples a second."""
        return float(self.rate_hz or self.info.sampling_rate_hz)

    @property
    def size(self) -> int:
        """Samples in a window."""
        return round((self.window_s or 0) * self.rate)

    @property
    def hop(self) -> int:
        """Samples between the starts of two windows."""
        return max(1, round(self.size * (1 - (self.overlap or 0))))

    @property
    def activities(self) -> list[str]:
        """Activities that are kept, in label order."""
        return [name for name in self.info.activities if name not in self.drop]

    def rows(self, recordings: Iterable[Recording]) -> Iterator[dict[str, Any]]:
        """One row a window: input_values [T, C] float32, label, subject, trial, start_s, worn, the split it is in."""
        for recording in recordings:
            self.repaired.update(recording.repaired)
            if not len(recording.values):
                continue
            rate_hz = self._rate_of(recording)
            if recording.clock_s is not None:
                end_s = recording.clock_s + len(recording.values) / rate_hz
                self.spans.append((recording.subject, recording.trial, recording.clock_s, end_s))
            if recording.activity in self.drop:
                continue
            if recording.left_out:
                self.other_rate[recording.subject] += 1
                continue
            windows = 0
            stretches = list(whole_stretches(recording.values, rate_hz, self.max_gap_s))
            self.gaps += max(0, len(stretches) - 1)
            for first, stretch in stretches:
                self.samples += len(stretch)
                made_up = np.isnan(recording.values[first : first + len(stretch)]).sum(axis=0).tolist()
                self.filled.update(dict(zip(self.info.channels, made_up, strict=True)))
                values = resampled(stretch, rate_hz, self.rate)
                begin = recording.start_s + first / rate_hz
                for start in range(0, len(values) - self.size + 1, self.hop):
                    windows += 1
                    yield {
                        "input_values": values[start : start + self.size].astype(np.float32),
                        "label": self.activities.index(recording.activity),
                        "subject": recording.subject,
                        "trial": recording.trial,
                        "start_s": begin + start / self.rate,
                        "split": recording.split,
                        **(self._worn(recording, first, start) if self.worn else {}),
                    }
            if not windows and (lacking := self._lacking(recording)) is not None:
                self.repaired[f"recordings of {recording.subject} lack {lacking}: no window"] += 1
            else:
                self.too_short[recording.activity] += not windows

    def _rate_of(self, recording: Recording) -> float:
        return recording.rate_hz or self.info.sampling_rate_hz

    def _lacking(self, recording: Recording) -> str | None:
        """The channel that a recording long enough for a window lacks most of the time that others are measured in."""
        missing = np.isnan(recording.values)
        some = missing[~missing.all(axis=1)]
        if len(some) < self.size * self._rate_of(recording) / self.rate:
            return None
        worst = int(some.sum(axis=0).argmax())
        return self.info.channels[worst] if 2 * some[:, worst].sum() > len(some) else None

    def _worn(self, recording: Recording, first: int, start: int) -> dict[str, bool]:
        """Of the window from a sample on, of the stretch that begins with the recording's `first`."""
        if recording.not_worn is None:
            return {"worn": True}
        per = self._rate_of(recording) / self.rate
        begin, end = first + math.floor(start * per), first + math.ceil((start + self.size) * per)
        return {"worn": not recording.not_worn[begin:end].any()}


_FORMER = {
    "DataSet": (Reader, "its field sources is now infos"),
    "Source": (DatasetInfo, "its field licence is now license"),
}


def __getattr__(name: str) -> type:
    """Names of before, for one release."""
    if name not in _FORMER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    now, changed = _FORMER[name]
    warnings.warn(f"{name} is called {now.__name__}, and {changed}.", DeprecationWarning, stacklevel=2)
    return now
