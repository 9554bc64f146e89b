"""Samples as they come -> windows at the network's rate, and the gaps between them: whatever the chunks are."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from scipy.signal import upfirdn

from data_prep.signals import LOBES, low_pass, runs_of
from data_prep.tables import between
from har_prune.errors import DataError

MAX_GAP_S = 0.25  # filled on a straight line, as data_prep does
_LARGEST_RATIO = 1000
_ON_THE_GRID = 1e-3  # of a step, as data_prep.tables has it
_BEHIND = 1.5  # steps of the grid between neighbours: what is known that far on changes nothing any more
_LONGEST_PAUSE_S = 30 * 86400.0  # behind a longer one a clock was set
_ROWS = 100_000  # of samples that go through at a time


@dataclass(frozen=True)
class Window:
    """A window of samples.

    Args:
        place: Its first sample in its stretch, at the network's rate.
        start_s: Seconds from the first sample of the recording.
        end_s: Where its samples end.
        samples: [t, C], t below the network's window where the stretch is shorter.
    """

    place: int
    start_s: float
    end_s: float
    samples: np.ndarray


@dataclass(frozen=True)
class Stretch:
    """A stretch of time that is over.

    Args:
        start_s: Seconds from the first sample of the recording.
        end_s: Where it ends.
        looked_at: Whether there were windows of it; there is too little data to tell where not.
    """

    start_s: float
    end_s: float
    looked_at: bool


class WindowCutter:
    """Cuts a recording that comes in chunks into windows; what it holds does not grow with the recording.

    The windows of a stretch start every hop, the last one ends with it. Gaps of up to 0.25 s are filled on a straight
    line, at longer ones a stretch ends; one of less than half a window is too short for any window.

    Args:
        given_hz: Rate of the samples.
        rate_hz: Rate of the network.
        size: Samples of a window, at the network's rate.
        hop: Samples between the starts of two.

    Raises:
        DataError: The rates have no small ratio.
    """

    def __init__(self, given_hz: float, rate_hz: float, size: int, hop: int):
        self.given_hz, self.rate_hz, self.size, self.hop = given_hz, rate_hz, size, hop
        self._gaps, self._grid = _Filler(int(MAX_GAP_S * given_hz)), _Grid(given_hz)
        self._stretch: _Whole | None = None
        self._place = 0  # of the next sample that is settled
        self._told = 0  # up to here windows or gaps account for every sample

    def push(self, samples: np.ndarray, times_s: np.ndarray | None = None) -> Iterator[Window | Stretch]:
        """What is known now that was not before.

        Args:
            samples: [n, C], NaN where nothing was measured.
            times_s: When each was taken, [n], forward only; None = they follow each other.

        Raises:
            DataError: A time repeats, goes back, or jumps by a month.
        """
        if times_s is not None:
            self._grid.check(times_s)
        for first in range(0, len(samples), _ROWS):
            some = samples[first : first + _ROWS]
            if times_s is None:
                yield from self._regular(some)
                continue
            for skipped, part in self._grid.push(some, times_s[first : first + _ROWS]):
                yield from self._skip(skipped)
                yield from self._regular(part)

    def finish(self) -> Iterator[Window | Stretch]:
        """What is left at the end of the recording."""
        for part in self._grid.finish():
            yield from self._regular(part)
        yield from self._settled(*self._gaps.finish())
        yield from self._end_stretch()
        if self._place > self._told:
            yield Stretch(self._told / self.given_hz, self._place / self.given_hz, looked_at=False)

    def _regular(self, samples: np.ndarray) -> Iterator[Window | Stretch]:
        yield from self._settled(*self._gaps.push(samples))

    def _skip(self, count: int) -> Iterator[Window | Stretch]:
        """A gap of samples that were never there, however long."""
        if count:
            yield from self._settled(*self._gaps.finish())
            yield from self._end_stretch()
            self._place += count

    def _settled(self, samples: np.ndarray, usable: np.ndarray) -> Iterator[Window | Stretch]:
        edges = [0, *(np.flatnonzero(usable[1:] != usable[:-1]) + 1).tolist(), len(usable)]
        for first, stop in pairwise(edges):
            if stop == first:
                continue
            if not usable[first]:
                yield from self._end_stretch()
                self._place += stop - first
                continue
            if self._stretch is None:
                if self._place > self._told:
                    yield Stretch(self._told / self.given_hz, self._place / self.given_hz, looked_at=False)
                    self._told = self._place
                self._stretch = _Whole(self, self._place)
            self._place += stop - first
            yield from self._stretch.push(samples[first:stop])

    def _end_stretch(self) -> Iterator[Window | Stretch]:
        if self._stretch is not None:
            yield from self._stretch.finish()
            self._told, self._stretch = self._place, None


class _Whole:
    """Windows of samples without a gap."""

    def __init__(self, cutter: WindowCutter, begin: int):
        self.size, self.hop, self.rate_hz, self.given_hz = cutter.size, cutter.hop, cutter.rate_hz, cutter.given_hz
        self.begin, self.begin_s, self._given, self._next = begin, begin / cutter.given_hz, 0, 0
        self._resampler = Resampler(cutter.given_hz, cutter.rate_hz)
        self._kept: np.ndarray | None = None  # samples at the network's rate, from `_first` on
        self._first = 0

    def push(self, samples: np.ndarray) -> Iterator[Window]:
        self._given += len(samples)
        yield from self._cut(self._resampler.push(samples))

    def finish(self) -> Iterator[Window | Stretch]:
        yield from self._cut(self._resampler.finish())
        length = self._first + (0 if self._kept is None else len(self._kept))
        looked_at = length >= self.size / 2
        last = max(0, length - self.size)
        if self._kept is not None and looked_at and self._next - self.hop != last:
            yield self._window(last, self._kept[last - self._first :])
        yield Stretch(self.begin_s, (self.begin + self._given) / self.given_hz, looked_at)

    def _cut(self, samples: np.ndarray) -> Iterator[Window]:
        if not len(samples):
            return
        kept = samples if self._kept is None else np.concatenate([self._kept, samples])
        length = self._first + len(kept)
        while self._next + self.size <= length:
            begin = self._next - self._first
            yield self._window(self._next, kept[begin : begin + self.size])
            self._next += self.hop
        # The last window ends with the stretch, wherever that will be.
        first = max(self._first, min(self._next, length - self.size))
        self._kept, self._first = kept[first - self._first :].copy(), first

    def _window(self, place: int, samples: np.ndarray) -> Window:
        start_s = self.begin_s + place / self.rate_hz
        return Window(place, start_s, start_s + len(samples) / self.rate_hz, samples)


class _Filler:
    """Fills short gaps; of every other sample it says that it cannot be used."""

    def __init__(self, longest: int):
        self.longest = longest
        self._kept: np.ndarray | None = None  # the last settled sample, and what is not settled yet
        self._known = 0  # of them settled: 0 or 1

    def push(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(samples [n, C], whether each can be used [n]) of all that is settled now."""
        given = samples.astype(np.float64)
        kept = given if self._kept is None else np.concatenate([self._kept, given])
        return self._settle(kept, at_end=False)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The rest: a gap at the end is one, however short. What comes next begins anew."""
        kept = np.empty((0, 0)) if self._kept is None else self._kept
        found = self._settle(kept, at_end=True)
        self._kept, self._known = None, 0
        return found

    def _settle(self, kept: np.ndarray, *, at_end: bool) -> tuple[np.ndarray, np.ndarray]:
        missing = np.isnan(kept)
        usable, settled = np.ones(len(kept), bool), len(kept)
        for channel in range(kept.shape[1]):
            for start, stop in runs_of(missing[:, channel]):
                short = stop - start <= self.longest
                if start > 0 and stop < len(kept) and short:
                    ends = [start - 1, stop]
                    kept[start:stop, channel] = np.interp(range(start, stop), ends, kept[ends, channel])
                elif start > 0 and stop == len(kept) and short and not at_end:
                    settled = min(settled, start)
                else:
                    usable[start:stop] = False
        first, self._known = self._known, int(settled > 0)
        self._kept = kept[settled - self._known :].copy()
        return kept[first:settled], usable[first:settled]


class _Grid:
    """Samples with times -> a regular grid, as `data_prep.tables.on_grid` has it, a piece at a time."""

    def __init__(self, rate_hz: float):
        self.rate_hz = rate_hz
        self._zero: float | None = None
        self._last, self._next = -math.inf, 0
        self._places, self._values = np.empty(0), np.empty((0, 0))

    def check(self, times_s: np.ndarray) -> None:
        """Refuses times that do not go forward, before anything of them is taken.

        Raises:
            DataError: A time is none, repeats, goes back, or jumps by a month.
        """
        if not np.isfinite(times_s).all():
            raise DataError(f"the time of sample {int(np.flatnonzero(~np.isfinite(times_s))[0])} is no time.")
        if not len(times_s):
            return
        before = np.concatenate([[self._last], times_s[:-1]])
        wrong = np.flatnonzero(~(times_s > before))
        if len(wrong):
            raise DataError(
                f"the time stamp {'repeats' if times_s[wrong[0]] == before[wrong[0]] else 'goes back'} "
                f"({before[wrong[0]]} s, then {times_s[wrong[0]]} s). Sort the samples and remove duplicates."
            )
        steps = np.diff(times_s, prepend=before[0] if math.isfinite(before[0]) else times_s[0])
        worst = int(steps.argmax())
        if steps[worst] > _LONGEST_PAUSE_S:
            raise DataError(
                f"the clock jumps by {steps[worst] / 86400:.0f} days, from {before[worst]} s to {times_s[worst]} s: "
                "it was set in between. Split the recording there."
            )

    def push(self, samples: np.ndarray, times_s: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(how many points of the grid have nothing near, the samples [n, C] behind them), in order."""
        if not len(samples):
            return
        if self._zero is None:
            self._zero = float(times_s[0])
        self._last = float(times_s[-1])
        places = (times_s - self._zero) * self.rate_hz
        # A clock that jumps a year must not fill the memory: such a pause is skipped, not written out.
        jumps = np.flatnonzero(np.diff(places, prepend=places[0]) > _ROWS).tolist()
        if len(self._places) and places[0] - self._places[-1] > _ROWS:
            jumps.insert(0, 0)
        for first, stop in zip([0, *jumps], [*jumps, len(places)], strict=True):
            if first in jumps:
                for part in self.finish():
                    yield 0, part
                skipped = math.ceil(places[first] - _ON_THE_GRID) - self._next
                self._next += skipped
                yield skipped, samples[:0]
            kept = self._values if len(self._values) else samples[:0]
            self._places = np.concatenate([self._places, places[first:stop]])
            self._values = np.concatenate([kept, samples[first:stop]])
            if len(self._places):
                yield 0, self._between(math.floor(self._places[-1] - _BEHIND))

    def finish(self) -> Iterator[np.ndarray]:
        if len(self._places):
            yield self._between(math.floor(self._places[-1] + _ON_THE_GRID))
            self._places, self._values = self._places[:0], self._values[:0]

    def _between(self, last: int) -> np.ndarray:
        grid = np.arange(self._next, last + 1)
        columns = []
        for channel in self._values.T:
            given = ~np.isnan(channel)
            columns.append(between(grid, self._places[given], channel[given]))
        self._next = max(self._next, last + 1)
        needed = self._places > self._next - 2 * _BEHIND
        self._places, self._values = self._places[needed], self._values[needed]
        return np.stack(columns, axis=1)


