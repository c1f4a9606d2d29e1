"""Operations on lists of butterfly factors, each against the explicit dense product."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from kmatrix import ArgumentError
from kmatrix._permutations import bit_reversal
from kmatrix.constructions.factors import ButterflyFactors, direct_sum, strides

RNG = np.random.default_rng(0)


def random_factors(size: int, *, increasing: bool, is_complex: bool = False) -> ButterflyFactors:
    shapes = [w.shape for w in ButterflyFactors.identity(size, increasing=increasing).twiddles]
    twiddles = [RNG.standard_normal(shape) for shape in shapes]
    if is_complex:
        twiddles = [w + 1j * RNG.standard_normal(w.shape) for w in twiddles]
    return ButterflyFactors(size, tuple(twiddles))


def explicit_factor(w: np.ndarray) -> np.ndarray:
    """The definition: block-diagonal of [[D1, D2], [D3, D4]] with diagonal blocks."""
    blocks = [np.block([[np.diag(w[a, r, c]) for c in (0, 1)] for r in (0, 1)]) for a in range(w.shape[0])]
    return scipy.linalg.block_diag(*blocks)


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("size", [2, 4, 16])
def test_product_of_explicit_factors(size: int, increasing: bool) -> None:
    factors = random_factors(size, increasing=increasing, is_complex=True)
    expected = np.eye(size)
    for w in factors.twiddles:
        expected = explicit_factor(w) @ expected
    np.testing.assert_allclose(factors.dense(), expected, rtol=1e-13, atol=1e-13)
    assert factors.belongs_to(increasing=increasing)
    assert sum(w.size for w in factors.twiddles) == 2 * size * (size.bit_length() - 1)


def test_strides_of_the_two_classes() -> None:
    assert strides(8, increasing=True) == (1, 2, 4)
    assert strides(8, increasing=False) == (4, 2, 1)


@pytest.mark.parametrize("size", [2, 8, 32])
def test_unary_operations(size: int) -> None:
    factors = random_factors(size, increasing=True, is_complex=True)
    matrix = factors.dense()
    left, right = RNG.standard_normal((2, size))
    reverse = bit_reversal(size)
    cases = [
        (factors.transpose(), matrix.T, False),
        (factors.adjoint(), matrix.conj().T, False),
        (factors.scaled(left, right), left[:, None] * matrix * right, True),
        (factors.bit_reversed(), matrix[reverse][:, reverse], False),
    ]
    for result, expected, increasing in cases:
        np.testing.assert_allclose(result.dense(), expected, rtol=1e-12, atol=1e-12)
        assert result.belongs_to(increasing=increasing)


def test_inverse_is_factor_by_factor() -> None:
    factors = random_factors(16, increasing=True)
    # Rows of unit weight on the diagonal keep every block well away from singular.
    factors = ButterflyFactors(16, tuple(w / 8 + np.eye(2)[None, :, :, None] for w in factors.twiddles))
    assert factors.inverse().belongs_to(increasing=False)
    np.testing.assert_allclose(factors.inverse().dense() @ factors.dense(), np.eye(16), atol=1e-12)


def test_singular_factor_has_no_inverse() -> None:
    ones = ButterflyFactors(2, (np.ones((1, 2, 2, 1)),))
    with pytest.raises(ArgumentError, match="singular"):
        ones.inverse()


def test_kronecker_with_identities() -> None:
    a, b = (random_factors(4, increasing=True) for _ in range(2))
    np.testing.assert_allclose(a.repeated_inside(4).dense(), np.kron(a.dense(), np.eye(4)), rtol=1e-13)
    np.testing.assert_allclose(direct_sum([a, b]).dense(), scipy.linalg.block_diag(a.dense(), b.dense()))


def test_direct_sum_keeps_inner_points_together() -> None:
    parts = [random_factors(8, increasing=False) for _ in range(4)]
    joined = direct_sum(parts, inner=2).dense().reshape(4, 4, 2, 4, 4, 2)
    for k, part in enumerate(parts):
        np.testing.assert_allclose(joined[:, k, :, :, k].reshape(8, 8), part.dense(), rtol=1e-13)
        for other in set(range(4)) - {k}:
            assert not joined[:, k, :, :, other].any()


@pytest.mark.parametrize(
    ("size", "shape"), [(3, (1, 2, 2, 1)), (1, (1, 2, 2, 1)), (4, (1, 2, 2, 1)), (4, (2, 2, 2))]
)
def test_refuses_what_is_not_a_butterfly(size: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="ButterflyFactors"):
        ButterflyFactors(size, (np.ones(shape),))
