"""Chains by the GPU kernels in Triton's interpreter: every kind of chain, forward and backward, against float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kmatrix._errors import BackendUnavailableError
from kmatrix.ops import Pattern, chain_matmul, use_backend
from kmatrix.ops.chain import explain_dispatch
from kmatrix.ops.definition import flatten_patterns, reference_chain_matmul
from kmatrix.ops.dispatch import observing
from kmatrix.ops.gradients import chain_gradients
from kmatrix.ops.library import CHAIN_MATMUL_BACKWARD
from kmatrix.ops.triton import plan as rule
from kmatrix.ops.triton.available import interpreted, triton_is_here
from kmatrix.ops.triton.backward import gradients, stages
from kmatrix.ops.triton.launch import forward, links

pytestmark = pytest.mark.skipif(
    not triton_is_here().ok or not interpreted(), reason="Triton's interpreter is not there"
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.complex64]


def butterfly(n: int) -> list[Pattern]:
    return [Pattern(n >> (k + 1), 2, 2, 1 << k) for k in range(n.bit_length() - 1)]


def draw(patterns: Sequence[Pattern], dtype: torch.dtype) -> list[Tensor]:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [(torch.randn(p, dtype=wide) / p.c**0.5).to(dtype) for p in patterns]


def wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().to(torch.complex128 if t.is_complex() else torch.float64) for t in tensors]


def error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Of all numbers together, relative to their size."""
    pairs = list(zip(wide(found), exact, strict=True))
    return float(
        sum((f - e).abs().square().sum() for f, e in pairs).sqrt()
        / sum(e.abs().square().sum() for e in exact).sqrt()
    )


def check(weights: Sequence[Tensor], patterns: Sequence[Pattern], x: Tensor) -> None:
    """Product and gradients: at most twice the error of plain torch in the same number type."""
    grad = torch.randn(*x.shape[:-1], patterns[-1].rows).to(x.dtype)
    leaves = [t.detach().clone().requires_grad_() for t in (x, *weights)]
    with use_backend("triton"):
        y = chain_matmul(leaves[0], leaves[1:], patterns)
        y.backward(grad)
    x64, *weights64 = wide([x, *weights])
    exact = reference_chain_matmul(x64, weights64, patterns)
    grad_x, grad_weights = chain_gradients(wide([grad])[0], x64, weights64, patterns)
    plain_x, plain_weights = chain_gradients(grad, x, weights, patterns)
    plain = reference_chain_matmul(x, weights, patterns)
    least = torch.finfo(x.dtype).eps / 2  # an exact result in torch is luck that no kernel need have
    assert error([y], [exact]) <= 2 * max(error([plain], [exact]), least)
    assert error([leaves[0].grad], [grad_x]) <= 2 * max(error([plain_x], [grad_x]), least)
    found = [leaf.grad for leaf in leaves[1:]]
    assert error(found, grad_weights) <= 2 * max(error(plain_weights, grad_weights), least)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind_of_chain(example: Any, dtype: torch.dtype) -> None:
    check(example.draw(dtype), example.patterns, torch.randn(33, example.cols).to(dtype))


@pytest.mark.parametrize("batch", [1, 2, 17, 40])
def test_batches_odd_and_even(batch: int) -> None:
    patterns = [Pattern(16, 3, 3, 1), Pattern(1, 16, 16, 3)]
    check(draw(patterns, torch.float32), patterns, torch.randn(batch, 48))


