"""One's own recordings: CSV files and a YAML file that says what their columns are.

title: My recordings
sampling_rate_hz: 50
time: {column: t, unit: ms}                 # left out: samples follow each other without a gap
channels:
  acc_x: {column: ax, unit: g}              # m/s^2, g, mg, rad/s, deg/s; written as m/s^2 and rad/s
  gyro_x: {column: gx, unit: deg/s}
label: {column: activity}
subject: {column: user}                     # or {from_name: "(?P<subject>[a-z]+)_.*"}, of the file's name
ignore: [temperature]                       # columns that are there and not wanted
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_prep.errors import PrepError
from data_prep.raw_files import find
from data_prep.recordings import DataSet, Recording, Source
from data_prep.signals import STANDARD_GRAVITY, same_label
from data_prep.tables import on_grid

_FACTORS = {
    "m/s^2": ("m/s^2", 1.0),
    "g": ("m/s^2", STANDARD_GRAVITY),
    "mg": ("m/s^2", STANDARD_GRAVITY / 1000),
    "rad/s": ("rad/s", 1.0),
    "deg/s": ("rad/s", float(np.pi / 180)),
}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TimeColumn(_Strict):
    """The column of time stamps."""

    column: str
    unit: Literal["s", "ms", "us", "ns"] = "s"


class ChannelColumn(_Strict):
    """The column of a channel, and the unit it is in."""

    column: str
    unit: Literal["m/s^2", "g", "mg", "rad/s", "deg/s"]


class LabelColumn(_Strict):
    """The column of the activity."""

    column: str


class Subject(_Strict):
    """Who was recorded: a column, or a group called `subject` in the file's name."""

    column: str | None = None
    from_name: str | None = Field(None, description="regular expression of the file's name without its suffix")

    @model_validator(mode="after")
    def _one(self) -> "Subject":
        if (self.column is None) == (self.from_name is None):
            raise ValueError("give column or from_name, one of them")
        if self.from_name is not None and "subject" not in re.compile(self.from_name).groupindex:
            raise ValueError("from_name needs a group (?P<subject>...)")
        return self


class ColumnMap(_Strict):
    """What the columns of some CSV files are."""

    title: str = "Own recordings"
    sampling_rate_hz: float = Field(gt=0)
    time: TimeColumn | None = None
    channels: dict[str, ChannelColumn] = Field(min_length=1)
    label: LabelColumn
    subject: Subject
    ignore: tuple[str, ...] = ()
    licence: str = "not stated"
    citation: str = "not stated"

    @property
    def columns(self) -> list[str]:
        """Names of all columns that are read."""
        named = [self.time.column] if self.time else []
        named += [channel.column for channel in self.channels.values()] + [self.label.column]
        return named + ([self.subject.column] if self.subject.column else [])


