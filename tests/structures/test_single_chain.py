"""Prepared and tuned matrices: what is one chain multiplies as it did, and what is none says why."""

from __future__ import annotations

import pytest
import torch

import kmatrix as km
from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.ops import native, wisdom
from kmatrix.ops.native_module import native_part
from kmatrix.structures import StructuredMatrix
from kmatrix.structures.compose import scaled

F64, C128 = torch.float64, torch.complex128


def permuted() -> StructuredMatrix:
    stages = (
        km.Permute(12, "reverse"),
        km.Factor(3, 2, 4, 1),
        km.Factor(1, 6, 6, 1),
        km.Permute(6, "stride", 2),
    )
    return km.Chain(stages).random(6, 12, dtype=F64)


def butterfly(m: int = 8, n: int = 8, dtype: torch.dtype = F64) -> StructuredMatrix:
    return km.Butterfly().random(m, n, dtype=dtype)


def padded(m: int, n: int) -> StructuredMatrix:
    A = km.Kaleidoscope().random(m, n, dtype=F64)
    assert A.layout.cols == 8  # type: ignore[attr-defined]
    return A


def shuffle(n: int) -> StructuredMatrix:
    return km.Permutation("given").random(n, n, dtype=F64)


SINGLE = {
    "butterfly": butterfly,
    "padded and cropped": lambda: padded(5, 6),
    "permuted": permuted,
    "permuted, padded, cropped": lambda: km.Chain(
        (km.Permute(12, "reverse"), km.Factor(3, 2, 4, 1), km.Factor(1, 6, 6, 1), km.Permute(6, "reverse"))
    ).random(5, 11, dtype=F64),
    "Fourier": lambda: km.transforms.dft(12, dtype=C128),
    "Fourier, transposed": lambda: km.transforms.dft(12, dtype=C128).T,
    "Fourier, adjoint": lambda: km.transforms.dft(12, dtype=C128).H,
    "transposed": lambda: permuted().T,
    "padded, transposed": lambda: padded(5, 6).T,
    "multiple": lambda: -0.5 * permuted(),
    "complex multiple of a transpose": lambda: 2j * km.transforms.dft(6, dtype=C128).H,
    "product": lambda: butterfly(8, 8) @ butterfly(8, 8),
    "product of tied": lambda: km.transforms.hadamard(8, dtype=F64, tied=True) @ butterfly(8, 8),
    "product with permutations": lambda: shuffle(8) @ butterfly(8, 8) @ butterfly(8, 8) @ shuffle(8),
    "permutations that cancel": lambda: (
        butterfly()
        @ km.Permutation("reverse").random(8, 8, dtype=F64)
        @ km.Permutation("reverse").random(8, 8, dtype=F64)
        @ butterfly()
    ),
    "inverse of a transform": lambda: km.transforms.dft(8, dtype=C128).H @ km.transforms.dft(8, dtype=C128),
    "real by complex": lambda: butterfly().T @ km.transforms.dft(8, dtype=C128),
    "circulant chain": lambda: km.transforms.circulant_chain(torch.randn(8, dtype=F64)),
    "multiple inside a product": lambda: butterfly() @ (3 * butterfly()),
    "multiple of a permutation": lambda: scaled(shuffle(5), 2.0),
    "permutation": lambda: shuffle(7),
    "permutations": lambda: shuffle(7) @ shuffle(7).T,
    "flat diagonal": lambda: km.Diagonal().random(3, 5, dtype=F64),
    "low rank": lambda: km.LowRank(2).random(5, 7, dtype=F64),
    "orthogonal": lambda: km.OrthogonalButterfly().random(8, 8, dtype=F64),
    "fixed BPBP": lambda: km.FixedBPBP(depth=1).random(8, 8, dtype=F64),
}


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("backend", ["portable", *(["native"] if native_part().module else [])])
def test_a_prepared_matrix_multiplies_like_the_matrix(name: str, backend: str) -> None:
    A = SINGLE[name]()
    m, n = A.shape
    bias = torch.randn(m, dtype=A.dtype)
    with km.ops.use_backend(backend):
        plan, biased = km.ops.prepare(A), km.ops.prepare(A, bias=bias)
        assert (plan.n_in, plan.n_out, plan.dtype) == (n, m, A.dtype)
        for batch in (1, 3, 40):
            x = torch.randn(batch, n, dtype=A.dtype)
            want = x @ A.to_dense().detach().mT
            for _ in range(2):
                torch.testing.assert_close(plan(x), want)
                torch.testing.assert_close(biased(x), want + bias)


