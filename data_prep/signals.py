"""What is done to samples of any data set: gaps filled or cut at, and another sampling rate."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
from scipy.signal import firwin, resample_poly

from data_prep.errors import PrepError

LOBES = 10  # of a low-pass filter to each side
STANDARD_GRAVITY = 9.80665  # m/s^2
UNITS = {  # a unit: the one it is written in, and its size in that
    "m/s^2": ("m/s^2", 1.0),
    "g": ("m/s^2", STANDARD_GRAVITY),
    "mg": ("m/s^2", STANDARD_GRAVITY / 1000),
    "rad/s": ("rad/s", 1.0),
    "deg/s": ("rad/s", float(np.pi / 180)),
}


def whole_stretches(values: np.ndarray, sampling_rate_hz: float, max_gap_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """Stretches of a recording without missing samples.

    Samples with NaN in a channel are missing. Gaps of at most `max_gap_s` are filled on a straight line, channel by
    channel; at longer ones, and at the ends, the recording is cut.

    Args:
        values: Samples, [T, C].
        sampling_rate_hz: Samples a second.
        max_gap_s: Longest gap that is filled, in seconds.

    Yields:
        (first sample, values [t, C]) of each stretch, in order.
    """
    longest = int(max_gap_s * sampling_rate_hz)
    missing = np.isnan(values)
    usable = np.ones(len(values), dtype=bool)
    filled = values.astype(np.float64)
    for channel in range(values.shape[1]):
        for start, stop in runs_of(missing[:, channel]):
            if start == 0 or stop == len(values) or stop - start > longest:
                usable[start:stop] = False
            else:
                ends = [start - 1, stop]
                filled[start:stop, channel] = np.interp(range(start, stop), ends, filled[ends, channel])
    for start, stop in runs_of(usable):
        yield start, filled[start:stop]


def runs_of(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, one behind the last) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def resampled(values: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    """Samples at another rate, [T, C], through a polyphase low-pass filter.

    Raises:
        PrepError: The rates have no small ratio.
    """
    if from_hz == to_hz or not len(values):
        return values
    ratio = Fraction(to_hz).limit_denominator(1000) / Fraction(from_hz).limit_denominator(1000)
    if max(ratio.numerator, ratio.denominator) > 1000:
        raise PrepError(f"from {from_hz:g} to {to_hz:g} Hz is no ratio of small numbers: choose another rate.")
    # "line" takes the trend out first: gravity would ring at the ends.
    return resample_poly(values, ratio.numerator, ratio.denominator, axis=0, padtype="line")


def low_pass(times: float) -> np.ndarray:
    """The filter of scipy.signal.resample_poly for a rate so many times lower, [2 LOBES times + 1]."""
    return firwin(2 * round(LOBES * times) + 1, 1 / times, window=("kaiser", 5.0))


def same_label(labels: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, one behind the last) of every run of equal labels: a window must not cross a change of activity."""
    if len(labels):
        edges = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
        yield from pairwise(edges)
