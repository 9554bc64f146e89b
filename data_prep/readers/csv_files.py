"""One's own recordings: CSV, Parquet and device files, and a map of their columns (`data_prep/column_map.py`)."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from filecmp import cmp
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from data_prep.clocks import is_absolute, repaired
from data_prep.column_map import ColumnMap
from data_prep.errors import PrepError
from data_prep.files_beside import NULL, Intervals, Joined, activities_of
from data_prep.mapped_files import (
    KINDS,
    as_words,
    channels_of,
    check_columns,
    file_beside,
    name_of,
    read_pieces,
    times_of,
)
from data_prep.raw_files import find
from data_prep.recordings import DatasetInfo, Reader, Recording
from data_prep.signals import UNITS, same_label
from data_prep.tables import check_rate, on_grid
from data_prep.wear import Rest, inside

_PAUSE_S = 60.0  # behind a longer one another stretch begins: a grid over days would fill the memory
_BEGINNING = 4096  # bytes that few files share
_SHOWN = 10  # problems of files in one message
_SINCE_1970 = 1e8  # seconds: what is larger counts from there and not from a recording's start


class _File(NamedTuple):
    """A recording's file.

    Args:
        path: Where it lies.
        name: Its path below the folder that was given, without its suffix.
        columns: What its columns are.
    """

    path: Path
    name: str
    columns: ColumnMap

    def word(self, group: Literal["subject", "label"]) -> str | None:
        """What its name or path says; None where the map looks elsewhere.

        Raises:
            PrepError: It does not match, or says nothing.
        """
        source = getattr(self.columns, group)
        key = next((key for key in ("from_name", "from_path") if getattr(source, key, None) is not None), None)
        if key is None:
            return None
        given = self.name if key == "from_path" else name_of(self.path)
        found = re.fullmatch(getattr(source, key), given)
        if found is None or not (word := (found[group] or "").strip()):
            raise PrepError(f"{self.path}: {given!r} does not match {group}.{key} {getattr(source, key)!r}.")
        return word


def reader(raw: Path, columns: ColumnMap) -> Reader:
    """The reader of a folder of CSV and Parquet files; looks through all of them for the activities.

    Raises:
        PrepError: There is no file, or one lacks a column or has one that nobody mentioned.
    """
    named = [(path, path.relative_to(raw).with_name(name_of(path)).as_posix()) for path in _recordings(raw, columns)]
    files = [_File(path, name, columns.at_rate_of(name)) for path, name in named]
    for pattern in columns.other_rates:
        if files and not any(re.fullmatch(pattern, file.name) for file in files):
            raise PrepError(f"other_rates: no file is called like {pattern!r}; one is {files[0].name}.")
    _check_all(files)
    names: set[str] = set()
    for file in files:
        names.update(*_labels(file))
    if not names:
        raise PrepError(f"{raw} holds no {', '.join(KINDS)} file with samples.")
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
        + "".join(f"; files like {name} were at {rate:g} Hz" for name, rate in columns.other_rates.items())
        + f"; 1 g = 9.80665 m/s^2. Behind a pause of more than {_PAUSE_S:g} s another recording begins.",
        unchecked=columns.unchecked,
    )
    return Reader((info,), lambda _, __: files, read)


def _check_all(files: list[_File]) -> None:
    """Refuses what can be seen without reading a file through, of all files at once."""
    problems = []
    for file in files:
        try:
            check_columns(file.path, file.columns)
            file.word("subject")
            file.word("label")
        except PrepError as error:
            problems.append(str(error))
    if problems:
        more = len(problems) - _SHOWN
        raise PrepError("\n".join(problems[:_SHOWN]) + (f"\nand {more} more files." if more > 0 else ""))


def _recordings(raw: Path, columns: ColumnMap) -> list[Path]:
    """All files but those that go with another."""
    files = [path for path in find(raw, "*") if path.name.lower().endswith(KINDS)]
    beside = [columns.label.from_file, *(file.file for file in columns.joined)]
    others = {file_beside(path, name) for path in files for name in beside if name}
    found: dict[Path, Path] = {}
    for path in files:
        if (
            Path(os.path.normpath(path)) not in others
            and (other := found.setdefault(path.with_name(name_of(path)), path)) is not path
        ):
            raise PrepError(f"{other} and {path} are called the same: is this one recording twice? Keep one of them.")
    _refuse_copies(list(found.values()))
    return list(found.values())


def _refuse_copies(files: list[Path]) -> None:
    """The same recording under two names would be two people's, or two trials."""
    begun: dict[tuple[int, bytes], list[Path]] = {}
    for path in files:
        with path.open("rb") as file:
            alike = begun.setdefault((path.stat().st_size, file.read(_BEGINNING)), [])
        other = next((one for one in alike if cmp(one, path, shallow=False)), None)
        if other is not None:
            raise PrepError(f"{other} and {path} hold the same bytes: is this one recording twice? Keep one of them.")
        alike.append(path)


def _labels(file: _File) -> Iterator[set[str]]:
    path, _, columns = file
    if (said := file.word("label")) is not None:
        yield {said}
        return
    if columns.label.from_file is not None:
        yield set(Intervals(path, columns).labels) - {None}
        if columns.label.missing == "keep":
            yield {NULL}
        return
    for table in read_pieces(path, columns, [str(columns.label.column)]):
        yield set(activities_of(path, table, str(columns.label.column), columns.label.missing).dropna())


