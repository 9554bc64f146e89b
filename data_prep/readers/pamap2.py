"""PAMAP2: wrist, chest and ankle, 12 protocol activities, 9 subjects.

Files: `Protocol/subjectNNN.dat`, one sample a line at 100 Hz, 54 columns: time in seconds, activity, heart rate, and
17 for each of hand, chest and ankle: temperature, acceleration (16 g range, then 6 g), angular rate, magnetic field,
and an orientation that is invalid in this collection. Lost packets are NaN; activity 0 is what happens between
activities.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.errors import PrepError
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.signals import same_label
from data_prep.tables import check_times, on_grid, read_numbers

_COLUMNS = 54
_PLACES = ("hand", "chest", "ankle")
# Of the 17 columns of a place: acceleration at 16 g (the 6 g one saturates in running), angular rate.
_USED = [3 + 17 * place + column for place in range(3) for column in (1, 2, 3, 7, 8, 9)]
_ACTIVITIES = {
    1: "lying",
    2: "sitting",
    3: "standing",
    4: "walking",
    5: "running",
    6: "cycling",
    7: "nordic_walking",
    12: "ascending_stairs",
    13: "descending_stairs",
    16: "vacuum_cleaning",
    17: "ironing",
    24: "rope_jumping",
}
_TRANSIENT = 0

INFO = DatasetInfo(
    name="pamap2",
    title="PAMAP2: Physical Activity Monitoring (protocol)",
    sampling_rate_hz=100.0,
    channels=tuple(f"{place}_{kind}_{axis}" for place in _PLACES for kind in ("acc", "gyro") for axis in "xyz"),
    units=(("m/s^2",) * 3 + ("rad/s",) * 3) * 3,
    activities=tuple(_ACTIVITIES.values()),
    subjects="9",
    license="CC BY 4.0",
    citation="Reiss, Stricker: Introducing a New Benchmarked Dataset for Activity Monitoring. ISWC 2012.",
    url="https://archive.ics.uci.edu/dataset/231",
    layout="PAMAP2_Dataset with Protocol/subject101.dat to subject109.dat (Optional/ is not read)",
    about="Three inertial units on wrist, chest and ankle: acceleration (16 g range) and angular rate. Heart rate, "
    "temperature, magnetometers and the invalid orientation are left out, and so is what is transient (activity 0).",
)

_FILE = re.compile(r"subject(\d{3})\.dat")


def parts(raw: Path, info: DatasetInfo) -> list[Path]:
    """One file a subject.

    Raises:
        PrepError: There is none.
    """
    found = [path for path in find(raw, "Protocol/subject*.dat") if _FILE.fullmatch(path.name)]
    if not found:
        raise PrepError(f"{raw} is not PAMAP2; expected {info.layout}.")
    return found


def read(part: Path, info: DatasetInfo) -> Iterator[Recording]:
    """Stretches of one activity of one subject.

    Raises:
        PrepError: A line is not 54 numbers, time goes back, or an activity is unknown.
    """
    table = read_numbers(part, _COLUMNS)
    times, labels = table[:, 0], table[:, 1]
    unknown = np.flatnonzero(~np.isin(labels, [_TRANSIENT, *_ACTIVITIES]))
    if len(unknown):
        known = ", ".join(map(str, [_TRANSIENT, *_ACTIVITIES]))
        raise PrepError(f"{part}, line {unknown[0] + 1}: activity {labels[unknown[0]]:g} is none of {known}.")
    check_times(part, times, info.sampling_rate_hz)  # of the whole file, before anything is cut
    subject = f"s{part.stem.removeprefix('subject')}"
    for start, stop in same_label(labels):
        if labels[start] != _TRANSIENT:
            values = on_grid(part, times[start:stop], table[start:stop, _USED], info.sampling_rate_hz, start + 1)
            begin = float(times[start] - times[0])
            yield Recording(values, _ACTIVITIES[int(labels[start])], subject, subject, begin)


READER = Reader((INFO,), parts, read)
