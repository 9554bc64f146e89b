"""A recording of sensors as its samples, their times and their rate: from an array, a table or a file."""

import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.device_files import SUFFIXES, TIME, read_device
from data_prep.errors import PrepError
from data_prep.plausibility import CALM, GRAVITY, axes_of, other_unit
from data_prep.tables import check_times, is_another_rate, measured_rate_hz, mixed_offset
from har_prune.errors import DataError

_SAME_RATE = 0.02  # clocks drift
_OTHER_RATE = 20.0  # times the network's, or a part of it: behind that its times are in another unit
_LARGEST = 1e30  # of a sample: no sensor goes there, and float32 ends soon behind
_FILLED = 0.2  # of the samples of a channel: above it is said how many are made up
# Too many rather than too few: a column of times that nobody looks at is an answer at another speed.
_CLOCK = re.compile(
    r"ts?([ _(\[]*(s|sec|ms|us|ns)[)\]]*)?|sec|seconds?|ms|millis|utc|unix|clock|"
    r".*(time|elapsed|\bepoch?\b|\bdate\b).*",
    re.IGNORECASE,
)
_REGULAR = 0.75  # of the steps of a clock are within half of the median one; what adds up is not so even
_LOOKED_AT = 100  # texts, before all of them are


def samples_of(
    recording: Any, facts: Mapping[str, Any], sampling_rate_hz: float | None, network: str
) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Samples [T, C] in the network's order of channels, their times in seconds where they have some, and their rate.

    Args:
        recording: As `HarPipeline` takes it.
        facts: Of the network, as an export has them.
        sampling_rate_hz: Of the samples; None = by their times, and without them that of the network.
        network: Its name, for messages.

    Raises:
        DataError: It is none that the network can look at.
    """
    name = str(recording) if isinstance(recording, str | Path) else "recording"
    channels, usual, times = list(facts["channels"]), float(facts["sampling_rate_hz"]), None
    if isinstance(recording, str | Path):
        recording = read_recording(Path(recording))
    if isinstance(recording, pd.DataFrame):
        recording = _with_time(recording)
        if "time" in recording:
            times = seconds_of(recording["time"], name)
            counts = pd.api.types.is_numeric_dtype(recording["time"]) and (np.diff(times) == 1).all()
            if counts and sampling_rate_hz is None and usual != 1 and len(times) > 1:
                raise DataError(
                    f"the times of {name} go up by 1 each: where they count samples, leave the column out; where "
                    "there is one sample a second, say so: sampling_rate_hz, on the command line --sampling-rate-hz."
                )
        elif sampling_rate_hz is None and (clocks := _clocks(recording, channels)):
            raise DataError(
                f"{name}: is {clocks[0]} when each sample was taken? Call it time, in seconds or ISO 8601; "
                "or say how many samples there are a second."
            )
        missing = [channel for channel in channels if channel not in recording]
        if missing:
            raise DataError(
                f"{name} has no column {', '.join(map(repr, missing))} (columns: {', '.join(map(str, recording))}), "
                f"and {network} takes {', '.join(channels)}. Rename the columns."
            )
        recording = recording[channels]
    try:
        table = isinstance(recording, pd.DataFrame)
        values = recording.to_numpy(np.float64, na_value=np.nan) if table else np.asarray(recording, np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: a channel holds what is no number ({error}).") from error
    if values.ndim != 2 or values.shape[1] != len(channels) or len(values) < 2:
        raise DataError(
            f"{name} has shape {values.shape}; samples [T, {len(channels)}] are wanted, at least two, with channels "
            f"{', '.join(channels)}."
        )
    check_values(values, name)
    _warn_of_filled(values, channels, name)
    rate = sampling_rate_hz
    if rate is None:
        rate = usual if times is None else _rate_of(times, usual, name)
    if not 0 < rate < float("inf"):
        raise DataError(f"sampling_rate_hz={rate}: must be above 0.")
    if times is not None:
        measured = measured_rate_hz(times)
        if sampling_rate_hz and (np.diff(times) > 0).all() and is_another_rate(measured, rate):
            raise DataError(
                f"by its times {name} has {measured:.4g} samples a second, and sampling_rate_hz says {rate:g}: leave "
                "it out, or correct the times, which are in seconds."
            )
        try:
            check_times(Path(name), times, rate, 2 if name.lower().endswith((".csv", ".csv.gz")) else 1)
        except PrepError as error:
            raise DataError(str(error)) from error
    return values, times, rate


def _clocks(table: pd.DataFrame, channels: Sequence[str]) -> list[str]:
    """What else than a column `time` may say when samples were taken."""
    index = ["the index"] if table.index.name is None and pd.api.types.is_float_dtype(table.index) else []
    return index + [
        f"column {str(key)!r}"
        for place, key in enumerate(table)
        if key not in channels and (_CLOCK.fullmatch(str(key).strip()) or _goes_forward(table.iloc[:, place]))
    ]


def _goes_forward(column: pd.Series) -> bool:
    """Whether a column holds stamps, or numbers that grow evenly, whatever it is called; not numbers of rows."""
    values, types = column.dropna(), pd.api.types
    if len(values) < 3 or types.is_bool_dtype(values) or types.is_complex_dtype(values):
        return False
    if types.is_datetime64_any_dtype(values) or types.is_timedelta64_dtype(values):
        return bool(values.is_monotonic_increasing) and values.iloc[0] != values.iloc[-1]
    if types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=np.float64)
        steps = np.diff(numbers)
        usual = float(np.median(steps))
        if not (steps > 0).all() or (usual == 1 and (numbers % 1 == 0).all()):
            return False
        return float((np.abs(steps / usual - 1) <= 0.5).mean()) >= _REGULAR
    first = values.iloc[0]
    if not isinstance(first, str | date) or str(first).isdigit():  # 1101 is a year to ISO 8601
        return False
    if _stamps(values.head(_LOOKED_AT)).isna().any():
        return False
    stamps = _stamps(values)  # where one is none, they are not monotonic
    return bool(stamps.is_monotonic_increasing) and stamps.iloc[0] != stamps.iloc[-1]


def _stamps(texts: pd.Series) -> pd.Series:
    return pd.to_datetime(texts.astype(str), utc=True, errors="coerce", format="ISO8601")


def _warn_of_filled(values: np.ndarray, channels: Sequence[str], name: str) -> None:
    """Where a channel is missing while others are measured, it is filled: a little of that is usual."""
    missing = np.isnan(values)
    some = missing[~missing.all(axis=1)]
    for channel, share in zip(channels, some.mean(axis=0) if len(some) else [], strict=False):
        if share > _FILLED:
            warnings.warn(
                f"{name}: {channel} is missing in {share:.0%} of the samples that others are measured in; up to a "
                "quarter of a second is made up on straight lines, and nobody trained on those.",
                stacklevel=4,
            )


def check_values(values: np.ndarray, name: str) -> None:
    """Refuses samples [T, C] that no sensor gives; NaN is where nothing was measured.

    Raises:
        DataError: One is infinite, or as good as that.
    """
    wrong = np.argwhere(np.abs(values) > _LARGEST)
    if len(wrong):
        row, column = wrong[0]
        what = "infinity" if np.isinf(values[row, column]) else f"{values[row, column]:g}"
        raise DataError(f"{name} holds {what} in sample {row}: write NaN where nothing was measured.")


def warn_of_units(values: np.ndarray, facts: Mapping[str, Any]) -> None:
    """Warns where samples [T, C] seem to be in another unit than the network's.

    Accelerations where they are as long as gravity in that unit, and the network's had it in them; rates where bodies
    do not turn so fast, and those the network has seen did not.
    """
    if not {"channel_mean", "channel_std"} <= set(facts):
        return
    means, spreads = np.array(facts["channel_mean"]), np.array(facts["channel_std"])
    for name, axes in axes_of(facts["channels"], facts["units"]).items():
        usual, own = float(np.sqrt((means[axes] ** 2 + spreads[axes] ** 2).sum())), facts["units"][axes[0]]
        unit = None
        if own == "m/s^2" and GRAVITY[0] <= usual <= GRAVITY[1]:
            unit = other_unit(values[:, axes])
        elif own == "rad/s" and usual <= CALM:
            lengths = np.linalg.norm(values[:, axes], axis=1)
            lengths = lengths[~np.isnan(lengths)]
            unit = "deg/s" if len(lengths) and np.median(lengths) > CALM else None
        if unit is not None:
            warnings.warn(
                f"{name} seems to be in {unit}, and the network takes {own}: its answers would be those of another "
                "motion. Give the units of all channels: units, on the command line --unit.",
                stacklevel=3,
            )


def read_recording(path: Path) -> np.ndarray | pd.DataFrame:
    """A file of samples; a .npy file with pickled objects is never opened.

    Raises:
        DataError: There is no such file, or it cannot be read.
    """
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if path.name.lower().endswith(SUFFIXES):
        try:
            return (table := read_device(path)).assign(time=table[TIME] / 1e9)
        except PrepError as error:
            raise DataError(str(error)) from error
    try:
        if kind == "npy":
            values = np.load(path, allow_pickle=False)
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
                raise DataError(f"{path} holds no array of numbers.")
            return values
        if kind == "csv":
            # A row with more fields than the header has names is an error, never a shift by a column.
            with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
                return _with_time(pd.read_csv(path, index_col=False))
        if kind == "parquet":
            return _with_time(pd.read_parquet(path))
    except pd.errors.ParserWarning as error:
        raise DataError(f"{path}: a row has more fields than the header has names.") from error
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise DataError(f"{path} cannot be read: {str(error).strip()}") from error
    raise DataError(f"{path}: a recording is a .csv, .csv.gz, .parquet, .npy, {', '.join(SUFFIXES)} file.")


def _with_time(table: pd.DataFrame) -> pd.DataFrame:
    """The index as a column, where it says something: dates, durations, or a name that no column has."""
    name = table.index.name
    if isinstance(table.index, pd.DatetimeIndex | pd.TimedeltaIndex) and "time" not in table:
        name = "time"
    return table if name is None or name in table else table.rename_axis(name).reset_index()


def seconds_of(times: pd.Series, name: str) -> np.ndarray:
    """A column of seconds, durations or ISO 8601 stamps as seconds, [T].

    Raises:
        DataError: One of them is no time, or some have an offset and some have none.
    """
    if pd.api.types.is_timedelta64_dtype(times):
        times = times.dt.total_seconds()
    if not pd.api.types.is_numeric_dtype(times):
        is_text = not pd.api.types.is_datetime64_any_dtype(times)
        if is_text and (mixed := mixed_offset(times.reset_index(drop=True))) is not None:
            raise DataError(
                f"{name}: the times of samples 0 and {mixed}, {times.iloc[0]!r} and {times.iloc[mixed]!r}: one has an "
                "offset and one has none, so they may be hours apart. Give all of them one."
            )
        stamps = pd.to_datetime(times, utc=True, errors="coerce", format="ISO8601")
        times = (stamps - stamps.iloc[0]) / pd.Timedelta(seconds=1) if len(stamps) else times
    seconds = times.to_numpy(dtype=np.float64)
    if np.isnan(seconds).any():
        raise DataError(f"{name}: the time of sample {int(np.flatnonzero(np.isnan(seconds))[0])} is no time.")
    return seconds


def _rate_of(times: np.ndarray, usual: float, name: str) -> float:
    """By the median step; a clock that drifts by less than a fiftieth has the network's rate, or another usual one."""
    measured = measured_rate_hz(times)
    if not measured > 0:
        raise DataError(f"the times of {name} do not go forward.")
    if not usual / _OTHER_RATE <= measured <= usual * _OTHER_RATE:
        raise DataError(
            f"by its times {name} has {measured:g} samples a second, and the network takes {usual:g}: `time` is in "
            "seconds, or ISO 8601. Where that is its rate, say so: sampling_rate_hz, on the command line "
            "--sampling-rate-hz."
        )
    # What `WindowCutter` can make of it: a ratio of small numbers.
    ratio = float(usual * float(Fraction(measured / usual).limit_denominator(50)))
    near = [rate for rate in (usual, float(round(measured)), ratio) if rate and abs(measured / rate - 1) < _SAME_RATE]
    return near[0] if near else ratio
