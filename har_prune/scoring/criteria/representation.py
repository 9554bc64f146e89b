"""Criteria that compare the representation with and without a block."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from har_prune.errors import ShapeError
from har_prune.scoring.cka import (
    Statistics,
    centred_cross,
    check_rows,
    check_spread,
    cka,
    cka_statistics,
    pairs_of,
    weighted_cka,
)
from har_prune.scoring.criteria.base import Needs, Task, register_criterion
from har_prune.scoring.measurements import Measurements

WIDEST = 4096  # columns; wider features are sketched
BUDGET_BYTES = 2**30  # for the statistics of one criterion; features that would need more are sketched
_SKETCH_WIDTH = 1024  # at most


class _PairCriterion:
    """Statistics of the reference with itself, with each candidate, and of each candidate with itself."""

    needs: Needs = "features"
    estimator = "exact"
    debiased = False

    def __init__(self, task: Task):
        self.task = task

    def statistics(self, measurements: Measurements) -> Statistics:
        return cka_statistics(self.sides(measurements.reference), self.sides(measurements.without))

    def sides(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What stands for features [C or 1, G, N, D] on the left of a product, and on the right."""
        return features, features

    def importance(self, statistics: Statistics) -> Tensor:
        return 1 - cka(statistics, debiased=self.debiased)

    def _bytes(self, width: int) -> int:
        return 8 * self.task.groups * (2 * len(self.task.blocks) + 1) * width**2


@register_criterion("cka")
class CkaCriterion(_PairCriterion):
    """1 - linear CKA between the representation with and without the block, in [0, 1].

    Features wider than 4,096 columns, or whose statistics would need more than 1 GiB, are sketched: two independent
    count sketches L and R (Charikar et al. 2002) stand for them, and ||(XL)'(YR)||^2 estimates ||X'Y||^2 without bias.
    One sketch for both sides would add tr(X'X)^2 / width and push CKA towards 1. `sketch_error` bounds what is left.

    Cost: one forward and, for each candidate, the blocks behind it; no backward. Memory: (2 C + 1) D^2 float64.
    Source: Pons et al., ICPR 2024, arXiv:2405.17081.
    """

    def __init__(self, task: Task):
        super().__init__(task)
        self._sketches: list[tuple[Tensor, Tensor]] = []
        self._width = 0

    def start(self, first: Measurements) -> None:
        width = _features(first).shape[-1]
        if width <= WIDEST and self._bytes(width) <= BUDGET_BYTES:
            return
        self._width = min(_SKETCH_WIDTH, math.isqrt(BUDGET_BYTES // self._bytes(1)))
        generator = torch.Generator().manual_seed(self.task.seed)
        device = _features(first).device
        self._sketches = [
            (
                torch.randint(self._width, (width,), generator=generator).to(device),
                (torch.randint(2, (width,), generator=generator) * 2.0 - 1).double().to(device),
            )
            for _ in range(2)
        ]
        self.estimator = (
            f"count sketch of {width} to {self._width} columns, relative error of an HSIC about "
            f"{sketch_error(self._width):.0e}"
        )

    def sides(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if not self._sketches:
            return features, features
        narrow = features.new_zeros((*features.shape[:-1], self._width))
        left, right = (narrow.index_add(-1, columns, features * signs) for columns, signs in self._sketches)
        return left, right

    def of_groups(self, statistics: Statistics, weights: Tensor) -> Tensor:
        """Importance for each weighting of groups, [K], as `Criterion.of_groups`."""
        return 1 - weighted_cka(statistics, weights)


@register_criterion("cka_debiased")
class DebiasedCkaCriterion(CkaCriterion):
    """As "cka" with the debiased estimator: no upward bias when there are few examples for the width.

    Cost: as "cka". Source: Nguyen et al. 2021, arXiv:2010.15327.
    """

    debiased = True
    of_groups = None  # type: ignore[assignment]


def sketch_error(width: int) -> float:
    """Standard deviation, relative to the HSIC, that a pair of count sketches of a width adds at most.

    Reached where one direction holds all variance; in CKA most of it cancels, because numerator and denominator share
    the sketches.
    """
    return 2 / math.sqrt(width)


@register_criterion("cka_rbf")
class RbfCkaCriterion(_PairCriterion):
    """1 - CKA with Gaussian kernels, each as wide as the median distance between examples.

    The kernel is a product of random Fourier features, drawn independently for the two sides of every product, which
    keeps HSIC unbiased over the draw. Medians are taken over up to 64 examples.

    Cost: as "cka". Memory: (2 C + 1) 512^2 float64, whatever the width.
    Source: Kornblith et al. 2019, arXiv:1905.00414, section 3; Rahimi and Recht 2007 (NIPS 20).
    """

    WAVES = 512
    first_rows = 64

    def __init__(self, task: Task):
        super().__init__(task)
        self.estimator = f"{self.WAVES} random Fourier features a side"
        self._waves: list[tuple[Tensor, Tensor]] = []
        self._scales: dict[int | None, Tensor] = {}

    def start(self, first: Measurements) -> None:
        features = _features(first)
        generator = torch.Generator().manual_seed(self.task.seed)
        for _ in range(2):
            waves = torch.randn((features.shape[-1], self.WAVES), generator=generator, dtype=torch.float64)
            phases = torch.rand(self.WAVES, generator=generator, dtype=torch.float64) * 2 * math.pi
            self._waves.append((waves.to(features.device), phases.to(features.device)))
        rows = features.double()
        for block, x in zip((None, *first.blocks), rows, strict=True):
            distances = torch.pdist(x)
            self._scales[block] = distances.median() if len(distances) else x.new_ones(())

    def statistics(self, measurements: Measurements) -> Statistics:
        scale = torch.stack([self._scales[block] for block in measurements.blocks])[:, None, None, None]
        reference, without = measurements.reference / self._scales[None], measurements.without / scale
        return super().statistics(replace(measurements, reference=reference, without=without))

    def sides(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scale = math.sqrt(2 / self.WAVES)
        left, right = (torch.cos(features @ waves + phases) * scale for waves, phases in self._waves)
        return left, right


@register_criterion("procrustes")
class ProcrustesCriterion(_PairCriterion):
    """1 - the nuclear norm of X'Y, X and Y centred and scaled to norm 1; half the orthogonal Procrustes distance.

    Cost: as "cka", and one D x D singular value decomposition for each candidate.
    Source: Ding et al. 2021, arXiv:2108.01661, section 2.
    """

    def start(self, first: Measurements) -> None:
        width = _features(first).shape[-1]
        if self._bytes(width) > BUDGET_BYTES:
            raise ShapeError(
                f"procrustes of {len(self.task.blocks)} candidates with {width} features each would need "
                f"{self._bytes(width) / 2**30:.1f} GiB: choose a narrower representation, or cka."
            )

    def importance(self, statistics: Statistics) -> Tensor:
        xx, xy, yy = pairs_of(statistics)
        check_rows(xy, 2, "procrustes")
        check_spread("x", xx)
        check_spread("y", yy)
        norms = [centred_cross(own).diagonal(dim1=-2, dim2=-1).sum(-1).sqrt() for own in (xx, yy)]
        return 1 - torch.linalg.svdvals(centred_cross(xy)).sum(-1) / (norms[0] * norms[1])


def _features(first: Measurements) -> Tensor:
    """Reference and candidates, [C + 1, N, D]."""
    return torch.cat([first.reference, first.without])
