"""The kernel that holds both factors, in Triton's interpreter: against float64, and when it is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kmatrix.ops import Pattern, use_backend
from kmatrix.ops.apply import chain_apply
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.schedule import Factor
from kmatrix.ops.triton import plan as rule
from kmatrix.ops.triton import resident
from kmatrix.ops.triton.available import interpreted, triton_is_here
from kmatrix.ops.triton.launch import forward
from kmatrix.ops.triton.plan import Choice, Plan, Step, Tile, plan
from kmatrix.ops.triton.residence import DTYPES, residence

pytestmark = pytest.mark.skipif(
    not triton_is_here().ok or not interpreted(), reason="Triton's interpreter is not there"
)

MONARCH = (Pattern(16, 16, 16, 1), Pattern(1, 16, 16, 16))
TILE = Tile(16, 1, 16, 16, 1, 4)


def of(patterns: Sequence[Pattern], shapes: Sequence[Sequence[int]] | None = None) -> Plan:
    """Each factor as a step of its own."""
    shapes = patterns if shapes is None else shapes
    factors = [Factor(p, s[0] == 1, s[3] == 1) for p, s in zip(patterns, shapes, strict=True)]
    return Plan(tuple([Step(i, i + 1, f, TILE) for i, f in enumerate(factors)]), 16, held=True)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many vectors each launch of the kernel had; fresh memory holds NaN; few vectors are many."""
    found: list[int] = []
    multiply, new = resident.multiply, torch.Tensor.new_empty

    def seen(x: Tensor, *args: object, **known: object) -> Tensor:
        found.append(len(x))
        return multiply(x, *args, **known)  # type: ignore[arg-type]

    plan.cache_clear()
    monkeypatch.setattr(resident, "MANY", 1)
    monkeypatch.setattr(rule, "MANY", 1)
    monkeypatch.setattr(resident, "multiply", seen)

    def poisoned(self: Tensor, *args: object, **known: object) -> Tensor:
        fresh = new(self, *args, **known)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    yield found
    plan.cache_clear()  # of plans for which few vectors were many


def check(y: Tensor, x: Tensor, exact: Tensor, plain: Tensor) -> None:
    """At most twice the error of plain torch in the same number type."""
    assert y.dtype == x.dtype
    error, least = (y.double() - exact).norm(), exact.norm() * torch.finfo(x.dtype).eps / 2
    assert error <= 2 * max((plain.double() - exact).norm(), least)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 49])
@pytest.mark.parametrize(
    ("patterns", "shapes"),
    [
        (MONARCH, MONARCH),
        ([Pattern(4, 16, 16, 1), Pattern(1, 16, 16, 4)], [(1, 16, 16, 1), (1, 16, 16, 4)]),
        ([Pattern(4, 16, 16, 1), Pattern(1, 16, 16, 4)], [(4, 16, 16, 1), (1, 16, 16, 1)]),
        ([Pattern(2, 16, 32, 2), Pattern(1, 32, 16, 4)], [(2, 16, 32, 1), (1, 32, 16, 4)]),
        ([Pattern(2, 32, 16, 2), Pattern(2, 16, 32, 2)], [(1, 32, 16, 2), (2, 16, 32, 2)]),
        ([Pattern(1, 16, 32, 4), Pattern(4, 16, 16, 1)], [(1, 16, 32, 4), (4, 16, 16, 1)]),
    ],
    ids=["monarch", "tied first", "tied second", "tied diagonals", "tied groups", "turned"],
)
def test_products(
    runs: list[int],
    dtype: torch.dtype,
    batch: int,
    patterns: Sequence[Pattern],
    shapes: Sequence[Sequence[int]],
) -> None:
    weights = [(torch.randn(*s) / s[2] ** 0.5).to(dtype) for s in shapes]
    x = torch.randn(batch, patterns[0].cols).to(dtype)
    y = forward(x, weights, tuple(patterns), of(patterns, shapes))
    assert runs == [batch]
    exact = reference_chain_matmul(x.double(), [w.double() for w in weights], patterns)
    check(y, x, exact, reference_chain_matmul(x, weights, patterns))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["", "relu", "gelu", "silu"])
def test_bias_and_activation(runs: list[int], dtype: torch.dtype, name: str) -> None:
    weights = [(torch.randn(*p) / 4).to(dtype) for p in MONARCH]
    bias, x = torch.randn(256).to(dtype), torch.randn(5, 7, 256).to(dtype)
    y = forward(x, weights, MONARCH, of(MONARCH), bias=bias, activation=name)
    assert runs == [35]
    function = getattr(functional, name) if name else lambda v: v
    exact = function(
        reference_chain_matmul(x.double(), [w.double() for w in weights], MONARCH) + bias.double()
    )
    check(y, x, exact, function(reference_chain_matmul(x, weights, MONARCH) + bias))


