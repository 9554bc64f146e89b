"""When a device lay somewhere instead of being worn, as far as acceleration tells.

Source: van Hees et al. 2013, "Separating movement and gravity components in an acceleration signal", PLoS ONE 8(4):
e61691: a span in which on two axes the deviation is below 13 mg, or the range below 50 mg.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from data_prep.signals import STANDARD_GRAVITY

_DEVIATION, _RANGE = 0.013 * STANDARD_GRAVITY, 0.05 * STANDARD_GRAVITY  # m/s^2
_AXES = 2


class Rest:
    """Spans without motion in one recording, which comes a piece after the other.

    Time is counted in parts of about a minute, and a span is as many parts as it has minutes. Parts in which nothing
    was recorded say nothing; half of a span at least must say something.

    Args:
        minutes: Length of a span.
    """

    def __init__(self, minutes: float):
        self.count = max(1, round(minutes))
        self.length = 60 * minutes / self.count
        self._begin = 0.0
        self._origin = np.zeros(3)  # squares of large numbers would lose what is small
        self._parts: dict[int, np.ndarray] = {}  # of each axis: samples, sum, sum of squares, smallest, largest

    def add(self, times: np.ndarray, values: np.ndarray) -> None:
        """Another piece.

        Args:
            times: Seconds, ascending, [T].
            values: Acceleration of three axes in m/s^2, [T, 3]; NaN where nothing was measured.
        """
        measured = ~np.isnan(values).any(1)
        times, values = times[measured], values[measured]
        if not len(times):
            return
        if not self._parts:
            self._begin, self._origin = float(times[0]), values[0]
        part = ((times - self._begin) // self.length).astype(int)
        centred = values - self._origin
        for number in np.unique(part).tolist():
            some = centred[part == number]
            new = np.stack([np.full(3, len(some)), some.sum(0), np.square(some).sum(0), some.min(0), some.max(0)])
            if number in self._parts:
                old = self._parts[number]
                new = np.vstack([old[:3] + new[:3], np.minimum(old[3], new[3]), np.maximum(old[4], new[4])])
            self._parts[number] = new

    def spans(self) -> np.ndarray:
        """Start and end in seconds of each part that lies in a span without motion, [N, 2]."""
        last = max(self._parts, default=-1) + 1
        if last < self.count:
            return np.empty((0, 2))
        table = np.zeros((last, 5, 3))
        table[:, 3], table[:, 4] = np.inf, -np.inf
        for number, figures in self._parts.items():
            table[number] = figures
        samples, sums, squares, low, high = np.moveaxis(sliding_window_view(table, self.count, axis=0), 1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = squares.sum(-1) / samples.sum(-1) - np.square(sums.sum(-1) / samples.sum(-1))
            small = (variance < _DEVIATION**2) | (high.max(-1) - low.min(-1) < _RANGE)
        known = (samples[:, 0] > 0).sum(-1) >= self.count / 2
        found = np.zeros(last, bool)
        for start in np.flatnonzero((small.sum(1) >= _AXES) & known):
            found[start : start + self.count] = True
        starts = self._begin + self.length * np.flatnonzero(found)
        return np.stack([starts, starts + self.length], axis=1)


def inside(times: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Which of some times [T] lie in spans [N, 2] that ascend and do not overlap."""
    if not len(spans):
        return np.zeros(len(times), bool)
    place = np.searchsorted(spans[:, 0], times, side="right") - 1
    return (place >= 0) & (times < spans[place.clip(min=0), 1])