def read(part: _File, info: DatasetInfo) -> Iterator[Recording]:
    """Stretches of one activity of one subject in a file.

    Raises:
        PrepError: A value is no number, or time goes back, repeats, or runs at another rate.
    """
    path, name, columns = part
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    counted: Counter = Counter()
    rest = _rest(part)
    for stretch in _stretches(part, counted):
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
            grid, label, subject, f"{name}-{subject}", start_s,
            repaired=dict(counted), not_worn=lay, clock_s=clock_s, rate_hz=columns.sampling_rate_hz,
        )  # fmt: skip
        counted.clear()
    if not first:
        counted[f"file without a labelled sample: {path.name}"] += 1
    if any(counted.values()):  # of a file, or of its end, that no window comes from
        nothing = np.empty((0, len(columns.all_channels)))
        yield Recording(nothing, info.activities[0], "", name, repaired=dict(counted))


def _rest(file: _File) -> dict[str, np.ndarray] | None:
    """When each subject's device lay still, whatever the labels say; None where nobody looks."""
    path, _, columns = file
    if columns.still_min is None:
        return None
    found: dict[str, Rest] = {}
    samples = _samples(file)
    if columns.time is not None:
        samples = repaired(path, samples, columns.time, columns.sampling_rate_hz, Counter())
    for number, table in enumerate(samples):
        if not number and len(table) > 1:  # stamps in another unit would be years
            check_rate(path, table["time"].to_numpy(), columns.sampling_rate_hz)
        for subject, own in table.groupby("subject", sort=False):
            values = own[columns.accelerometer].to_numpy(np.float64)
            found.setdefault(str(subject), Rest(columns.still_min)).add(own["time"].to_numpy(), values)
    return {subject: rest.spans() for subject, rest in found.items()}


def _stretches(file: _File, counted: Counter) -> Iterator[pd.DataFrame]:
    """Rows of one activity of one subject without a pause; the last of a piece may go on in the next one."""
    path, _, columns = file
    begun, checked = None, False
    for piece in _labelled(file, counted):
        if not len(piece):
            continue
        table = piece if begun is None else pd.concat([begun, piece])
        if not checked and len(table) > 1:  # else stamps in another unit would make a pause of every step
            check_rate(path, table["time"].to_numpy(), columns.sampling_rate_hz)
            checked = True
        who = table["subject"] + "\n" + table["label"]
        changes = (who != who.shift()) | (table["time"].diff() > _PAUSE_S) | (table["unlabelled"].diff() > 0)
        *whole, (start, _) = same_label(changes.cumsum().to_numpy())
        yield from (table[first:last] for first, last in whole)
        begun = table[start:]
    if begun is not None:
        yield begun


def _labelled(file: _File, counted: Counter) -> Iterator[pd.DataFrame]:
    """Samples at their repaired times, with what lies in other files at these times, without those nobody labelled.

    How many of those came before is in `unlabelled`: they were measured, and are no gap to draw a line over.
    """
    path, _, columns = file
    intervals = Intervals(path, columns) if columns.label.from_file else None
    joined = [Joined(path, other, columns, counted) for other in columns.joined]
    samples = _samples(file)
    if columns.time is not None:
        samples = repaired(path, samples, columns.time, columns.sampling_rate_hz, counted)
    unlabelled = 0
    for table in samples:
        others = [channel for other in joined for channel in other.at(table["time"])]
        more: dict[Any, Any] = dict(enumerate(others, start=len(columns.channels)))
        if intervals is not None:
            more["label"] = intervals.at(path, table["time"])
        label = more.pop("label", table["label"])
        before = unlabelled + label.isna().cumsum()
        unlabelled += int(label.isna().sum())
        yield (
            table.assign(label=label, unlabelled=before).join(pd.DataFrame(more, table.index)).dropna(subset=["label"])
        )
    if intervals is not None and (unused := intervals.unused()):
        counted["intervals of labels hold no sample"] += unused


def _samples(file: _File) -> Iterator[pd.DataFrame]:
    """Pieces of the file as columns subject, label, time (s) and 0, 1, ...: its channels in the units they get."""
    path, _, columns = file
    absolute = None
    for table in read_pieces(path, columns):
        time = times_of(path, table, columns.time, columns)
        if columns.time is not None and len(table):
            before, absolute = absolute, is_absolute(table[columns.time.column], columns.time)
            if before not in (None, absolute):
                raise PrepError(
                    f"{path}, line {table.index[0]}: from here on times {'have' if absolute else 'lack'} an offset: "
                    "those before may be hours apart from them. Give all of them one."
                )
        channels = channels_of(path, table, columns.channels, columns.decimal)
        subject = file.word("subject") or as_words(path, table, str(columns.subject.column), "subject")
        label = file.word("label")
        if columns.label.column:
            label = activities_of(path, table, columns.label.column, columns.label.missing)
        if len(table):
            made = {"subject": subject, "label": label, "time": time} | dict(enumerate(channels))
            yield pd.DataFrame(made, index=table.index)
