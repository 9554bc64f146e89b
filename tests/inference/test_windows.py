"""Windows of chunks against windows of the whole recording, which data_prep cuts another way."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import resample_poly

from data_prep.signals import whole_stretches
from har_prune.errors import DataError
from har_prune.inference.windows import Resampler, Stretch, Window, WindowCutter

RATE, SIZE, HOP = 50.0, 64, 20


def _recording(seed=0, length=3000):
    """A walk with gaps of every kind: short, long, overlapping across channels, at both ends."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(length, 3)).cumsum(0)
    values[:3] = np.nan
    gaps = ((100, 105, 0), (103, 110, 1), (400, 460, 2), (455, 463, 0), (700, 712, slice(None)), (900, 913, 1),
            (905, 909, 0), (1000, 1020, 0), (1040, 1060, 1), (2994, 2997, 2))  # fmt: skip
    for start, stop, channel in gaps:
        values[start:stop, channel] = np.nan
    values[2999, 0] = np.nan
    return values


def _chunks(generator, length):
    edges = [0]
    while edges[-1] < length:
        edges.append(min(length, edges[-1] + int(generator.choice([0, 1, 2, 7, 30, 400]))))
    return list(pairwise(edges))


def _cut(values, times=None, chunks=None, given=RATE, rate=RATE):
    cutter = WindowCutter(given, rate, SIZE, HOP)
    found = []
    for first, stop in chunks or [(0, len(values))]:
        found += list(cutter.push(values[first:stop], None if times is None else times[first:stop]))
    return found + list(cutter.finish())


def _same(some, others):
    assert [type(part) for part in some] == [type(part) for part in others]
    for one, other in zip(some, others, strict=True):
        if isinstance(one, Stretch):
            assert one == other
        else:
            assert (one.place, one.start_s, one.end_s) == (other.place, other.start_s, other.end_s)
            np.testing.assert_array_equal(one.samples, other.samples)


def test_windows_are_those_of_the_whole_stretches():
    values, expected = _recording(), []
    for first, stretch in whole_stretches(values, RATE, 0.25):
        if len(stretch) < SIZE / 2:
            continue
        last = max(0, len(stretch) - SIZE)
        for place in sorted({*range(0, last + 1, HOP), last}):
            expected.append((first / RATE + place / RATE, stretch[place : place + SIZE]))
    windows = [part for part in _cut(values) if isinstance(part, Window)]
    assert len(windows) == len(expected) > 50
    for window, (start_s, samples) in zip(windows, expected, strict=True):
        assert window.start_s == pytest.approx(start_s, abs=1e-12)
        np.testing.assert_array_equal(window.samples, samples)


def test_stretches_account_for_every_second():
    parts = [part for part in _cut(_recording()) if isinstance(part, Stretch)]
    assert parts[0].start_s == 0
    assert parts[-1].end_s == 3000 / RATE
    for one, other in pairwise(parts):
        assert one.end_s == other.start_s
    assert {part.looked_at for part in parts} == {True, False}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("given", [50.0, 100.0, 32.0])
@pytest.mark.parametrize("timed", [False, True])
def test_the_size_of_chunks_changes_no_bit(seed, given, timed):
    values, generator = _recording(seed), np.random.default_rng(seed)
    times = None
    if timed:  # a clock that trembles, with samples lost
        times = 1e9 + (np.arange(3000) + generator.uniform(-0.3, 0.3, 3000)) / given
        kept = np.sort(generator.choice(3000, 2900, replace=False))
        values, times = values[kept], times[kept]
    whole = _cut(values, times, given=given)
    assert sum(isinstance(part, Window) for part in whole) > 10
    _same(_cut(values, times, _chunks(generator, len(values)), given), whole)


def test_a_regular_clock_is_no_clock():
    values = _recording()
    _same(_cut(values, 7 + np.arange(3000) / RATE), _cut(values))


def test_a_pause_is_skipped_whatever_its_length():
    values, times = _recording(length=3000), np.arange(3000) / RATE
    times[1500:] += 20 * 86400 + 0.3 / RATE
    for chunks in (None, [(0, 1500), (1500, 3000)], [(0, 1400), (1400, 1600), (1600, 3000)]):
        parts = _cut(values, times, chunks)
        assert max(part.end_s - part.start_s for part in parts if isinstance(part, Stretch)) > 20 * 86400
        assert parts[-1].end_s == pytest.approx(times[-1] + 1 / RATE, abs=2 / RATE)
        assert not any(np.isnan(part.samples).any() for part in parts if isinstance(part, Window))


def test_clocks_that_go_back_or_jump_by_a_year_are_refused():
    for second, said in ((0.0, "repeats"), (-1.0, "goes back"), (365 * 86400.0, "jumps by 365 days")):
        cutter = WindowCutter(RATE, RATE, SIZE, HOP)
        with pytest.raises(DataError, match=said):
            list(cutter.push(np.zeros((2, 3)), np.array([0.0, second])))
        cutter = WindowCutter(RATE, RATE, SIZE, HOP)
        list(cutter.push(np.zeros((1, 3)), np.array([0.0])))
        with pytest.raises(DataError, match=said):
            list(cutter.push(np.zeros((1, 3)), np.array([second])))


@pytest.mark.parametrize(("given", "rate"), [(100, 50), (50, 100), (32, 50), (25.6, 20), (104, 50)])
def test_resampling_is_scipys_behind_the_ends_and_keeps_what_rests(given, rate):
    generator = np.random.default_rng(0)
    time = np.arange(1000) / given
    values = np.stack([np.sin(3 * time) + 9.8, generator.normal(size=1000).cumsum() / 10], 1)
    up, down = (
        (rate * 10) // np.gcd(int(rate * 10), int(given * 10)),
        (given * 10) // np.gcd(int(rate * 10), int(given * 10)),
    )
    expected = resample_poly(values - values[0], int(up), int(down), axis=0, padtype="edge") + values[0]
    resampler = Resampler(given, rate)
    parts = [resampler.push(values[start : start + 37]) for start in range(0, 1000, 37)] + [resampler.finish()]
    found = np.concatenate([part for part in parts if len(part)])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-9)
    still = Resampler(given, rate)
    rest = np.concatenate([still.push(np.full((200, 1), 9.80665)), still.finish()])
    np.testing.assert_allclose(rest, 9.80665, atol=1e-12)


def test_rates_without_a_small_ratio_are_refused():
    with pytest.raises(DataError, match="no ratio of small numbers"):
        Resampler(49.997, 50.003)


def test_what_is_held_does_not_grow():
    cutter = WindowCutter(100.0, RATE, SIZE, HOP)
    for first in range(300):
        for _ in cutter.push(np.random.default_rng(first).normal(size=(100, 3)), first + np.arange(100) / 100):
            pass
        stretch = cutter._stretch
        held = [stretch._kept, stretch._resampler._kept, cutter._gaps._kept, cutter._grid._values]
        assert sum(len(part) for part in held if part is not None) < SIZE + HOP + 100
