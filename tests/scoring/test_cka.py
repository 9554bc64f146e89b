import pytest
import torch

from har_prune import CkaMoments, linear_cka
from har_prune.errors import DegenerateFeaturesError, ShapeError


def _centred_gram_cka(x, y):
    """CKA by the N x N Gram matrices: another formula than the one under test."""
    x, y = x.double(), y.double()
    centring = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    k, l = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring  # noqa: E741
    return ((k * l).sum() / (k.norm() * l.norm())).item()


def _debiased_gram_cka(x, y):
    """HSIC_1 of Song et al. 2012, eq. 5, term by term."""

    def hsic(k, l):  # noqa: E741
        n, one = len(k), torch.ones(len(k), dtype=torch.float64)
        k, l = k - torch.diag(k.diag()), l - torch.diag(l.diag())  # noqa: E741
        terms = torch.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return (terms - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))

    k, l = x.double() @ x.double().T, y.double() @ y.double().T  # noqa: E741
    return (hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()).item()


@pytest.fixture
def features():
    x = torch.randn(60, 5) + 3
    return x, torch.randn(60, 8) + x[:, :1] - 7


def test_equals_the_gram_matrix_form(features):
    assert linear_cka(*features) == pytest.approx(_centred_gram_cka(*features), abs=1e-12)
    assert linear_cka(*features, debiased=True) == pytest.approx(_debiased_gram_cka(*features), abs=1e-12)


def test_is_one_on_a_rotated_scaled_and_shifted_copy(features):
    x, _ = features
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert linear_cka(x, 3.7 * x.double() @ rotation + 11) == pytest.approx(1, abs=1e-12)


def test_streaming_and_merging_give_the_number_of_the_whole(features):
    x, y = features
    whole, left, right = CkaMoments(), CkaMoments(), CkaMoments()
    whole.update(x, y)
    for rows in (slice(0, 7), slice(7, 20)):
        left.update(x[rows], y[rows])
    right.update(x[20:], y[20:])
    left.merge(right)
    assert left.count == 60
    for debiased in (False, True):
        assert left.similarity(debiased=debiased) == pytest.approx(whole.similarity(debiased=debiased), abs=1e-11)


def test_debiasing_takes_the_bias_of_few_samples_away():
    x, y = torch.randn(40, 200), torch.randn(40, 200)  # nothing in common
    assert linear_cka(x, y) > 0.5
    assert abs(linear_cka(x, y, debiased=True)) < 0.1


def test_bad_features_are_errors_and_never_zero(features):
    x, y = features
    with pytest.raises(DegenerateFeaturesError, match="all rows of features y are equal"):
        linear_cka(x, torch.full((60, 3), 0.1))
    with pytest.raises(DegenerateFeaturesError, match="NaN or infinity"):
        linear_cka(x, y.masked_fill(y > 0, float("nan")))
    with pytest.raises(ShapeError, match="at least 2 rows; there are 1"):
        linear_cka(x[:1], y[:1])
    with pytest.raises(ShapeError, match="at least 4 rows"):
        linear_cka(x[:3], y[:3], debiased=True)
    with pytest.raises(ShapeError, match=r"\(60, 5\) and \(59, 8\)"):
        linear_cka(x, y[:59])
