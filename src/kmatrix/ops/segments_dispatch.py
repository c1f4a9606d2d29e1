"""Which backend multiplies by a sum of boxes, and why; it obeys the same ``use_backend`` as chains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kmatrix._errors import BackendUnavailableError, complaint
from kmatrix.ops import dispatch
from kmatrix.ops.segments_definition import check_places, is_empty, reference_segments_matmul
from kmatrix.ops.segments_native import NativeSegments
from kmatrix.ops.triton.segments import Gradients, TritonSegments
from kmatrix.ops.verdict import Verdict

_observed: ContextVar[list[SegmentsProduct] | None] = ContextVar("kmatrix_observed_segments", default=None)


class SegmentsBackend(Protocol):
    """One way to multiply vectors by boxes that have been checked."""

    @property
    def name(self) -> str:
        """What ``use_backend`` calls it."""

    def can_run(self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Verdict:
        """Whether ``run`` takes these arguments: cheap, and never looks at values."""

    def run(self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
        """The product, as a new contiguous tensor."""


class PortableSegments:
    """Masked dense factors on stock torch kernels, half precision in float32."""

    name = "portable"

    def can_run(self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Verdict:
        """Everything but empty tensors and tensors without storage."""
        if x.device.type == "meta":
            return Verdict(False, "the meta device holds no numbers")
        if is_empty(x, left, right, rows):
            return Verdict(False, "empty tensors need no speed")
        return Verdict(True, "masked dense factors, stock torch kernels")

    def run(self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
        """The product by the definition, wider where the type is narrow."""
        check_places("segments_matmul", places, rows, x.shape[-1], len(left), len(right))
        if x.dtype in (torch.bfloat16, torch.float16):
            wide = reference_segments_matmul(x.float(), left.float(), right.float(), places, rows)
            return wide.to(x.dtype).contiguous()
        return reference_segments_matmul(x, left, right, places, rows).contiguous()


class ReferenceSegments:
    """The definition."""

    name = "reference"

    def can_run(self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Verdict:
        """Always."""
        return Verdict(True, "the definition, masked dense factors")

    def run(self, x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
        """The product by the definition."""
        check_places("segments_matmul", places, rows, x.shape[-1], len(left), len(right))
        return reference_segments_matmul(x, left, right, places, rows).contiguous()


NATIVE = NativeSegments()
TRITON = TritonSegments()
WithBias = NativeSegments | TritonSegments
BACKENDS: tuple[SegmentsBackend, ...] = (NATIVE, TRITON, PortableSegments(), ReferenceSegments())


class SegmentsProduct(NamedTuple):
    """A product that ran: its arguments, and who multiplied."""

    x: Tensor
    left: Tensor
    right: Tensor
    places: Tensor
    rows: int
    backend: str


@contextmanager
def observing() -> Iterator[list[SegmentsProduct]]:
    """Collect the products that this thread runs inside the block, gradients included."""
    products: list[SegmentsProduct] = []
    token = _observed.set(products)
    try:
        yield products
    finally:
        _observed.reset(token)


def run(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> Tensor:
    """The product on plain tensors by the chosen backend: a new contiguous tensor."""
    x, left, right = dispatch.resolved([x, left, right])
    backend = choose(x, left, right, places, rows)
    products = _observed.get()
    if products is not None:
        products.append(SegmentsProduct(x, left, right, places, rows, backend.name))
    return backend.run(x, left, right, places, rows)


def run_backward(
    grad: Tensor, x: Tensor, left: Tensor, right: Tensor, places: Tensor, need: tuple[bool, ...]
) -> Gradients | None:
    """The gradients of ``x``, ``left`` and ``right`` that are needed; None where no kernels make all of them.

    The other backends have products with one side of the boxes at most, and ``segments_gradients`` makes gradients of
    these.
    """
    rows = grad.shape[-1]
    if dispatch.requested() not in (None, TRITON.name) or not TRITON.can_run(x, left, right, places, rows).ok:
        return None
    grad, x, left, right = dispatch.resolved([grad, x, left, right])
    products = _observed.get()
    if products is not None:
        products.append(SegmentsProduct(x, left, right, places, rows, TRITON.name))
    return TRITON.run_backward(grad, x, left, right, places, need)


def with_bias(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> WithBias | None:
    """The backend that will run this product, unobserved, if its kernels can add a bias on the way."""
    if _observed.get() is not None or BACKENDS[0] is not NATIVE:
        return None
    for backend in (NATIVE, TRITON):
        if dispatch.requested() in (None, backend.name) and backend.can_run(x, left, right, places, rows).ok:
            return backend
    return None


def native_is_next() -> bool:
    """Whether a product that the native kernels can run will be run by them, unobserved."""
    return dispatch.requested() in (None, NATIVE.name) and _observed.get() is None and BACKENDS[0] is NATIVE


def choose(x: Tensor, left: Tensor, right: Tensor, places: Tensor, rows: int) -> SegmentsBackend:
    """The backend asked for by name, else the first that can run.

    Raises:
        BackendUnavailableError: if the one asked for cannot.
    """
    wanted = dispatch.requested()
    if wanted is not None and is_empty(x, left, right, rows):
        return BACKENDS[-1]
    reason = "there is no such backend for boxes"
    for backend in BACKENDS:
        if wanted is None or backend.name == wanted:
            ok, reason = backend.can_run(x, left, right, places, rows)
            if ok:
                return backend
    way_out = "leave use_backend to run the best backend that can"
    raise BackendUnavailableError(complaint("segments_matmul", "backend", repr(wanted), reason, way_out))
