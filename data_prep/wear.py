"""When a device lay somewhere instead of being worn, as far as acceleration tells.

Source: van Hees et al. 2011, "Estimation of daily energy expenditure ... using a wrist-worn tri-axial accelerometer",
PLoS ONE 6(7): a span in which on two axes the deviation is below 13 mg, or the range below 50 mg.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from data_prep.signals import STANDARD_GRAVITY

_DEVIATION, _RANGE = 0.013 * STANDARD_GRAVITY, 0.05 * STANDARD_GRAVITY  # m/s^2
_AXES = 2


def not_worn(acceleration: np.ndarray, sampling_rate_hz: float, minutes: float) -> np.ndarray:
    """Which samples lie in a span without motion.

    Args:
        acceleration: Samples [T, 3] of one accelerometer in m/s^2, without NaN.
        sampling_rate_hz: Samples a second.
        minutes: Length of a span; spans begin every minute, or every span where that is shorter.

    Returns:
        [T] bool; a recording shorter than a span has none.
    """
    parts = max(1, round(minutes))
    size = int(minutes / parts * 60 * sampling_rate_hz)
    count = len(acceleration) // size if size else 0
    if count < parts:
        return np.zeros(len(acceleration), bool)
    blocks = (acceleration - acceleration.mean(0))[: count * size].reshape(count, size, 3)
    of_blocks = (blocks.mean(1), np.square(blocks).mean(1), blocks.min(1), blocks.max(1))
    mean, square, low, high = (sliding_window_view(values, parts, axis=0) for values in of_blocks)
    variance = square.mean(-1) - np.square(mean.mean(-1))
    small = (variance < _DEVIATION**2) | (high.max(-1) - low.min(-1) < _RANGE)
    begins = np.flatnonzero(small.sum(1) >= _AXES)
    found = np.zeros(count, bool)
    for begin in begins:
        found[begin : begin + parts] = True
    return np.append(np.repeat(found, size), np.full(len(acceleration) - count * size, found[-1]))
