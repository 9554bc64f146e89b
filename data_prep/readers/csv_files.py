"""One's own recordings: CSV files, and a map of their columns (`data_prep/column_map.py` says how it is written)."""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.column_map import ColumnMap
from data_prep.errors import PrepError
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.signals import UNITS, same_label
from data_prep.tables import check_rate, on_grid

_MISSING = ["", "nan", "NaN", "NAN", "NA", "null"]  # numbers only: there may be an activity called null
_ROWS_AT_ONCE = 50_000
_PAUSE_S = 60.0  # behind a longer one another stretch begins: a grid over days would fill the memory
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def reader(raw: Path, columns: ColumnMap) -> Reader:
    """The reader of a folder of CSV files; looks through all of them for the activities.

    Raises:
        PrepError: There is no file, or one lacks a column or has one that nobody mentioned.
    """
    files = find(raw, "*.[cC][sS][vV]")
    names: set[str] = set()
    for path in files:
        _check_columns(path, columns)
        names.update(*_labels(path, columns))
    if not names:
        raise PrepError(f"{raw} holds no .csv file with samples.")
    info = DatasetInfo(
        name="csv",
        title=columns.title,
        sampling_rate_hz=columns.sampling_rate_hz,
        channels=tuple(columns.channels),
        units=tuple(UNITS[channel.unit][0] for channel in columns.channels.values()),
        activities=tuple(sorted(names)),
        subjects="see below",
        license=columns.license,
        citation=columns.citation,
        url="own recordings",
        layout="*.csv",
        about=f"Prepared from {len(files)} CSV files. Units as given: "
        + ", ".join(f"{name} {channel.unit}" for name, channel in columns.channels.items())
        + f"; 1 g = 9.80665 m/s^2. Behind a pause of more than {_PAUSE_S:g} s another recording begins.",
        unchecked=columns.unchecked,
    )
    parts = [(path, path.relative_to(raw).with_suffix("").as_posix(), columns) for path in files]
    return Reader((info,), lambda _, __: parts, read)


def _check_columns(path: Path, columns: ColumnMap) -> None:
    with _named(path):
        header = list(pd.read_csv(path, nrows=0, **_layout(columns)).columns)
    missing = [name for name in columns.columns if name not in header]
    extra = [name for name in header if name not in columns.columns and name not in columns.ignore]
    if not missing and not extra:
        return
    mark = max(";\t|,", key=header[0].count)
    if len(header) == 1 and mark in header[0]:
        raise PrepError(
            f"{path}: fields seem to be separated by {json.dumps(mark)}, not {json.dumps(columns.delimiter)}: write "
            f"delimiter: {json.dumps(mark)} in the column map."
        )
    raise PrepError(
        f"{path}: {'missing columns: ' + ', '.join(missing) + '. ' if missing else ''}"
        f"{'columns nobody mentioned: ' + ', '.join(extra) + ' (name them under ignore). ' if extra else ''}"
        f"The header (line {columns.skip_rows + 1}) is {', '.join(header)}."
    )


def _labels(path: Path, columns: ColumnMap) -> Iterator[set[str]]:
    for table in _pieces(path, columns, usecols=[columns.label.column]):
        yield set(_words(path, table, columns.label.column, "activity"))


def _layout(columns: ColumnMap) -> dict[str, Any]:
    """Options of pandas: how the text is laid out."""
    # With index_col=False a row with more fields than the header is an error or a warning, never a shift.
    return {
        "sep": columns.delimiter, "decimal": columns.decimal, "skiprows": columns.skip_rows, "index_col": False,
        "encoding": "utf-8", "skip_blank_lines": False, "skipinitialspace": True,
    }  # fmt: skip


def _types(columns: ColumnMap) -> dict[str, Any]:
    """Options of pandas: which columns are text, and what is a missing number."""
    text = [columns.label.column, *([columns.subject.column] if columns.subject.column else [])]
    if columns.time and columns.time.unit == "iso":
        text.append(columns.time.column)
    numbers = {name: _MISSING for name in columns.columns if name not in text}
    return {"dtype": dict.fromkeys(text, str), "keep_default_na": False, "na_values": numbers}


