"""Samples on a regular grid of times, whatever the clock of the device did."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.signals import whole_stretches
from data_prep.tables import on_grid

RATE = 50.0
FILE = Path("x.csv")


def _sine(times_s):
    return np.sin(2 * np.pi * 5 * times_s)[:, None]


@pytest.mark.parametrize("device_hz", [49.0, 50.5, 52.4])
def test_a_clock_that_is_off_neither_loses_nor_shifts_samples(device_hz):
    times = 1.7e9 + np.arange(0, 20, 1 / device_hz)
    grid = on_grid(FILE, times, _sine(times - times[0]), RATE)
    assert len(grid) == pytest.approx(20 * RATE, abs=2)
    assert not np.isnan(grid).any()
    wanted = _sine(np.arange(len(grid)) / RATE)
    assert np.sqrt(np.mean((grid - wanted) ** 2)) < 0.03, "the nearest sample instead: 0.125"


def test_samples_on_the_grid_are_kept_bit_by_bit_and_so_are_gaps():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(1000, 2))
    values[100:103, 0] = np.nan
    kept = np.delete(np.arange(1000), np.arange(500, 560))
    times = 8.38 + np.round(kept / RATE, 2)
    grid = on_grid(FILE, times, values[kept], RATE)
    wanted = values.copy()
    wanted[500:560] = np.nan
    assert np.array_equal(grid, wanted, equal_nan=True)
    assert [start for start, _ in whole_stretches(grid, RATE, 0.25)] == [0, 560]


def test_a_gap_off_the_grid_is_left_for_the_longest_that_is_filled():
    times = np.concatenate([np.arange(0, 2, 1 / 49), 2.013 + 0.5 + np.arange(0, 2, 1 / 49)])
    grid = on_grid(FILE, times, _sine(times), RATE)
    assert len(list(whole_stretches(grid, RATE, 0.25))) == 2
    assert len(list(whole_stretches(grid, RATE, 0.6))) == 1
    assert np.isnan(on_grid(FILE, times, np.full((len(times), 1), np.nan), RATE)).all()
    assert on_grid(FILE, np.array([3.0]), np.array([[7.0]]), RATE) == pytest.approx(7.0)


def test_time_stamps_are_printed_with_the_digits_that_differ():
    times = np.array([1772440000.11, 1772440000.13, 1772440000.12])
    with pytest.raises(PrepError, match=r"line 3: .* goes back \(1772440000.13 s, then 1772440000.12 s\)"):
        on_grid(FILE, times, np.zeros((3, 1)), RATE)
