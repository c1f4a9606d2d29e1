"""The kernels for boxes, called as they are: every number type, instruction set, layout and size."""

from __future__ import annotations

from threading import Event, Thread
from typing import cast

import pytest
import torch
from torch import Tensor

from kmatrix.ops import segments_matmul, use_backend
from kmatrix.ops.native_cache import PACKED
from kmatrix.ops.native_module import DTYPE_CODES, NativeModule, native_part
from kmatrix.ops.segments_definition import reference_segments_matmul
from kmatrix.testing import assert_matches_reference

pytestmark = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
NUMBERS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(1, 1, 1), (2, 3, 4), (7, 5, 3), (16, 16, 9), (33, 64, 20), (100, 37, 61), (65, 130, 17)]


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


@pytest.fixture(params=["avx512", "avx2", "baseline"])
def isa(request: pytest.FixtureRequest) -> str:
    """Every instruction set of this build that this processor has."""
    module = cast(NativeModule, native_part().module)
    try:
        module.limits(request.param)
    except (RuntimeError, ValueError) as error:
        pytest.skip(str(error))
    return request.param


def draw(m: int, n: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random boxes of any width, none and all included, and their numbers."""
    places = torch.stack([torch.randint(high, (count,)) for high in (m, m + 1, n, n + 1)])
    places[1, : count // 4], places[3, count // 4 : count // 2] = m, n
    places[:, 0] = torch.tensor([m - 1, m, n - 1, n])
    left, right = (torch.randn(int(places[k].sum()), dtype=torch.float64) for k in (1, 3))
    return places, left, right


def inside(rows: Tensor, *, by_columns: bool) -> Tensor:
    """The same numbers inside memory full of NaN, one number off any alignment, rows three numbers apart."""
    batch, width = rows.shape
    across, along = (width, batch) if by_columns else (batch, width)
    memory = torch.full((1 + across * (along + 3),), torch.nan, dtype=rows.dtype)
    view = memory[1:].view(across, along + 3)[:, :along]
    view = view.T if by_columns else view
    return view.copy_(rows)


def call(
    isa: str,
    packed: bool,
    x: Tensor,
    left: Tensor,
    right: Tensor,
    places: Tensor,
    rows: int,
    *,
    by_columns: bool,
    threads: int,
    bias: Tensor | None = None,
) -> Tensor:
    """One of the two kernels on memory full of NaN."""
    module = cast(NativeModule, native_part().module)
    x = inside(x, by_columns=by_columns)
    y = inside(torch.full((len(x), rows), torch.nan, dtype=x.dtype), by_columns=by_columns)
    # Numbers at the very ends of what may be read, NaN beyond.
    fenced = [
        torch.cat([one.new_full((1,), torch.nan), one, one.new_full((1,), torch.nan)])[1:-1]
        for one in (left, right)
    ]
    sizes = x.shape[1], rows, places.shape[1], len(left), len(right)
    boxes = module.Boxes(DTYPE_CODES[x.dtype], *sizes, isa)
    pointers = places.data_ptr(), fenced[0].data_ptr(), fenced[1].data_ptr()
    shift = 0 if bias is None else bias.data_ptr()
    where = x.data_ptr(), *x.stride(), y.data_ptr(), *y.stride(), shift, len(x), threads
    if packed:
        boxes.pack(*pointers)
        boxes.forward(*where)
    else:
        boxes.rows(*pointers, *where)
    return y.clone()


def compare(
    isa: str,
    packed: bool,
    inputs: list[Tensor],
    places: Tensor,
    m: int,
    number: torch.dtype,
    *,
    by_columns: bool,
    threads: int,
) -> None:
    """Against plain torch in the same type."""
    assert_matches_reference(
        lambda *given: call(isa, packed, *given, places, m, by_columns=by_columns, threads=threads),
        lambda *given: reference_segments_matmul(*given, places, m),
        inputs,
        number,
    )


@pytest.mark.parametrize("number", NUMBERS, ids=name)
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "tiles"])
@pytest.mark.parametrize("by_columns", [False, True], ids=["in rows", "in columns"])
def test_error_is_at_most_twice_that_of_plain_torch(
    isa: str, number: torch.dtype, packed: bool, by_columns: bool
) -> None:
    for m, n, count in SHAPES:
        places, left, right = draw(m, n, count)
        for batch in (1, 2, 5, 19, 67):
            x = torch.randn(batch, n, dtype=torch.float64)
            how = {"by_columns": by_columns, "threads": 1 + batch % 3}
            compare(isa, packed, [x, left, right], places, m, number, **how)


@pytest.mark.parametrize("number", NUMBERS, ids=name)
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "tiles"])
@pytest.mark.parametrize("by_columns", [False, True], ids=["in rows", "in columns"])
def test_a_bias_is_added(isa: str, number: torch.dtype, packed: bool, by_columns: bool) -> None:
    m, n, count = 37, 50, 9
    places, left, right = draw(m, n, count)
    for batch in (1, 3, 40):
        how = {"by_columns": by_columns, "threads": 1 + batch % 2}
        assert_matches_reference(
            lambda x, left, right, bias, how=how: call(
                isa, packed, x, left, right, places, m, bias=bias, **how
            ),
            lambda x, left, right, bias: reference_segments_matmul(x, left, right, places, m) + bias,
            [torch.randn(batch, n, dtype=torch.float64), left, right, torch.randn(m, dtype=torch.float64)],
            number,
        )


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "tiles"])
def test_wide_sums_are_as_exact(isa: str, packed: bool) -> None:
    m, n, count = 60, 1500, 40
    places, left, right = draw(m, n, count)
    x = torch.randn(6, n, dtype=torch.float64)
    compare(isa, packed, [x, left, right], places, m, torch.float32, by_columns=False, threads=1)


def test_threads_share_the_boxes_of_a_row(isa: str) -> None:
    m, n, count = 700, 600, 500  # more numbers than one thread is given
    places, left, right = draw(m, n, count)
    x = torch.randn(2, n, dtype=torch.float64)
    got = call(isa, False, x, left, right, places, m, by_columns=False, threads=3)
    want = reference_segments_matmul(x, left, right, places, m)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "tiles"])
@pytest.mark.parametrize(("row", "value"), [(0, 7), (2, -1), (1, 8), (3, 10), (1, 6), (3, 2**62)])
def test_boxes_are_checked(isa: str, packed: bool, row: int, value: int) -> None:
    places = torch.tensor([[0, 2], [3, 7], [0, 3], [2, 9]])
    left, right = torch.zeros(10), torch.zeros(11)
    places[row, 1] = value
    with pytest.raises(IndexError, match="Boxes: places"):
        call(isa, packed, torch.zeros(2, 9), left, right, places, 7, by_columns=False, threads=1)


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "tiles"])
def test_boxes_moved_by_another_thread_are_never_followed_outside(packed: bool) -> None:
    m, n, count = 64, 64, 800
    places, left, right = draw(m, n, count)
    good, outside = places[0].clone(), torch.full((count,), 2**40)
    x = torch.randn(8, n, dtype=torch.float64)  # enough work that the kernels let other threads run
    want = reference_segments_matmul(x, left, right, places, m)
    stop = Event()

    def disturb() -> None:
        while not stop.is_set():
            places[0] = outside
            places[0] = good

    thread = Thread(target=disturb)
    thread.start()
    try:
        for _ in range(100):
            try:
                got = call("", packed, x, left, right, places, m, by_columns=False, threads=1)
            except IndexError:
                continue
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "sizes",
    [(0, 1, 1, 1, 1), (1, 0, 1, 1, 1), (1, 1, 0, 1, 1), (1, 1, 1, 0, 1), (2**39, 4, 1, 1, 1)],
    ids=str,
)
def test_impossible_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    module = cast(NativeModule, native_part().module)
    with pytest.raises(ValueError, match=r"^Boxes: .*size"):
        module.Boxes(0, *sizes)
    with pytest.raises(ValueError, match=r"^Boxes: .*complex"):
        module.Boxes(DTYPE_CODES[torch.complex64], 1, 1, 1, 1, 1)
    with pytest.raises(RuntimeError, match="pack"):
        module.Boxes(0, 1, 1, 1, 1, 1).forward(8, 1, 1, 8, 1, 1, 0, 1, 1)


def test_packed_numbers_are_never_stale() -> None:
    places, left, right = draw(20, 30, 8)
    x = torch.randn(50, 30, dtype=torch.float64)

    def check() -> None:
        with use_backend("native"):
            got = segments_matmul(x, left, right, places, 20)
        want = reference_segments_matmul(x, left, right, places, 20)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)

    check()
    left.data.mul_(2)  # no version counter moves
    check()
    right.numpy()[:] += 1
    check()
    places[2] = (places[2] + 1) % 30
    check()
    kept = len(PACKED)
    check()
    assert len(PACKED) == kept


def test_gradients_leave_nothing_in_the_cache_of_packed_numbers() -> None:
    places, left, right = draw(20, 30, 8)
    left.requires_grad_()
    x = torch.randn(50, 30, dtype=torch.float64)
    y = segments_matmul(x, left, right, places, 20)
    held = len(PACKED)
    y.sum().backward()
    assert len(PACKED) == held


def test_transposed_boxes_are_packed_once() -> None:
    places, left, right = draw(20, 30, 8)
    x = torch.randn(50, 20, dtype=torch.float64)
    segments_matmul(x, right, left, places.roll(2, 0), 30)
    held = len(PACKED)
    again = places.roll(2, 0), places.roll(2, 0)  # at other addresses
    for moved in again:
        segments_matmul(x, right, left, moved, 30)
    assert len(PACKED) == held
