"""Linear CKA from sums over examples, in float64: they add up over batches, groups of examples and processes.

For features X [N, Dx] and Y [N, Dy] everything CKA needs is a sum over rows: X'Y, the column sums, and for the
debiased form a few sums of squared norms. So the memory does not grow with N, and the sums of two halves of the data
add to the sums of the whole. All functions take leading dimensions, so that many pairs are handled at once.
"""

import torch
from torch import Tensor

from har_prune.errors import DegenerateFeaturesError, ShapeError

Statistics = list[Tensor]

# Spread below this share of the size is rounding of float32 features, not signal.
_CONSTANT = 1e-12


def pair_statistics(x: Tensor, y: Tensor) -> Statistics:
    """What HSIC needs of the rows of x [..., N, Dx] and y [..., N, Dy], float64; leading dimensions broadcast.

    Returns:
        Rows, X'Y, column sums of x and y, X'|y|^2, Y'|x|^2, and the sums of |x|^2, |y|^2 and |x|^2 |y|^2 over rows.
    """
    x_norms, y_norms = x.square().sum(-1), y.square().sum(-1)
    rows = torch.full(x_norms.shape[:-1], x.shape[-2], dtype=torch.float64, device=x.device)
    return [
        rows,
        x.mT @ y,
        x.sum(-2),
        y.sum(-2),
        (x.mT @ y_norms[..., None])[..., 0],
        (y.mT @ x_norms[..., None])[..., 0],
        x_norms.sum(-1),
        y_norms.sum(-1),
        (x_norms * y_norms).sum(-1),
    ]


PAIR = 9  # tensors in a `pair_statistics`


