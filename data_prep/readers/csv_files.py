"""One's own recordings: CSV, Parquet and device files, and a map of their columns (`data_prep/column_map.py`)."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.clocks import repaired, seconds_of
from data_prep.column_map import ChannelColumn, ColumnMap, JoinedFile, TimeColumn
from data_prep.device_files import SUFFIXES, read_device
from data_prep.errors import PrepError
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.signals import UNITS, same_label
from data_prep.tables import between, check_rate, check_times, on_grid
from data_prep.wear import Rest, inside

_MISSING = ["", "nan", "NaN", "NAN", "NA", "null"]  # numbers only: there may be an activity called null
_ROWS_AT_ONCE = 50_000
_PAUSE_S = 60.0  # behind a longer one another stretch begins: a grid over days would fill the memory
_SINCE_1970 = 1e8  # seconds: what is larger counts from there and not from a recording's start
_SAME_S = 1e-6  # stamps and intervals in different units are rounded differently
_NULL = "null"  # the activity of rows without one, where they are kept
_KINDS = (".csv", ".csv.gz", ".parquet", *SUFFIXES)


def reader(raw: Path, columns: ColumnMap) -> Reader:
    """The reader of a folder of CSV and Parquet files; looks through all of them for the activities.

    Raises:
        PrepError: There is no file, or one lacks a column or has one that nobody mentioned.
    """
    files = _recordings(raw, columns)
    names: set[str] = set()
    for path in files:
        _check_columns(path, columns)
        names.update(*_labels(path, columns))
    if not names:
        raise PrepError(f"{raw} holds no {', '.join(_KINDS)} file with samples.")
    info = DatasetInfo(
        name="csv",
        title=columns.title,
        sampling_rate_hz=columns.sampling_rate_hz,
        channels=tuple(columns.all_channels),
        units=tuple(UNITS[channel.unit][0] for channel in columns.all_channels.values()),
        activities=tuple(sorted(names)),
        subjects="see below",
        license=columns.license,
        citation=columns.citation,
        url="own recordings",
        layout="*.csv",
        about=f"Prepared from {len(files)} files. Units as given: "
        + ", ".join(f"{name} {channel.unit}" for name, channel in columns.all_channels.items())
        + f"; 1 g = 9.80665 m/s^2. Behind a pause of more than {_PAUSE_S:g} s another recording begins.",
        unchecked=columns.unchecked,
    )
    parts = [(path, path.relative_to(raw).with_name(_name(path)).as_posix(), columns) for path in files]
    return Reader((info,), lambda _, __: parts, read)


def _recordings(raw: Path, columns: ColumnMap) -> list[Path]:
    """All files but those that go with another."""
    files = [path for path in find(raw, "*") if path.name.lower().endswith(_KINDS)]
    beside = [columns.label.from_file, *(file.file for file in columns.joined)]
    others = {_beside(path, name) for path in files for name in beside if name}
    found: dict[Path, Path] = {}
    for path in files:
        if path not in others and (other := found.setdefault(path.with_name(_name(path)), path)) is not path:
            raise PrepError(f"{other} and {path} are called the same: is this one recording twice? Keep one of them.")
    return list(found.values())


def _name(path: Path) -> str:
    kind = next(kind for kind in _KINDS if path.name.lower().endswith(kind))
    return path.name[: -len(kind)]


def _beside(path: Path, name: str) -> Path:
    return path.with_name(name.replace("{name}", _name(path)))


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def _is_device(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _check_columns(path: Path, columns: ColumnMap) -> None:
    if _is_device(path):
        known = list(read_device(path).columns)
        absent = [name for name in columns.columns if name not in known]
        if absent:
            raise PrepError(f"{path} has no column {absent[0]!r} (columns: {', '.join(known)}).")
        return
    with _named(path):
        header = (
            pq.read_schema(path).names if _is_parquet(path)
            else list(pd.read_csv(path, nrows=0, **_layout(columns)).columns)
        )  # fmt: skip
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
    if columns.label.from_file is not None:
        yield set(_Intervals(path, columns).labels)
        if columns.label.missing == "keep":
            yield {_NULL}
        return
    for table in _pieces(path, columns, [str(columns.label.column)]):
        yield set(_activities(path, table, columns).dropna())


def _layout(columns: ColumnMap) -> dict[str, Any]:
    """Options of pandas: how the text is laid out."""
    # With index_col=False a row with more fields than the header is an error or a warning, never a shift.
    return {
        "sep": columns.delimiter, "decimal": columns.decimal, "skiprows": columns.skip_rows, "index_col": False,
        "encoding": columns.encoding, "skip_blank_lines": False, "skipinitialspace": True,
    }  # fmt: skip


def _types(columns: ColumnMap) -> dict[str, Any]:
    """Options of pandas: which columns are text, and what is a missing number."""
    text = [name for name in (columns.label.column, columns.subject.column) if name]
    if columns.time and columns.time.unit == "iso":
        text.append(columns.time.column)
    numbers = {name: _MISSING for name in columns.columns if name not in text}
    return {"dtype": dict.fromkeys(text, str), "keep_default_na": False, "na_values": numbers}


def _pieces(path: Path, columns: ColumnMap, wanted: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """The file a piece at a time: it may be larger than memory. The index is the line in the file, or the row."""
    with _named(path):
        if _is_device(path):
            yield read_device(path)[wanted or columns.columns]
        elif _is_parquet(path):
            yield from _of_parquet(path, wanted or columns.columns)
        else:
            yield from _of_csv(path, columns, wanted)


def _of_parquet(path: Path, wanted: list[str]) -> Iterator[pd.DataFrame]:
    first = 1
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            table = batch.to_pandas(ignore_metadata=True)  # an index of pandas is a column as any other
            table.index = pd.RangeIndex(first, first + len(table))
            first += len(table)
            yield table


def _of_csv(path: Path, columns: ColumnMap, wanted: list[str] | None) -> Iterator[pd.DataFrame]:
    options = _layout(columns) | _types(columns)
    with pd.read_csv(path, chunksize=_ROWS_AT_ONCE, usecols=wanted, **options) as pieces:
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
    except (ValueError, OSError, EOFError, pa.ArrowException) as error:  # also encodings, and a .gz cut in the middle
        kind = "Parquet" if _is_parquet(path) else "CSV"
        raise PrepError(f"{path} cannot be read as {kind}: {str(error).strip()}") from error


def read(part: tuple[Path, str, ColumnMap], info: DatasetInfo) -> Iterator[Recording]:
    """Stretches of one activity of one subject in a file.

    Raises:
        PrepError: A value is no number, or time goes back, repeats, or runs at another rate.
    """
    path, name, columns = part
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    counted: Counter = Counter()
    rest = _rest(path, columns)
    for stretch in _stretches(path, columns, counted):
        subject, label, begin = stretch.iloc[0][["subject", "label", "time"]]
        line = int(stretch.index[0])
        if begin <= last.get(subject, -np.inf):
            raise PrepError(
                f"{path}, line {line}: the time stamp goes back ({last[subject]} s, then {begin} s, of subject "
                f"{subject}). Sort the file, make a file of each recording, or, where samples come late, write "
                "backward: drop under time in the map."
            )
        times, values = stretch["time"].to_numpy(), stretch[list(range(len(columns.all_channels)))].to_numpy()
        grid = on_grid(path, times, values, columns.sampling_rate_hz, line)
        last[subject] = times[-1]
        start_s = begin - first.setdefault(subject, begin)
        grid_s = begin + np.arange(len(grid)) / columns.sampling_rate_hz
        lay = None if rest is None else inside(grid_s, rest[subject])
        clock_s = begin if columns.at_once == "refuse" and begin > _SINCE_1970 else None
        yield Recording(
            grid, label, subject, f"{name}-{subject}", start_s, repaired=dict(counted), not_worn=lay, clock_s=clock_s
        )
        counted.clear()


def _rest(path: Path, columns: ColumnMap) -> dict[str, np.ndarray] | None:
    """When each subject's device lay still, whatever the labels say; None where nobody looks."""
    if columns.still_min is None:
        return None
    found: dict[str, Rest] = {}
    samples = _samples(path, columns)
    if columns.time is not None:
        samples = repaired(path, samples, columns.time, columns.sampling_rate_hz, Counter())
    for table in samples:
        for subject, own in table.groupby("subject", sort=False):
            values = own[columns.accelerometer].to_numpy(np.float64)
            found.setdefault(str(subject), Rest(columns.still_min)).add(own["time"].to_numpy(), values)
    return {subject: rest.spans() for subject, rest in found.items()}


