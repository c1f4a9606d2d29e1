"""Why a matrix is as fast as it is: who multiplies, who would not and why, and what each takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from kmatrix._checks import check_seconds, check_size
from kmatrix._errors import BackendUnavailableError, DtypeError, complaint
from kmatrix.ops import dispatch, native, segments_dispatch
from kmatrix.ops.chain import chain_matmul, check_chain
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.dispatch import Product
from kmatrix.ops.native_layout import described
from kmatrix.ops.segments_dispatch import SegmentsProduct
from kmatrix.ops.segments_native import FEW_ROWS
from kmatrix.ops.tuning import in_words, rounds
from kmatrix.structures.base import StructuredMatrix

_ROUNDS = 9


@dataclass(frozen=True)
class Candidate:
    """One way to multiply.

    Attributes:
        name: the backend, "dense" for the ordinary matrix product, or "itself" for what only stock torch multiplies.
        reason: why it can run or cannot.
        seconds: its measured time, the median of all rounds; None where it cannot run.
        quartiles: between which half of the rounds lie; None where it cannot run.
    """

    name: str
    reason: str
    seconds: float | None
    quartiles: tuple[float, float] | None = None


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` found; ``print`` it.

    Attributes:
        what: the matrix, its number type, batch size and threads, in words.
        backend: who multiplies; None if the matrix needs no chain product and no boxes, or it is refused.
        candidates: every backend in order of preference, then the dense product, then ``torch.fft`` if the matrix is
            that of a Fourier transform.
        products: each product with a chain or with boxes that one multiplication runs, and how, in words.
        refused: what a multiplication raises here, because ``use_backend`` asks for a backend that cannot run it; then
            ``products`` are those without the request. None where it runs.
    """

    what: str
    backend: str | None
    candidates: tuple[Candidate, ...]
    products: tuple[str, ...]
    refused: str | None = None

    @property
    def dense_seconds(self) -> float:
        """The time of the dense product."""
        return next(c.seconds for c in self.candidates if c.name == "dense") or 0.0

    def __str__(self) -> str:
        lines = [self.what]
        for c in self.candidates:
            mark = "*" if c.name == self.backend else " "
            time, spread, against = "-", "", ""
            if c.seconds is not None:
                time, spread = _time(c.seconds, *(c.quartiles or ()))
                against = f"{self.dense_seconds / c.seconds:.2f}x dense"
            lines.append(f"{mark} {c.name:10} {time:>10} {spread:>18} {against:>14}  {c.reason}")
        if self.refused is not None:
            lines.append(f"  raises BackendUnavailableError: {self.refused}")
        return "\n".join([*lines, *[f"  {product}" for product in self.products]])


