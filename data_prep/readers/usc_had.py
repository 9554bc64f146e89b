"""USC-HAD: one unit at the front right hip, 12 activities, 14 subjects, 5 trials.

Files: `SubjectN/aAtT.mat` with `sensor_readings` [samples, 6]: acceleration in g, angular rate in degrees a second,
100 Hz; the other variables repeat who, what and when. Some copies wrap all variables in one struct.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import PrepError
from data_prep.matlab import matlab_variables
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.signals import STANDARD_GRAVITY

INFO = DatasetInfo(
    name="usc_had",
    title="USC-HAD: USC Human Activity Dataset",
    sampling_rate_hz=100.0,
    channels=("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"),
    units=("m/s^2", "m/s^2", "m/s^2", "rad/s", "rad/s", "rad/s"),
    activities=(
        "walking_forward",
        "walking_left",
        "walking_right",
        "walking_upstairs",
        "walking_downstairs",
        "running_forward",
        "jumping_up",
        "sitting",
        "standing",
        "sleeping",
        "elevator_up",
        "elevator_down",
    ),
    subjects="14",
    license="free for research; cite the paper",
    citation="Zhang, Sawchuk: USC-HAD: A Daily Activity Dataset for Ubiquitous Activity Recognition Using Wearable "
    "Sensors. SAGAware at UbiComp 2012.",
    url="https://sipi.usc.edu/had/",
    layout="USC-HAD with Subject1/ to Subject14/, each with aAtT.mat",
    about="One three-axis accelerometer and gyroscope in a pouch at the front right hip. Published in g and degrees a "
    "second; converted with 1 g = 9.80665 m/s^2.",
)

_FILE = re.compile(r"a(?P<activity>\d+)t(?P<trial>\d+)\.mat")
_FOLDER = re.compile(r"Subject(\d+)")


def parts(raw: Path, info: DatasetInfo) -> list[Path]:
    """One file a trial.

    Raises:
        PrepError: There is none.
    """
    found = [path for path in find(raw, "Subject*/*.mat") if _FOLDER.fullmatch(path.parent.name)]
    if not found:
        raise PrepError(f"{raw} is not USC-HAD; expected {info.layout}.")
    return found


def read(part: Path, info: DatasetInfo) -> Iterator[Recording]:
    """One recording: a file.

    Raises:
        PrepError: The file is damaged, or its name or content is another.
    """
    name = _FILE.fullmatch(part.name)
    if name is None or not 1 <= int(name["activity"]) <= len(info.activities):
        raise PrepError(f"{part}: the name is not aAtT.mat with A from 1 to {len(info.activities)}.")
    variables = _unwrapped(matlab_variables(part))
    if "sensor_readings" not in variables:
        raise PrepError(f"{part} has no variable 'sensor_readings'; it has {', '.join(sorted(variables)) or 'none'}.")
    samples = np.asarray(variables["sensor_readings"], dtype=np.float64)
    if samples.ndim != 2 or samples.shape[1] != len(info.channels):
        raise PrepError(
            f"{part}: sensor_readings has shape {samples.shape}; expected [samples, {len(info.channels)}]."
        )
    values = np.concatenate([samples[:, :3] * STANDARD_GRAVITY, np.radians(samples[:, 3:])], axis=1)
    subject = f"s{int(part.parent.name.removeprefix('Subject')):02d}"
    yield Recording(values, info.activities[int(name["activity"]) - 1], subject, f"{subject}-{part.stem}")


def _unwrapped(variables: dict[str, Any]) -> dict[str, Any]:
    """The fields of a struct, where that is all there is."""
    if len(variables) == 1:
        (only,) = variables.values()
        names = getattr(getattr(only, "dtype", None), "names", None)
        if names:
            return {name: only[name].item() if only[name].shape == () else only[name] for name in names}
    return variables


READER = Reader((INFO,), parts, read)
