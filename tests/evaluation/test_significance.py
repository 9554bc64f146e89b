import numpy as np
import pytest
from scipy.stats import t as student

from har_prune.evaluation.significance import half_interval, paired_difference


def test_the_interval_is_student_s_and_the_test_is_wilcoxon_s():
    values = [0.02, -0.01, 0.03, 0.015, 0.005, 0.02]
    difference = paired_difference(values)
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    low, high = student.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
    assert difference.mean == pytest.approx(np.mean(values))
    assert difference.ci95 == pytest.approx((high - low) / 2)
    assert difference.p == pytest.approx(2 * 3 / 2**6), "a negative rank sum of 2; of 64 signs 3 have one as small"
    assert difference.verdict == "inside the noise"
    better = [value + 0.011 for value in values]
    assert paired_difference(better).verdict == "better"
    assert paired_difference([-value for value in better]).verdict == "worse"
    assert paired_difference([0.3, *better]).verdict == "undecided: by the test alone", "one value widens the interval"
    assert paired_difference(better[:5]).verdict == "undecided: by the interval alone", "five signs are 1 of 16"


def test_one_subject_and_no_difference_prove_nothing():
    assert paired_difference([0.3]).verdict == "inside the noise"
    assert (paired_difference([0.0, 0.0]).p, paired_difference([0.0, 0.0]).verdict) == (1.0, "inside the noise")
    assert half_interval([0.5]) == 0


def test_equal_differences_are_equal_whatever_their_last_bit():
    """Accuracies of 50 windows: as they are subtracted, 0.96 - 0.94 is not 0.76 - 0.74, and Wilcoxon ranks by size."""
    one = [49, 25, 41, 32, 38, 27, 46, 46]
    other = [48, 23, 40, 30, 37, 26, 47, 45]
    of_counts = paired_difference([float(a - b) for a, b in zip(one, other, strict=True)])
    of_shares = paired_difference([a / 50 - b / 50 for a, b in zip(one, other, strict=True)])
    assert (of_shares.p, of_shares.verdict) == (of_counts.p, of_counts.verdict)
