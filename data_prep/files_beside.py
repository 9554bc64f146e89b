"""What lies in a file beside a recording: its activities as intervals, other channels at a rate of their own."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.signal import fftconvolve

from data_prep.clocks import is_absolute, repaired
from data_prep.column_map import ColumnMap, JoinedFile, TimeColumn
from data_prep.errors import PrepError
from data_prep.mapped_files import (
    as_text,
    channels_of,
    file_beside,
    is_device,
    is_parquet,
    layout_of,
    naming,
    read_pieces,
    times_of,
)
from data_prep.signals import low_pass, whole_stretches
from data_prep.tables import between, check_times, on_grid

NULL = "null"  # the activity of rows without one, where they are kept
_AS_FAST = 0.95  # of a joined file's rate: a recording as fast as that loses nothing of it
_SAME_S = 1e-6  # stamps and intervals in different units are rounded differently


class Intervals:
    """What was done when, from a file of intervals."""

    def __init__(self, recording: Path, columns: ColumnMap):
        label = columns.label
        self.path, self.missing = file_beside(recording, label.from_file or ""), label.missing
        if not self.path.is_file():
            raise PrepError(f"{recording} has no {self.path.name} beside it, which the map says its labels are in.")
        layout = layout_of(columns) | {"skiprows": 0, "dtype": str, "keep_default_na": False}
        with naming(self.path):
            table = pd.read_csv(self.path, **layout)
        absent = [name for name in (label.start, label.end, label.label) if name not in table]
        if absent:
            raise PrepError(f"{self.path} has no column {absent[0]!r} (columns: {', '.join(table)}).")
        table.index += 2
        clock = columns.time or TimeColumn(column=label.start)
        own = {key: value for key, value in (("unit", label.unit), ("zone", label.zone)) if value is not None}
        _check_clocks(recording, columns, self.path, table[label.start], clock.model_copy(update=own), "label")
        self._used = np.zeros(len(table), bool)
        self.start, self.end = (
            times_of(self.path, table, clock.model_copy(update={"column": name} | own), columns).to_numpy()
            for name in (label.start, label.end)
        )
        self.labels = activities_of(self.path, table, label.label, label.missing).to_numpy()
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
        self._used[place[inside]] = True
        label = pd.Series(np.where(inside, self.labels[place.clip(min=0)] if len(self.end) else "", ""), time.index)
        return filled(path, label, self.missing, f"interval of {self.path.name}")

    def unused(self) -> int:
        """How many intervals no sample lay in."""
        return int((~self._used).sum())


def _check_clocks(
    recording: Path, columns: ColumnMap, path: Path, stamps: pd.Series, clock: TimeColumn, key: str
) -> None:
    """Refuses local times beside times with an offset: they would be hours apart.

    Raises:
        PrepError: One of the two files says where its times were taken, and the other does not; a device's own file
            never does: its numbers are what its clock showed.
    """
    if columns.time is None:
        return
    if is_device(recording):
        if clock.unit == "iso" and len(stamps) and is_absolute(stamps, clock):
            raise PrepError(
                f"{path}: its times have an offset or a zone, and the clock of {recording} knows none, so they may be "
                "hours apart: write the times that the device's clock showed, without an offset or a zone."
            )
        if clock.unit not in ("iso", columns.time.unit):
            raise PrepError(
                f"{path}: its times are numbers in {clock.unit}, which count from 1970 in UTC, and the clock of "
                f"{recording} knows no zone, so they may be hours apart: write the times that the device's clock "
                f"showed as text (unit: iso), or its own numbers (unit: {columns.time.unit})."
            )
        return
    first = next(read_pieces(recording, columns, [columns.time.column]), None)
    if first is None:
        return
    places = {
        str(recording): is_absolute(first[columns.time.column], columns.time),
        str(path): is_absolute(stamps, clock),
    }
    if len(set(places.values())) == 2:
        (local,) = (name for name, absolute in places.items() if not absolute)
        raise PrepError(
            f"{local}: its times have no offset and say no zone, and those of "
            f"{next(name for name in places if name != local)} do, so they may be hours apart. Write zone: "
            f"Europe/Vienna, say, under {'time' if local == str(recording) else key} in the map."
        )


class Joined:
    """Channels of another file, at its own rate."""

    def __init__(self, recording: Path, file: JoinedFile, columns: ColumnMap, counted: Counter):
        path = file_beside(recording, file.file)
        if not path.is_file():
            raise PrepError(f"{path} is missing, which the map joins.")
        clock = file.time or columns.time
        if clock is None:
            raise PrepError(f"{path}: no column of the map is its time.")
        own = columns.model_copy(update={"channels": file.channels, "time": clock, "joined": ()})
        names = [clock.column, *(channel.column for channel in file.channels.values())]
        if is_parquet(path) and (absent := [name for name in names if name not in pq.read_schema(path).names]):
            raise PrepError(f"{path} has no column {absent[0]!r}, which the map joins.")
        tables = list(read_pieces(path, own, names))
        if not tables:
            raise PrepError(f"{path}: the file holds no samples.")
        table = pd.concat(tables)
        _check_clocks(recording, columns, path, table[clock.column], clock, "time of joined")
        channels = channels_of(path, table, file.channels, columns.decimal)
        made = {"subject": "", "time": times_of(path, table, clock, columns)} | dict(enumerate(channels))
        table = pd.concat(repaired(path, [pd.DataFrame(made)], clock, file.sampling_rate_hz, counted))
        times, self.rate = table["time"].to_numpy(), file.sampling_rate_hz
        check_times(path, times, self.rate, next(iter(table.index), 0))
        every = [table[number].to_numpy() for number in range(len(channels))]
        self.channels = [(times[~np.isnan(values)], values[~np.isnan(values)]) for values in every]
        if columns.sampling_rate_hz < _AS_FAST * self.rate:
            limit = columns.sampling_rate_hz
            self.channels = [_low_passed(path, *channel, self.rate, limit) for channel in self.channels]

    def at(self, time: pd.Series) -> list[pd.Series]:
        """Each channel on the straight line between its neighbours in time; NaN where it has none near."""
        places = time.to_numpy() * self.rate
        return [pd.Series(between(places, times * self.rate, values), time.index) for times, values in self.channels]


def _low_passed(
    path: Path, times: np.ndarray, values: np.ndarray, rate: float, to_hz: float
) -> tuple[np.ndarray, np.ndarray]:
    """A channel at its own rate without what a lower one cannot show: it would come back there as another motion."""
    if not len(times):
        return times, values
    places, passed = [], []
    for first, part in whole_stretches(on_grid(path, times, values[:, None], rate), rate, 0.0):
        trend = np.linspace(part[0, 0], part[-1, 0], len(part))  # or gravity would ring at the ends
        places.append(first + np.arange(len(part)))
        passed.append(trend + fftconvolve(part[:, 0] - trend, low_pass(rate / to_hz), mode="same"))
    return times[0] + np.concatenate(places) / rate, np.concatenate(passed)


def activities_of(path: Path, table: pd.DataFrame, column: str, missing: str) -> pd.Series:
    """The activity of each row; None where there is none and it is to be dropped."""
    return filled(path, as_text(table[column]), missing, f"activity in column {column!r} (empty, nan, NA, None)")


def filled(path: Path, words: pd.Series, missing: str, what: str) -> pd.Series:
    empty = words.index[words == ""]
    if len(empty) and missing == "refuse":
        raise PrepError(
            f"{path}, line {empty[0]}: no {what}. Write missing: drop, or missing: keep, under label in the map?"
        )
    return words.replace("", NULL if missing == "keep" else None)