def _stretches(path: Path, columns: ColumnMap, counted: Counter) -> Iterator[pd.DataFrame]:
    """Rows of one activity of one subject without a pause; the last of a piece may go on in the next one."""
    begun, checked = None, False
    for piece in _labelled(path, columns, counted):
        if not len(piece):
            continue
        table = piece if begun is None else pd.concat([begun, piece])
        if not checked and len(table) > 1:  # else stamps in another unit would make a pause of every step
            check_rate(path, table["time"].to_numpy(), columns.sampling_rate_hz)
            checked = True
        who = table["subject"] + "\n" + table["label"]
        changes = (who != who.shift()) | (table["time"].diff() > _PAUSE_S)
        *whole, (start, _) = same_label(changes.cumsum().to_numpy())
        yield from (table[first:last] for first, last in whole)
        begun = table[start:]
    if begun is not None:
        yield begun


def _labelled(path: Path, columns: ColumnMap, counted: Counter) -> Iterator[pd.DataFrame]:
    """Samples at their repaired times, with what lies in other files at these times, without those nobody labelled."""
    intervals = _Intervals(path, columns) if columns.label.from_file else None
    joined = [_Joined(_beside(path, file.file), file, columns) for file in columns.joined]
    samples = _samples(path, columns)
    if columns.time is not None:
        samples = repaired(path, samples, columns.time, columns.sampling_rate_hz, counted)
    for table in samples:
        others = [channel for other in joined for channel in other.at(table["time"])]
        more: dict[Any, Any] = dict(enumerate(others, start=len(columns.channels)))
        if intervals is not None:
            more["label"] = intervals.at(path, table["time"])
        yield (
            table.assign(**{"label": more.pop("label", table["label"])})
            .join(pd.DataFrame(more, table.index))
            .dropna(subset=["label"])
        )


