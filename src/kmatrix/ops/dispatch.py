"""Which backend multiplies a chain, and why: the seam where native kernels plug in.

A backend computes the product and its gradients on plain tensors; it sees no autograd, no transforms and no
lazy bits. The first backend of ``BACKENDS`` that can run is used, unless ``use_backend`` asks for one by
name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, BackendUnavailableError, complaint
from kmatrix.ops.definition import Patterns, reference_chain_matmul
from kmatrix.ops.ends import Ends
from kmatrix.ops.gradients import chain_gradients
from kmatrix.ops.native import Native
from kmatrix.ops.portable import portable_chain_gradients, portable_chain_matmul
from kmatrix.ops.routing import Route
from kmatrix.ops.triton.backend import Triton
from kmatrix.ops.verdict import Verdict as Verdict

_log = logging.getLogger(__name__)
_requested: ContextVar[str | None] = ContextVar("kmatrix_backend", default=None)
_observed: ContextVar[list[Product] | None] = ContextVar("kmatrix_observed", default=None)


class Backend(Protocol):
    """One way to multiply by at least one factor. Weights have size 1 along the axes where they are tied."""

    @property
    def name(self) -> str:
        """What ``use_backend`` calls it."""

    def can_run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Verdict:
        """Whether ``run`` and ``run_backward`` take these arguments: cheap, and never looks at values."""

    def run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Tensor:
        """The product, as a new contiguous tensor."""

    def run_backward(
        self, grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, need_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of ``x`` (None where not needed) and of every weight, as new contiguous tensors."""


