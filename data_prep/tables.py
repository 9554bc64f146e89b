"""Text tables of numbers, and their time stamps; what is wrong is named by file and line."""

import warnings
from pathlib import Path

import numpy as np

from data_prep.errors import PrepError

_STEPS_OF_A_RATE = 10  # fewer say little: a lost sample is half of two
_RATE_TOLERANCE = 0.05  # relative; clocks of wearables drift by less than a percent


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
        raise _first_bad_line(path, columns, delimiter) from error
    if not values.size:
        raise PrepError(f"{path}: the file holds no samples.")
    if values.shape[1] != columns:
        raise _first_bad_line(path, columns, delimiter)
    return values


def _first_bad_line(path: Path, columns: int, delimiter: str | None) -> PrepError:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.split(delimiter)
            if not line.strip():
                continue
            if len(words) != columns:
                return PrepError(f"{path}, line {number}: {len(words)} columns instead of {columns}.")
            for column, word in enumerate(words, start=1):
                try:
                    float(word)
                except ValueError:
                    return PrepError(f"{path}, line {number}, column {column}: {word.strip()!r} is no number.")
    return PrepError(f"{path} is not a table of {columns} columns.")


def on_grid(path: Path, times_s: np.ndarray, values: np.ndarray, sampling_rate_hz: float, line: int = 1) -> np.ndarray:
    """Samples at their places on a regular grid of times; NaN where the file has none.

    Args:
        path: The file, for messages.
        times_s: Time of each sample in seconds, [T].
        values: Samples, [T, C].
        sampling_rate_hz: Samples a second.
        line: Line of the first sample in the file.

    Returns:
        Samples [T', C], the first at the first time.

    Raises:
        PrepError: Times repeat or go back, or the rate is another one.
    """
    steps = np.diff(times_s)
    wrong = np.flatnonzero(~(steps > 0))
    if len(wrong):
        place = int(wrong[0])
        kind = "repeats" if steps[place] == 0 else "goes back" if steps[place] < 0 else "is missing"
        raise PrepError(
            f"{path}, line {line + place + 1}: the time stamp {kind} ({times_s[place]:g} s, then "
            f"{times_s[place + 1]:g} s). Sort the file and remove duplicates."
        )
    if len(steps) >= _STEPS_OF_A_RATE:
        check_rate(path, times_s, sampling_rate_hz, line)
    places = np.round((times_s - times_s[0]) * sampling_rate_hz).astype(np.int64)
    grid = np.full((int(places[-1]) + 1, values.shape[1]), np.nan)
    grid[places] = values
    return grid


def check_rate(path: Path, times_s: np.ndarray, sampling_rate_hz: float, line: int = 1) -> None:
    """Refuses samples at another rate than that of the data set, by the median step between them.

    Raises:
        PrepError: The rate is another one.
    """
    steps = np.diff(times_s)
    steps = steps[steps > 0]
    if len(steps) and abs(float(np.median(steps)) * sampling_rate_hz - 1) > _RATE_TOLERANCE:
        raise PrepError(
            f"{path}, from line {line}: sampled at {1 / np.median(steps):.4g} Hz, and this data set is at "
            f"{sampling_rate_hz:g} Hz: one rate for all files. Correct the unit of the time stamps, resample "
            "this file, or prepare it on its own."
        )