def test_factors_multiplied_out_and_rows_apart(runs: list[int]) -> None:
    """Two steps of eight butterfly factors; vectors that are part of longer rows."""
    butterfly = tuple([Pattern(128 >> k, 2, 2, 1 << k) for k in range(8)])
    weights = [torch.randn(*p) / 2**0.5 for p in butterfly]
    found = plan(butterfly, butterfly, 16, torch.float32, choice=Choice(16, 2**25))._replace(held=True)
    assert [tuple(step.factor.pattern) for step in found.steps] == [(16, 16, 16, 1), (1, 16, 16, 16)]
    x = torch.randn(37, 300)[:, 7:263]
    y = forward(x, weights, butterfly, found)
    assert runs == [37]
    exact = reference_chain_matmul(x.double(), [w.double() for w in weights], butterfly)
    check(y, x, exact, reference_chain_matmul(x, weights, butterfly))


def test_nan_stays_in_its_vector(runs: list[int]) -> None:
    weights, x = [torch.randn(*p) for p in MONARCH], torch.randn(20, 256)
    x[3, 5] = float("nan")
    y = forward(x, weights, MONARCH, of(MONARCH), activation="relu")
    assert runs == [20]
    assert y[3].isnan().all()
    assert not y[[0, 1, 2, *range(4, 20)]].isnan().any()


def test_what_else_surrounds_a_chain_goes_through_the_ring(runs: list[int]) -> None:
    patterns = (Pattern(2, 16, 16, 1), Pattern(1, 16, 16, 2))
    weights, x = [torch.randn(*p) / 4 for p in patterns], torch.randn(3, 32)
    gather = torch.randperm(32)
    with use_backend("triton"):
        chain_apply(x, weights, patterns)
        assert runs == [3]
        found = [
            chain_apply(x, weights, patterns, gather=gather),
            chain_apply(x[:, :20], weights, patterns),
            chain_apply(x, weights, patterns, rows=10),
        ]
    assert runs == [3]
    short = functional.pad(x[:, :20], (0, 12))
    whole = [reference_chain_matmul(v, weights, patterns) for v in (x[:, gather], short, x)]
    torch.testing.assert_close(found, [whole[0], whole[1], whole[2][:, :10]])


def test_the_rule_prefers_what_stays_on_the_chip() -> None:
    butterfly = tuple([Pattern(512 >> k, 2, 2, 1 << k) for k in range(10)])

    def blocks(batch: int, dtype: torch.dtype, **known: Any) -> list[int]:
        return [step.factor.pattern.b for step in plan(butterfly, butterfly, batch, dtype, **known).steps]

    assert blocks(4096, torch.bfloat16) == blocks(65536, torch.bfloat16) == [32, 32]
    assert blocks(1024, torch.bfloat16) != [32, 32]
    assert blocks(4096, torch.float16) != [32, 32]
    assert blocks(4096, torch.bfloat16, choice=Choice(64, 2**25)) != [32, 32]  # was measured
    assert all(width <= 16 for width in blocks(4096, torch.float32))  # would not fit
    one = (Pattern(1, 128, 128, 1), Pattern(1, 128, 128, 1))
    assert len(plan(one, one, 65536, torch.bfloat16).steps) == 1


def test_for_many_vectors() -> None:
    few, many = (torch.empty(1).expand(batch, 256) for batch in (4095, 4096))
    assert not resident.applies(few, of(MONARCH), 256)
    assert resident.applies(many, of(MONARCH), 256)
    for dtype in (torch.float16, torch.complex64, torch.float64):
        assert not resident.applies(many.to(dtype), of(MONARCH), 256)


@pytest.mark.parametrize(
    ("patterns", "dtype", "fits"),
    [
        ((Pattern(32, 32, 32, 1), Pattern(1, 32, 32, 32)), torch.bfloat16, True),
        ((Pattern(16, 64, 64, 1), Pattern(1, 16, 16, 64)), torch.bfloat16, True),
        ((Pattern(32, 32, 32, 1), Pattern(1, 32, 32, 32)), torch.float32, False),
        ((Pattern(32, 64, 64, 1), Pattern(1, 32, 32, 64)), torch.bfloat16, False),  # 2048 numbers
        ((Pattern(8, 128, 128, 1), Pattern(1, 32, 32, 32)), torch.bfloat16, False),  # 320 KiB of blocks
        ((Pattern(8, 32, 32, 1), Pattern(1, 8, 8, 32)), torch.bfloat16, False),  # narrow blocks
        ((Pattern(8, 32, 128, 1), Pattern(1, 128, 32, 8)), torch.bfloat16, False),  # would be spilled
        ((Pattern(3, 16, 16, 1), Pattern(1, 16, 16, 3)), torch.bfloat16, False),
        ((*MONARCH, MONARCH[0]), torch.bfloat16, False),
        (MONARCH[:1], torch.bfloat16, False),
    ],
)
def test_what_fits(patterns: Sequence[Pattern], dtype: torch.dtype, fits: bool) -> None:
    assert (residence([step.factor for step in of(patterns).steps], dtype) is not None) == fits
