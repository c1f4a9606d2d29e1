"""The kernel for a few rows, called as it is: every shape, number type, layout and instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from kmatrix.ops import Pattern
from kmatrix.ops.definition import flatten_patterns, reference_chain_matmul
from kmatrix.ops.native_module import DTYPE_CODES, NativeModule, native_part
from kmatrix.testing import assert_matches_reference

pytestmark = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
NUMBERS = list(DTYPE_CODES)


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


@pytest.fixture(params=["avx512", "avx2", "baseline"])
def isa(request) -> str:
    """Every instruction set of this build that this processor has."""
    module = cast(NativeModule, native_part().module)
    if request.param not in module.compiled():
        pytest.skip(f"{request.param} is not in this build")
    try:
        module.limits(request.param)
    except (RuntimeError, ValueError) as error:
        pytest.skip(str(error))
    return request.param


def strides_of(weight: Tensor) -> list[int]:
    return [0 if size == 1 else stride for size, stride in zip(weight.shape, weight.stride(), strict=True)]


def inside(rows: Tensor, *, by_columns: bool = False) -> Tensor:
    """The same numbers inside memory full of NaN, one number off any alignment, rows three numbers apart."""
    batch, width = rows.shape
    across, along = (width, batch) if by_columns else (batch, width)
    memory = torch.full((1 + across * (along + 3),), torch.nan, dtype=rows.dtype)
    view = memory[1:].view(across, along + 3)[:, :along]
    view = view.T if by_columns else view
    return view.copy_(rows)


def rows_product(
    patterns: Sequence[Pattern],
    isa: str,
    *,
    gather: list[int] | None = None,
    take: list[int] | None = None,
    bias: Tensor | None = None,
    by_columns: bool = False,
    threads: int = 1,
) -> Callable[..., Tensor]:
    """The product as a function of x and the weights."""

    def multiply(x: Tensor, *weights: Tensor) -> Tensor:
        n_in = patterns[0].cols if gather is None else x.shape[1]
        n_out = patterns[-1].rows if take is None else len(take)
        strides = [s for w in weights for s in strides_of(w)]
        module = cast(NativeModule, native_part().module)
        ones = [1] * len(patterns)
        flat = flatten_patterns(patterns)
        chain = module.Chain(DTYPE_CODES[x.dtype], flat, strides, ones, 1, n_in, n_out, gather, take, isa)
        own = None if bias is None else bias.to(x.dtype)
        if own is not None:
            chain.set_bias(own.data_ptr())
        source = inside(x, by_columns=by_columns)
        target = inside(torch.full((x.shape[0], n_out), torch.nan, dtype=x.dtype), by_columns=by_columns)
        pointers = [w.data_ptr() for w in weights]
        place, to = (source.data_ptr(), *source.stride()), (target.data_ptr(), *target.stride())
        chain.rows(pointers, *place, *to, x.shape[0], threads)
        whole = target._base if target._base is not None else target
        assert int(whole.isnan().sum()) == whole.numel() - target.numel(), "wrote beside its rows"
        return target.clone()

    return multiply


def definition(patterns: Sequence[Pattern]) -> Callable[..., Tensor]:
    return lambda x, *weights: reference_chain_matmul(x, weights, patterns)


def draw(shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> list[Tensor]:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [torch.randn(tuple(shape), dtype=wide) / shape[2] ** 0.5 for shape in shapes]


def check(patterns: Sequence[Pattern], dtype: torch.dtype, isa: str, batch: int, ties: str = "") -> None:
    shapes = [(1 if "a" in ties else p.a, p.b, p.c, 1 if "d" in ties else p.d) for p in patterns]
    weights = draw(shapes, dtype)
    x = torch.randn(batch, patterns[0].cols, dtype=weights[0].dtype)
    assert_matches_reference(rows_product(patterns, isa), definition(patterns), [x, *weights], dtype)


@pytest.mark.parametrize("number", NUMBERS, ids=name)
@pytest.mark.parametrize("batch", [1, 3, 9])
def test_every_family_of_chains(example, number: torch.dtype, isa: str, batch: int) -> None:
    weights = example.draw(torch.complex128 if number.is_complex else torch.float64)
    x = torch.randn(batch, example.cols, dtype=weights[0].dtype)
    multiply = rows_product(example.patterns, isa)
    assert_matches_reference(multiply, definition(example.patterns), [x, *weights], number)


def single_factors() -> Iterator[Pattern]:
    """Each way through the kernels: d below, at and above a vector; runs that fill vectors, or do not."""
    for radix in (2, 3, 4, 5, 7, 8, 16):
        for d in (1, 2, 3, 4, 7, 8, 13, 16, 24, 32, 40):
            yield Pattern(3, radix, radix, d)
    yield from [Pattern(5, 4, 8, 1), Pattern(2, 16, 2, 2), Pattern(1, 40, 5, 1), Pattern(1, 6, 70, 1)]
    yield from [Pattern(2, 9, 37, 4), Pattern(1, 17, 35, 8), Pattern(67, 1, 1, 1), Pattern(9, 1, 1, 5)]
    yield from [Pattern(3, 5, 1, 4), Pattern(3, 1, 5, 4), Pattern(1, 33, 1, 1), Pattern(1, 1, 33, 1)]


@pytest.mark.parametrize("number", NUMBERS, ids=name)
@pytest.mark.parametrize("ties", ["", "a", "d", "ad"], ids=lambda t: f"tied-{t}")
def test_single_factors(number: torch.dtype, ties: str, isa: str) -> None:
    for pattern in single_factors():
        check([pattern], number, isa, 5, ties)


def stages(n: int, strides: Sequence[int]) -> list[Pattern]:
    return [Pattern(n // 2 // d, 2, 2, d) for d in strides]


STAGES = {
    "ascending": stages(1024, [1 << s for s in range(10)]),
    "descending": stages(256, [1 << s for s in reversed(range(8))]),
    "kaleidoscope": stages(128, [64, 32, 16, 8, 4, 2, 1, 1, 2, 4, 8, 16, 32, 64]),
    "any order": stages(512, [128, 1, 4, 256, 2, 128, 16, 64, 8, 32, 1]),
    "three times a power": stages(96, [1, 2, 4, 8, 16, 3, 6, 12, 24, 48]),
    "less than a vector": stages(4, [1, 2]),
}


@pytest.mark.parametrize("number", NUMBERS, ids=name)
@pytest.mark.parametrize("ties", ["", "a", "d", "ad"], ids=lambda t: f"tied-{t}")
@pytest.mark.parametrize("chain", STAGES)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_stages_of_2x2_blocks(number: torch.dtype, ties: str, chain: str, batch: int, isa: str) -> None:
    check(STAGES[chain], number, isa, batch, ties)


@pytest.mark.parametrize("batch", [1, 2])
def test_more_stages_than_a_group_holds(dtype, isa: str, batch: int) -> None:
    """Seventy rotations, whose errors do not grow."""
    patterns = stages(64, [1, 32] * 35)
    weights = []
    for p in patterns:
        angle = torch.randn(p.a, p.d, dtype=torch.float64)
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
        weights.append(rotation.view(p).to(torch.complex128 if dtype.is_complex else torch.float64))
    x = torch.randn(batch, 64, dtype=weights[0].dtype)
    assert_matches_reference(rows_product(patterns, isa), definition(patterns), [x, *weights], dtype)


SPREAD_OUT = [
    lambda w: w.transpose(1, 2).contiguous().transpose(1, 2),
    lambda w: w.movedim(0, 3).contiguous().movedim(3, 0),
    lambda w: torch.stack([w, torch.full_like(w, torch.nan)], -1)[..., 0],
    lambda w: torch.cat([w, torch.full_like(w, torch.nan)], 3)[..., : w.shape[3]],
]


@pytest.mark.parametrize("layout", SPREAD_OUT, ids=["b after c", "a last", "every other", "d with gaps"])
@pytest.mark.parametrize(
    "pattern",
    [Pattern(8, 2, 2, 4), Pattern(2, 2, 2, 32), Pattern(3, 5, 6, 4), Pattern(2, 20, 30, 1)],
    ids=str,
)
def test_weights_that_are_not_contiguous(layout: Callable, pattern: Pattern, dtype, isa: str) -> None:
    weights = draw([pattern], dtype)
    x = torch.randn(4, pattern.cols, dtype=weights[0].dtype)
    multiply = rows_product([pattern], isa)
    spread = lambda x, w: multiply(x, layout(w))  # noqa: E731
    assert_matches_reference(spread, definition([pattern]), [x, *weights], dtype)


@pytest.mark.parametrize("number", NUMBERS, ids=name)
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("chain", ["ascending", "less than a vector"])
def test_ends(number: torch.dtype, by_columns: bool, chain: str, isa: str) -> None:
    patterns = STAGES[chain]
    n, n_in = patterns[0].cols, patterns[0].cols + 2
    gather = [-1 if i % 5 == 1 else (7 * i) % n_in for i in range(n)]
    take = [(3 * i) % n for i in range(n - 1)]
    weights = draw(patterns, number)
    x = torch.randn(3, n_in, dtype=weights[0].dtype)
    bias = torch.randn(len(take), dtype=weights[0].dtype)

    def reference(x: Tensor, *weights: Tensor) -> Tensor:
        padded = torch.cat([x, x.new_zeros(x.shape[0], 1)], 1)
        y = reference_chain_matmul(padded[:, gather], weights, patterns)[:, take]
        return y + bias.to(number).to(y.dtype)

    multiply = rows_product(patterns, isa, gather=gather, take=take, bias=bias, by_columns=by_columns)
    assert_matches_reference(multiply, reference, [x, *weights], number)


@pytest.mark.parametrize(
    "patterns",
    [
        [Pattern(1, 600, 700, 1)],
        [Pattern(2, 40, 50, 90)],
        [Pattern(1, 330, 300, 3)],
        stages(1 << 15, [1, 1 << 14]),
    ],
    ids=["one block", "lanes along d", "short d", "stages"],
)
def test_threads_share_the_outputs(patterns: list[Pattern], isa: str) -> None:
    weights = draw(patterns, torch.float64)
    x = torch.randn(2, patterns[0].cols, dtype=torch.float64)
    alone, together = (rows_product(patterns, isa, threads=t)(x, *weights) for t in (1, 3))
    assert torch.equal(alone, together)


def test_no_infinity_spreads(isa: str) -> None:
    """Weights that are read twice, or beside their run, reach no output but their own."""
    for pattern in single_factors():
        weight = torch.ones(pattern)
        weight[-1, 0, 0, 0] = torch.inf
        x = torch.ones(3, pattern.cols)
        got = rows_product([pattern], isa)(x, weight)
        assert torch.equal(got, reference_chain_matmul(x, [weight], [pattern])), pattern
