"""UCI HAR: a smartphone on the waist, 6 activities, 30 volunteers, windows cut by the publisher.

Files: `train/` and `test/`, each with `subject_*.txt`, `y_*.txt` and `Inertial Signals/{body_acc,body_gyro,total_acc}_
{x,y,z}_*.txt`, one window of 128 samples (2.56 s at 50 Hz, half of them shared with the next) a line. Accelerations
are in g, angular rates in rad/s. The split is by subject, 21 and 9.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.errors import PrepError
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.signals import STANDARD_GRAVITY, same_label
from data_prep.tables import read_numbers

_SIGNALS = ("total_acc", "body_gyro", "body_acc")
_SAMPLES = 128
_HOP_S = 1.28

INFO = DatasetInfo(
    name="uci_har",
    title="UCI HAR: Human Activity Recognition Using Smartphones 1.0",
    sampling_rate_hz=50.0,
    channels=tuple(f"{signal}_{axis}" for signal in _SIGNALS for axis in "xyz"),
    units=("m/s^2",) * 3 + ("rad/s",) * 3 + ("m/s^2",) * 3,
    activities=("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING"),
    subjects="30",
    license="CC BY 4.0",
    citation="Anguita, Ghio, Oneto, Parra, Reyes-Ortiz: A Public Domain Dataset for Human Activity Recognition Using "
    "Smartphones. ESANN 2013.",
    url="https://archive.ics.uci.edu/dataset/240",
    layout="'UCI HAR Dataset' with train/ and test/, each with subject_*.txt, y_*.txt and 'Inertial Signals'",
    about="Waist-mounted smartphone: total acceleration, angular rate, and acceleration of the body (total minus "
    "gravity, by the publisher's filter). Published in g; converted with 1 g = 9.80665 m/s^2. The official split is "
    "by subject.",
    window_s=2.56,
    fixed_windows=True,
    unchecked=("body_acc",),
)


def parts(raw: Path, info: DatasetInfo) -> list[Path]:
    """The folders of the two splits.

    Raises:
        PrepError: One is missing.
    """
    found = [path.parent for split in ("train", "test") for path in find(raw, f"{split}/y_{split}.txt")]
    if [path.name for path in found] != ["train", "test"]:
        raise PrepError(f"{raw} is not UCI HAR; expected {info.layout}.")
    return found


def read(part: Path, info: DatasetInfo) -> Iterator[Recording]:
    """The windows of a split; each is a recording, because the publisher cut them.

    A trial is a run of windows of one subject and activity.

    Raises:
        PrepError: A file is missing, or is not as long as the others, or holds an unknown activity.
    """
    split = part.name
    labels = read_numbers(_file(part, f"y_{split}.txt"), 1)[:, 0].astype(int)
    subjects = read_numbers(_file(part, f"subject_{split}.txt"), 1)[:, 0].astype(int)
    unknown = np.flatnonzero((labels < 1) | (labels > len(info.activities)))
    if len(unknown):
        raise PrepError(
            f"{part / f'y_{split}.txt'}, line {unknown[0] + 1}: activity {labels[unknown[0]]} is not 1 to "
            f"{len(info.activities)}."
        )
    signals = []
    for channel in info.channels:
        path = _file(part / "Inertial Signals", f"{channel}_{split}.txt")
        values = read_numbers(path, _SAMPLES)
        if not len(values) == len(labels) == len(subjects):
            raise PrepError(
                f"{path}: {len(values)} windows, and there are {len(labels)} labels and {len(subjects)} subjects."
            )
        signals.append(values if "gyro" in channel else values * STANDARD_GRAVITY)
    windows = np.stack(signals, axis=2)
    for number, (start, stop) in enumerate(same_label(np.stack([subjects, labels], axis=1) @ [1000, 1])):
        subject = f"s{subjects[start]:02d}"
        for place in range(start, stop):
            activity = info.activities[labels[place] - 1]
            begin = (place - start) * _HOP_S
            yield Recording(windows[place], activity, subject, f"{split}-{number:03d}-{subject}", begin, split)


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise PrepError(f"{folder / name} is missing; expected {INFO.layout}.")
    return folder / name


READER = Reader((INFO,), parts, read)
