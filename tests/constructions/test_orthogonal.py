"""Reflections, orthogonal matrices and the universal form: exact to rounding, orthogonal factors, stated width."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmatrix import ArgumentError, Kaleidoscope, StructuredMatrix
from kmatrix.constructions import householder, orthogonal, universal

SIZES = [1, 2, 3, 4, 8, 11, 16]


def draw(shape: tuple[int, ...], is_complex: bool, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if is_complex else 0.0)


def largest_defect(matrix: StructuredMatrix) -> float:
    """How far the 2 x 2 blocks of the factors are from unitary."""
    defect = 0.0
    for w in matrix.weights:  # type: ignore[attr-defined]
        gram = torch.einsum("arcd,ared->aced", w.conj(), w) - torch.eye(2, dtype=w.dtype)[None, :, :, None]
        defect = max(defect, gram.abs().max().item())
    return defect


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("n", [*SIZES, 256])
def test_householder(n: int, is_complex: bool) -> None:
    u = draw((n,), is_complex, seed=n)
    u /= np.linalg.norm(u)
    matrix = householder(u)
    assert matrix.structure == Kaleidoscope(width=1, expansion=1)
    assert largest_defect(matrix) < 1e-14
    expected = np.eye(n) - 2 * np.outer(u, u.conj())
    np.testing.assert_allclose(matrix.to_dense().detach().numpy(), expected, rtol=0, atol=1e-14)


@given(st.integers(1, 20), st.data())
def test_householder_with_zeros(n: int, data: st.DataObject) -> None:
    places = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    u = np.zeros(n)
    u[list(places)] = 1 / np.sqrt(len(places))
    expected = np.eye(n) - 2 * np.outer(u, u)
    np.testing.assert_allclose(householder(u).to_dense().detach().numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("u", [[0.0, 0.0], [1.0, 1.0], [0.5]])
def test_householder_refuses_other_norms(u: list[float]) -> None:
    with pytest.raises(ArgumentError, match=r"norm\(u\)"):
        householder(u)


@pytest.mark.parametrize("u", [[np.nan, 1.0], [[1.0, 0.0]], []])
def test_householder_refuses_what_is_not_a_vector(u: list[object]) -> None:
    with pytest.raises(ArgumentError, match="householder: u"):
        householder(u)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_orthogonal(n: int, is_complex: bool) -> None:
    q = np.linalg.qr(draw((n, n), is_complex))[0]
    matrix = orthogonal(q)
    assert matrix.structure == Kaleidoscope(width=max(1, n - 1), expansion=1)
    assert largest_defect(matrix) < 1e-13
    np.testing.assert_allclose(matrix.to_dense().detach().numpy(), q, rtol=0, atol=1e-13)


def test_orthogonal_of_special_matrices() -> None:
    for q in (np.eye(5), -np.eye(4), np.eye(6)[::-1], np.diag([1.0, -1.0, 1.0])):
        np.testing.assert_allclose(orthogonal(q).to_dense().detach().numpy(), q, rtol=0, atol=1e-14)


@pytest.mark.parametrize("q", [np.ones((2, 2)), np.eye(3)[:2], 2 * np.eye(2), [[np.nan]]])
def test_orthogonal_refuses(q: object) -> None:
    with pytest.raises(ArgumentError, match="orthogonal: q"):
        orthogonal(q)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (8, 8), (16, 9), (32, 32)])
def test_universal(shape: tuple[int, int], is_complex: bool) -> None:
    target = draw(shape, is_complex)
    matrix = universal(target)
    assert matrix.structure == Kaleidoscope(width=max(2, 2 * max(shape) - 2), expansion=1)
    error = np.linalg.norm(matrix.to_dense().detach().numpy() - target, 2)
    assert error < 1e-12 * np.linalg.norm(target, 2)


def test_universal_of_singular_matrices() -> None:
    for target in (np.zeros((4, 4)), np.ones((3, 3)), np.diag([1.0, 0.0, 2.0])):
        np.testing.assert_allclose(universal(target).to_dense().detach().numpy(), target, rtol=0, atol=1e-13)


def test_number_type_follows_the_target() -> None:
    assert universal(torch.eye(3)).dtype == torch.float32
    assert householder(torch.tensor([1.0, 0.0], dtype=torch.complex64)).dtype == torch.complex64