def load_map(path: Path) -> ColumnMap:
    """Reads and checks a column map.

    Raises:
        PrepError: It is missing, no YAML, or says something else; every problem is named.
    """
    try:
        return ColumnMap.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PrepError(f"column map {path} cannot be read: {error.strerror}. Say what the columns are.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PrepError(f"column map {path} is not YAML: {error}") from error
    except (ValidationError, re.error) as error:
        problems = (
            error.errors() if isinstance(error, ValidationError) else [{"loc": ("from_name",), "msg": str(error)}]
        )
        lines = [f"  {'.'.join(map(str, problem['loc'])) or 'map'}: {problem['msg']}" for problem in problems]
        raise PrepError(f"column map {path} has {len(lines)} problem(s):\n" + "\n".join(lines)) from error


def data_set(raw: Path, columns: ColumnMap) -> DataSet:
    """The data set of a folder of CSV files; looks through all of them for the activities.

    Raises:
        PrepError: There is no file, or one lacks a column or has one that nobody mentioned.
    """
    files = find(raw, "*.csv")
    if not files:
        raise PrepError(f"{raw} holds no .csv files.")
    names: set[str] = set()
    for path in files:
        _check_columns(path, columns)
        names.update(_labels(path, columns))
    source = Source(
        name="csv",
        title=columns.title,
        sampling_rate_hz=columns.sampling_rate_hz,
        channels=tuple(columns.channels),
        units=tuple(_FACTORS[channel.unit][0] for channel in columns.channels.values()),
        activities=tuple(sorted(names)),
        subjects="see below",
        licence=columns.licence,
        citation=columns.citation,
        url="own recordings",
        layout="*.csv",
        about=f"Prepared from {len(files)} CSV files. Units as given: "
        + ", ".join(f"{name} {channel.unit}" for name, channel in columns.channels.items())
        + "; 1 g = 9.80665 m/s^2.",
    )
    return DataSet((source,), lambda _, __: [(path, columns) for path in files], read)


def _check_columns(path: Path, columns: ColumnMap) -> None:
    header = list(_read(path, nrows=0).columns)
    missing = [name for name in columns.columns if name not in header]
    extra = [name for name in header if name not in columns.columns and name not in columns.ignore]
    if missing or extra:
        raise PrepError(
            f"{path}: {'missing columns: ' + ', '.join(missing) + '. ' if missing else ''}"
            f"{'columns nobody mentioned: ' + ', '.join(extra) + ' (name them under ignore). ' if extra else ''}"
            f"The header is {', '.join(header)}."
        )


def _labels(path: Path, columns: ColumnMap) -> set[str]:
    labels = _read(path, usecols=[columns.label.column], dtype=str)[columns.label.column]
    empty = np.flatnonzero(labels.isna())
    if len(empty):
        raise PrepError(f"{path}, line {empty[0] + 2}: no activity in column {columns.label.column!r}.")
    return set(labels.str.strip())


def _read(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, encoding="utf-8", skip_blank_lines=False, **options)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are ValueErrors
        raise PrepError(f"{path} cannot be read as CSV: {error}") from error


def read(part: tuple[Path, ColumnMap], source: Source) -> Iterator[Recording]:
    """Stretches of one activity of one subject in a file.

    Raises:
        PrepError: A value is no number, or time goes back, repeats, or runs at another rate.
    """
    path, columns = part
    text = [columns.label.column, *([columns.subject.column] if columns.subject.column else [])]
    table = _read(path, usecols=columns.columns, dtype=dict.fromkeys(text, str))
    values = np.stack(
        [_numbers(path, table, c.column) * _FACTORS[c.unit][1] for c in columns.channels.values()], axis=1
    )
    subjects = _subjects(path, table, columns)
    labels = table[columns.label.column].str.strip().to_numpy()
    rate = columns.sampling_rate_hz
    times = np.arange(len(table)) / rate
    if columns.time is not None:
        times = _numbers(path, table, columns.time.column) * _SECONDS[columns.time.unit]
    both = np.array([f"{subject}\n{label}" for subject, label in zip(subjects, labels, strict=True)])
    for start, stop in same_label(both):
        grid = on_grid(path, times[start:stop], values[start:stop], rate, start + 2)  # line 1 is the header
        begin = float(times[start] - times[0])
        yield Recording(grid, str(labels[start]), str(subjects[start]), f"{path.stem}-{subjects[start]}", begin)


def _subjects(path: Path, table: pd.DataFrame, columns: ColumnMap) -> np.ndarray:
    if columns.subject.column is not None:
        column = table[columns.subject.column]
        empty = np.flatnonzero(column.isna())
        if len(empty):
            raise PrepError(f"{path}, line {empty[0] + 2}: no subject in column {columns.subject.column!r}.")
        return column.str.strip().to_numpy()
    found = re.fullmatch(columns.subject.from_name or "", path.stem)
    if found is None:
        raise PrepError(f"{path}: the name does not match subject.from_name {columns.subject.from_name!r}.")
    return np.full(len(table), found["subject"])


def _numbers(path: Path, table: pd.DataFrame, column: str) -> np.ndarray:
    """A column as numbers; what is empty or "nan" is missing."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    wrong = np.flatnonzero(numbers.isna() & table[column].notna())
    if len(wrong):
        raise PrepError(
            f"{path}, line {wrong[0] + 2}, column {column!r}: {table[column].iloc[wrong[0]]!r} is no number."
        )
    return numbers.to_numpy(dtype=np.float64)
