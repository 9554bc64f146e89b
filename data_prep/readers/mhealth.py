"""MHEALTH: chest, left ankle and right wrist, 12 activities, 10 volunteers.

Files: `mHealth_subjectN.log`, one sample a line at 50 Hz, 24 columns: acceleration of the chest, two ECG leads,
acceleration, magnetic field and angular rate of the ankle, the same of the wrist, and the activity, 0 where there is
none. The publisher's README names the two in the other order. The numbers say which is which: columns 9-11 and 18-20
have a length of about 1 in every activity, columns 12-14 and 21-23 are near 0 at rest and reach 300 deg/s in motion.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.errors import PrepError
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.signals import same_label
from data_prep.tables import read_numbers

_COLUMNS = 24
_RATES = [11, 12, 13, 20, 21, 22]
_ORDER = [0, 1, 2, 5, 6, 7, 11, 12, 13, 14, 15, 16, 20, 21, 22]
_NULL = 0

INFO = DatasetInfo(
    name="mhealth",
    title="MHEALTH: Mobile Health",
    sampling_rate_hz=50.0,
    channels=(
        *(f"chest_acc_{axis}" for axis in "xyz"),
        *(f"ankle_{kind}_{axis}" for kind in ("acc", "gyro") for axis in "xyz"),
        *(f"wrist_{kind}_{axis}" for kind in ("acc", "gyro") for axis in "xyz"),
    ),
    units=("m/s^2",) * 3 + (("m/s^2",) * 3 + ("rad/s",) * 3) * 2,
    activities=(
        "standing",
        "sitting",
        "lying",
        "walking",
        "climbing_stairs",
        "waist_bends_forward",
        "frontal_elevation_of_arms",
        "knees_bending",
        "cycling",
        "jogging",
        "running",
        "jump_front_and_back",
    ),
    subjects="10",
    license="CC BY 4.0",
    citation="Banos et al.: mHealthDroid: A Novel Framework for Agile Development of Mobile Health Applications. "
    "IWAAL 2014.",
    url="https://archive.ics.uci.edu/dataset/319",
    layout="MHEALTHDATASET with mHealth_subject1.log to mHealth_subject10.log",
    about="Shimmer sensors on chest, left ankle and right wrist; ECG and magnetometers are left out, and so is the "
    "null class (label 0). Angular rates are published in degrees a second and were converted; they are read from "
    "columns 12-14 and 21-23, which the publisher's README calls the magnetometer and whose values are a gyroscope's.",
)

_FILE = re.compile(r"mHealth_subject(\d+)\.log")


def parts(raw: Path, info: DatasetInfo) -> list[Path]:
    """One file a subject.

    Raises:
        PrepError: There is none.
    """
    found = [path for path in find(raw, "mHealth_subject*.log") if _FILE.fullmatch(path.name)]
    if not found:
        raise PrepError(f"{raw} is not MHEALTH; expected {info.layout}.")
    return found


def read(part: Path, info: DatasetInfo) -> Iterator[Recording]:
    """Stretches of one activity of one subject.

    Raises:
        PrepError: A line is not 24 numbers, or an activity is unknown.
    """
    table = read_numbers(part, _COLUMNS)
    labels = table[:, -1]
    unknown = np.flatnonzero(~np.isin(labels, range(len(info.activities) + 1)))
    if len(unknown):
        raise PrepError(
            f"{part}, line {unknown[0] + 1}: activity {labels[unknown[0]]:g} is not 0 to {len(info.activities)}."
        )
    table[:, _RATES] = np.radians(table[:, _RATES])
    subject = f"s{int(part.stem.removeprefix('mHealth_subject')):02d}"
    for start, stop in same_label(labels):
        if labels[start] != _NULL:
            activity = info.activities[int(labels[start]) - 1]
            yield Recording(table[start:stop, _ORDER], activity, subject, subject, start / info.sampling_rate_hz)


READER = Reader((INFO,), parts, read)
