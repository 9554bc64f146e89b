"""Linear CKA from moments that add up over batches and processes, in float64.

For features X [N, Dx] and Y [N, Dy] everything CKA needs is a sum over rows: X'Y, the column sums, and for the
debiased form three sums of squared norms. So the memory does not grow with N, and moments of two halves of the
data add to the moments of the whole.
"""

import math

import torch
from torch import Tensor

from har_prune.errors import DegenerateFeaturesError, ShapeError

# Spread below this share of the size is rounding of float32 features, not signal.
_CONSTANT = 1e-12


class PairMoments:
    """Sums over the rows of x [N, Dx] and y [N, Dy], from which their HSIC follows.

    Holds Dx * Dy + 2 * (Dx + Dy) + 4 float64 numbers, whatever N is.
    """

    def __init__(self) -> None:
        self.sums: list[Tensor] = []

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds rows; x [N, Dx] and y [N, Dy] are float64 and on one device."""
        x_norms, y_norms = x.square().sum(1), y.square().sum(1)
        rows = torch.tensor(float(len(x)), dtype=torch.float64, device=x.device)
        self.add([rows, x.T @ y, x.sum(0), y.sum(0), x.T @ y_norms, y.T @ x_norms,
                  x_norms.sum(), y_norms.sum(), x_norms @ y_norms])  # fmt: skip

    def add(self, sums: list[Tensor]) -> None:
        """Adds the sums of other rows."""
        self.sums = [total + new for total, new in zip(self.sums, sums, strict=True)] if self.sums else sums

    @property
    def count(self) -> int:
        """Rows seen so far."""
        return int(self.sums[0].item()) if self.sums else 0

    def hsic(self, debiased: bool) -> float:
        """HSIC with linear kernels, up to a factor that cancels in CKA.

        Source: biased, ||Xc'Yc||_F^2: Kornblith et al. 2019, arXiv:1905.00414, eq. 3. Debiased: HSIC_1 of Song et
        al. 2012 (JMLR 13, eq. 5), its sums over pairs of rows written as sums over rows.
        """
        n, cross, x_sum, y_sum, x_by_y, y_by_x, x_norms, y_norms, norms = self.sums
        if not debiased:
            return (cross - torch.outer(x_sum, y_sum) / n).square().sum().item()
        # Kernel matrices K = XX' and L = YY' with zero diagonals: tr(KL), 1'K1 * 1'L1 and 1'KL1.
        trace = cross.square().sum() - norms
        totals = (x_sum @ x_sum - x_norms) * (y_sum @ y_sum - y_norms)
        product = x_sum @ cross @ y_sum - x_sum @ x_by_y - y_sum @ y_by_x + norms
        return (trace + totals / ((n - 1) * (n - 2)) - 2 * product / (n - 2)).item()

    def is_constant(self) -> bool:
        """Whether all rows of x are equal up to rounding; for moments of x with itself."""
        return self.hsic(debiased=False) ** 0.5 <= _CONSTANT * self.sums[1].norm().item()


def cka(xx: PairMoments, xy: PairMoments, yy: PairMoments, *, debiased: bool = False) -> float:
    """CKA from the moments of x with itself, x with y and y with itself.

    Raises:
        ShapeError: Fewer than 2 rows (4 when debiased).
        DegenerateFeaturesError: Features hold NaN or infinity, or all rows of x (or of y) are equal.
    """
    least = 4 if debiased else 2
    if xy.count < least:
        raise ShapeError(f"CKA{' (debiased)' if debiased else ''} needs at least {least} rows; there are {xy.count}.")
    for name, moments in (("x", xx), ("y", yy)):
        if not math.isfinite(moments.hsic(debiased)):
            raise DegenerateFeaturesError(f"features {name} hold NaN or infinity: check inputs and weights.")
        if moments.is_constant():
            raise DegenerateFeaturesError(f"all rows of features {name} are equal, so CKA is 0/0.")
    scale = xx.hsic(debiased) * yy.hsic(debiased)
    if scale <= 0:
        raise DegenerateFeaturesError("the debiased HSIC of features with themselves is not positive: use more rows.")
    return xy.hsic(debiased) / math.sqrt(scale)


class CkaMoments:
    """Streaming linear CKA between two sets of features; mergeable across batches and processes.

    >>> x = torch.randn(50, 4)
    >>> moments = CkaMoments()
    >>> moments.update(x[:20], 2 * x[:20])
    >>> moments.update(x[20:], 2 * x[20:])
    >>> round(moments.similarity(), 6)
    1.0
    """

    def __init__(self) -> None:
        self.xx, self.xy, self.yy = PairMoments(), PairMoments(), PairMoments()

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds rows: x [N, Dx] and y [N, Dy], the same examples in the same order.

        Raises:
            ShapeError: Not 2-D, or the row counts differ.
        """
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            raise ShapeError(f"features of shape {tuple(x.shape)} and {tuple(y.shape)}: expected [N, Dx] and [N, Dy].")
        x, y = x.double(), y.double()
        self.xx.update(x, x)
        self.xy.update(x, y)
        self.yy.update(y, y)

    def merge(self, other: "CkaMoments") -> None:
        """Adds the rows another object has seen."""
        for mine, theirs in ((self.xx, other.xx), (self.xy, other.xy), (self.yy, other.yy)):
            if theirs.sums:
                mine.add(theirs.sums)

    @property
    def count(self) -> int:
        """Rows seen so far."""
        return self.xy.count

    def similarity(self, *, debiased: bool = False) -> float:
        """CKA of all rows seen; range and errors as in `linear_cka`."""
        return cka(self.xx, self.xy, self.yy, debiased=debiased)


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> float:
    """Linear CKA between two sets of features.

    Args:
        x: Features, [N, D1]; one row per example.
        y: Features, [N, D2]; the same examples in the same order.
        debiased: Correct the upward bias that appears when N is not much larger than D1 and D2.

    Returns:
        A number in [0, 1]; 1 = equal up to rotation and one global scale. The debiased form can fall slightly below 0.

    Raises:
        ShapeError: Not 2-D, row counts differ, or fewer than 2 rows (4 when debiased).
        DegenerateFeaturesError: All rows of x (or of y) are equal, so the ratio is 0/0, or a value is not finite.

    Source: Kornblith et al. 2019, arXiv:1905.00414, eq. 4; debiased form: Nguyen et al. 2021, arXiv:2010.15327.
    """
    moments = CkaMoments()
    moments.update(x, y)
    return moments.similarity(debiased=debiased)
