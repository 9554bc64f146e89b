"""WISDM 1.1, raw: a phone in the front trouser pocket, 6 activities, 36 users.

File: `WISDM_ar_v1.1_raw.txt`, records `user,activity,timestamp,x,y,z;` at 20 Hz. Known to hold several records a line,
blank lines, a comma too many or a value too few before the semicolon, and records with time stamp 0. The time stamps
(ns) jump where recordings were joined, and in some stretches they are 110 ms apart instead of 50: those are left out,
because a window of them would last twice as long as it says.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.errors import PrepError
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.tables import STEPS_OF_A_RATE, is_another_rate, measured_rate_hz, on_grid

_FIELDS = 6
_LONGEST_STEP_NS = 1_000_000_000  # above, at 0 or backwards, another recording begins

INFO = DatasetInfo(
    name="wisdm",
    title="WISDM 1.1: Activity Prediction (raw)",
    sampling_rate_hz=20.0,
    channels=("acc_x", "acc_y", "acc_z"),
    units=("m/s^2", "m/s^2", "m/s^2"),
    activities=("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing"),
    subjects="36",
    license="free for research; cite the paper",
    citation="Kwapisz, Weiss, Moore: Activity Recognition using Cell Phone Accelerometers. SensorKDD 2010.",
    url="https://www.cis.fordham.edu/wisdm/dataset.php",
    layout="WISDM_ar_v1.1_raw.txt",
    about="Acceleration of a phone in the front trouser pocket, gravity included, published in m/s^2. Records with "
    "time stamp 0 were left out; the recording is cut there, and where time stands still, goes back or jumps by more "
    "than a second. Samples were put on a grid of 20 Hz by their time stamps; recordings that are at another rate by "
    "theirs (some at 9 Hz) were left out.",
)

_Sample = tuple[int, str, int, list[float]]  # user, activity, time in ns, acceleration


def parts(raw: Path, info: DatasetInfo) -> list[Path]:
    """The one file.

    Raises:
        PrepError: It is not there.
    """
    found = find(raw, info.layout)
    if not found:
        raise PrepError(f"{raw} is not WISDM 1.1; expected {info.layout}.")
    return found[:1]


def read(part: Path, info: DatasetInfo) -> Iterator[Recording]:
    """Stretches of one activity of one user.

    Raises:
        PrepError: A record is another, or an activity is unknown.
    """
    stretch: list[_Sample] = []
    number = itertools.count()

    def ended() -> Iterator[Recording]:
        if stretch:
            user, activity, begin, _ = stretch[0]
            values = np.asarray([sample[3] for sample in stretch])
            times_s = np.asarray([sample[2] - begin for sample in stretch]) / 1e9
            judged = len(stretch) > STEPS_OF_A_RATE
            left_out = judged and is_another_rate(measured_rate_hz(times_s), info.sampling_rate_hz)
            if not left_out:
                values = on_grid(part, times_s, values, info.sampling_rate_hz)
            yield Recording(values, activity, f"u{user:02d}", f"{next(number):05d}-u{user:02d}", left_out=left_out)
        stretch.clear()

    for sample in _samples(part, info):
        if sample is None or (stretch and not _continues(stretch[-1], sample)):
            yield from ended()
        if sample is not None:
            stretch.append(sample)
    yield from ended()


def _continues(before: _Sample, sample: _Sample) -> bool:
    return before[:2] == sample[:2] and 0 < sample[2] - before[2] <= _LONGEST_STEP_NS


def _samples(path: Path, info: DatasetInfo) -> Iterator[_Sample | None]:
    """Samples in the order of the file; None for a record that says nothing (time stamp 0)."""
    with path.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            for record in line.split(";"):
                if record.strip(" ,\r\n\t"):
                    yield _sample(record.strip(), info, f"{path}, line {number}")


def _sample(record: str, info: DatasetInfo, where: str) -> _Sample | None:
    fields = [field.strip() for field in record.split(",")]
    if len(fields) == _FIELDS + 1 and not fields[-1]:
        fields.pop()  # a comma too many
    if len(fields) != _FIELDS:
        raise PrepError(f"{where}: {record!r} is not user,activity,timestamp,x,y,z.")
    if fields[1] not in info.activities:
        raise PrepError(f"{where}: activity {fields[1]!r} is none of {', '.join(info.activities)}.")
    try:
        user, time = int(fields[0]), int(fields[2])
        values = [float(field) if field else float("nan") for field in fields[3:]]
    except ValueError as error:
        raise PrepError(f"{where}: {record!r} holds something else than numbers.") from error
    return None if time == 0 else (user, fields[1], time, values)


READER = Reader((INFO,), parts, read)
