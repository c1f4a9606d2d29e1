"""The certificate of a fit: how far the matrix is from the target, what it costs, and how fast it is here.

Errors are those of the matrix that is returned, in its own number type, against the target in double precision.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix._waiting import waiting_for
from kmatrix.fitting.targets import as_target
from kmatrix.ops.wisdom import processor_name
from kmatrix.structures import Dense, StructuredMatrix

FAILURE_PROBABILITY = 1e-6
POWER_STEPS = 40


@dataclass(frozen=True)
class SpectralEstimate:
    """A spectral norm seen through products alone.

    Attributes:
        lower: a value the norm certainly reaches.
        upper: a value the norm stays under with probability ``confidence``.
        confidence: that probability, over the random start of the iteration.
    """

    lower: float
    upper: float
    confidence: float


@dataclass(frozen=True)
class Timing:
    """Median seconds of one product with ``batch`` vectors, dense and structured measured turn by turn.

    Attributes:
        batch: how many vectors.
        dense_seconds: for the dense product.
        matrix_seconds: for the structured one.
        ratios: quartiles of dense over structured, each pair of times from one round; those of the medians if empty.
        is_dense: whether the matrix is itself dense, which is never called faster than dense.
    """

    batch: int
    dense_seconds: float
    matrix_seconds: float
    ratios: tuple[float, ...] = ()
    is_dense: bool = False

    @property
    def speedup(self) -> float:
        """How many times less time than dense: above 1 is faster."""
        return self.ratios[1] if self.ratios else self.dense_seconds / self.matrix_seconds

    @property
    def verdict(self) -> str:
        """``"faster than"``, ``"about as fast as"`` or ``"NOT faster than"``: what the rounds agree on.

        In the middle half of the rounds, the quartiles included, all or none must have been faster to say so.
        """
        low, high = (self.ratios[0], self.ratios[-1]) if self.ratios else (self.speedup, self.speedup)
        if low > 1:
            return "about as fast as" if self.is_dense else "faster than"
        return "NOT faster than" if high < 1 else "about as fast as"


@dataclass(frozen=True)
class Certificate:
    """What is known of a fitted matrix.

    Attributes:
        relative_error: ``||W - A||_F / ||W||_F``, exact up to rounding; the plain error if ``W`` is zero.
        spectral_error: ``||W - A||_2 / ||W||_2``: a lower and an upper value, each of them with the confidence, as
            the norm of ``W`` is estimated too.
        num_params: numbers held; ``dense_params`` for comparison. A complex number counts as one.
        flops: operations for one vector; ``dense_flops`` for comparison.
        dtype: number type of the matrix.
        timings: measured time against dense on this machine, or empty if not measured.
        machine: where it was measured: processor, threads, torch version.
        interrupted: whether the search that found the matrix was cut short.
    """

    relative_error: float
    spectral_error: SpectralEstimate
    num_params: int
    dense_params: int
    flops: int
    dense_flops: int
    dtype: str
    timings: tuple[Timing, ...]
    machine: dict[str, str]
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """The certificate as plain JSON values."""
        values = asdict(self)
        for timing, measured in zip(values["timings"], self.timings, strict=True):
            timing["speedup"], timing["verdict"] = measured.speedup, measured.verdict
        return values

    def __str__(self) -> str:
        lines = [
            f"relative error   {self.relative_error:.2e} (Frobenius)",
            f"spectral error   {self.spectral_error.lower:.2e} at least, {self.spectral_error.upper:.2e} at most"
            f" (probability {self.spectral_error.confidence:.6f})",
            f"parameters       {self.num_params:,} of {self.dense_params:,}"
            f" ({self.num_params / self.dense_params:.2%} of dense)",
            f"FLOPs a vector   {self.flops:,} of {self.dense_flops:,}"
            f" ({self.flops / self.dense_flops:.2%} of dense)",
        ]
        for t in self.timings:
            lines.append(f"time, batch {t.batch:<4} {t.speedup:.2f}x dense: {t.verdict} dense here")
        if self.interrupted:
            lines.append("interrupted      the best of a search that was cut short")
        return "\n".join(lines)


def spectral_norm(
    multiply: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    n: int,
    *,
    dtype: torch.dtype,
    generator: torch.Generator,
    steps: int = POWER_STEPS,
) -> SpectralEstimate:
    """Estimate ``||E||_2`` of an ``m x n`` operator from ``2 * steps`` products, with a probability.

    With ``x`` uniform on the sphere and ``xi_k = (x* (E*E)^k x)^{1/k}``, ``||E*E|| <= theta xi_k`` fails with
    probability at most ``0.8 sqrt(n) theta^{-k/2}``; ``theta`` is chosen for a failure of one in a million. The
    complex sphere of ``C^n`` is at most as unlucky as the real one.

    Reference: Dixon, Estimating extremal eigenvalues and condition numbers of matrices, SIAM J. Numer. Anal. 1983.
    """
    x = torch.randn(n, dtype=dtype, generator=generator)
    x = x / torch.linalg.vector_norm(x)
    lower = log_moment = 0.0
    for _ in range(steps):
        y = multiply(x)
        gain = float(torch.linalg.vector_norm(y))
        # |E x| <= ||E|| for every unit x, so the largest one seen is a certain lower value.
        lower = max(lower, gain)
        if gain == 0.0:
            return SpectralEstimate(lower, lower, 1.0 - FAILURE_PROBABILITY)
        # Both products are normalised: their product alone would leave the number range at the square of ||E||.
        x = adjoint(y / gain)
        size = float(torch.linalg.vector_norm(x))
        if size == 0.0:
            return SpectralEstimate(lower, lower, 1.0 - FAILURE_PROBABILITY)
        log_moment += math.log(gain) + math.log(size)
        x = x / size
    # x* (E*E)^{2k} x = ||(E*E)^k x||^2, so the moment of order 2 * steps is the squared product of the sizes.
    k = 2 * steps
    log_theta = 2 / k * math.log(0.8 * math.sqrt(n) / FAILURE_PROBABILITY)
    upper = math.exp(log_theta / 2 + log_moment / k)
    return SpectralEstimate(lower, max(lower, upper), 1.0 - FAILURE_PROBABILITY)


def _dense_norm(matrix: Tensor, generator: torch.Generator) -> SpectralEstimate:
    largest = float(matrix.abs().max())
    if largest == 0.0:
        return SpectralEstimate(0.0, 0.0, 1.0)
    unit = matrix / largest

    def multiply(x: Tensor) -> Tensor:
        return unit @ x

    def adjoint(y: Tensor) -> Tensor:
        return unit.mH @ y

    found = spectral_norm(multiply, adjoint, unit.shape[1], dtype=unit.dtype, generator=generator)
    return SpectralEstimate(found.lower * largest, found.upper * largest, found.confidence)


def scale_of(target: Tensor) -> float:
    """A power of two to divide by where squares of the entries would leave the number range; 1 for ordinary sizes."""
    # By parts: the absolute value of a complex number can be infinite where its parts are not.
    largest = float((torch.view_as_real(target) if target.is_complex() else target).abs().max())
    if largest == 0.0 or 2.0**-300 < largest < 2.0**300:
        return 1.0
    # Neither the power nor its inverse may leave the number range.
    return 2.0 ** min(max(math.frexp(largest)[1], -1020), 1020)


def relative_error(target: Tensor, approximation: Tensor) -> float:
    """``||W - A||_F / ||W||_F`` in double precision; a zero target counts the error itself."""
    wide = torch.promote_types(torch.promote_types(target.dtype, approximation.dtype), torch.float64)
    scale = scale_of(target)
    target = target.to(wide) / scale
    size = float(torch.linalg.vector_norm(target))
    gap = float(torch.linalg.vector_norm(target - approximation.to(wide) / scale))
    return gap / size if size > 0 else gap


def check_batches(where: str, batches: object) -> tuple[int, ...]:
    """Batch sizes as a tuple, or raise if they are no sequence of whole numbers of at least one."""
    if not isinstance(batches, Iterable):
        reason, way_out = (
            "not a sequence of whole numbers",
            "pass for example (1, 64), or () to skip the clock",
        )
        raise DtypeError(complaint(where, "batches", repr(batches), reason, way_out))
    return tuple([check_size(where, "batches", batch) for batch in batches])


def certify(
    target: object, matrix: StructuredMatrix, *, batches: Sequence[int] = (1, 64), seed: int = 0
) -> Certificate:
    """Measure a matrix against its target.

    Args:
        target: the dense ``(m, n)`` matrix, a tensor or anything else that ``fit`` takes.
        matrix: what stands for it.
        batches: batch sizes at which to time a product against dense; empty to leave the clock alone.
        seed: of the random vectors.

    Raises:
        ArgumentError: if the target is not a finite matrix of the shape of ``matrix``.
        DtypeError: if its numbers are not floating or complex, ``matrix`` is no structured matrix, or the batch sizes
            no sequence.
    """
    batches = check_batches("certify", batches)
    if not isinstance(matrix, StructuredMatrix):
        way_out = "pass a structured matrix, such as the .matrix of km.fit or of a layer"
        got = type(matrix).__name__
        raise DtypeError(complaint("certify", "matrix", got, "not a StructuredMatrix", way_out))
    target = as_target(target).dense
    if tuple(target.shape) != matrix.shape:
        way_out = f"pass a target of shape {matrix.shape}"
        raise ArgumentError(
            complaint("certify", "target.shape", tuple(target.shape), "not the matrix's shape", way_out)
        )
    with torch.no_grad():
        dense = matrix.to_dense().cpu()
        scale = scale_of(target)
        unit = target / scale
        gap = unit - dense.to(torch.promote_types(dense.dtype, target.dtype)) / scale
        generator = torch.Generator().manual_seed(seed)
        whole, part = _dense_norm(unit, generator), _dense_norm(gap, generator)
        # The quotient's upper end needs the denominator's certain lower end, and the other way round.
        floor, ceiling = whole.lower or 1.0, whole.upper or 1.0
        spectral = SpectralEstimate(part.lower / ceiling, part.upper / floor, 1.0 - 2 * FAILURE_PROBABILITY)
        timings = tuple(time_against_dense(matrix, dense, batch) for batch in batches)
    m, n = matrix.shape
    return Certificate(
        relative_error=relative_error(target, dense),
        spectral_error=spectral,
        num_params=matrix.num_params,
        dense_params=m * n,
        flops=matrix.flops,
        dense_flops=2 * m * n,
        dtype=str(matrix.dtype).removeprefix("torch."),
        timings=timings,
        machine=machine(matrix.device),
    )


def machine(device: torch.device | None = None) -> dict[str, str]:
    """Where a measurement was made: processor, or GPU and processor, threads and versions."""
    on_gpu = device is not None and device.type == "cuda"
    return {
        **({"gpu": torch.cuda.get_device_name(device)} if on_gpu else {}),
        "processor": processor_name(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def time_against_dense(
    matrix: StructuredMatrix, dense: Tensor, batch: int, *, seconds: float = 0.1, repeats: int = 15
) -> Timing:
    """Median time of ``matrix(x)`` and of ``x @ dense.T``, taken turn by turn so that noise hits both.

    Noise that lasts longer than a round is in both times of the round and leaves their ratio, so ratios are judged.
    """
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, matrix.shape[1], dtype=dense.dtype, generator=generator).to(matrix.device)
    dense = dense.to(matrix.device)

    def run_dense() -> Tensor:
        return torch.nn.functional.linear(x, dense)

    def run_matrix() -> Tensor:
        return matrix(x)

    with torch.inference_mode():
        wait = waiting_for(matrix.device)
        loops = [_loops(run, seconds / (2 * repeats), wait) for run in (run_dense, run_matrix)]
        samples: tuple[list[float], list[float]] = ([], [])
        turns = list(zip((run_dense, run_matrix), loops, samples, strict=True))
        for _ in range(repeats):
            for run, count, sample in turns:
                sample.append(_clock(run, count, wait))
            turns.reverse()  # neither always comes first
    ratios = [a / b for a, b in zip(*samples, strict=True)]
    return Timing(
        batch,
        statistics.median(samples[0]),
        statistics.median(samples[1]),
        ratios=tuple(statistics.quantiles(ratios, n=4, method="inclusive")),
        is_dense=isinstance(matrix.structure, Dense),
    )


def _clock(run: Callable[[], Tensor], count: int, wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(count):
        run()
    wait()
    return (time.perf_counter() - start) / count


def _loops(run: Callable[[], Tensor], seconds: float, wait: Callable[[], None]) -> int:
    """How many calls fill about ``seconds``; also warms up."""
    run()
    return max(1, min(1000, int(seconds / max(_clock(run, 2, wait), 1e-9))))