def _samples(path: Path, columns: ColumnMap) -> Iterator[pd.DataFrame]:
    """Pieces of the file as columns subject, label, time (s) and 0, 1, ...: its channels in the units they get."""
    for table in _pieces(path, columns):
        time = _times_s(path, table, columns.time, columns)
        channels = _channels(path, table, columns.channels, columns.decimal)
        subject = _subject(path, table, columns)
        label = _activities(path, table, columns) if columns.label.column else None
        if len(table):
            made = {"subject": subject, "label": label, "time": time} | dict(enumerate(channels))
            yield pd.DataFrame(made, index=table.index)


def _channels(path: Path, table: pd.DataFrame, channels: dict[str, ChannelColumn], decimal: str) -> list[pd.Series]:
    return [_numbers(path, table, one.column, decimal) * UNITS[one.unit][1] for one in channels.values()]


class _Intervals:
    """What was done when, from a file of intervals."""

    def __init__(self, recording: Path, columns: ColumnMap):
        label = columns.label
        self.path, self.missing = _beside(recording, label.from_file or ""), label.missing
        if not self.path.is_file():
            raise PrepError(f"{recording} has no {self.path.name} beside it, which the map says its labels are in.")
        layout = _layout(columns) | {"skiprows": 0, "dtype": str, "keep_default_na": False}
        with _named(self.path):
            table = pd.read_csv(self.path, **layout)
        absent = [name for name in (label.start, label.end, label.label) if name not in table]
        if absent:
            raise PrepError(f"{self.path} has no column {absent[0]!r} (columns: {', '.join(table)}).")
        table.index += 2
        clock = columns.time or TimeColumn(column=label.start)
        own = {} if label.unit is None else {"unit": label.unit}
        self.start, self.end = (
            _times_s(self.path, table, clock.model_copy(update={"column": name} | own), columns).to_numpy()
            for name in (label.start, label.end)
        )
        self.labels = _words(self.path, table, label.label, "activity").to_numpy()
        backward = np.flatnonzero(~(self.end > self.start))
        if len(backward):
            raise PrepError(f"{self.path}, line {backward[0] + 2}: the interval ends before it starts.")
        order = np.argsort(self.start, kind="stable")
        self.start, self.end, self.labels = self.start[order], self.end[order], self.labels[order]
        overlaps = np.flatnonzero(self.start[1:] < self.end[:-1])
        if len(overlaps):
            first, second = order[overlaps[0]] + 2, order[overlaps[0] + 1] + 2
            raise PrepError(f"{self.path}: the intervals of lines {first} and {second} overlap.")

    def at(self, path: Path, time: pd.Series) -> pd.Series:
        """The activity of each sample; None where there is none and it is to be dropped."""
        moment = time.to_numpy() + _SAME_S
        place = np.searchsorted(self.start, moment, side="right") - 1
        inside = (place >= 0) & (moment < self.end[place.clip(min=0)]) if len(self.end) else place >= 0
        label = pd.Series(np.where(inside, self.labels[place.clip(min=0)] if len(self.end) else "", ""), time.index)
        return _filled(path, label, self.missing, f"interval of {self.path.name}")


