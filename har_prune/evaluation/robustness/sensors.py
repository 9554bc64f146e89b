"""What happens to wearable sensors: noise, drift, another mounting, losses, other clocks, the other wrist.

Windows are [T, C] in physical units. Strengths are physical where the card states a unit; a channel of another unit is
disturbed by shares of its own deviation in the window. No published scale exists for these; the levels are ours.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import RandomState

from har_prune.errors import DataError
from har_prune.evaluation.robustness.registry import Sensor, register_corruption

Window = np.ndarray[Any, np.dtype[np.float32]]
# Of what 1 m/s^2 is to an accelerometer: as much of other units, and of the rates a gyroscope shows beside it.
_STRENGTH = {"m/s^2": 1.0, "g": 1 / 9.80665, "mg": 1000 / 9.80665, "rad/s": 0.2, "deg/s": math.degrees(0.2)}
_RATES = ("rad/s", "deg/s")


def _strengths(window: Window, sensor: Sensor) -> np.ndarray:
    """What stands for 1 m/s^2 in each channel, [C]."""
    units = list(sensor.units) or [""] * window.shape[1]
    own = window.std(axis=0, dtype=np.float64)
    return np.array([_STRENGTH.get(unit, 0.5 * own[channel]) for channel, unit in enumerate(units)])


def _triads(window: Window, sensor: Sensor) -> list[list[int]]:
    """Channels x, y, z of each sensor: by their names (NAME_x), three by three where they have none."""
    found = [[first, first + 1, first + 2] for first in range(0, window.shape[1] - 2, 3)]
    if sensor.channels:
        places = {name: channel for channel, name in enumerate(sensor.channels)}
        bases = dict.fromkeys(name.removesuffix("_x") for name in sensor.channels if name.endswith("_x"))
        axes = [[f"{base}_{axis}" for axis in "xyz"] for base in bases]
        found = [[places[name] for name in triad] for triad in axes if set(triad) <= set(places)]
    if not found:
        raise DataError(
            f"no channels NAME_x, NAME_y, NAME_z are among {', '.join(sensor.channels)}, and a mounting has three: "
            "leave mounting_rotation and other_wrist out, and name the others."
        )
    return found


def _at(window: Window, places: np.ndarray) -> np.ndarray:
    """The window between its samples, on straight lines; its ends hold. [len(places), C]."""
    samples = np.arange(len(window))
    return np.stack([np.interp(places, samples, channel) for channel in window.T.astype(np.float64)], axis=1)


@register_corruption("sensor_noise", "sensor")
def sensor_noise(window: Window, severity: int, random: RandomState, sensor: Sensor) -> Window:
    """Adds white noise of 0.25 to 4 m/s^2 (0.05 to 0.8 rad/s)."""
    scale = (0.25, 0.5, 1.0, 2.0, 4.0)[severity - 1] * _strengths(window, sensor)
    return (window + scale * random.standard_normal(window.shape)).astype(np.float32)


@register_corruption("gain_drift", "sensor")
def gain_drift(window: Window, severity: int, random: RandomState, sensor: Sensor) -> Window:
    """Each channel's gain leaves 1 along the window, by 5 to 40 % at its end."""
    sign = random.choice([-1.0, 1.0], size=window.shape[1])
    ramp = np.linspace(0, (0.05, 0.1, 0.2, 0.3, 0.4)[severity - 1], len(window))
    return (window * (1 + ramp[:, None] * sign)).astype(np.float32)


@register_corruption("bias_drift", "sensor")
def bias_drift(window: Window, severity: int, random: RandomState, sensor: Sensor) -> Window:
    """Each channel's zero moves along the window, by 0.25 to 4 m/s^2 (0.05 to 0.8 rad/s) at its end."""
    sign = random.choice([-1.0, 1.0], size=window.shape[1])
    ramp = np.linspace(0, (0.25, 0.5, 1.0, 2.0, 4.0)[severity - 1], len(window))
    return (window + ramp[:, None] * sign * _strengths(window, sensor)).astype(np.float32)


@register_corruption("mounting_rotation", "sensor")
def mounting_rotation(window: Window, severity: int, random: RandomState, sensor: Sensor) -> Window:
    """Turns the device by 10 to 90 degrees around a random axis, all its sensors alike."""
    axis = random.standard_normal(3)
    angle = math.radians((10, 20, 30, 45, 90)[severity - 1])
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross  # Rodrigues
    turned = window.copy()
    for triad in _triads(window, sensor):
        turned[:, triad] = window[:, triad].astype(np.float64) @ matrix.T
    return turned


@register_corruption("channel_loss", "sensor")
def channel_loss(window: Window, severity: int, random: RandomState, sensor: Sensor) -> Window:
    """10 to 50 % of the channels, one at least, read 0."""
    count = max(1, round(0.1 * severity * window.shape[1]))
    return _with(window, slice(None), random.permutation(window.shape[1])[:count], 0.0)


@register_corruption("span_loss", "sensor")
def span_loss(window: Window, severity: int, random: RandomState, sensor: Sensor) -> Window:
    """For 10 to 50 % of the window every channel holds its last value."""
    length = max(1, round(0.1 * severity * len(window)))
    start = int(random.randint(0, len(window) - length + 1))
    return _with(window, slice(start, start + length), slice(None), window[max(0, start - 1)])


def _with(window: Window, rows: slice, channels: slice | np.ndarray, value: Any) -> Window:
    changed = window.copy()
    changed[rows, channels] = value
    return changed


@register_corruption("clock_drift", "sensor")
def clock_drift(window: Window, severity: int, random: RandomState, sensor: Sensor) -> Window:
    """The device's clock runs 2 to 20 % fast or slow; where the window ends too early its last value holds."""
    drift = (0.02, 0.05, 0.1, 0.15, 0.2)[severity - 1] * random.choice([-1.0, 1.0])
    return _at(window, np.arange(len(window)) * (1 + drift)).astype(np.float32)


@register_corruption("low_rate", "sensor")
def low_rate(window: Window, severity: int, random: RandomState, sensor: Sensor) -> Window:
    """Recorded at 80 to 20 % of the rate, and brought back to it on straight lines."""
    share = (0.8, 0.6, 0.5, 0.33, 0.2)[severity - 1]
    coarse = np.arange(0, len(window), 1 / share)
    return _at(_at(window, coarse).astype(np.float32), np.arange(len(window)) * share).astype(np.float32)


@register_corruption("other_wrist", "sensor", severities=(1,))
def other_wrist(window: Window, severity: int, random: RandomState, sensor: Sensor) -> Window:
    """A watch on the other wrist, turned so that its display can be read: there x points away from the hand.

    The body's mirror with a device that turned by half about z: x of an acceleration changes sign, and y and z of a
    rate of rotation, which is an axial vector. `mirror_signs` is of a device whose x points to the hand on both.
    """
    units: Sequence[str] = list(sensor.units) or [""] * window.shape[1]
    mirrored = window.copy()
    for triad in _triads(window, sensor):
        is_rate = units[triad[0]] in _RATES
        mirrored[:, triad[1:] if is_rate else triad[:1]] *= -1
    return mirrored
