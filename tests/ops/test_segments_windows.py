"""The kernels for rows under masks, called as they are: every number type, instruction set and size."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from kmatrix.ops import use_backend
from kmatrix.ops.native_module import DTYPE_CODES, NativeModule, native_part
from kmatrix.ops.windows_native import row_masks

pytestmark = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
SIZES = [(1, 1), (1, 7), (3, 2), (5, 16), (4, 33), (6, 64), (3, 129), (2, 1000), (2, 8448)]


@pytest.fixture(params=["avx512", "avx2", "baseline"])
def isa(request: pytest.FixtureRequest) -> str:
    """Every instruction set of this build that this processor has."""
    module = cast(NativeModule, native_part().module)
    try:
        module.limits(request.param)
    except (RuntimeError, ValueError) as error:
        pytest.skip(str(error))
    return request.param


def fenced(given: Tensor) -> Tensor:
    """The same numbers between two NaN, off any alignment; whole numbers between two that lie outside of any table."""
    beyond = torch.nan if given.is_floating_point() else 2**40
    memory = torch.full((given.numel() + 2,), beyond, dtype=given.dtype)
    return memory[1:-1].view(given.shape).copy_(given)


def draw(rows: int, n: int, *, stepwise: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """Content, a gradient, windows anywhere in a table of three periods, and the table."""
    stairs = torch.arange(3.0).repeat_interleave(n) if stepwise else torch.randn(3 * n)
    table = torch.stack([stairs, torch.randn(3 * n)])
    first, last = torch.randint(0, 2 * n + 1, (2, rows))
    last[0] = first[0]  # an empty box, and a full one
    first[-1], last[-1] = 2 * n, n
    given = {"content": torch.randn(rows, n), "grad": torch.randn(rows, n), "table": table}
    given = {name: fenced(numbers.to(dtype)) for name, numbers in given.items()}
    return given | {"first": fenced(first), "last": fenced(last)}


def expected(of: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the kernels should give, in float64, from their description."""
    content, grad, table = (of[name].double() for name in ("content", "grad", "table"))
    places = torch.arange(content.shape[1])
    first, last = (of[name][:, None] + places for name in ("first", "last"))
    mask, at_last = table[0][first] - table[0][last], table[1][last]
    both = grad * content
    slopes = at_last - table[1][first]
    return content * mask, grad * mask, (both * at_last).sum(1), (both * slopes).sum(1)


