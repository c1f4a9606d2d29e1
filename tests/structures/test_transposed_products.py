"""Products from the right, with transposes and with complex chains: recorded on what is stored, without views."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import kmatrix as km
from kmatrix.ops import calls, use_backend
from kmatrix.ops.native_module import native_part
from kmatrix.structures import StructuredMatrix

WAYS: dict[str, tuple[Callable[[StructuredMatrix, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "A(x)": (lambda A, x: A(x), lambda d: d.mT),
    "A.T(x)": (lambda A, x: A.T(x), lambda d: d),
    "A.H(x)": (lambda A, x: A.H(x), lambda d: d.conj()),
    "x @ A": (lambda A, x: x @ A, lambda d: d),
    "x @ A.T": (lambda A, x: x @ A.T, lambda d: d.mT),
    "x @ A.H": (lambda A, x: x @ A.H, lambda d: d.mH),
    "A @ x.T": (lambda A, x: (A @ x.mT).mT, lambda d: d.mT),
}
CHAINS = {
    "butterfly": (km.Butterfly(), 16, 16),
    "padded": (km.Butterfly(), 13, 11),
    "permuted": (
        km.Chain((km.Permute(12, "reverse"), km.Factor(3, 2, 4, 1), km.Factor(1, 6, 6, 1), km.Permute(6))),
        6,
        12,
    ),
    "permuted between": (
        km.Chain((km.Factor(3, 2, 4, 1), km.Permute(6, "reverse"), km.Factor(2, 5, 3, 1))),
        10,
        12,
    ),
    "tied": (km.Chain((km.Factor(3, 2, 2, 2, "a"), km.Factor(2, 3, 3, 2, "ad"))), 12, 12),
}


@pytest.fixture(autouse=True)
def _records() -> Iterator[None]:
    """No records of other tests."""
    calls.forget()
    yield
    calls.forget()


@pytest.fixture(params=["portable", *(["native"] if native_part().module else [])])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that can run here."""
    with use_backend(request.param):
        yield request.param


def changed(A: StructuredMatrix) -> Iterator[None]:
    """The matrix in four states: as it was, written behind torch's back, in other memory, read-only again."""
    yield
    yield
    for p in A.parameters():
        p.detach().numpy()[...] *= 0.5
    yield
    for p in A.parameters():
        p.data = torch.randn(p.shape, dtype=p.dtype)
    yield
    yield


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
@pytest.mark.parametrize("trained", [False, True], ids=["plain", "trained"])
def test_every_way_is_the_dense_product(way: str, chain: str, dtype: torch.dtype, trained: bool) -> None:
    multiply, dense = WAYS[way]
    structure, m, n = CHAINS[chain]
    A = structure.random(m, n, dtype=dtype)
    with torch.set_grad_enabled(trained):
        for _ in changed(A):
            matrix = dense(A.to_dense().detach())
            for batch in (1, 3, 40):
                x = torch.randn(batch, matrix.shape[0], dtype=dtype)
                for _ in range(3):
                    y = multiply(A, x)
                    assert y.requires_grad == trained
                    torch.testing.assert_close(y, x @ matrix)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
def test_gradients_flow_every_way(way: str, dtype: torch.dtype) -> None:
    multiply, dense = WAYS[way]
    A = km.Butterfly().random(8, 8, dtype=dtype)
    x = torch.randn(3, 8, dtype=dtype)
    for _ in range(3):  # calls that were recorded without gradients, too
        with torch.no_grad():
            multiply(A, x)
    loss = torch.view_as_real(multiply(A, x).to(torch.complex128)).square().sum()
    got = torch.autograd.grad(loss, list(A.parameters()))
    loss = torch.view_as_real((x @ dense(A.to_dense())).to(torch.complex128)).square().sum()
    torch.testing.assert_close(got, torch.autograd.grad(loss, list(A.parameters())))


@pytest.mark.skipif(calls.recorder() is None, reason="this torch has no way to record")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "make", [lambda: km.Butterfly().random(16, 16), lambda: km.transforms.dft(16)], ids=["real", "complex"]
)
def test_what_ran_before_makes_no_views(
    make: Callable[[], StructuredMatrix], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    A, (multiply, _) = make(), WAYS[way]
    x = torch.randn(4, 16).to(A.dtype)
    views: list[object] = []
    real = torch.view_as_complex

    with torch.no_grad():
        for _ in range(3):
            want = multiply(A, x)
        monkeypatch.setattr(torch, "view_as_complex", lambda w: views.append(w) or real(w))
        monkeypatch.setattr("kmatrix.ops.apply._views", lambda *args: views.append(args))
        torch.testing.assert_close(multiply(A, x), want)
    assert views == []


def test_torch_hands_its_products_over() -> None:
    A, x = km.Butterfly().random(4, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    want = x @ A.to_dense()
    labelled = x.as_subclass(type("Labelled", (Tensor,), {}))
    for y in (x @ A, x.matmul(A), torch.matmul(x, A), torch.nn.Parameter(x) @ A, labelled @ A):
        torch.testing.assert_close(torch.Tensor(y), torch.Tensor(want))
    torch.testing.assert_close(torch.matmul(A, x.mT), A.to_dense() @ x.mT)
    with torch.device("cpu"):
        torch.testing.assert_close(x @ A, want)
    torch.testing.assert_close(torch.vmap(lambda row: row @ A)(x), want)
    torch.testing.assert_close(torch.compile(lambda x: x @ A, backend="eager", fullgraph=True)(x), want)


def test_torch_refuses_the_rest() -> None:
    A, x = km.Butterfly().random(4, 4), torch.randn(4, 4)
    for refused in (lambda: x + A, lambda: x * A, lambda: x / A, lambda: torch.nn.functional.linear(x, A)):
        with pytest.raises(TypeError):
            refused()
    assert (torch.tensor(2.0) * A).structure == km.Scaled(km.Butterfly(), 2.0)


def test_a_transpose_is_an_ordinary_module() -> None:
    A = km.Butterfly().random(6, 8, dtype=torch.complex64)
    for T in (A.T, A.H):
        assert T.shape == (8, 6)
        assert T.base is A
        assert [name for name, _ in T.named_parameters()] == [
            f"base.{name}" for name, _ in A.named_parameters()
        ]
        assert T.training
        assert T.double().dtype == torch.complex128
        assert "Transpose" in repr(T)
        A.float()