def explain(
    matrix: StructuredMatrix | Sequence[Tensor] | nn.Module,
    patterns: Sequence[tuple[int, int, int, int]] | None = None,
    *,
    batch: int = 1,
    seconds: float = 0.5,
) -> Explanation:
    """Say which backend multiplies by a matrix, why the others do not, and what each takes against dense.

    Everyone runs in rounds, turn by turn: a time is the median of the rounds, and the quartiles in brackets hold half
    of them. A complex matrix whose entries are those of a discrete Fourier transform or its inverse, up to a multiple
    and rounding, is timed beside ``torch.fft`` too; for cosine and sine transforms torch has nothing to compare with.
    Inside ``use_backend`` the answer is about the backend that it asks for, also where that one cannot run.

    Args:
        matrix: a structured matrix, a layer that has one as its ``matrix`` (its bias is left out), or the weights of a
            chain as for ``chain_matmul``.
        patterns: as for ``chain_matmul``, where weights are given.
        batch: how many vectors are multiplied at a time.
        seconds: about how long to measure, all in all.

    Raises:
        ArgumentError: if the weights and patterns do not fit, or ``batch`` or ``seconds`` is not positive.
        DtypeError: if ``matrix`` is none of them.

    Example:
        >>> import kmatrix as km
        >>> print(km.explain(km.Butterfly().random(256, 256), batch=64))  # doctest: +SKIP
        Butterfly, 256 x 256, float32, batch 64, 1 thread
        * native        6.90 us     (6.85 to 7.01)   36.35x dense  native kernels, avx512
          portable    121.40 us (120.70 to 123.90)    2.07x dense  merged factors, stock torch kernels
          reference   613.20 us (610.30 to 619.00)    0.41x dense  the definition, one factor after the other
          dense       250.80 us (249.90 to 252.20)    1.00x dense  torch.nn.functional.linear
          8 factors, 256 -> 256: native, tiles kernel, passes 4+4, tiles 4 vectors high
    """
    check_size("explain", "batch", batch)
    seconds = check_seconds("explain", "seconds", seconds)
    held = getattr(matrix, "matrix", None)  # of layers, which are a floor above
    if isinstance(matrix, nn.Module) and isinstance(held, StructuredMatrix):
        matrix = held
    with torch.no_grad(), dispatch.free():
        name, multiply, dense = _described(matrix, patterns)
    m, n = dense.shape
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(batch, n, generator=generator, device="cpu").to(dense.device, dense.dtype)
    threads = torch.get_num_threads()
    kind = str(dense.dtype).removeprefix("torch.")
    what = f"{name}, {m} x {n}, {kind}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
    with torch.no_grad():
        products, sums, refused = _observed(multiply, x)
        runners = {b.name: _forced(b.name, multiply, x) for b in dispatch.BACKENDS}
        reasons = {b.name: _refusal(b, products, sums) for b in dispatch.BACKENDS}
        able = {name: run for name, run in runners.items() if reasons[name][0]}
        if not products and not sums and refused is None:
            able["itself"] = lambda: multiply(x)
        able["dense"] = lambda: functional.linear(x, dense)
        told = {name: reason for name, (_, reason) in reasons.items()}
        told |= {} if products or sums else {"itself": "stock torch functions"}
        told["dense"] = "torch.nn.functional.linear"
        for transform, function in _fourier_transform(dense):
            told["fft"] = f"{transform}, which has this matrix up to a multiple"
            able["fft"] = partial(function, x)
        times = dict(zip(able, rounds(list(able.values()), seconds, _ROUNDS, dense.device), strict=True))
    candidates = tuple([_candidate(name, reason, times.get(name)) for name, reason in told.items()])
    ran = [product.backend for product in products] + [one.backend for one in sums]
    words = *[_words(product) for product in products], *[_words_of_boxes(one) for one in sums]
    return Explanation(what, ran[0] if ran and refused is None else None, candidates, words, refused)