class Portable:
    """Merged factors on stock torch kernels: runs wherever torch computes."""

    name = "portable"

    def can_run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Verdict:
        """Everything but empty tensors and tensors without storage."""
        if x.device.type == "meta":
            return Verdict(False, "the meta device holds no numbers")
        if not x.numel() or not all(map(all, patterns)):
            return Verdict(False, "empty tensors need no speed")
        return Verdict(True, "merged factors, stock torch kernels")

    def run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Tensor:
        """The product through merged factors."""
        return portable_chain_matmul(x, weights, patterns)

    def run_backward(
        self, grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, need_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients through merged factors."""
        return portable_chain_gradients(grad, x, weights, patterns, need_x)


class Reference:
    """The definition, factor by factor."""

    name = "reference"

    def can_run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Verdict:
        """Always."""
        return Verdict(True, "the definition, one factor after the other")

    def run(self, x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Tensor:
        """The product by the definition."""
        return reference_chain_matmul(x, weights, patterns).contiguous()

    def run_backward(
        self, grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, need_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients by the definition."""
        grad_x, grad_weights = chain_gradients(grad, x, weights, patterns)
        return (grad_x.contiguous() if need_x else None), [g.contiguous() for g in grad_weights]


NATIVE = Native()
TRITON = Triton()
BACKENDS: tuple[Backend, ...] = (NATIVE, TRITON, Portable(), Reference())


def requested() -> str | None:
    """The backend that ``use_backend`` asks for here; None if it is free."""
    return _requested.get()


def native_is_next() -> bool:
    """Whether a product that the native kernels can run will be run by them."""
    return (
        (_requested.get() is None or _requested.get() == NATIVE.name)
        and _observed.get() is None
        and BACKENDS[0] is NATIVE
    )


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every chain product inside the block on the named backend, or raise; results never depend on it.

    The request holds for products that start in this thread or task. Backward passes and compiled functions
    obey the request in force when they run. Products of empty tensors have nothing to compute and always run.

    Args:
        name: "native", "triton", "portable" or "reference".

    Raises:
        ArgumentError: if there is no backend of that name.
        BackendUnavailableError: from a product that the backend cannot run.

    Example:
        >>> import torch
        >>> from kmatrix.ops import chain_matmul
        >>> with use_backend("reference"):
        ...     chain_matmul(torch.ones(4), [torch.ones(2, 1, 2, 1)])
        tensor([2., 2.])
    """
    names = [backend.name for backend in BACKENDS]
    if name not in names:
        way_out = f"use one of {', '.join(names)}"
        raise ArgumentError(complaint("use_backend", "name", repr(name), "there is no such backend", way_out))
    token = _requested.set(name)
    try:
        yield
    finally:
        _requested.reset(token)


@contextmanager
def free() -> Iterator[None]:
    """Run every product inside the block on the best backend that can, whatever ``use_backend`` asks for around it."""
    token = _requested.set(None)
    try:
        yield
    finally:
        _requested.reset(token)


class Product(NamedTuple):
    """A product that ran: its vectors, its weights, who multiplied, and what was folded in before and behind."""

    shape: torch.Size
    weights: Sequence[Tensor]
    patterns: Patterns
    backend: str
    ends: Ends | None = None


@contextmanager
def observing() -> Iterator[list[Product]]:
    """Collect the products that this thread runs inside the block, gradients included."""
    products: list[Product] = []
    token = _observed.set(products)
    try:
        yield products
    finally:
        _observed.reset(token)


def choose(x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Backend:
    """The backend asked for by name, else the first that can run.

    Where there is nothing to compute, the definition says what shape it has, whoever was asked for.

    Raises:
        BackendUnavailableError: if the one asked for cannot.
    """
    wanted = _requested.get()
    if wanted is not None and _is_empty(x, patterns):
        return BACKENDS[-1]
    for backend in BACKENDS:
        if wanted is not None and backend.name != wanted:
            continue
        ok, reason = backend.can_run(x, weights, patterns)
        if ok:
            return backend
        if wanted is not None:
            raise unavailable(wanted, reason)
        _log.debug("backend %s passed over: %s", backend.name, reason)
    raise unavailable("any", "no backend takes these arguments")


def _is_empty(x: Tensor, patterns: Patterns) -> bool:
    return x.numel() == 0 or not all(map(all, patterns))


def observe(
    x: Tensor, weights: Sequence[Tensor], patterns: Patterns, backend: Backend, ends: Ends | None = None
) -> None:
    """Tell whoever is observing about a product that runs now."""
    products = _observed.get()
    if products is not None:
        products.append(Product(x.shape, weights, patterns, backend.name, ends))


def allow_definition(reason: str) -> None:
    """Raise if ``use_backend`` asks for anything but the definition, which is all that this call can run."""
    if torch.compiler.is_compiling():  # the request is made, and answered, when the compiled product runs
        return
    wanted = _requested.get()
    if wanted not in (None, Reference.name):
        raise unavailable(wanted, reason)


class Explanation(NamedTuple):
    """What would run, and why."""

    backend: str | None
    route: str
    reasons: dict[str, str]

    def __str__(self) -> str:
        lines = [f"  {name}: {reason}" for name, reason in self.reasons.items()]
        return "\n".join([f"{self.backend or 'unavailable'} ({self.route})", *lines])


def explain(x: Tensor, weights: Sequence[Tensor], patterns: Patterns, how: Route) -> Explanation:
    """What ``run`` would do by this route."""
    verdicts = {backend.name: backend.can_run(x, weights, patterns) for backend in BACKENDS}
    if how is Route.DEFINITION:
        verdicts = {
            name: v if name == Reference.name else Verdict(False, how.value) for name, v in verdicts.items()
        }
    wanted = None if _is_empty(x, patterns) else _requested.get()
    able = [name for name, verdict in verdicts.items() if verdict.ok and wanted in (None, name)]
    reasons = {name: verdict.reason for name, verdict in verdicts.items()}
    return Explanation(able[0] if able else None, how.value, reasons)


def unavailable(name: str, reason: str) -> BackendUnavailableError:
    """The error for a request that cannot be honoured."""
    way_out = "leave use_backend to run the best backend that can"
    return BackendUnavailableError(complaint("chain_matmul", "backend", repr(name), reason, way_out))


def run(x: Tensor, weights: Sequence[Tensor], patterns: Patterns) -> Tensor:
    """The product on plain tensors by the chosen backend: a new contiguous tensor."""
    if not patterns:
        return x.clone(memory_format=torch.contiguous_format).resolve_conj().resolve_neg()
    x, *weights = resolved([x, *weights])
    backend = choose(x, weights, patterns)
    observe(x, weights, patterns, backend)
    return backend.run(x, weights, patterns)


def run_backward(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Patterns, need_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients on plain tensors by the chosen backend."""
    grad, x, *weights = resolved([grad, x, *weights])
    backend = choose(x, weights, patterns)
    observe(x, weights, patterns, backend)
    return backend.run_backward(grad, x, weights, patterns, need_x)


def resolved(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors with lazy conjugation and negation carried out, so that memory holds what they mean."""
    if tensors[0].is_complex():
        tensors = [t.resolve_conj() for t in tensors]
    return [t.resolve_neg() if t.is_neg() else t for t in tensors]
