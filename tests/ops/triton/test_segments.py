"""The kernels for boxes, in Triton's interpreter: products and gradients, and what they read and write."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kmatrix as km
from kmatrix._errors import ArgumentError, BackendUnavailableError
from kmatrix.ops import segments_matmul, use_backend
from kmatrix.ops.segments_definition import check_places
from kmatrix.ops.segments_dispatch import observing
from kmatrix.ops.triton import segments_plan
from kmatrix.ops.triton.segments_plan import Tile, sides_of, tile_for

pytest.importorskip("triton")

Places = list[tuple[int, int, int, int]]
WIDE = {torch.complex64: torch.complex128}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.complex64]


class Sum:
    """A sum of boxes, vectors and what is pulled back, with NaN beside everything in memory."""

    def __init__(self, m: int, n: int, places: Tensor, batch: int, dtype: torch.dtype) -> None:
        self.m, self.places, self.dtype = m, places, dtype
        self.left, self.right = (_guarded(int(places[k].sum()), dtype) for k in (1, 3))
        self.x, self.grad = (_guarded(size, dtype, batch) for size in (n, m))

    def product(self, backend: str, dtype: torch.dtype) -> list[Tensor]:
        """The product and its three gradients."""
        inputs = [self.x, self.left, self.right]
        if dtype != self.dtype:
            inputs = [t.to(dtype) for t in inputs]
        inputs = [t.detach().requires_grad_() for t in inputs]
        with use_backend(backend):
            y = segments_matmul(*inputs, self.places, self.m)
            return [y.detach(), *torch.autograd.grad(y, inputs, self.grad.to(dtype))]

    def check(self) -> None:
        """The kernels are as near to the product in double precision as plain torch in the same number type."""
        wide = WIDE.get(self.dtype, torch.float64)
        exact = self.product("reference", wide)
        plain, ours = (self.product(name, self.dtype) for name in ("reference", "triton"))
        for name, one, other, right in zip(("y", "x", "left", "right"), ours, plain, exact, strict=True):
            assert one.dtype == self.dtype
            assert one.shape == right.shape
            error, allowed = (float((t.to(wide) - right).norm()) for t in (one, other))
            assert error <= 2 * allowed, (name, error, allowed)  # and neither is NaN


def _guarded(size: int, dtype: torch.dtype, rows: int | None = None) -> Tensor:
    """Normal numbers in the middle of NaN: rows whose stride is longer than they are, or a slice."""
    held = torch.full((1 if rows is None else rows, size + 9), math.nan, dtype=dtype)
    inside = held[:, 5 : 5 + size]
    inside.copy_(torch.randn(inside.shape, dtype=WIDE.get(dtype, torch.float64)))
    return inside[0] if rows is None else inside


def drawn(m: int, n: int, boxes: int, widest: tuple[int, int]) -> Tensor:
    """Boxes anywhere, many of them around the ends, some empty."""
    bounds = m, min(m, widest[0]) + 1, n, min(n, widest[1]) + 1
    return torch.stack([torch.randint(bound, (boxes,)) for bound in bounds])


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel has not written is NaN."""
    new_empty: Callable[..., Tensor] = Tensor.new_empty

    def poisoned(self: Tensor, *arguments: object, **options: object) -> Tensor:
        made = new_empty(self, *arguments, **options)
        return made.fill_(math.nan) if made.is_floating_point() or made.is_complex() else made

    monkeypatch.setattr(Tensor, "new_empty", poisoned)


