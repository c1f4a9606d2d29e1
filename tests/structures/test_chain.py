"""Chains: their factors as Kronecker products, ties, permutations, padding, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.parametrize
import torch.nn.utils.prune
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kmatrix import _permutations
from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.structures import Butterfly, Chain, ChainMatrix, Dense, Factor, GroupShuffle, LowRank, Permute
from kmatrix.structures.chain import Layout, spectral_scales

f64, c128 = torch.float64, torch.complex128
sizes = st.integers(1, 4)


def dense_factor(f: Factor, weight: Tensor) -> Tensor:
    """The factor entry by entry: row (A, B, D), column (A, C, D)."""
    full = weight.expand(f.a, f.b, f.c, f.d)
    out = torch.zeros(f.rows, f.cols, dtype=weight.dtype)
    for a, b, c, d in np.ndindex(f.a, f.b, f.c, f.d):
        out[(a * f.b + b) * f.d + d, (a * f.c + c) * f.d + d] = full[a, b, c, d]
    return out


@pytest.mark.parametrize("dtype", [f64, c128])
@given(a=sizes, b=sizes, c=sizes, d=sizes, tie=st.sampled_from(["", "a", "d", "ad"]))
def test_a_factor_is_its_definition(dtype: torch.dtype, a: int, b: int, c: int, d: int, tie: Any) -> None:
    f = Factor(a, b, c, d, tie)
    A = Chain((f,)).random(f.rows, f.cols, dtype=dtype)
    assert isinstance(A, ChainMatrix)
    (weight,) = A.weights
    assert weight.shape == f.weight_shape
    torch.testing.assert_close(A.to_dense(), dense_factor(f, weight), rtol=0, atol=0)
    support = torch.kron(torch.eye(a), torch.kron(torch.ones(b, c), torch.eye(d)))
    assert torch.equal(A.to_dense() != 0, support != 0)
    assert A.num_params == weight.numel()
    assert A.flops == 2 * int(support.sum())


def test_stages_are_applied_in_order() -> None:
    first, shuffle, last = Factor(2, 3, 2, 1), Permute(6, "stride", 2), Factor(1, 5, 2, 3, "d")
    A = Chain((first, shuffle, last)).random(15, 4, dtype=f64)
    assert isinstance(A, ChainMatrix)
    P = torch.eye(6, dtype=f64)[torch.as_tensor(_permutations.stride(2, 6))]
    want = dense_factor(last, A.weights[1]) @ P @ dense_factor(first, A.weights[0])
    torch.testing.assert_close(A.to_dense(), want)
    torch.testing.assert_close(A.T.to_dense(), want.T)


def test_a_chain_that_is_larger_is_padded_and_cropped() -> None:
    s = Chain((Factor(2, 3, 2, 1), Factor(1, 2, 2, 3)))
    whole = s.random(6, 4, dtype=f64)
    assert isinstance(whole, ChainMatrix)
    corner = ChainMatrix.from_weights(s, (5, 3), whole.weights)
    torch.testing.assert_close(corner.to_dense(), whole.to_dense()[:5, :3], rtol=0, atol=0)
    torch.testing.assert_close(corner.T.to_dense(), whole.to_dense()[:5, :3].T, rtol=0, atol=0)
    assert (corner.num_params, corner.flops) == (whole.num_params, whole.flops)
    for shape in ((7, 4), (6, 5)):
        with pytest.raises(ArgumentError, match=r"6 x 4, too small.*larger chain"):
            s.random(*shape)


@pytest.mark.parametrize(
    ("stages", "runs"),
    [
        ((Factor(1, 6, 6, 1), Factor(1, 6, 6, 1)), ((0, 2),)),
        ((Permute(6), Permute(6)), (0, 1)),
        ((Permute(6), Factor(1, 6, 6, 1), Factor(1, 6, 6, 1), Permute(6)), (0, (0, 2), 1)),
        ((Factor(1, 6, 6, 1), Permute(6), Factor(1, 6, 6, 1)), ((0, 1), 0, (1, 2))),
    ],
)
def test_runs_of_factors_are_maximal(stages: Any, runs: Any) -> None:
    assert Layout(stages).runs == runs
    assert Layout(stages) == Layout(stages)
    assert hash(Layout(stages)) == hash(Layout(stages))


@pytest.mark.parametrize(
    ("permute", "index"),
    [
        (Permute(4), [0, 1, 2, 3]),
        (Permute(4, "reverse"), [3, 2, 1, 0]),
        (Permute(6, "stride", 2), [0, 3, 1, 4, 2, 5]),
        (Permute(8, "bit_reversal"), [0, 4, 2, 6, 1, 5, 3, 7]),
    ],
)
def test_kinds_of_permutations(permute: Permute, index: list[int]) -> None:
    assert permute.index().tolist() == index
    A = Chain((permute,)).random(permute.n, permute.n, dtype=f64)
    x = torch.randn(permute.n, dtype=f64)
    assert torch.equal(A(x), x[index])
    assert (A.num_params, A.flops) == (0, 0)


def test_a_chain_of_permutations_alone_has_a_dtype_and_a_device() -> None:
    A = Chain((Permute(3, "reverse"),)).random(3, 3, dtype=torch.complex64)
    assert A.dtype == torch.complex64 and A.device.type == "cpu"
    assert A.double().dtype == c128
    assert A.to("meta").device.type == "meta"
    assert ChainMatrix.from_weights(Chain((Permute(3),)), (3, 3), []).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("dtype", [f64, c128])
def test_from_weights_holds_what_it_is_given(dtype: torch.dtype) -> None:
    s = GroupShuffle(nblocks=(2, 3), hidden=6, shuffles=("given", "given", "given"))
    weights = [torch.randn(3, 2, 3, 1, dtype=dtype), torch.randn(2, 4, 3, 1, dtype=dtype).conj()]
    indices = [torch.randperm(9), np.random.default_rng(0).permutation(6), torch.randperm(8)]
    A = ChainMatrix.from_weights(s, (7, 8), weights, indices)
    assert all(torch.equal(kept, weight) for kept, weight in zip(A.weights, weights, strict=True))
    assert all(A.permutation(k).tolist() == index.tolist() for k, index in enumerate(indices))
    assert all(w.requires_grad for w in A.parameters())


@pytest.mark.parametrize(
    ("weights", "error", "reason"),
    [
        ([], ArgumentError, "one weight"),
        ([torch.ones(1, 2, 5, 1)], ArgumentError, "one weight"),
        ([torch.ones(1, 2, 5, 1), torch.ones(4, 2)], ArgumentError, "one weight"),
        ([torch.ones(1, 2, 5, 1), torch.ones(1, 4, 2, 1).double()], DtypeError, "dtypes differ"),
        ([torch.ones(1, 2, 5, 1), torch.ones(1, 4, 2, 1) + 0j], DtypeError, "dtypes differ"),
        ([torch.ones(1, 2, 5, 1).long(), torch.ones(1, 4, 2, 1).long()], DtypeError, "not a floating"),
    ],
)
def test_from_weights_refuses_what_does_not_fit(weights: list[Tensor], error: Any, reason: str) -> None:
    with pytest.raises(error, match=reason):
        ChainMatrix.from_weights(LowRank(2), (4, 5), weights)


@pytest.mark.parametrize(
    "index", [[0, 1, 1], [0, 1, 3], [-1, 0, 1], [0, 1], [[0, 1, 2]], [0, 1, 2, 3]], ids=str
)
def test_what_is_no_permutation_is_refused(index: list[int]) -> None:
    A = Chain((Permute(3),)).random(3, 3)
    assert isinstance(A, ChainMatrix)
    with pytest.raises(ArgumentError, match=r"not a permutation of 0\.\.2"):
        A.set_permutations([torch.tensor(index)])
    with pytest.raises(ArgumentError, match="the chain has 1 permutations"):
        A.set_permutations([])
    assert A.permutation(0).tolist() == [0, 1, 2]


def test_every_layer_starts_at_its_spectral_scale() -> None:
    f = Factor(3, 40, 90, 1)
    assert list(spectral_scales(Layout((f, Factor(1, 90, 40, 3))))) == [
        (40 / 90) ** 0.5 / 90**0.5,
        1 / 40**0.5,
    ]
    generator = torch.Generator().manual_seed(0)
    A = Dense().random(400, 900, dtype=f64, generator=generator)
    # The largest singular value of a Gaussian matrix is about std (sqrt(m) + sqrt(n)): 2/3 std of 1/sqrt(n) here.
    assert float(torch.linalg.matrix_norm(A.to_dense().detach(), 2)) == pytest.approx(
        2 / 3 * (2 / 3 + 1), rel=0.05
    )


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: Factor(0, 1, 1, 1), ArgumentError, "a=0"),
        (lambda: Factor(1, -2, 1, 1), ArgumentError, "b=-2"),
        (lambda: Factor(1, 1, 2.0, 1), DtypeError, r"c=2\.0"),  # type: ignore[arg-type]
        (lambda: Factor(1, 1, 1, 1, "b"), ArgumentError, "tie='b'"),  # type: ignore[arg-type]
        (lambda: Permute(0), ArgumentError, "n=0"),
        (lambda: Permute(4, "random"), ArgumentError, "kind='random'"),  # type: ignore[arg-type]
        (lambda: Permute(4, "stride", 3), ArgumentError, "k=3"),
        (lambda: Permute(6, "bit_reversal"), ArgumentError, "n=6"),
        (lambda: Chain(()), ArgumentError, "at least one"),
        (lambda: Chain((Factor(1, 2, 3, 1), Factor(1, 3, 3, 1))), ArgumentError, "gives 2 values"),
        (lambda: Chain((Factor(1, 2, 3, 1), Permute(3))), ArgumentError, "takes 3"),
    ],
)
def test_bad_stages_are_refused(make: Any, error: Any, named: str) -> None:
    with pytest.raises(error, match=named):
        make()


def parametrized() -> ChainMatrix:
    """A butterfly of which one weight is computed from another parameter."""
    A = Butterfly().random(8, 8, dtype=torch.float64)

    class Doubled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    torch.nn.utils.parametrize.register_parametrization(A.factors, "1", Doubled())
    return A


def test_a_weight_that_is_parametrized_is_the_one_that_multiplies() -> None:
    torch.manual_seed(0)
    plain = Butterfly().random(8, 8, dtype=torch.float64)
    torch.manual_seed(0)
    A = parametrized()
    torch.testing.assert_close(A.to_dense(), 2 * plain.to_dense())
    assert A.dtype == torch.float64


def test_a_weight_that_is_pruned_is_the_one_that_multiplies() -> None:
    A = Butterfly().random(8, 8)
    torch.nn.utils.prune.l1_unstructured(A.factors, "0", amount=4)
    assert int((A.weights[0] == 0).sum()) == 4
    A.weights[0].sum().backward()


def test_weights_follow_the_parameters_however_they_change() -> None:
    A = Butterfly().random(4, 4)
    x = torch.randn(4)
    before = A(x)
    with torch.no_grad():
        A.factors[0].mul_(2)
    torch.testing.assert_close(A(x), 2 * before)
    A.factors[1] = torch.nn.Parameter(3 * A.factors[1].detach())
    torch.testing.assert_close(A(x), 6 * before)
    state = {name: value.detach() / 2 for name, value in A.named_parameters()}
    torch.testing.assert_close(torch.func.functional_call(A, state, (x,)), 1.5 * before)
    torch.testing.assert_close(A(x), 6 * before)


def test_the_way_back_follows_a_permutation_that_is_overwritten() -> None:
    """Inverses are kept, but a buffer can be written to without a trace."""
    matrix = Chain((Permute(8, "bit_reversal"), Factor(4, 2, 2, 1))).random(8, 8)
    y = torch.randn(3, 8)
    for index in (None, [1, 0, 2, 3, 4, 5, 7, 6], [7, 6, 5, 4, 3, 2, 1, 0]):
        if index is not None:
            matrix.permutation(0).numpy()[:] = index
        for _ in range(3):
            torch.testing.assert_close(matrix.rforward(y), y @ matrix.to_dense())
        assert matrix._inverse(0) is matrix._inverse(0)
    fresh = copy.deepcopy(matrix)
    with torch.inference_mode():
        fresh.rforward(y)
    y.requires_grad_()
    fresh.rforward(y).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_weights_may_be_made_of_the_parameters(dtype: torch.dtype) -> None:
    class Doubled(ChainMatrix):
        @property
        def weights(self) -> tuple[Tensor, ...]:
            return tuple(2 * w for w in super().weights)

    plain = Butterfly().random(8, 8, dtype=dtype)
    doubled = Doubled(plain.structure, plain.shape, plain.layout, dtype=dtype)
    doubled.load_state_dict(plain.state_dict())
    x = torch.randn(3, 8, dtype=dtype)
    for _ in range(4):  # products that ran before take a shorter way
        torch.testing.assert_close(doubled(x), 8 * plain(x))
    torch.testing.assert_close(doubled.to_dense(), 8 * plain.to_dense())
    torch.testing.assert_close(doubled.T(x), 8 * plain.T(x))
