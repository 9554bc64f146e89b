"""A look at the numbers: a wrong unit shows, because gravity is 9.8 m/s^2 long and bodies turn only so fast."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import numpy as np

from data_prep.errors import PrepError
from data_prep.recordings import DatasetInfo
from data_prep.signals import UNITS

_CLASS = math.log(1.01)  # lengths are counted in classes 1 % wide: memory does not grow with the windows
_SMALLEST = 1e-9
_DEGREES = 57.3  # of a radian
CALM = 6.0  # rad/s: nobody turns that fast half of the time (wrists of people who exercise: 3)
GRAVITY = (7.0, 13.0)  # m/s^2, of the median length of an acceleration
# Of one subject, and of one recording, which may be short: far enough from what g or mg would be.
_GRAVITY_OF_ONE = {"subject": (4.0, 25.0), "recording": (3.0, 40.0)}
# By unit: what is long, share of the windows that are no longer, the same in words, and what that length may be.
# Accelerations: the median, because free fall and impacts are rare. Rates: nearly all and all, because people may sit
# most of the time, but turn through no whole window as fast as gyroscopes measure (2000 deg/s), and once by 3 deg/s.
_BOUNDS = {
    "m/s^2": [("acceleration", 0.5, "in the median window", *GRAVITY)],
    "rad/s": [
        ("angular rate", 0.5, "in the median window", 0.0, CALM),
        ("angular rate", 0.99, "or more in one window of a hundred", 0.0, 35.0),
        ("angular rate", 1.0, "in the window with the most", 0.05, math.inf),
    ],
}


def triads(info: DatasetInfo) -> dict[str, list[int]]:
    """Places of three axes of one unit, by what stands before x, y and z in their names: acc for acc_x, acc_y, acc_z.

    Those the data set leaves unchecked are not among them.

    Raises:
        PrepError: What is left unchecked is no such name.
    """
    found = axes_of(info.channels, info.units)
    unknown = [name for name in info.unchecked if name not in found]
    if unknown:
        raise PrepError(
            f"unchecked: no channels {unknown[0]}_x, {unknown[0]}_y, {unknown[0]}_z; choose from "
            f"{', '.join(found) or 'none'}."
        )
    return {name: axes for name, axes in found.items() if name not in info.unchecked}


def axes_of(channels: Sequence[str], units: Sequence[str]) -> dict[str, list[int]]:
    """Places of three axes of one unit, by what stands before x, y and z in their names."""
    groups: dict[str, dict[str, int]] = {}
    for place, channel in enumerate(channels):
        if channel[-1:].lower() in tuple("xyz"):
            groups.setdefault(channel[:-1].rstrip("_") or "xyz", {})[channel[-1].lower()] = place
    found = {name: [axes[axis] for axis in "xyz"] for name, axes in groups.items() if len(axes) == 3}
    return {name: axes for name, axes in found.items() if len({units[place] for place in axes}) == 1}


def other_unit(acceleration: np.ndarray) -> str | None:
    """The unit that samples [T, 3] seem to be in, where gravity shows that it is not m/s^2."""
    if not len(moved := acceleration[~np.isnan(acceleration).any(1)]):
        return None
    low, high = GRAVITY
    length = float(np.median(np.linalg.norm(moved, axis=1)))
    fits = [unit for unit, (kind, factor) in UNITS.items() if kind == "m/s^2" and low <= length * factor <= high]
    return fits[0] if fits and "m/s^2" not in fits else None


def lengths(window: np.ndarray, groups: Mapping[str, list[int]]) -> Iterator[tuple[str, int]]:
    """(NAME, class) of the mean vector length of each group of axes in a window [T, C], to be counted."""
    for name, axes in groups.items():
        length = float(np.linalg.norm(window[:, axes], axis=1).mean())
        yield name, round(math.log(max(length, _SMALLEST)) / _CLASS)


def doubts(info: DatasetInfo, counted: Counter) -> list[str]:
    """Subjects whose angular rates are as far below those of the others as radians are below degrees.

    That may be right, of people who did something else, so it is told and not refused.
    """
    said = []
    for name in (name for name, axes in triads(info).items() if info.units[axes[0]] == "rad/s"):
        of_subjects: dict[str, Counter] = {}
        for ((who, _), group, number), count in counted.items():
            if group == name:
                of_subjects.setdefault(who, Counter())[number] += count
        found = {who: _quantile(classes, 0.99) for who, classes in sorted(of_subjects.items())}
        usual = float(np.median(list(found.values()))) if found else 0.0
        said += [
            f"{name}: subject {who} turns {usual / length:.0f} times slower than the others: were theirs rad/s, "
            "declared as deg/s?"
            for who, length in found.items()
            if len(found) > 2 and _DEGREES / 2 <= usual / length <= 2 * _DEGREES  # of two nobody knows which is wrong
        ]
    return said


def refuse_implausible(info: DatasetInfo, counted: Counter) -> None:
    """Looks at what was counted over all windows, and at the accelerations of each subject and each recording.

    Args:
        info: The data set.
        counted: How often `lengths` gave what, ((subject, recording), NAME, class).

    Raises:
        PrepError: Accelerations are not as long as gravity, or rates are those of no body.
    """
    for name, axes in triads(info).items():
        unit = info.units[axes[0]]
        of_all: Counter = Counter()
        of_one: dict[tuple[str, str], Counter] = {}
        for (names, group, number), count in counted.items():
            if group == name:
                of_all[number] += count
                for one in zip(_GRAVITY_OF_ONE, names, strict=True):
                    of_one.setdefault(one, Counter())[number] += count
        of_subjects = {who: classes for (kind, who), classes in sorted(of_one.items()) if kind == "subject"}
        if unit == "m/s^2":
            _refuse_some(name, unit, of_subjects)
        for what, share, where, low, high in _BOUNDS.get(unit, []):
            _refuse(name, unit, what, _quantile(of_all, share), where, low, high)
        if unit == "m/s^2":
            for (kind, who), classes in sorted(of_one.items(), reverse=True):  # subjects first
                where = f"in the median window of {kind} {who}"
                _refuse(name, unit, "acceleration", _quantile(classes, 0.5), where, *_GRAVITY_OF_ONE[kind])


def _refuse_some(name: str, unit: str, of_subjects: Mapping[str, Counter]) -> None:
    """Refuses accelerations that some subjects have in another unit than the others."""
    low, high = _GRAVITY_OF_ONE["subject"]
    found = {who: _quantile(classes, 0.5) for who, classes in of_subjects.items()}
    outside = [who for who, length in found.items() if not low <= length <= high]
    if outside and len(outside) < len(found):
        where = f"in the median window of subject {', '.join(outside)}"
        _refuse(name, unit, "acceleration", found[outside[0]], where, low, high)


def _refuse(name: str, unit: str, what: str, length: float, where: str, low: float, high: float) -> None:
    if low <= length <= high:
        return
    allowed = f"{low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
    raise PrepError(
        f"{name}: the {what} is {length:.3g} {unit} long {where}, and should be {allowed}. "
        f"{_cause(unit, length, low, high)} Correct the unit in the column map; where it is right "
        f"(acceleration without gravity, say), write unchecked: [{name}] there. Files of a publisher are "
        "not as documented: download them again."
    )


def _quantile(classes: Counter, share: float) -> float:
    passed, wanted = 0, share * classes.total()
    for number, count in sorted(classes.items()):
        passed += count
        if passed >= wanted:
            return math.exp(number * _CLASS)
    return math.nan


def _cause(unit: str, length: float, low: float, high: float) -> str:
    for declared, true in permutations(UNITS, 2):
        (kind, factor), (true_kind, true_factor) = UNITS[declared], UNITS[true]
        if kind == true_kind == unit and low <= length / factor * true_factor <= high:
            return f"It would be, were data that are in {true} declared as {declared}."
    return "No unit known here explains it."