@pytest.fixture
def widest_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiles as if one program were enough to fill a GPU: those of many vectors."""
    monkeypatch.setattr(segments_plan, "PROGRAMS", 1)
    tile_for.cache_clear()
    yield
    tile_for.cache_clear()


@pytest.mark.parametrize("batch", [1, 5, 67])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_and_gradients(dtype: torch.dtype, batch: int) -> None:
    Sum(34, 45, drawn(34, 45, 34, (20, 30)), batch, dtype).check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("widest_tiles")
def test_many_vectors_in_wide_tiles(dtype: torch.dtype) -> None:
    """Expanded numbers, several tiles of boxes and of positions, sums over parts of the vectors."""
    m, n, boxes = (140, 150, 133) if dtype.itemsize == 2 else (70, 70, 67)
    Sum(m, n, drawn(m, n, boxes, (30, 30)), 260 if dtype.itemsize == 2 else 140, dtype).check()


@pytest.mark.parametrize(
    ("m", "n", "boxes"),
    [
        (5, 7, [(1, 3, 2, 4)]),
        (5, 7, [(4, 3, 5, 6)]),  # around both ends
        (4, 6, [(0, 4, 0, 6), (2, 4, 3, 6)]),  # whole
        (6, 5, [(0, 0, 0, 0), (1, 2, 3, 0), (2, 0, 1, 3), (4, 3, 4, 2)]),  # some empty
        (1, 1, [(0, 1, 0, 1)]),
        (130, 3, [(129, 130, 2, 3)] * 18),  # more than a tile of the same
        (3, 200, [(0, 1, 199, 2), (0, 1, 40, 1)]),  # tiles in between that nothing touches, and empty rows
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_boxes_of_every_kind(m: int, n: int, boxes: Places, dtype: torch.dtype) -> None:
    case = Sum(m, n, torch.tensor(boxes).T.contiguous(), 3, dtype)
    wide = WIDE.get(dtype, torch.float64)
    for ours, exact in zip(case.product("triton", dtype), case.product("reference", wide), strict=True):
        torch.testing.assert_close(ours.to(wide), exact, rtol=1e-5, atol=1e-5)


def test_shapes_strides_and_lazy_bits() -> None:
    case = Sum(20, 30, drawn(20, 30, 12, (9, 9)), 6, torch.complex64)
    wide = [t.to(torch.complex128) for t in (case.x, case.left, case.right)]
    for change in (
        lambda x, left, right: (x[0], left, right),
        lambda x, left, right: (x.view(2, 3, 30) if x.is_contiguous() else x.reshape(2, 3, 30), left, right),
        lambda x, left, right: (x[:, :1].expand(-1, 30), left, right),
        lambda x, left, right: (x.conj(), left.conj(), right.flip(0)),
        lambda x, left, right: (x.mT.contiguous().mT, torch.stack([left, left], 1)[:, 0], right),
    ):
        exact = segments_matmul(*change(*wide), case.places, 20)
        with use_backend("triton"):
            y = segments_matmul(*change(case.x, case.left, case.right), case.places, 20)
        assert y.is_contiguous()
        torch.testing.assert_close(y.to(torch.complex128), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("need", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_gradients_alone_are_the_same(need: tuple[bool, ...]) -> None:
    case = Sum(20, 30, drawn(20, 30, 12, (9, 9)), 6, torch.float32)
    everything = case.product("triton", torch.float32)[1:]
    inputs = [
        t.detach().requires_grad_(n) for t, n in zip((case.x, case.left, case.right), need, strict=True)
    ]
    with use_backend("triton"), observing() as products:
        segments_matmul(*inputs, case.places, 20).backward(case.grad)
    assert [product.backend for product in products] == ["triton", "triton"]
    for tensor, wanted, found in zip(inputs, need, everything, strict=True):
        assert tensor.grad is None if not wanted else torch.equal(tensor.grad, found)


def test_second_derivatives() -> None:
    case = Sum(6, 8, drawn(6, 8, 3, (4, 4)), 2, torch.float32)
    found = {}
    for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        inputs = [t.to(dtype).detach().requires_grad_() for t in (case.x, case.left, case.right)]
        with use_backend(backend):
            y = segments_matmul(*inputs, case.places, 6)
        (first,) = torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)
        found[backend] = torch.autograd.grad(first.square().sum(), inputs)
    for one, exact in zip(found["triton"], found["reference"], strict=True):
        torch.testing.assert_close(one.double(), exact, rtol=1e-4, atol=1e-4)


def test_a_compiled_model_reaches_the_kernels_backward_too() -> None:
    case = Sum(20, 30, drawn(20, 30, 12, (9, 9)), 6, torch.float32)
    everything = case.product("triton", torch.float32)
    inputs = [t.detach().clone().requires_grad_() for t in (case.x, case.left, case.right)]

    @torch.compile(backend="aot_eager", fullgraph=True)
    def multiply(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return segments_matmul(x, left, right, case.places, 20)

    with use_backend("triton"), observing() as products:
        y = multiply(*inputs)
        y.backward(case.grad)
    assert [product.backend for product in products] == ["triton", "triton"]
    assert all(map(torch.equal, [y, *[t.grad for t in inputs]], everything))


def test_the_transposed_product_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = km.GBLR(nblocks=6, budget=0.4).random(20, 30)
    x = torch.randn(3, 20)
    exact = x @ matrix.to_dense()
    with use_backend("triton"), torch.no_grad():
        torch.testing.assert_close(x @ matrix, exact)
        monkeypatch.setattr(segments_plan, "check_places", None)
        torch.testing.assert_close(x @ matrix, exact)


def test_the_same_bits_every_time() -> None:
    case = Sum(40, 40, drawn(40, 40, 20, (20, 20)), 33, torch.float32)
    first, second = (case.product("triton", torch.float32) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_a_layer_adds_its_bias_in_the_kernel() -> None:
    layer = km.nn.Linear(30, 20, structure=km.GBLR(nblocks=6, budget=0.4))
    x = torch.randn(4, 30)
    with torch.no_grad():
        exact = layer(x)
        with use_backend("triton"):
            y = layer(x)
    torch.testing.assert_close(y, exact)


def test_without_being_asked_for_the_cpu_is_left_alone() -> None:
    case = Sum(6, 8, drawn(6, 8, 3, (4, 4)), 2, torch.float32)
    with observing() as products:
        segments_matmul(case.x, case.left, case.right, case.places, 6)
    assert products[0].backend != "triton"
    wide = [t.double() for t in (case.x, case.left, case.right)]
    with use_backend("triton"), pytest.raises(BackendUnavailableError, match="float64"):
        segments_matmul(*wide, case.places, 6)


@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_boxes_outside_are_refused(column: int) -> None:
    case = Sum(6, 8, torch.tensor([[1], [3], [2], [4]]), 2, torch.float32)
    places = case.places.clone()
    places[column, 0] = 9
    with use_backend("triton"), pytest.raises(ArgumentError, match="box 0"):
        segments_matmul(case.x, case.left, case.right, places, 6)


def test_nothing_outside_is_read_even_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while a CUDA graph records, when nobody can look."""
    monkeypatch.setattr(segments_plan, "check_places", lambda *_: None)
    case = Sum(20, 30, drawn(20, 30, 12, (9, 9)), 6, torch.float32)
    with use_backend("triton"):
        for seed in range(3):
            wild = torch.randint(-50, 50, (4, 12), generator=torch.Generator().manual_seed(seed))
            assert segments_matmul(case.x, case.left, case.right, wild, 20).isfinite().all()


