"""Whether a difference between two networks is more than noise: paired over subjects."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student
from scipy.stats import wilcoxon


@dataclass(frozen=True)
class PairedDifference:
    """The differences of two networks on the same subjects.

    Args:
        mean: Mean difference.
        ci95: Half-width of its 95 % confidence interval (Student's t over subjects).
        p: Of Wilcoxon's signed-rank test, two-sided; 1 where nothing differs, or there is one subject.
        subjects: How many.
    """

    mean: float
    ci95: float
    p: float
    subjects: int

    @property
    def verdict(self) -> str:
        """Better or worse only where 0 is outside the interval and p below 0.05; other comparisons are not counted."""
        far, unlikely = abs(self.mean) > self.ci95 and self.subjects > 1, self.p < 0.05
        if far != unlikely:
            return f"undecided: by the {'interval' if far else 'test'} alone"
        return "inside the noise" if not far else "better" if self.mean > 0 else "worse"


def half_interval(values: Sequence[float]) -> float:
    """Half-width of the 95 % confidence interval of a mean (Student's t); 0 for one value."""
    if len(values) < 2:
        return 0.0
    return float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Mean, interval and test of differences, one for each subject.

    >>> paired_difference([0.01, 0.02, 0.03, 0.04, 0.05, 0.06]).verdict
    'better'
    >>> paired_difference([0.02, 0.02, 0.03]).verdict  # the test needs six subjects to say so
    'undecided: by the interval alone'
    >>> paired_difference([0.01, -0.02, 0.03]).verdict
    'inside the noise'
    """
    # Shares that differ as much would be ranked by the last bit of their subtraction.
    p, ranked = 1.0, [round(difference, 12) for difference in differences]
    if len(ranked) > 1 and any(ranked):
        p = float(wilcoxon(ranked).pvalue)
    return PairedDifference(fmean(differences), half_interval(differences), p, len(differences))