@pytest.mark.parametrize("n", [2, 16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sizes(n: int, dtype: torch.dtype) -> None:
    patterns = butterfly(n)
    check(draw(patterns, dtype), patterns, torch.randn(30, n).to(dtype))


def in_chunks(found: rule.Plan, chunk: int) -> rule.Plan:
    """The same steps in small tiles, whose vectors go through the ring so many at a time; factor by factor if 0."""
    small = [step._replace(tile=step.tile._replace(vectors=16, steps=1)) for step in found.steps]
    return rule.Plan(tuple(small), chunk)


def test_chunks_go_through_the_ring() -> None:
    """Several chunks, three factors, a last chunk that is not full: places in the ring are used again."""
    patterns = tuple(butterfly(64))
    weights, x = draw(patterns, torch.float32), torch.randn(300, 64)
    found = in_chunks(rule.plan(patterns, patterns, 300, torch.float32, choice=rule.Choice(4, 0)), 64)
    assert len(found.steps) == 3
    y = forward(x, weights, patterns, found)
    torch.testing.assert_close(y, reference_chain_matmul(x, weights, patterns))


@pytest.mark.parametrize(
    ("n", "widest", "factors", "dtype", "need_x"),
    [
        (16, 4, 2, torch.float32, True),
        (8, 2, 3, torch.complex64, True),
        (8, 2, 3, torch.float32, False),
        (16, 2, 4, torch.float32, True),
    ],
)
def test_gradients_go_through_the_ring(
    n: int, widest: int, factors: int, dtype: torch.dtype, need_x: bool
) -> None:
    """More chunks than have room on any shelf, the last not full; sums that grow from chunk to chunk; a tied weight."""
    patterns = tuple(butterfly(n))
    weights, x = draw(patterns, dtype), torch.randn((2 * factors - 1) * 16 + 5, n, dtype=dtype)
    weights[1] = weights[1][:1]
    grad = torch.randn(x.shape, dtype=dtype)
    shapes = tuple([tuple(w.shape) for w in weights])
    found = rule.plan(patterns, shapes, len(x), dtype, backward=True, choice=rule.Choice(widest, 0))
    assert len(found.steps) == factors
    found = in_chunks(found, 16)
    grad_x, grad_weights = gradients(grad, x, weights, patterns, found, need_x)
    exact_x, exact = chain_gradients(grad, x, weights, patterns)
    torch.testing.assert_close(grad_x, exact_x if need_x else None, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grad_weights, list(exact), atol=1e-3, rtol=1e-4)
    again = gradients(grad, x, weights, patterns, found, need_x)[1]
    assert all(torch.equal(one, other) for one, other in zip(again, grad_weights, strict=True))


def test_wide_blocks_are_cut_into_tiles() -> None:
    patterns = [Pattern(1, 150, 140, 2), Pattern(2, 3, 150, 1)]
    check(draw(patterns, torch.bfloat16), patterns, torch.randn(3, 280).bfloat16())
    patterns = [Pattern(2, 60, 50, 1), Pattern(1, 5, 40, 3)]
    check(draw(patterns, torch.float32), patterns, torch.randn(3, 100))


def test_vectors_and_weights_that_are_views() -> None:
    patterns = butterfly(16)
    weights = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in draw(patterns, torch.float32)]
    weights[1] = weights[1][:1, :, :, :1].expand(patterns[1])
    x = torch.randn(16, 6, 4).transpose(0, 2)[:, ::2]
    with use_backend("triton"):
        y = chain_matmul(x, weights, patterns)
    torch.testing.assert_close(y, reference_chain_matmul(x, weights, patterns))
    assert y.is_contiguous()


@pytest.mark.parametrize(("size", "scale"), [(0.03, 1.0), (30.0, 1e-5)])
def test_products_of_weights_beyond_float16(size: float, scale: float) -> None:
    """Six small or large factors multiplied out are beyond its range; what comes out is not."""
    patterns = butterfly(64)
    weights = [w * size for w in draw(patterns, torch.float16)]
    x = (torch.randn(30, 64) * scale).half()
    x64, *weights64 = wide([x, *weights])
    exact = [reference_chain_matmul(x64, weights64, patterns)]
    with use_backend("triton"):
        y = chain_matmul(x, weights, patterns)
    assert error([y], exact) <= 2 * error([reference_chain_matmul(x, weights, patterns)], exact)


ORDERS = [(64, 16, 3), (1024, 16, 4), (4096, 16, 1), (4096, 4, 20)]


@pytest.mark.parametrize(("n", "widest", "chunks"), ORDERS)
def test_nobody_waits_for_a_later_ticket(n: int, widest: int, chunks: int) -> None:
    """Tickets are drawn in order; a tile waits for all tiles of its chunk at the factor before, and for those that
    read what it overwrites. Each of them must have a smaller ticket, or programs that fill the GPU might wait for ever.
    """
    patterns = tuple(butterfly(n))
    found = rule.plan(patterns, patterns, 1 << 16, torch.bfloat16, choice=rule.Choice(widest, 2**22))
    places = (0,) * len(found.steps)
    factors, tiles = links(found, 1, places, places)
    assert len(factors) > 1
    first, last = tickets(factors, tiles, chunks)
    for (chunk, k), ticket in first.items():
        if k:
            assert last[chunk, k - 1] < ticket
        if k + 1 < len(factors) and chunk >= 2:
            assert last[chunk - 2, k + 1] < ticket


@pytest.mark.parametrize(("n", "widest", "chunks"), ORDERS)
def test_no_gradient_waits_for_a_later_ticket(n: int, widest: int, chunks: int) -> None:
    """As above; and whoever reads a shelf of the ring finds there what was written for it, and nothing later."""
    patterns = tuple(butterfly(n))
    choice = rule.Choice(widest, 2**22)
    found = rule.plan(patterns, patterns, 1 << 16, torch.bfloat16, backward=True, choice=choice)
    places = (0,) * len(found.steps)
    told, tiles, between = stages(found, 1, places, places, places)
    stage_count, k_last = len(told), len(found.steps) - 1
    assert stage_count == 2 * k_last + 1 > 1
    first, last = tickets(told, tiles, chunks)
    ring: list[tuple[int, int] | None] = [
        None
    ] * between  # what lies where: chunk and the stage that wrote it
    for phase in range(chunks + stage_count - 1):
        for s, constants in reversed(list(enumerate(told))):  # as late as may be: readers before writers
            chunk = phase - s
            if not 0 <= chunk < chunks:
                continue
            pattern = Pattern(*constants[:4])
            source, rooms, target, slots, reader, behind = constants[18:24]
            again = s < k_last
            if 0 < s < stage_count - 1:
                begin = source + chunk % rooms * pattern.cols
                assert set(ring[begin : begin + pattern.cols]) == {
                    (chunk, s - 1 if again else 2 * k_last - s - 1)
                }
            if s > k_last:
                begin = behind + chunk % 2 * pattern.rows
                assert set(ring[begin : begin + pattern.rows]) == {(chunk, s - 1)}
            if s < stage_count - 1:
                width = pattern.rows if again else pattern.cols
                begin = target + chunk % slots * width
                assert begin + width <= between
                ring[begin : begin + width] = [(chunk, s)] * width
                if chunk >= slots:
                    assert last[chunk - slots, reader] < first[chunk, s]
            if s:
                assert last[chunk, s - 1] < first[chunk, s]
            if chunk:
                assert last[chunk - 1, s] < first[chunk, s]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("batch", [1 << 12, 1 << 16])
@pytest.mark.parametrize("backward", [False, True])
def test_rings_fit_the_second_cache(dtype: torch.dtype, batch: int, backward: bool) -> None:
    """What lies between factors is no more than the rule allows, whatever the chain, or factors have a launch each."""
    kaleidoscope = [
        p for n in (1024, 8192) for p in [butterfly(n) + [q.transposed for q in butterfly(n)[::-1]]]
    ]
    rings = 0
    for patterns in [butterfly(n) for n in (256, 1024, 4096, 8192)] + kaleidoscope:
        chain = tuple(patterns)
        found = rule.plan(chain, chain, batch, dtype, backward=backward)
        counts = rule.shelves(len(found.steps), backward=backward)
        rows = [step.factor.pattern.rows for step in found.steps]
        between = sum(count * size for count, size in zip(counts, rows, strict=False)) * dtype.itemsize
        assert found.chunk * between <= rule.by_rule(dtype).ring
        assert all(found.chunk % (step.tile.vectors * step.tile.steps) == 0 for step in found.steps)
        rings += found.chunk > 0 or found.held
    assert rings >= (4 if dtype == torch.bfloat16 and not backward else 1)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Which counter, from the first on, tiles have waited for, and until it was at what."""
    from kmatrix.ops.triton.kernels import factor, gradient  # which need Triton

    found: list[tuple[int, int]] = []
    begin: list[int] = []
    zeros = torch.zeros

    def counters(*size: int, **known: Any) -> Tensor:
        begin[:] = [(made := zeros(*size, **known)).data_ptr()]
        return made

    def wait_for(counter: Any, count: Any) -> None:
        place = (int(counter.handle.data.item()) - begin[0]) // 4
        found.append((place, int(count.handle.data.item()) if hasattr(count, "handle") else int(count)))

    monkeypatch.setattr(torch, "zeros", counters)
    monkeypatch.setattr(factor, "wait_for", wait_for)
    monkeypatch.setattr(gradient, "wait_for", wait_for)
    return found


def test_tiles_wait_for_what_they_read_and_overwrite(waits: list[tuple[int, int]]) -> None:
    """The interpreter runs programs one after the other, so that only looking shows whether they would wait."""
    patterns, chunks = tuple(butterfly(32)), 7
    weights, x = draw(patterns, torch.float32), torch.randn(chunks * 16, 32)
    found = in_chunks(rule.plan(patterns, patterns, len(x), torch.float32, choice=rule.Choice(4, 0)), 16)
    none = (0,) * len(found.steps)
    told, _ = links(found, 1, none, none)
    tiles, n = [constants[16] for constants in told], len(told)
    forward(x, weights, patterns, found)
    expected = set()
    for chunk in range(chunks):
        for k in range(n):
            done = 1 + chunk * n + k
            if k > 0:
                expected.add((done - 1, tiles[k - 1]))
            if k + 1 < n:
                expected.add((done - 2 * n + 1, tiles[k + 1]) if chunk >= 2 else (done, 0))
    assert set(waits) == expected
    waits.clear()
    told, _, _ = stages(found, 1, none, none, none)
    tiles, n = [constants[16] for constants in told], len(told)
    gradients(x, x, weights, patterns, found, True)
    expected = set()
    for chunk in range(chunks):
        for s in range(n):
            done, (slots, reader) = 1 + chunk * n + s, told[s][21:23]
            if s > 0:
                expected.add((done - 1, tiles[s - 1]))
            if s + 1 < n:
                expected.add((done - slots * n + reader - s, tiles[reader]) if chunk >= slots else (done, 0))
            if s >= n // 2:
                expected.add((done - n, tiles[s]) if chunk else (done, 0))
    assert set(waits) == expected


Tickets = dict[tuple[int, int], int]


def tickets(told: Sequence[Sequence[int]], tiles: int, chunks: int) -> tuple[Tickets, Tickets]:
    """The first and the last ticket of each chunk at each stage."""
    first: Tickets = {}
    last: Tickets = {}
    for k, constants in enumerate(told):
        begin, count = constants[15:17]
        for chunk in range(chunks):
            first[chunk, k] = (chunk + k) * tiles + begin
            last[chunk, k] = first[chunk, k] + count - 1
    return first, last


def test_the_interpreter_is_never_chosen_by_itself() -> None:
    patterns = butterfly(16)
    x, weights = torch.randn(3, 16), draw(patterns, torch.float32)
    told = explain_dispatch(x, weights, patterns)
    assert told.backend != "triton"
    assert told.reasons["triton"] == "x is on cpu, the Triton kernels compute on CUDA devices"
    with use_backend("triton"), observing() as products:
        assert explain_dispatch(x, weights, patterns).reasons["triton"].endswith("1x16x16x1")
        chain_matmul(x, weights, patterns)
    assert [product.backend for product in products] == ["triton"]


@pytest.mark.parametrize(
    ("patterns", "dtype", "reason"),
    [
        (butterfly(4), torch.float64, "no Triton kernel for torch.float64"),
        ([Pattern(1, 300, 300, 1)], torch.float32, "a block of 90000 numbers"),
    ],
)
def test_refusals(patterns: list[Pattern], dtype: torch.dtype, reason: str) -> None:
    x = torch.randn(2, patterns[0].cols, dtype=dtype)
    with use_backend("triton"), pytest.raises(BackendUnavailableError, match=reason):
        chain_matmul(x, draw(patterns, dtype), patterns)


def test_the_backward_operator_keeps_the_rules() -> None:
    """Outputs that share no memory, no argument written to, shapes as told."""
    patterns = butterfly(16)
    x, weights = torch.randn(5, 16), draw(patterns, torch.float32)
    given = torch.randn(5, 16), x, weights, flatten_patterns(patterns), True
    with use_backend("triton"):
        torch.library.opcheck(CHAIN_MATMUL_BACKWARD, given, test_utils=("test_schema", "test_faketensor"))
        found = CHAIN_MATMUL_BACKWARD(*given)
    assert len({g.untyped_storage().data_ptr() for g in found}) == len(found)


def test_compiled_and_under_vmap() -> None:
    patterns = butterfly(8)
    x, weights = torch.randn(3, 8), draw(patterns, torch.float32)
    exact = reference_chain_matmul(x, weights, patterns)
    with use_backend("triton"):
        traced = torch.compile(lambda x: chain_matmul(x, weights, patterns), backend="eager", fullgraph=True)(
            x
        )
        mapped = torch.vmap(lambda x: chain_matmul(x, weights, patterns))(x)
    torch.testing.assert_close(traced, exact)
    torch.testing.assert_close(mapped, exact)
