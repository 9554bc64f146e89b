"""Text tables of numbers, and their time stamps; what is wrong is named by file and line."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.errors import PrepError

STEPS_OF_A_RATE = 10  # fewer say little: a lost sample is half of two
_RATE_TOLERANCE = 0.05  # relative; clocks of wearables drift by less than a percent
_ON_THE_GRID = 1e-3  # of a step: what rounding does to stamps of years in seconds
_NEIGHBOURS = 1.5  # steps between samples next to each other; further apart, one is missing


def read_numbers(path: Path, columns: int, delimiter: str | None = None) -> np.ndarray:
    """A table of numbers, [rows, columns] float64; "NaN" is a number. Blank lines are left out.

    Args:
        path: The file.
        columns: How many it must have.
        delimiter: Between columns; None = blanks.

    Raises:
        PrepError: A line has another number of columns or something that is no number, or there is no line.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # numpy's about empty files; ours says more
            values = np.loadtxt(path, delimiter=delimiter, comments=None, ndmin=2, encoding="utf-8")
    except ValueError as error:  # also a file that is no text
        raise PrepError(_first_bad_line(path, columns, delimiter)) from error
    if not values.size:
        raise PrepError(f"{path}: the file holds no samples.")
    if values.shape[1] != columns:
        raise PrepError(_first_bad_line(path, columns, delimiter))
    return values


def _first_bad_line(path: Path, columns: int, delimiter: str | None) -> str:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.split(delimiter)
            if not line.strip():
                continue
            if len(words) != columns:
                return f"{path}, line {number}: {len(words)} columns instead of {columns}."
            for column, word in enumerate(words, start=1):
                try:
                    float(word)
                except ValueError:
                    return f"{path}, line {number}, column {column}: {word.strip()!r} is no number."
    return f"{path} is not a table of {columns} columns."


def on_grid(path: Path, times_s: np.ndarray, values: np.ndarray, sampling_rate_hz: float, line: int = 1) -> np.ndarray:
    """Samples on a regular grid of times, each on the straight line between its two neighbours in the file.

    A sample that lies on the grid is kept as it is. Where neighbours are further apart than 1.5 steps of the grid, the
    file has none: NaN, for `signals.whole_stretches` to fill or to cut at.

    Args:
        path: The file, for messages.
        times_s: Time of each sample in seconds, [T].
        values: Samples, [T, C]; NaN where a sensor gave nothing.
        sampling_rate_hz: Samples a second.
        line: Line of the first sample in the file.

    Returns:
        Samples [T', C], the first at the first time.

    Raises:
        PrepError: Times repeat or go back, or the rate is another one.
    """
    check_times(path, times_s, sampling_rate_hz, line)
    places = (times_s - times_s[0]) * sampling_rate_hz
    grid = np.arange(int(places[-1] + _ON_THE_GRID) + 1)
    columns = []
    for channel in values.T:
        given = ~np.isnan(channel)
        columns.append(between(grid, places[given], channel[given]))
    return np.stack(columns, axis=1)


def between(grid: np.ndarray, places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A channel [T] at ascending places, in steps of the grid, at the grid's points; NaN where nothing is near."""
    if not len(places):
        return np.full(len(grid), np.nan)
    right = np.searchsorted(places, grid).clip(max=len(places) - 1)
    left = (right - 1).clip(min=0)
    near = (places[left] <= grid) & (grid <= places[right]) & (places[right] - places[left] <= _NEIGHBOURS)
    return np.select(
        [np.abs(places[right] - grid) < _ON_THE_GRID, np.abs(places[left] - grid) < _ON_THE_GRID, near],
        [values[right], values[left], np.interp(grid, places, values)],
        np.nan,
    )


def check_times(path: Path, times_s: np.ndarray, sampling_rate_hz: float, line: int = 1) -> None:
    """Refuses time stamps that are not in order, or are those of another rate.

    Raises:
        PrepError: Times repeat or go back, or the rate is another one.
    """
    steps = np.diff(times_s)
    wrong = np.flatnonzero(~(steps > 0))
    if len(wrong):
        place = int(wrong[0])
        kind = "repeats" if steps[place] == 0 else "goes back" if steps[place] < 0 else "is missing"
        raise PrepError(
            f"{path}, line {line + place + 1}: the time stamp {kind} ({times_s[place]} s, then "
            f"{times_s[place + 1]} s). Sort the file and remove duplicates."
        )
    if len(steps) >= STEPS_OF_A_RATE:
        check_rate(path, times_s, sampling_rate_hz, line)


def check_rate(path: Path, times_s: np.ndarray, sampling_rate_hz: float, line: int = 1) -> None:
    """Refuses samples at another rate than that of the data set, by the median step between them.

    Raises:
        PrepError: The rate is another one.
    """
    measured = measured_rate_hz(times_s)
    if is_another_rate(measured, sampling_rate_hz):
        raise PrepError(
            f"{path}, from line {line}: sampled at {measured:.4g} Hz, and this data set is at "
            f"{sampling_rate_hz:g} Hz. Correct the unit of the time stamps; of files of one's own, where some are at "
            "another rate, the column map's other_rates says which."
        )


def mixed_offset(stamps: pd.Series) -> Any:
    """Index of the first stamp, as text, that has an offset where the very first has none, or the other way round."""
    words = stamps.astype("string")
    has = words.str.contains(r":\d{2}(?:[.,]\d+)?\s*(?:Z|[+-]\d{2}(?::?\d{2})?)\s*$", case=False).fillna(False)
    other = stamps.index[has != has.iloc[:1].any()]
    return other[0] if len(other) else None


def measured_rate_hz(times_s: np.ndarray) -> float:
    """Samples a second by the median step forward; NaN where there is none."""
    steps = np.diff(times_s)
    return float(1 / np.median(steps[steps > 0])) if (steps > 0).any() else float("nan")


def is_another_rate(measured_hz: float, sampling_rate_hz: float) -> bool:
    """Whether a rate is further from that of the data set than clocks drift; False for NaN."""
    return abs(sampling_rate_hz / measured_hz - 1) > _RATE_TOLERANCE
