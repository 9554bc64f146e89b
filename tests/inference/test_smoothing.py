"""Smoothing against enumeration, and metrics against what is counted by hand."""

from itertools import product

import numpy as np
import pytest

from har_prune.errors import DataError
from har_prune.inference.metrics import compare_timelines
from har_prune.inference.smoothing import Activities, Segment, Smoothing, decided, settled, viterbi


def test_viterbi_finds_the_likeliest_of_all_sequences():
    generator = np.random.default_rng(0)
    activities = Activities(np.array([2.0, 3.0, 9.0]), np.array([[0, 0.9, 0.1], [0.5, 0, 0.5], [0.2, 0.8, 0]]))
    for _ in range(5):
        chances, (seconds, shares) = generator.dirichlet(np.ones(3), size=6), generator.uniform(0.3, 2, (2, 6))

        def score(path, chances=chances, seconds=seconds, shares=shares):
            said = sum(shares[n] * np.log(chances[n, label]) for n, label in enumerate(path))
            steps = [(seconds[n] + seconds[n + 1]) / 2 for n in range(5)]
            return said + sum(np.log(activities.over(step)[path[n], path[n + 1]]) for n, step in enumerate(steps))

        best = max(product(range(3), repeat=6), key=score)
        assert tuple(viterbi(chances, seconds, activities, shares)) == best


def test_a_flicker_goes_and_a_change_stays():
    chances = np.array([[0.9, 0.1]] * 5 + [[0.4, 0.6]] + [[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 8)
    plain, _ = decided(chances, np.ones(19), None, np.ones(19))
    smooth, given = decided(chances, np.ones(19), Smoothing(Activities.usual(2, 20.0)), np.ones(19))
    assert plain.tolist() == [0] * 5 + [1] + [0] * 5 + [1] * 8
    assert smooth.tolist() == [0] * 11 + [1] * 8
    assert given[5] == 0.4, "the probability is the network's"
    with pytest.raises(DataError, match="knows 3 activities, and the network 2"):
        decided(chances, np.ones(19), Smoothing(Activities.usual(3, 20.0)), np.ones(19))


def test_activities_are_counted():
    counted = Activities.counted([[(0, 4.0), (1, 2.0), (1, 2.0), (0, 6.0)], [(2, 3.0)]], 3)
    usual = 17 / 4
    np.testing.assert_allclose(counted.mean_duration_s, [(10 + usual) / 3, (4 + usual) / 2, (3 + usual) / 2])
    np.testing.assert_allclose(counted.changes, [[0, 2 / 3, 1 / 3], [2 / 3, 0, 1 / 3], [0.5, 0.5, 0]])
    np.testing.assert_allclose(counted.over(1.7).sum(1), 1)
    for bad in (
        lambda: Activities.counted([], 3), lambda: Activities.counted([[(-1, 2.0)]], 3),
        lambda: Activities.usual(1, 2.0), lambda: Activities.usual(3, 0.0),
        lambda: Activities(np.ones(2), np.ones((2, 2))),
    ):  # fmt: skip
        with pytest.raises(DataError):
            bad()


def test_short_activities_go_to_the_neighbour_that_is_likelier_there():
    chances = np.array([[0.9, 0.05, 0.05]] * 5 + [[0.1, 0.3, 0.6]] * 2 + [[0.05, 0.9, 0.05]] * 5)
    classes, given = decided(chances, np.full(12, 0.5), Smoothing(shortest_s=1.5), np.ones(12))
    assert classes.tolist() == [0] * 5 + [1] * 7
    assert given.tolist() == [0.9] * 5 + [0.3] * 2 + [0.9] * 5, "the network's own probability of what is said"
    classes, _ = decided(chances, np.full(12, 0.5), Smoothing(shortest_s=1.0), np.ones(12))
    assert classes.tolist() == [0] * 5 + [2] * 2 + [1] * 5
    classes, _ = decided(chances[:2], np.full(2, 0.5), Smoothing(shortest_s=9.0), np.ones(2))
    assert classes.tolist() == [0, 0], "there is nobody to give it to"


def test_unlikely_activities_lose_their_label():
    segments = [Segment(0, 10, "sit", 0.9), Segment(10, 11, "run", 0.5), Segment(11, 20, "walk", 0.8),
                Segment(20, 25, None, None), Segment(25, 26, "run", 0.4)]  # fmt: skip
    found = settled(segments, Smoothing(least_probability=0.6))
    assert [s.label for s in found] == ["sit", None, "walk", None, None]
    assert [s.probability for s in found] == [0.9, 0.5, 0.8, None, 0.4]


@pytest.mark.parametrize("wrong", [{"shortest_s": float("nan")}, {"shortest_s": -1.0}, {"least_probability": 1.5}])
def test_what_is_no_duration_and_no_probability_is_refused(wrong):
    with pytest.raises(DataError, match=str(next(iter(wrong)))):
        Smoothing(**wrong)


def test_time_that_nobody_labelled_does_not_count():
    true = [Segment(0, 10, "w", None), Segment(50, 60, "w", None)]
    metrics = compare_timelines(true, [Segment(0, 10, "w", 1), Segment(10, 50, "s", 1), Segment(50, 60, "w", 1)])
    assert (metrics.frame_accuracy, metrics.fragmentations, metrics.deletions, metrics.insertions) == (1, 0, 0, 1)


def test_a_timeline_is_compared_by_time_and_by_segments():
    true = [Segment(0, 10, "a", None), Segment(10, 20, "b", None), Segment(20, 25, None, None),
            Segment(25, 35, "a", None), Segment(35, 40, "c", None)]  # fmt: skip
    found = [Segment(0, 4, "a", 1), Segment(4, 5, "b", 1), Segment(5, 12, "a", 1), Segment(12, 25, "b", 1),
             Segment(25, 35, None, None), Segment(35, 39, "a", 1), Segment(39, 40, "c", 1)]  # fmt: skip
    metrics = compare_timelines(true, found)
    assert metrics.frame_accuracy == pytest.approx((9 + 8 + 0 + 1) / 35)
    assert metrics.told == pytest.approx(25 / 35)
    assert (metrics.insertions, metrics.deletions, metrics.fragmentations) == (2, 1, 1)
    # IoU: a 0-4 in 0-10: 0.4; a 5-12: 5/12; b 12-25: 8/15; c 39-40: 0.2; the true a of 0-10 counts once.
    assert metrics.segment_f1 == pytest.approx({0.1: 2 * 3 / 10, 0.25: 2 * 2 / 10, 0.5: 2 * 1 / 10})
    assert metrics.delay_s == 2
    late = [Segment(0, 10, "a", 1), Segment(18, 20, "b", 1)]
    assert compare_timelines(true[:2], late).delay_s == 4, "the median of 0 and 8 s"
    same = compare_timelines(true, true)
    assert (same.frame_accuracy, same.segment_f1[0.5], same.insertions, same.deletions, same.delay_s) == (
        1,
        1,
        0,
        0,
        0,
    )
    with pytest.raises(DataError, match="no activity"):
        compare_timelines([Segment(0, 1, None, None)], found)
