"""What ``fit`` returns: the matrix, its certificate, and the account of everything that was tried."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from kmatrix._errors import DtypeError, complaint
from kmatrix.fitting.certificate import Certificate
from kmatrix.structures import Structure, StructuredMatrix


@dataclass(frozen=True)
class Attempt:
    """One family that was tried.

    Attributes:
        family: its name.
        structure: the member class that came out, or ``None`` if nothing did.
        relative_error: what it reached (Frobenius), or ``None``.
        num_params: numbers it holds, or ``None``.
        flops: operations for one vector, or ``None``.
        seconds: time spent.
        met: whether it met the tolerance; ``None`` if none was given.
        note: how it was found, or why it was not.
        beats_svd: whether it is closer than the best truncated SVD of as many numbers; ``None`` if not asked.
    """

    family: str
    structure: Structure | None
    relative_error: float | None
    num_params: int | None
    flops: int | None
    seconds: float
    met: bool | None
    note: str
    beats_svd: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The attempt as plain JSON values."""
        return {
            "family": self.family,
            "structure": str(self.structure) if self.structure else None,
            "relative_error": self.relative_error,
            "num_params": self.num_params,
            "flops": self.flops,
            "seconds": self.seconds,
            "met": self.met,
            "note": self.note,
            "beats_svd": self.beats_svd,
        }


Progress = Callable[[str, "Attempt | None"], None]
"""Called with what is being done, and with each attempt when it ends."""


def _silent(family: str, attempt: Attempt | None) -> None:
    """The progress callback of those who asked for none."""


def check_progress(where: str, progress: object) -> Progress:
    """A callback that can be called as ``Progress`` says, one that does nothing for ``None``, or raise."""
    if progress is None:
        return _silent
    way_out = "pass a function progress(family: str, attempt: Attempt | None)"
    if not callable(progress):
        raise DtypeError(complaint(where, "progress", repr(progress), "cannot be called", way_out))
    try:
        signature = inspect.signature(progress)
    except (TypeError, ValueError):  # some builtins do not tell
        return progress
    try:
        signature.bind("low rank", None)
    except TypeError as error:
        name = getattr(progress, "__name__", type(progress).__name__)
        reason = f"is called with two arguments: {error}"
        raise DtypeError(complaint(where, "progress", f"{name}{signature}", reason, way_out)) from None
    return progress


@dataclass(frozen=True, repr=False)
class Fit:
    """The outcome of ``fit``.

    Attributes:
        matrix: the structured matrix.
        certificate: its error, cost and measured speed.
        method: how it was found, in one line.
        history: every family tried, in order.
        seconds: total time.
        reason: why this one, or why nothing but dense.
        interrupted: whether the search was cut short; the matrix is then the best so far.
    """

    matrix: StructuredMatrix
    certificate: Certificate
    method: str
    history: tuple[Attempt, ...]
    seconds: float
    reason: str
    interrupted: bool = False

    # Without this numpy would take ``array @ fit`` apart entry by entry.
    __array_ufunc__ = None

    def __str__(self) -> str:
        (m, n), c = self.matrix.shape, self.certificate
        lines = [
            f"{m} x {n} {type(self.matrix.structure).__name__}, relative error {c.relative_error:.2e}, "
            f"{c.num_params:,} of {c.dense_params:,} numbers",
            f"found by {self.method}",
            f"{self.reason} ({self.seconds:.1f} s)",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Fit: {str(self).splitlines()[0]}>"

    def __matmul__(self, other: object) -> NoReturn:
        reason, way_out = "a fit is an account, no matrix", "multiply its matrix: f.matrix @ x"
        raise DtypeError(complaint("f @ x", "f", "Fit", reason, way_out))

    __rmatmul__ = __matmul__

    @property
    def relative_error(self) -> float:
        """``||W - A||_F / ||W||_F``."""
        return self.certificate.relative_error