def call(isa: str, of: dict[str, Tensor], threads: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both kernels into memory full of NaN, of which nothing beside the results may change."""
    content, table = of["content"], of["table"]
    masked, to_content = (fenced(torch.full_like(content, torch.nan)) for _ in range(2))
    to_width, to_start = (fenced(content.new_full((len(content),), torch.nan)) for _ in range(2))
    kernels = cast(NativeModule, native_part().module).Windows(
        DTYPE_CODES[content.dtype], table.shape[1], isa
    )
    given = content.data_ptr(), of["first"].data_ptr(), of["last"].data_ptr()
    sizes = *content.shape, threads
    kernels.masked(table.data_ptr(), *given, masked.data_ptr(), *sizes)
    found = to_content.data_ptr(), to_width.data_ptr(), to_start.data_ptr()
    kernels.gradients(table.data_ptr(), of["grad"].data_ptr(), *given, *found, *sizes)
    for result in (masked, to_content, to_width, to_start):
        ends = torch.as_strided(result, (2,), (result.numel() + 1,), result.storage_offset() - 1)
        assert ends.isnan().all()
    return masked, to_content, to_width, to_start


@pytest.mark.parametrize("stepwise", [True, False], ids=["steps", "smooth"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("rows", "n"), SIZES)
def test_both_kernels_compute_what_they_describe(
    isa: str, rows: int, n: int, dtype: torch.dtype, stepwise: bool
) -> None:
    of = draw(rows, n, stepwise=stepwise, dtype=dtype)
    found, wanted = call(isa, of), expected(of)
    eps = torch.finfo(dtype).eps
    for one, other in zip(found[:2], wanted[:2], strict=True):
        assert (one.double() - other).abs().max() <= 4 * eps * max(1.0, float(other.abs().max()))
    # Sums of n numbers as large as a product of three normal ones.
    size = (of["grad"] * of["content"]).double().norm(dim=1) * of["table"][1].double().abs().max()
    for one, other in zip(found[2:], wanted[2:], strict=True):
        assert ((one.double() - other).abs() <= 8 * eps * size).all()


def test_threads_share_the_rows(isa: str) -> None:
    of = draw(70, 1000, stepwise=False, dtype=torch.float32)
    for one, other in zip(call(isa, of, threads=3), call(isa, of), strict=True):
        assert torch.equal(one, other)


def test_long_sums_are_at_most_twice_as_far_off_as_those_of_torch(isa: str) -> None:
    of = draw(3, 200_000, stepwise=True, dtype=torch.float32)
    of["content"].abs_(), of["grad"].abs_(), of["table"][1].abs_()
    wanted = expected(of)[2]
    slopes = of["table"][1].unfold(0, 200_000, 1)[of["last"]]
    torch_error = ((of["grad"] * of["content"] * slopes).sum(1) - wanted).abs().max()
    error = (call(isa, of)[2] - wanted).abs().max()
    assert error <= max(2 * float(torch_error), torch.finfo(torch.float32).eps * float(wanted.max()))


def test_what_is_no_number_shows_outside_of_a_box_as_well(isa: str) -> None:
    of = draw(4, 50, stepwise=True, dtype=torch.float64)
    of["content"][0] = torch.inf  # of the empty box: training that diverges must not look healthy
    assert call(isa, of)[0][0].isnan().all()


@pytest.mark.parametrize("side", ["first", "last"])
@pytest.mark.parametrize("begin", [-1, 21, 2**62, -(2**63)])
def test_windows_outside_of_the_table_are_refused(isa: str, side: str, begin: int) -> None:
    of = draw(3, 10, stepwise=False, dtype=torch.float64)
    of[side][1] = begin
    with pytest.raises(IndexError, match="outside of the table"):
        call(isa, of)


def test_what_does_not_fit_is_refused(isa: str) -> None:
    module = cast(NativeModule, native_part().module)
    with pytest.raises(ValueError, match="neither float32 nor float64"):
        module.Windows(DTYPE_CODES[torch.bfloat16], 30, isa)
    with pytest.raises(ValueError, match="length"):
        module.Windows(0, 0, isa)
    kernels = module.Windows(0, 30, isa)
    memory, places = torch.zeros(64), torch.zeros(4, dtype=torch.int64)
    where = memory.data_ptr(), memory.data_ptr(), places.data_ptr(), places.data_ptr(), memory.data_ptr()
    for rows, size, threads in ((0, 10, 1), (1, 0, 1), (1, 31, 1), (1, 10, 0)):
        with pytest.raises(ValueError, match="Windows"):
            kernels.masked(*where, rows, size, threads)
    with pytest.raises(ValueError, match="address 0"):
        kernels.masked(0, 0, 0, 0, 0, 1, 10, 1)


def test_what_the_kernels_cannot_read_is_left_to_torch() -> None:
    of = draw(4, 10, stepwise=False, dtype=torch.float32)
    given = [of[name] for name in ("content", "first", "last", "table")]
    assert row_masks(*given) is not None
    others = [
        of["content"].double(),
        of["content"].half(),
        of["content"].T.contiguous().T,
        of["content"][:0],
        of["content"].to("meta"),
        torch._neg_view(of["content"]),
    ]
    for content in others:
        assert row_masks(content, *given[1:]) is None
    with use_backend("portable"):
        assert row_masks(*given) is None
    assert torch.func.vmap(lambda row: row * float(row_masks(*given) is None))(torch.ones(2)).all()