def _pieces(path: Path, columns: ColumnMap, **options: Any) -> Iterator[pd.DataFrame]:
    """The file a piece at a time: it may be larger than memory. The index is the line in the file."""
    options |= _layout(columns) | _types(columns)
    with _named(path), pd.read_csv(path, chunksize=_ROWS_AT_ONCE, **options) as pieces:
        while True:
            with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
                piece = next(pieces, None)
            if piece is None:
                return
            piece.index += columns.skip_rows + 2
            yield piece


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Says which file it is that pandas cannot read."""
    try:
        yield
    except PrepError:
        raise
    except pd.errors.ParserWarning as error:
        raise PrepError(f"{path}: the first line below the header has more fields than that has names.") from error
    except ValueError as error:  # pandas' own errors and those of encodings are ValueErrors
        raise PrepError(f"{path} cannot be read as CSV: {str(error).strip()}") from error


def read(part: tuple[Path, str, ColumnMap], info: DatasetInfo) -> Iterator[Recording]:
    """Stretches of one activity of one subject in a file.

    Raises:
        PrepError: A value is no number, or time goes back, repeats, or runs at another rate.
    """
    path, name, columns = part
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for stretch in _stretches(path, columns):
        subject, label, begin = stretch.iloc[0][["subject", "label", "time"]]
        line = int(stretch.index[0])
        if begin <= last.get(subject, -np.inf):
            raise PrepError(
                f"{path}, line {line}: the time stamp goes back ({last[subject]} s, then {begin} s, of subject "
                f"{subject}). Sort the file, or make a file of each recording."
            )
        times, values = stretch["time"].to_numpy(), stretch[list(range(len(columns.channels)))].to_numpy()
        grid = on_grid(path, times, values, columns.sampling_rate_hz, line)
        last[subject] = times[-1]
        yield Recording(grid, label, subject, f"{name}-{subject}", begin - first.setdefault(subject, begin))


def _stretches(path: Path, columns: ColumnMap) -> Iterator[pd.DataFrame]:
    """Rows of one activity of one subject without a pause; the last of a piece may go on in the next one."""
    begun = None
    for piece in _samples(path, columns):
        table = piece if begun is None else pd.concat([begun, piece])
        if begun is None:  # else stamps in another unit would make a pause of every step
            check_rate(path, table["time"].to_numpy(), columns.sampling_rate_hz)
        who = table["subject"] + "\n" + table["label"]
        changes = (who != who.shift()) | (table["time"].diff() > _PAUSE_S)
        *whole, (start, _) = same_label(changes.cumsum().to_numpy())
        yield from (table[first:last] for first, last in whole)
        begun = table[start:]
    if begun is not None:
        yield begun


def _samples(path: Path, columns: ColumnMap) -> Iterator[pd.DataFrame]:
    """Pieces of the file as columns subject, label, time (s) and 0, 1, ...: the channels in the units they get."""
    for table in _pieces(path, columns):
        time = _times_s(path, table, columns)
        channels = {
            number: _numbers(path, table, channel.column, columns.decimal) * UNITS[channel.unit][1]
            for number, channel in enumerate(columns.channels.values())
        }
        subject, label = _subject(path, table, columns), _words(path, table, columns.label.column, "activity")
        if len(table):
            yield pd.DataFrame({"subject": subject, "label": label, "time": time} | channels, index=table.index)


def _times_s(path: Path, table: pd.DataFrame, columns: ColumnMap) -> pd.Series | pd.Index:
    if columns.time is None:
        return table.index / columns.sampling_rate_hz
    name, unit = columns.time.column, columns.time.unit
    if unit == "iso":
        times = pd.to_datetime(table[name], format="ISO8601", utc=True, errors="coerce")
        wrong = table.index[times.isna()]
        if len(wrong):
            raise PrepError(
                f"{path}, line {wrong[0]}, column {name!r}: {table[name][wrong[0]]!r} is no ISO 8601 time."
            )
        return (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    numbers = _numbers(path, table, name, columns.decimal)
    missing = table.index[numbers.isna()]
    if len(missing):
        raise PrepError(f"{path}, line {missing[0]}: the time stamp is missing.")
    return numbers * _SECONDS[unit]


def _subject(path: Path, table: pd.DataFrame, columns: ColumnMap) -> pd.Series | str:
    if columns.subject.column is not None:
        return _words(path, table, columns.subject.column, "subject")
    found = re.fullmatch(columns.subject.from_name or "", path.stem)
    if found is None or not found["subject"]:
        raise PrepError(f"{path}: the name does not match subject.from_name {columns.subject.from_name!r}.")
    return found["subject"]


def _words(path: Path, table: pd.DataFrame, column: str, meaning: str) -> pd.Series:
    """A column of text, which must say something in every row."""
    words = table[column].str.strip()
    empty = words.index[words.fillna("") == ""]
    if len(empty):
        raise PrepError(f"{path}, line {empty[0]}: no {meaning} in column {column!r}.")
    return words


def _numbers(path: Path, table: pd.DataFrame, column: str, decimal: str) -> pd.Series:
    """A column as numbers; what is empty or "nan" is missing."""
    given = table[column]
    if decimal != ".":  # pandas leaves a column as text for one that is no number
        given = given.replace(decimal, ".", regex=True)
    numbers = pd.to_numeric(given, errors="coerce").astype(np.float64)
    wrong = table.index[(numbers.isna() & given.notna()) | np.isinf(numbers)]
    if len(wrong):
        value = str(table[column][wrong[0]])
        hint = " Write decimal: ',' in the column map?" if decimal == "." and "," in value else ""
        raise PrepError(f"{path}, line {wrong[0]}, column {column!r}: {value!r} is no finite number.{hint}")
    return numbers
