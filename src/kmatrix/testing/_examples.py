"""What every group of conformance tests builds on: the examples, their members, and vectors to multiply."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from kmatrix.structures import Structure, StructuredMatrix
from kmatrix.testing.reference import assert_equal_up_to_rounding

Example = tuple[Structure, int, int]


class Metafunc(Protocol):
    """The part of pytest's object of that name that is used here."""

    fixturenames: list[str]

    def parametrize(self, argnames: str, argvalues: Sequence[Any], *, ids: Sequence[str]) -> None:
        """Run the test once for each value."""


class Examples:
    """The examples of a structure, and how tests see them.

    Attributes:
        examples: ``(structure, m, n)`` each; the first is also used where one is enough (compilation, export,
            second derivatives), so it should be small and typical.
        dtypes: what members may hold, out of float64 and complex128; lower precisions follow from them.
        half: whether members may hold bfloat16.
        counted_by_torch: whether torch's own count of operations is exactly ``flops``; otherwise it must not
            be larger, as torch counts neither FFTs nor elementwise operations.
    """

    examples: ClassVar[Sequence[Example]] = ()
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float64, torch.complex128)
    half: ClassVar[bool] = True
    counted_by_torch: ClassVar[bool] = False

    def member(self, example: Example, dtype: torch.dtype) -> StructuredMatrix:
        """A member with generic numbers: a random one, and no number left at zero."""
        structure, m, n = example
        generator = torch.Generator().manual_seed(1)
        matrix = structure.random(m, n, dtype=dtype, generator=generator)
        with torch.no_grad():
            for stored in matrix.parameters():
                stored.add_(torch.randn(stored.shape, dtype=stored.dtype, generator=generator), alpha=0.1)
        return matrix

    def trainable_numbers(self, matrix: StructuredMatrix) -> float:
        """How many numbers of the field of the matrix its parameters hold; override if some are always real."""
        stored = sum(parameter.numel() for parameter in matrix.parameters())
        return stored / 2 if matrix.dtype.is_complex else stored

    def lower_precisions(self) -> list[torch.dtype]:
        """The other types that members may hold."""
        real = [torch.float32, torch.bfloat16] if self.half else [torch.float32]
        lower = real if torch.float64 in self.dtypes else []
        return lower + [torch.complex64] * (torch.complex128 in self.dtypes)

    def pytest_generate_tests(self, metafunc: Metafunc) -> None:
        """Run each test for the examples and dtypes that its arguments name."""
        names = [_label(*example) for example in self.examples]
        if "example" in metafunc.fixturenames:
            metafunc.parametrize("example", list(self.examples), ids=names)
        if "first" in metafunc.fixturenames:
            metafunc.parametrize("first", list(self.examples[:1]), ids=names[:1])
        for argument, dtypes in (("dtype", self.dtypes), ("lower", self.lower_precisions())):
            if argument in metafunc.fixturenames:
                ids = [str(dtype).removeprefix("torch.") for dtype in dtypes]
                metafunc.parametrize(argument, list(dtypes), ids=ids)


def vectors(A: StructuredMatrix, *batch: int, rows: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """Random vectors that ``A`` takes, or that it returns, along the last axis; always the same ones."""
    generator = torch.Generator().manual_seed(2)
    size = A.shape[0] if rows else A.shape[1]
    return torch.randn(*batch, size, dtype=dtype or A.dtype, generator=generator)


def assert_product(what: str, got: Tensor, dense: Tensor, x: Tensor) -> None:
    """Raise unless ``got`` is ``dense`` times the last axis of ``x``, up to rounding."""
    if got.dtype != torch.promote_types(dense.dtype, x.dtype):
        raise AssertionError(f"{what}: {got.dtype} from a matrix of {dense.dtype} and vectors of {x.dtype}")
    wide = torch.complex128 if got.is_complex() else torch.float64
    want = x.to(wide) @ dense.to(wide).mT
    scale = torch.linalg.matrix_norm(dense.to(wide)) * torch.linalg.vector_norm(x.to(wide))
    assert_equal_up_to_rounding(what, got, want, scale=scale)


@contextmanager
def refuses(what: str, error: type[Exception]) -> Iterator[None]:
    """Raise unless the block raises ``error`` with a message that names a way out."""
    try:
        yield
    except error as raised:
        if ";" not in str(raised):
            raise AssertionError(f"{what}: the message names no way out: {raised}") from raised
    except Exception as raised:
        raise AssertionError(f"{what}: raised {raised!r} instead of {error.__name__}") from raised
    else:
        raise AssertionError(f"{what}: not refused, expected {error.__name__}")


def functional(A: StructuredMatrix) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """``A`` as a function of its parameters and a vector, and the parameters (copies that want gradients)."""
    named = {name: value.detach().clone().requires_grad_() for name, value in A.named_parameters()}

    def multiply(x: Tensor, *numbers: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(A, dict(zip(named, numbers, strict=True)), (x,))
        return y

    return multiply, tuple(named.values())


def _label(structure: Structure, m: int, n: int) -> str:
    name = str(structure)
    return f"{name if len(name) < 60 else name[:57] + '...'}-{m}x{n}"