class Resampler:
    """Another rate for samples that come in chunks: the low-pass filter of scipy.signal.resample_poly.

    What lies in front of the first sample and behind the last counts as equal to it, and the first sample is taken out
    before filtering: the phases of the filter differ by 0.1 %, which gravity would show.

    Args:
        from_hz: Rate of the samples.
        to_hz: The other rate.

    Raises:
        DataError: The rates have no small ratio.
    """

    def __init__(self, from_hz: float, to_hz: float):
        near = [Fraction(rate).limit_denominator(_LARGEST_RATIO) for rate in (to_hz, from_hz)]
        ratio = near[0] / near[1] if near[1] else Fraction(_LARGEST_RATIO + 1)
        self._up, self._down = ratio.numerator, ratio.denominator
        if max(self._up, self._down) > _LARGEST_RATIO:
            raise DataError(f"from {from_hz:g} to {to_hz:g} Hz is no ratio of small numbers: choose another rate.")
        longer = max(self._up, self._down)
        self._half = LOBES * longer
        if longer > 1:
            self._filter = low_pass(longer) * self._up
        self._zero: np.ndarray | None = None
        self._kept, self._first = np.empty((0, 0)), 0  # samples from `_first` on
        self._made = 0  # samples of the other rate

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The samples at the other rate that are settled now, [n, C]."""
        if self._up == self._down:
            return samples
        if not len(samples):
            return samples
        if self._zero is None:
            self._zero = samples[0].copy()
            self._first = -math.ceil(self._half / self._up)
            self._kept = np.zeros((-self._first, samples.shape[1]))
        self._kept = np.concatenate([self._kept, samples - self._zero])
        given = self._first + len(self._kept)
        # Sample n is at n * down / up, and needs what lies within the filter's half.
        settled = ((given - 1) * self._up - self._half) // self._down + 1
        return self._filtered(settled)

    def finish(self) -> np.ndarray:
        """The rest, up to the end of the last sample's step."""
        if self._zero is None:
            return np.empty((0, 0))
        given = self._first + len(self._kept)
        behind = np.repeat(self._kept[-1:], math.ceil((self._half + self._up) / self._up) + 1, axis=0)
        self._kept = np.concatenate([self._kept, behind])
        return self._filtered(math.ceil(given * self._up / self._down))

    def _filtered(self, until: int) -> np.ndarray:
        if self._zero is None or until <= self._made:
            return np.empty((0, self._kept.shape[1]))
        # upfirdn gives every `down`-th point from its first sample on: begin where that is one of ours.
        reach = self._made * self._down - self._half  # first point the filter touches, in steps of the upsampled grid
        begin = max(self._first, math.ceil(reach / self._up))
        some = self._kept[begin - self._first :]
        # Output at upsampled point p of `some` is at p - half + begin * up; that of ours is made * down.
        offset = self._made * self._down + self._half - begin * self._up
        padded = np.concatenate([np.zeros(-offset % self._down), self._filter])
        found = upfirdn(padded, some, self._up, self._down, axis=0)
        start = (offset + (-offset % self._down)) // self._down
        made = found[start : start + until - self._made] + self._zero
        self._made = until
        needed = math.ceil((self._made * self._down - self._half) / self._up)
        drop = max(0, min(needed - self._first, len(self._kept)))
        self._kept, self._first = self._kept[drop:].copy(), self._first + drop
        return made
