"""WHARF: a wrist-worn accelerometer, 14 activities of daily living, 17 volunteers.

Files: `Data/<Activity>/Accelerometer-<start>-<activity>-<volunteer>.txt`, one sample a line, three integers 0..63
that code -1.5 g ... +1.5 g. `Data/MODELS` holds averaged templates, not recordings, and is left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.errors import PrepError
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.signals import STANDARD_GRAVITY

INFO = DatasetInfo(
    name="wharf",
    title="WHARF (Wearable Human Activity Recognition Folder) 1.2",
    sampling_rate_hz=32.0,
    channels=("acc_x", "acc_y", "acc_z"),
    units=("m/s^2", "m/s^2", "m/s^2"),
    activities=(
        "Brush_teeth",
        "Climb_stairs",
        "Comb_hair",
        "Descend_stairs",
        "Drink_glass",
        "Eat_meat",
        "Eat_soup",
        "Getup_bed",
        "Liedown_bed",
        "Pour_water",
        "Sitdown_chair",
        "Standup_chair",
        "Use_telephone",
        "Walk",
    ),
    subjects="17",
    url="https://github.com/fulviomas/wharf",
    layout="'WHARF Data Set' with Data/<Activity>/Accelerometer-<start>-<activity>-<volunteer>.txt",
    license="own research use; commercial use and redistribution by agreement with the authors",
    citation="Bruno, Mastrogiovanni, Sgorbissa: A Public Domain Dataset for ADL Recognition Using Wrist-placed "
    "Accelerometers. RO-MAN 2014.",
    about="Activities of daily living recorded by one three-axis accelerometer on the right wrist. "
    "Axes: x towards the hand, y to the left, z perpendicular to the plane of the hand. The published codes 0..63 "
    "were converted: -1.5 g to +1.5 g, 1 g = 9.80665 m/s^2.",
)

_FILE = re.compile(r"Accelerometer-\d{4}(?:-\d\d){5}-[a-z_]+-(?P<volunteer>[fm]\d+)\.txt")
_MAX_CODE = 63
_RANGE_G = 1.5


def parts(raw: Path, info: DatasetInfo) -> list[tuple[str, Path]]:
    """(activity, file) of every recording.

    Raises:
        PrepError: The folder is not WHARF.
    """
    found = [(name, path) for name in info.activities for path in find(raw, f"{name}/*.txt")]
    if not found:
        raise PrepError(
            f"{raw} holds no WHARF recordings; expected Data/<Activity>/Accelerometer-*.txt with activities like "
            f"{info.activities[0]} and {info.activities[-1]}."
        )
    return found


def read(part: tuple[str, Path], info: DatasetInfo) -> Iterator[Recording]:
    """One recording.

    Raises:
        PrepError: The file's name is another, or it holds something else than codes 0..63.
    """
    activity, path = part
    name = _FILE.fullmatch(path.name)
    if name is None:
        raise PrepError(f"{path}: the name is not Accelerometer-<start>-<activity>-<volunteer>.txt.")
    yield Recording(_accelerations(path), activity, name["volunteer"], path.stem)


def _accelerations(path: Path) -> np.ndarray:
    """Samples of one file in m/s^2, [T, 3]."""
    codes = []
    for number, line in enumerate(path.read_text(encoding="ascii", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            sample = [int(word) for word in line.split()]
        except ValueError:
            sample = []
        if len(sample) != len(INFO.channels) or not all(0 <= code <= _MAX_CODE for code in sample):
            raise PrepError(f"{path}, line {number}: {line.strip()!r} is not three integers from 0 to {_MAX_CODE}.")
        codes.append(sample)
    if not codes:
        raise PrepError(f"{path}: the file holds no samples.")
    return (np.asarray(codes) / _MAX_CODE * 2 - 1) * _RANGE_G * STANDARD_GRAVITY


READER = Reader((INFO,), parts, read)