class _Joined:
    """Channels of another file, at its own rate."""

    def __init__(self, path: Path, file: JoinedFile, columns: ColumnMap):
        if not path.is_file():
            raise PrepError(f"{path} is missing, which the map joins.")
        clock = file.time or columns.time
        if clock is None:
            raise PrepError(f"{path}: no column of the map is its time.")
        own = columns.model_copy(update={"channels": file.channels, "time": clock, "joined": ()})
        names = [clock.column, *(channel.column for channel in file.channels.values())]
        if _is_parquet(path) and (absent := [name for name in names if name not in pq.read_schema(path).names]):
            raise PrepError(f"{path} has no column {absent[0]!r}, which the map joins.")
        tables = list(_pieces(path, own, names))
        if not tables:
            raise PrepError(f"{path}: the file holds no samples.")
        table = pd.concat(tables)
        channels = _channels(path, table, file.channels, columns.decimal)
        made = {"subject": "", "time": _times_s(path, table, clock, columns)} | dict(enumerate(channels))
        table = pd.concat(repaired(path, [pd.DataFrame(made)], clock, file.sampling_rate_hz, Counter()))
        self.time, self.rate = table["time"].to_numpy(), file.sampling_rate_hz
        check_times(path, self.time, self.rate, 2)
        self.values = [table[number].to_numpy() for number in range(len(channels))]

    def at(self, time: pd.Series) -> list[pd.Series]:
        """Each channel on the straight line between its neighbours in time; NaN where it has none near."""
        found = []
        for values in self.values:
            given = ~np.isnan(values)
            at = between(time.to_numpy() * self.rate, self.time[given] * self.rate, values[given])
            found.append(pd.Series(at, time.index))
        return found


def _times_s(path: Path, table: pd.DataFrame, time: TimeColumn | None, columns: ColumnMap) -> pd.Series:
    if time is None:
        first = 1 if _is_parquet(path) or _is_device(path) else columns.skip_rows + 2
        return pd.Series((table.index - first) / columns.sampling_rate_hz, table.index)
    if time.unit != "iso" and pd.api.types.is_datetime64_any_dtype(table[time.column]):
        raise PrepError(f"{path}, column {time.column!r} holds dates: write unit: iso in the map.")
    numbers = None if time.unit == "iso" else _numbers(path, table, time.column, columns.decimal)
    return seconds_of(path, table[time.column], time, numbers)


def _activities(path: Path, table: pd.DataFrame, columns: ColumnMap) -> pd.Series:
    """The activity of each row; None where there is none and it is to be dropped."""
    name = str(columns.label.column)
    words = _text(table[name]).fillna("").astype(object)
    return _filled(path, words, columns.label.missing, f"activity in column {name!r}")


def _filled(path: Path, words: pd.Series, missing: str, what: str) -> pd.Series:
    empty = words.index[words == ""]
    if len(empty) and missing == "refuse":
        raise PrepError(
            f"{path}, line {empty[0]}: no {what}. Write missing: drop, or missing: keep, under label in the map?"
        )
    return words.replace("", _NULL if missing == "keep" else None)


def _subject(path: Path, table: pd.DataFrame, columns: ColumnMap) -> pd.Series | str:
    if columns.subject.column is not None:
        return _words(path, table, columns.subject.column, "subject")
    found = re.fullmatch(columns.subject.from_name or "", _name(path))
    if found is None or not found["subject"]:
        raise PrepError(f"{path}: the name does not match subject.from_name {columns.subject.from_name!r}.")
    return found["subject"]


def _words(path: Path, table: pd.DataFrame, column: str, meaning: str) -> pd.Series:
    """A column of text, which must say something in every row."""
    words = _text(table[column]).astype(object)
    empty = words.index[words.fillna("") == ""]
    if len(empty):
        raise PrepError(f"{path}, line {empty[0]}: no {meaning} in column {column!r}.")
    return words


def _text(values: pd.Series) -> pd.Series:
    """As text; 1.0 is 1, which is what Parquet makes of whole numbers where some are missing."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype("string").str.strip()


def _numbers(path: Path, table: pd.DataFrame, column: str, decimal: str) -> pd.Series:
    """A column as numbers; what is empty or "nan" is missing."""
    given = table[column]
    if decimal != "." and not pd.api.types.is_numeric_dtype(
        given
    ):  # pandas leaves a column as text for one that is no number
        given = given.replace(decimal, ".", regex=True)
    numbers = pd.to_numeric(given, errors="coerce").astype(np.float64)
    wrong = table.index[(numbers.isna() & given.notna()) | np.isinf(numbers)]
    if len(wrong):
        value = str(table[column][wrong[0]])
        hint = " Write decimal: ',' in the column map?" if decimal == "." and "," in value else ""
        raise PrepError(f"{path}, line {wrong[0]}, column {column!r}: {value!r} is no finite number.{hint}")
    return numbers
