"""Chains prepared for one vector: fewer numbers, in the order of use, and the same product."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

import kmatrix as km
from kmatrix.ops import Pattern
from kmatrix.ops.definition import Patterns, flatten_patterns, reference_chain_matmul
from kmatrix.ops.ends import Ends
from kmatrix.ops.native_module import DTYPE_CODES, NativeModule, native_part
from kmatrix.ops.settling import settled_for_one


def butterfly(n: int, copies: int = 1) -> Patterns:
    """Decreasing strides, the blocks of ``copies`` matrices side by side."""
    levels = n.bit_length() - 1
    return tuple(Pattern(copies * 2**k, 2, 2, n >> (k + 1)) for k in range(levels))


def drawn(patterns: Patterns, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(p, dtype=dtype) for p in patterns]


def plain(n_in: int, n_out: int) -> Ends:
    return Ends(n_in, n_out, None, None, None, ())


# Fewer numbers


def test_neighbours_of_one_pattern_become_one() -> None:
    there = butterfly(16)
    patterns = (*there, *reversed(there), Pattern(1, 3, 16, 1))
    weights, x = drawn(patterns), torch.randn(16, dtype=torch.float64)
    kept, left, _ = settled_for_one(weights, patterns, plain(16, 3))
    assert left == (*there, *reversed(there[:-1]), Pattern(1, 3, 16, 1))
    assert [tuple(w.shape) for w in kept] == [tuple(p) for p in left]
    torch.testing.assert_close(
        reference_chain_matmul(x, kept, left), reference_chain_matmul(x, weights, patterns)
    )


@pytest.mark.parametrize(
    ("pattern", "shapes", "dtype"),
    [
        (Pattern(1, 40, 40, 1), [(1, 40, 40, 1)] * 2, torch.float64),  # as much work as to multiply by it
        (Pattern(8, 2, 2, 4), [(1, 2, 2, 1), (8, 2, 2, 4)], torch.float64),  # one of them is tied
        (Pattern(8, 2, 2, 4), [(8, 2, 2, 4)] * 2, torch.bfloat16),  # rounded once more
    ],
)
def test_what_stays_apart(pattern: Pattern, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    weights = [torch.randn(shape, dtype=dtype) for shape in shapes]
    kept, left, _ = settled_for_one(weights, (pattern, pattern), plain(pattern.cols, pattern.rows))
    assert left == (pattern, pattern)
    assert kept == weights


def test_tied_neighbours_stay_tied() -> None:
    pattern, weights = Pattern(8, 2, 2, 4), [torch.randn(1, 2, 2, 1, dtype=torch.float64) for _ in range(2)]
    kept, left, _ = settled_for_one(weights, (pattern, pattern), plain(64, 64))
    assert left == (pattern,)
    torch.testing.assert_close(kept[0][0, ..., 0], weights[1][0, ..., 0] @ weights[0][0, ..., 0])


def test_weights_of_padding_and_cropping_go() -> None:
    patterns = butterfly(32)
    patterns = (*patterns[:-1], *reversed(patterns))
    weights, x = drawn(patterns), torch.randn(16, dtype=torch.float64)
    gather, take = torch.tensor([*range(16), *[-1] * 16]), torch.arange(16)
    kept, left, ends = settled_for_one(weights, patterns, Ends(16, 16, gather, take, None, ()))
    assert (left[0], left[-1]) == (Pattern(1, 2, 1, 16), Pattern(1, 1, 2, 16))
    assert left[1:-1] == patterns[1:-1]
    assert not ends.selects
    wide = torch.cat([x, torch.zeros_like(x)])
    expected = reference_chain_matmul(wide, weights, patterns)[:16]
    torch.testing.assert_close(reference_chain_matmul(x, kept, left), expected)


@pytest.mark.parametrize(
    ("gather", "take"),
    [
        ([*range(12), *[-1] * 4], None),  # not whole columns of blocks
        ([*range(7, -1, -1), *[-1] * 8], None),
        ([*[-1] * 8, *range(8)], None),
        (None, list(range(5))),
        (None, list(range(8, 16))),
    ],
)
def test_other_selections_stay(gather: list[int] | None, take: list[int] | None) -> None:
    patterns = butterfly(16)
    given = Ends(
        16 if gather is None else max(gather) + 1,
        16 if take is None else len(take),
        None if gather is None else torch.tensor(gather),
        None if take is None else torch.tensor(take),
        None,
        (),
    )
    _, left, ends = settled_for_one(drawn(patterns), patterns, given)
    assert left == patterns
    assert ends is given


@pytest.mark.parametrize(("m", "n"), [(24, 48), (48, 24), (64, 32), (32, 64), (60, 60)])
@pytest.mark.parametrize("structure", [km.Kaleidoscope(), km.Butterfly(), km.LowRank(3)], ids=repr)
def test_one_vector_is_a_row_of_many(structure: km.Structure, m: int, n: int) -> None:
    matrix, bias = structure.empty(m, n, dtype=torch.float64), torch.randn(m, dtype=torch.float64)
    matrix.reset_parameters()
    plan, x = km.ops.prepare(matrix, bias=bias), torch.randn(20, n, dtype=torch.float64)
    expected = x @ matrix.to_dense().detach().T + bias
    torch.testing.assert_close(plan(x), expected)
    for k in range(20):
        torch.testing.assert_close(plan(x[k]), expected[k])


# In the order of use


@pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
@pytest.mark.parametrize("dtype", list(DTYPE_CODES), ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize(
    "patterns",
    [
        (*butterfly(512), *reversed(butterfly(512))),
        butterfly(32, copies=3),
        tuple(reversed(butterfly(2048))),
        (Pattern(1, 2, 1, 64), *butterfly(128), Pattern(1, 5, 128, 1)),
        (*butterfly(64), Pattern(1, 64, 64, 1), *butterfly(64)),
        butterfly(8),
    ],
    ids=["back and forth", "copies", "long", "half", "between", "short"],
)
def test_the_order_changes_no_bit(patterns: Patterns, isa: str, dtype: torch.dtype) -> None:
    module = cast(NativeModule, native_part().module)
    try:
        module.limits(isa)
    except (RuntimeError, ValueError) as error:
        pytest.skip(str(error))
    weights = [w / w.shape[2] ** 0.5 for w in drawn(patterns, dtype)]
    x = torch.randn(9, patterns[0].cols, dtype=dtype)  # eight vectors together, and one
    strides = [
        0 if size == 1 else step for w in weights for size, step in zip(w.shape, w.stride(), strict=True)
    ]
    passes, ends = [1] * len(patterns), (patterns[0].cols, patterns[-1].rows)
    chain = module.Chain(
        DTYPE_CODES[dtype], flatten_patterns(patterns), strides, passes, 1, *ends, None, None, isa
    )
    pointers = [w.data_ptr() for w in weights]

    def product(threads: int) -> Tensor:
        y = torch.full((9, ends[1]), torch.nan, dtype=dtype)
        chain.rows(pointers, x.data_ptr(), *x.stride(), y.data_ptr(), *y.stride(), 9, threads)
        return y

    expected = product(1)
    chain.order(pointers)
    assert expected.isfinite().all()
    assert torch.equal(product(1), expected)


@pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
def test_threads_find_their_part_of_the_order() -> None:
    patterns = butterfly(1 << 16)
    weights = [w / 2**0.5 for w in drawn(patterns, torch.float32)]
    plan, x = km.ops.prepare(weights, patterns), torch.randn(1 << 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = plan(x)
        torch.set_num_threads(3)
        assert torch.equal(plan(x), alone)
    finally:
        torch.set_num_threads(before)
    expected = km.ops.chain_matmul(x.double(), [w.double() for w in weights], patterns)
    torch.testing.assert_close(alone.double(), expected, atol=1e-4, rtol=1e-4)
