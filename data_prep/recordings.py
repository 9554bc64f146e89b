"""What every data set is read into, and how it is cut into windows."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class PrepError(ValueError):
    """Raw files that are not what the publisher documents; the message names file and line."""


@dataclass(frozen=True)
class Source:
    """What is true of a whole data set.

    Args:
        name: Short name, also on the command line.
        title: Full name.
        sampling_rate_hz: Samples a second.
        channels: Channel names, in order.
        units: Unit of each channel, physical: "m/s^2", "rad/s".
        activities: Activity names; their order is the label index.
        licence: Terms of use.
        citation: How to cite.
        about: A sentence or two for the card.
    """

    name: str
    title: str
    sampling_rate_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    activities: tuple[str, ...]
    licence: str
    citation: str
    about: str


@dataclass(frozen=True)
class Recording:
    """One continuous recording of one activity: values [T, C] in the source's units."""

    values: np.ndarray
    activity: str
    subject: str
    trial: str


@dataclass
class Windowing:
    """Cuts recordings into windows and counts what it leaves out.

    Windows never cross a recording; what is left at the end of one is dropped.

    Args:
        source: The data set.
        window_s: Length of a window in seconds.
        overlap: Share of a window that the next one repeats, in [0, 1).
        drop: Activities to leave out.

    Raises:
        PrepError: An activity to drop does not exist, or a window or hop has no sample.
    """

    source: Source
    window_s: float
    overlap: float
    drop: tuple[str, ...] = ()
    too_short: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        unknown = [name for name in self.drop if name not in self.source.activities]
        if unknown:
            raise PrepError(f"--drop {unknown[0]}: no such activity; choose from {', '.join(self.source.activities)}.")
        if not self.activities:
            raise PrepError("every activity is dropped; keep at least one.")
        if self.size < 1 or not 0 <= self.overlap < 1:
            raise PrepError(
                f"window of {self.window_s} s with overlap {self.overlap}: the window must hold a sample at "
                f"{self.source.sampling_rate_hz} Hz and the overlap be at least 0 and less than 1."
            )

    @property
    def size(self) -> int:
        """Samples in a window."""
        return round(self.window_s * self.source.sampling_rate_hz)

    @property
    def hop(self) -> int:
        """Samples between the starts of two windows."""
        return max(1, round(self.size * (1 - self.overlap)))

    @property
    def activities(self) -> list[str]:
        """Activities that are kept, in label order."""
        return [name for name in self.source.activities if name not in self.drop]

    def rows(self, recordings: Iterable[Recording]) -> Iterator[dict[str, Any]]:
        """One row a window: input_values [T, C] float32, label, subject, trial, start_s."""
        for recording in recordings:
            if recording.activity in self.drop:
                continue
            if len(recording.values) < self.size:
                self.too_short[recording.activity] += 1
            for start in range(0, len(recording.values) - self.size + 1, self.hop):
                yield {
                    "input_values": recording.values[start : start + self.size].astype(np.float32),
                    "label": self.activities.index(recording.activity),
                    "subject": recording.subject,
                    "trial": recording.trial,
                    "start_s": start / self.source.sampling_rate_hz,
                }