def test_it_is_a_snapshot() -> None:
    A = butterfly()
    plan, x = km.ops.prepare(A), torch.randn(3, 8, dtype=F64)
    want = plan(x)
    with torch.no_grad():
        for p in A.parameters():
            p.zero_()
    assert torch.equal(plan(x), want)
    assert not plan(x).requires_grad


def test_factors_that_meet_are_one_chain_and_multiples_cost_nothing() -> None:
    A = butterfly()
    assert len((A @ A).single_chain().weights) == 6
    assert len((2 * A).single_chain().weights) == 3
    assert len((A @ (2 * A.T)).single_chain().weights) == 6
    chain = A.single_chain()
    assert chain.gather is None
    assert chain.take is None
    assert all(w is p for w, p in zip(chain.weights, A.weights, strict=True))


NOT_SINGLE = {
    "a permutation between": lambda: butterfly() @ shuffle(8) @ butterfly(),
    "Fourier of Fourier": lambda: km.transforms.dft(8) @ km.transforms.dft(8),
    "cropped between": lambda: padded(5, 6).T @ padded(5, 6),
    "inner permutation": lambda: km.FixedBPBP(depth=2).random(8, 8),
    "tall diagonal": lambda: km.Diagonal().random(5, 3),
    "circulant": lambda: km.Circulant().random(6, 6),
    "sum": lambda: butterfly() + butterfly(),
    "sparse in a product": lambda: butterfly() @ km.Sparse(3).random(8, 8, dtype=F64),
}


@pytest.mark.parametrize("name", NOT_SINGLE)
def test_what_is_no_single_chain_says_why(name: str) -> None:
    A = NOT_SINGLE[name]()
    kind = type(A.structure).__name__
    for call in (km.ops.prepare, lambda A: km.ops.tune(A, batch=2)):
        with pytest.raises(ArgumentError, match=rf"^(prepare|tune): matrix={kind}: .*call the matrix itself"):
            call(A)


@pytest.mark.parametrize("extra", ["patterns", "n", "gather", "take"])
def test_a_matrix_says_everything_itself(extra: str) -> None:
    given = {"patterns": [(4, 2, 2, 1)], "n": 8, "gather": list(range(8)), "take": [0]}[extra]
    with pytest.raises(ArgumentError, match=f"prepare: {extra}=.*the matrix says that itself"):
        km.ops.prepare(butterfly(), **{extra: given})
    with pytest.raises(ArgumentError, match=f"tune: {extra}="):
        km.ops.tune(butterfly(), batch=2, **{extra: given})


@pytest.mark.parametrize("nothing", [torch.ones(3), 3, None, {"a": 1}], ids=repr)
def test_what_is_neither_a_matrix_nor_weights(nothing: object) -> None:
    with pytest.raises(DtypeError, match="neither a matrix nor a list of weights"):
        km.ops.prepare(nothing)  # type: ignore[arg-type]


@pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
def test_a_tuned_matrix_uses_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_WISDOM", "")
    wisdom.forget()
    native.forget_schedules()
    try:
        for A in (butterfly(), km.transforms.dft(12, dtype=C128), padded(5, 6)):
            found = km.ops.tune(A, batch=40, seconds=0.01)
            ends = any(index is not None for index in (A.single_chain().gather, A.single_chain().take))
            patterns = A.single_chain().patterns
            assert wisdom.learned_schedule(patterns, A.dtype, 64, 1, ends) == found.schedule
            told = km.explain(A, batch=40, seconds=0.01).products
            assert len(told) == 1
            assert f"passes {'+'.join(map(str, found.schedule.passes))}" in told[0]
    finally:
        monkeypatch.undo()
        wisdom.forget()
        native.forget_schedules()


@pytest.mark.parametrize("name", ["butterfly", "padded and cropped", "Fourier"])
def test_plans_compile_whole(name: str) -> None:
    A = SINGLE[name]()
    plan, x = (
        km.ops.prepare(A, bias=torch.ones(A.shape[0], dtype=A.dtype)),
        torch.randn(3, A.shape[1], dtype=A.dtype),
    )
    compiled = torch.compile(lambda x: 2 * plan(x), backend="eager", fullgraph=True)
    for batch in (3, 5):
        x = torch.randn(batch, A.shape[1], dtype=A.dtype)
        torch.testing.assert_close(compiled(x), 2 * plan(x))


def test_compiled_plans_refuse_what_plans_refuse() -> None:
    plan, x = km.ops.prepare(butterfly()), torch.randn(3, 8, dtype=F64)
    for call in (
        lambda: plan(x.clone().requires_grad_()),
        lambda: plan(x, x.clone()),
        lambda: plan(x.float()),
    ):
        with pytest.raises((ArgumentError, DtypeError, torch._dynamo.exc.TorchDynamoException)):
            torch.compile(lambda call=call: call(), backend="eager", fullgraph=True)()