def test_places_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def look(where: str, places: Tensor, *sizes: int) -> None:
        looks.append(1)
        check_places(where, places, *sizes)

    monkeypatch.setattr(segments_plan, "check_places", look)
    case = Sum(20, 30, drawn(20, 30, 12, (9, 9)), 6, torch.float32)
    case.product("triton", torch.float32)
    case.product("triton", torch.float32)
    assert len(looks) == 1
    held = len(segments_plan._known)
    case.places[0] = (case.places[0] + 1) % 20  # moved in place: another sum of boxes
    case.check()
    assert len(looks) == 2
    del case
    assert len(segments_plan._known) < held


@pytest.mark.parametrize("seed", range(4))
def test_tiles_that_touch_are_listed_and_no_others(seed: int) -> None:
    torch.manual_seed(seed)
    places = drawn(90, 70, 29, (90, 10))
    tile = Tile(16, (8, 16), (16, 8), 4)
    sides = sides_of(places, 90, 70, int(places[1].sum()), int(places[3].sum()), tile)
    for side, size, other in ((sides.rows, 90, sides.cols), (sides.cols, 70, sides.rows)):
        covers = torch.zeros(side.padded, size + -size % 16, dtype=torch.bool)
        for box, (start, width) in enumerate(side.boxes[:2].T.tolist()):
            covers[box, [(start + i) % size for i in range(width)]] = True
        for listed, (tall, wide), turned in ((side.onto, tile.onto, False), (side.back, tile.back, True)):
            touching = covers.view(side.padded // tall, tall, -1, wide).any(3).any(1)
            for row, given in zip(touching.mT if turned else touching, listed.tolist(), strict=False):
                assert given[1 : 1 + given[0]] == row.nonzero()[:, 0].tolist()
        assert torch.equal(other.boxes[3][side.boxes[3]], torch.arange(side.padded))  # there and back again


def test_an_order_groups_boxes_of_like_widths() -> None:
    """A few boxes over everything among many narrow ones: their tiles are theirs alone."""
    start = torch.arange(256) * 4
    width = torch.where(torch.arange(256) % 8 == 0, 1024, 4)
    places = torch.stack([start, width, start, width])
    tile = Tile(128, (32, 32), (32, 32), 4)
    touched = sides_of(places, 1024, 1024, int(width.sum()), int(width.sum()), tile).rows.onto[:, 0].sum()
    assert (
        touched <= 32 + 7 * 8
    )  # one tile of boxes of full width; in order of starts alone it were all 8 * 32


COMPILE = Path(__file__).parent / "compile_segments.py"


def test_kernels_compile_for_gpus_without_spills() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(COMPILE)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 10, done.stdout
    assert all(line.endswith(" 0 bytes spilled") for line in lines), done.stdout