def _observed(
    multiply: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[list[Product], list[SegmentsProduct], str | None]:
    """The products that run, or those that would without ``use_backend`` and what is raised because of it."""
    with dispatch.observing() as products, segments_dispatch.observing() as sums:
        try:
            multiply(x)
        except BackendUnavailableError as error:
            if dispatch.requested() is None:
                raise
            refused = str(error)
        else:
            return products, sums, None
    with dispatch.free():
        products, sums, _ = _observed(multiply, x)
    return products, sums, refused


def _candidate(name: str, reason: str, times: list[float] | None) -> Candidate:
    if times is None:
        return Candidate(name, reason, None)
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Candidate(name, reason, median, (low, high))


def _fourier_transform(dense: Tensor) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """The function of ``torch.fft`` that multiplies by a matrix, up to a multiple; nothing if there is none."""
    m, n = dense.shape
    if (
        m != n or n < 3 or not dense.is_complex()
    ):  # smaller ones are their own inverses, and no transforms to speak of
        return
    both = ("torch.fft.fft", torch.fft.fft, torch.fft.ifft), ("torch.fft.ifft", torch.fft.ifft, torch.fft.fft)
    for name, transform, inverse in both:
        multiple = inverse(dense, dim=0)  # of the identity
        rest = multiple - multiple[0, 0] * torch.eye(n, dtype=dense.dtype, device=dense.device)
        if bool(rest.norm() < torch.finfo(dense.dtype).eps ** 0.5 * multiple.norm()):
            yield name, transform


def _described(
    matrix: object, patterns: Sequence[tuple[int, int, int, int]] | None
) -> tuple[str, Callable[[Tensor], Tensor], Tensor]:
    """What it is, how it multiplies, and the same as an ordinary matrix."""
    if isinstance(matrix, StructuredMatrix):
        return type(matrix.structure).__name__, matrix, matrix.to_dense()
    if not isinstance(matrix, Sequence) or isinstance(matrix, str) or not len(matrix):
        way_out = "pass a StructuredMatrix, a layer of km.nn, or the weights of a chain"
        raise DtypeError(complaint("explain", "matrix", type(matrix).__name__, "not a matrix", way_out))
    weights = tuple(matrix)
    chain = check_chain("explain", weights, patterns)
    eye = torch.eye(chain[0].cols, dtype=weights[0].dtype, device=weights[0].device)
    dense = reference_chain_matmul(eye, weights, chain).mT.contiguous()
    return "chain", lambda x: chain_matmul(x, weights, chain), dense


def _forced(name: str, multiply: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    def run() -> object:
        with dispatch.use_backend(name):
            return multiply(x)

    return run


def _refusal(
    backend: dispatch.Backend, products: Sequence[Product], sums: Sequence[SegmentsProduct]
) -> tuple[bool, str]:
    """Whether a backend can run all products, and the first reason why not or why."""
    reason = "there is no chain to multiply by"
    for one in sums:
        like = next((b for b in segments_dispatch.BACKENDS if b.name == backend.name), None)
        if like is None:
            return False, "no kernels for sums of boxes"
        ok, reason = like.can_run(one.x, one.left, one.right, one.places, one.rows)
        if not ok:
            return False, reason
    for product in products:
        probe = torch.empty(product.shape, dtype=product.weights[0].dtype, device=product.weights[0].device)
        ok, reason = backend.can_run(probe, product.weights, product.patterns)
        if not ok:
            return False, reason
    return bool(products or sums), reason


def _words(product: Product) -> str:
    cols, rows = product.patterns[0].cols, product.patterns[-1].rows
    many = f"{len(product.patterns)} factor{'s' if len(product.patterns) > 1 else ''}"
    text = f"{many}, {cols} -> {rows}: {product.backend}"
    if product.backend != dispatch.NATIVE.name:
        return text
    _, description = described(product.weights, product.patterns)
    schedule = native.schedule_of(description, product.shape[:-1].numel(), product.ends)
    return f"{text}, {in_words(schedule)}"


def _words_of_boxes(one: SegmentsProduct) -> str:
    cols, count = one.x.shape[-1], one.places.shape[1]
    widths = one.left.shape[0] / max(count, 1), one.right.shape[0] / max(count, 1)
    text = f"{count} box{'es' if count != 1 else ''} of {widths[0]:.1f} x {widths[1]:.1f} on average"
    text = f"{text}, {cols} -> {one.rows}: {one.backend}"
    if one.backend != dispatch.NATIVE.name:
        return text
    few = one.x.shape[:-1].numel() <= FEW_ROWS
    return f"{text}, {'rows kernel, numbers where they are' if few else 'tiles kernel, packed numbers'}"


def _time(seconds: float, *quartiles: float) -> tuple[str, str]:
    """A time in a unit that suits it, and its quartiles in the same."""
    units = (("us", 1e6), ("ms", 1e3), ("s", 1.0))
    unit, scale = next((one for one in units if seconds * one[1] < 1000), units[-1])
    spread = " to ".join(f"{scale * q:.2f}" for q in quartiles)
    return f"{scale * seconds:.2f} {unit}", spread and f"({spread})"
