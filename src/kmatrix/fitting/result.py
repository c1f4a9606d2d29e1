"""What ``fit`` returns: the matrix, its certificate, and the account of everything that was tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True)
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
    history: tuple[Attempt, ...] = field(repr=False)
    seconds: float
    reason: str
    interrupted: bool = False

    @property
    def relative_error(self) -> float:
        """``||W - A||_F / ||W||_F``."""
        return self.certificate.relative_error
