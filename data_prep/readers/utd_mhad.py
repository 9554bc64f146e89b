"""UTD-MHAD, inertial part: 27 actions, 8 subjects, 4 trials, one wearable sensor.

Files: `aA_sS_tT_inertial.mat` with `d_iner` [samples, 6]: acceleration in g, angular rate in degrees a second, 50 Hz.
The sensor was on the right wrist in actions 1-21 and on the right thigh in 22-27: two configurations, and one of all.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.errors import PrepError
from data_prep.matlab import matlab_variable
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.signals import STANDARD_GRAVITY

_ACTIONS = (
    "swipe_left",
    "swipe_right",
    "wave",
    "clap",
    "throw",
    "arm_cross",
    "basketball_shoot",
    "draw_x",
    "draw_circle_clockwise",
    "draw_circle_counter_clockwise",
    "draw_triangle",
    "bowling",
    "boxing",
    "baseball_swing",
    "tennis_swing",
    "arm_curl",
    "tennis_serve",
    "push",
    "knock",
    "catch",
    "pickup_and_throw",
    "jog",
    "walk",
    "sit_to_stand",
    "stand_to_sit",
    "lunge",
    "squat",
)
_ON_WRIST = 21  # actions 1 to 21

_WRIST = DatasetInfo(
    name="utd_mhad1",
    title="UTD-MHAD, actions 1-21 (sensor on the wrist)",
    sampling_rate_hz=50.0,
    channels=("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"),
    units=("m/s^2", "m/s^2", "m/s^2", "rad/s", "rad/s", "rad/s"),
    activities=_ACTIONS[:_ON_WRIST],
    subjects="8",
    license="free for research; cite the paper",
    citation="Chen, Jafari, Kehtarnavaz: UTD-MHAD: A Multimodal Dataset for Human Action Recognition Utilizing a "
    "Depth Camera and a Wearable Inertial Sensor. ICIP 2015.",
    url="https://personal.utdallas.edu/~kehtar/UTD-MHAD.html",
    layout="Inertial/ with aA_sS_tT_inertial.mat",
    about="Single actions recorded by one three-axis accelerometer and gyroscope on the right wrist. Published in g "
    "and degrees a second; converted with 1 g = 9.80665 m/s^2.",
    window_s=1.0,
)
_THIGH = replace(
    _WRIST,
    name="utd_mhad2",
    title="UTD-MHAD, actions 22-27 (sensor on the thigh)",
    activities=_ACTIONS[_ON_WRIST:],
    about=_WRIST.about.replace("wrist", "thigh"),
)
_ALL = replace(
    _WRIST,
    name="utd_mhad",
    title="UTD-MHAD, all 27 actions",
    activities=_ACTIONS,
    about=_WRIST.about.replace("the right wrist", "the right wrist in actions 1-21 and on the right thigh in 22-27"),
    window_s=3.0,
)

_FILE = re.compile(r"a(?P<action>\d+)_s(?P<subject>\d+)_t(?P<trial>\d+)_inertial\.mat")


def parts(raw: Path, info: DatasetInfo) -> list[Path]:
    """Files of the configuration's actions.

    Raises:
        PrepError: There are none, or one has another name.
    """
    found = []
    for path in find(raw, "*_inertial.mat"):
        name = _FILE.fullmatch(path.name)
        if name is None or not 1 <= int(name["action"]) <= len(_ACTIONS):
            raise PrepError(f"{path}: the name is not aA_sS_tT_inertial.mat with A from 1 to {len(_ACTIONS)}.")
        if _ACTIONS[int(name["action"]) - 1] in info.activities:
            found.append(path)
    if not found:
        raise PrepError(f"{raw} holds no recordings of {info.name}; expected {info.layout}.")
    return found


def read(part: Path, info: DatasetInfo) -> Iterator[Recording]:
    """One recording: a file.

    Raises:
        PrepError: The file is damaged, or holds something else.
    """
    name = _FILE.fullmatch(part.name)
    if name is None:
        raise PrepError(f"{part}: unexpected name.")
    samples = np.asarray(matlab_variable(part, "d_iner"), dtype=np.float64)
    if samples.ndim != 2 or samples.shape[1] != len(info.channels):
        raise PrepError(f"{part}: d_iner has shape {samples.shape}; expected [samples, {len(info.channels)}].")
    values = np.concatenate([samples[:, :3] * STANDARD_GRAVITY, np.radians(samples[:, 3:])], axis=1)
    action = _ACTIONS[int(name["action"]) - 1]
    yield Recording(values, action, f"s{name['subject']}", part.stem.removesuffix("_inertial"))


READER = Reader((_WRIST, _THIGH, _ALL), parts, read)