def cka_statistics(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Statistics:
    """`pair_statistics` of x with itself, x with y, y with itself; each given for the left and right of products."""
    return [value for a, b in ((x[0], x[1]), (x[0], y[1]), (y[0], y[1])) for value in pair_statistics(a, b)]


def pairs_of(statistics: Statistics) -> tuple[Statistics, Statistics, Statistics]:
    """The three pairs of `cka_statistics`."""
    return statistics[:PAIR], statistics[PAIR : 2 * PAIR], statistics[2 * PAIR :]


def hsic(statistics: Statistics, debiased: bool) -> Tensor:
    """HSIC with linear kernels, up to a factor that cancels in CKA; one number for each leading index.

    Source: biased, ||Xc'Yc||_F^2: Kornblith et al. 2019, arXiv:1905.00414, eq. 3. Debiased: HSIC_1 of Song et al.
    2012 (JMLR 13, eq. 5), its sums over pairs of rows written as sums over rows.
    """
    n, cross, x_sum, y_sum, x_by_y, y_by_x, x_norms, y_norms, norms = statistics
    if not debiased:
        return centred_cross(statistics).square().sum((-2, -1))
    # Kernel matrices K = XX' and L = YY' with zero diagonals: tr(KL), 1'K1 * 1'L1 and 1'KL1.
    trace = cross.square().sum((-2, -1)) - norms
    totals = (x_sum.square().sum(-1) - x_norms) * (y_sum.square().sum(-1) - y_norms)
    through = (x_sum[..., None, :] @ cross @ y_sum[..., None])[..., 0, 0]
    product = through - (x_sum * x_by_y).sum(-1) - (y_sum * y_by_x).sum(-1) + norms
    return trace + totals / ((n - 1) * (n - 2)) - 2 * product / (n - 2)


def weighted_cka(statistics: Statistics, weights: Tensor) -> Tensor:
    """CKA of many weighted sums of statistics, each [G, ...], without forming one: [K] for weights [K, G].

    HSIC is a polynomial of the weights whose coefficients are products of groups, so a resample costs G^3 and not D^2.
    """
    own_x, cross, own_y = (_weighted_hsic(each, weights) for each in pairs_of(statistics))
    return cross / (own_x * own_y).sqrt()


def _weighted_hsic(statistics: Statistics, weights: Tensor) -> Tensor:
    """`hsic` of weighted sums, the square written out; around the mean of all rows, where little cancels."""
    rows, cross, x_sum, y_sum = statistics[:4]
    x_mean, y_mean = x_sum.sum(0) / rows.sum(), y_sum.sum(0) / rows.sum()
    outer = torch.stack([y_sum, y_mean.expand_as(y_sum)], -2)
    x_sum, y_sum = x_sum - rows[:, None] * x_mean, y_sum - rows[:, None] * y_mean
    cross = torch.baddbmm(cross, torch.stack([x_mean.expand_as(x_sum), x_sum], -1), outer, alpha=-1)
    n, groups = weights @ rows, len(rows)

    def square(of_groups: Tensor) -> Tensor:
        """Squared norm of each weighted sum."""
        return ((weights @ (of_groups.flatten(1) @ of_groups.flatten(1).mT)) * weights).sum(1)

    triples = torch.einsum("gd,hde->ghe", x_sum, cross) @ y_sum.mT  # x_sum' cross y_sum, of any three groups
    through = ((weights @ triples.flatten(1)).unflatten(1, (groups, groups)) @ weights[..., None])[..., 0]
    return square(cross) - 2 * (through * weights).sum(1) / n + square(x_sum) * square(y_sum) / n**2


def centred_cross(statistics: Statistics) -> Tensor:
    """Xc'Yc [..., Dx, Dy], the columns of both centred."""
    n, cross, x_sum, y_sum = statistics[:4]
    return cross - x_sum[..., :, None] * y_sum[..., None, :] / n[..., None, None]


def cka(statistics: Statistics, *, debiased: bool = False) -> Tensor:
    """CKA from `cka_statistics`; one number for each leading index.

    Raises:
        ShapeError: Fewer than 2 rows (4 when debiased).
        DegenerateFeaturesError: Features hold NaN or infinity, or all rows of x (or of y) are equal.
    """
    xx, xy, yy = pairs_of(statistics)
    check_rows(xy, 4 if debiased else 2, "CKA (debiased)" if debiased else "CKA")
    own_x, own_y = check_spread("x", xx), check_spread("y", yy)
    if debiased:
        own_x, own_y = hsic(xx, debiased), hsic(yy, debiased)
        for name, own in (("x", own_x), ("y", own_y)):
            if not bool((own > 0).all()):
                raise DegenerateFeaturesError(
                    f"the debiased HSIC of features {name} with themselves is not positive: use more rows."
                )
    return hsic(xy, debiased) / (own_x * own_y).sqrt()


def check_rows(statistics: Statistics, least: int, name: str) -> None:
    """Refuses sums over too few rows.

    Raises:
        ShapeError: There are fewer than `least`.
    """
    rows = int(statistics[0].min())
    if rows < least:
        raise ShapeError(f"{name} needs at least {least} rows; there are {rows}.")


def check_spread(name: str, own: Statistics) -> Tensor:
    """Refuses features that are not finite or do not vary; `own` are their statistics with themselves.

    Raises:
        DegenerateFeaturesError: They are so.
    """
    spread = hsic(own, debiased=False)
    if not bool(spread.isfinite().all()):
        raise DegenerateFeaturesError(f"features {name} hold NaN or infinity: check inputs and weights.")
    if bool((spread.sqrt() <= _CONSTANT * own[1].square().sum((-2, -1)).sqrt()).any()):
        raise DegenerateFeaturesError(f"all rows of features {name} are equal, so CKA is 0/0.")
    return spread


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
        self._statistics: Statistics = []

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds rows: x [N, Dx] and y [N, Dy], the same examples in the same order.

        Raises:
            ShapeError: Not 2-D, or the row counts differ.
        """
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
            raise ShapeError(f"features of shape {tuple(x.shape)} and {tuple(y.shape)}: expected [N, Dx] and [N, Dy].")
        x, y = x.double(), y.double()
        self._add(cka_statistics((x, x), (y, y)))

    def merge(self, other: "CkaMoments") -> None:
        """Adds the rows another object has seen."""
        if other._statistics:
            self._add(other._statistics)

    def _add(self, new: Statistics) -> None:
        self._statistics = [a + b for a, b in zip(self._statistics, new, strict=True)] if self._statistics else new

    @property
    def count(self) -> int:
        """Rows seen so far."""
        return int(self._statistics[0]) if self._statistics else 0

    def similarity(self, *, debiased: bool = False) -> float:
        """CKA of all rows seen; range and errors as in `linear_cka`."""
        if not self._statistics:
            raise ShapeError("CKA needs at least 2 rows; there are 0.")
        return float(cka(self._statistics, debiased=debiased))


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
