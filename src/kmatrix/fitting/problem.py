"""The question a search works on, and the words in which a family answers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from kmatrix.structures import SparseMatrix, StructuredMatrix

Measure = Literal["params", "flops"]
TIME_IS_UP = "time is up"


def counted(number: int, one: str, many: str = "") -> str:
    """A number of things in words.

    Example:
        >>> counted(1, "product"), counted(2000, "product"), counted(2, "entry", "entries")
        ('1 product', '2,000 products', '2 entries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


class Declined(Exception):
    """A family has no member to offer for this problem; the message says why."""


class TimeUp(Declined):
    """Work was not begun, or not brought to its end, because the time allowed was over or somebody stopped it."""


@dataclass(frozen=True)
class Proposal:
    """A member in double precision, how it was found, and whether the search for it was cut short."""

    matrix: StructuredMatrix
    note: str
    interrupted: bool = False


@dataclass
class Problem:
    """A matrix, a tolerance, and the cheapest answer so far.

    Attributes:
        dense: the entries, float64 or complex128.
        tol: relative Frobenius error to reach.
        of: what cheap means, ``"params"`` or ``"flops"``.
        seed: of every random choice.
        deadline: clock time (``time.monotonic``) after which families should decline.
        cheapest: what the cheapest answer so far costs.
        settled: whether that answer is a fast transform to rounding. Families then look at a sample first, and
            decline where it says that they have nothing cheaper.
    """

    dense: Tensor
    tol: float
    of: Measure = "params"
    seed: int = 0
    deadline: float = float("inf")
    cheapest: float = field(init=False)
    settled: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        m, n = self.shape
        self.cheapest = m * n if self.of == "params" else 2 * m * n

    @property
    def shape(self) -> tuple[int, int]:
        return (self.dense.shape[0], self.dense.shape[1])

    @cached_property
    def norm(self) -> float:
        """Frobenius norm of the target."""
        return float(torch.linalg.vector_norm(self.dense))

    @cached_property
    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Thin singular value decomposition of the target; several families need it."""
        u, s, vh = torch.linalg.svd(self.dense, full_matrices=False)
        return u, s, vh

    def generator(self) -> torch.Generator:
        """A fresh source of randomness, the same for every family."""
        return torch.Generator().manual_seed(self.seed)

    def cost(self, matrix: StructuredMatrix) -> int:
        """What a matrix costs: numbers held, real ones where the target is real, and positions of sparse entries.

        Fixed permutations are free, as they fold into the passes over a chain.
        """
        if self.of == "flops":
            return self.operations(matrix)
        positions = sum(part.stored.shape[0] for part in matrix.modules() if isinstance(part, SparseMatrix))
        return matrix.num_params * (2 if self._widened(matrix) else 1) + positions

    def operations(self, matrix: StructuredMatrix) -> int:
        """Operations for one vector, four for one where complex numbers stand for a real target."""
        return matrix.flops * (4 if self._widened(matrix) else 1)

    def _widened(self, matrix: StructuredMatrix) -> bool:
        return matrix.dtype.is_complex and not self.dense.is_complex()

    @property
    def dense_flops(self) -> int:
        """What the target itself takes for one vector; no answer takes more, however few numbers it holds."""
        return 2 * self.dense.numel()

    def max_flops(self) -> int:
        """How many operations a member may take to be of interest."""
        return self.dense_flops if self.of == "params" else int(self.cheapest - 1)

    def max_params(self) -> int:
        """How many numbers a member may hold to be of interest, if each costs at least one multiply and add."""
        return int(self.cheapest - 1) if self.of == "params" else int((self.cheapest - 1) // 2)

    @property
    def late(self) -> bool:
        """Whether time is up."""
        return time.monotonic() > self.deadline

    def check_time(self) -> None:
        """Decline if time is up."""
        if self.late:
            raise TimeUp(TIME_IS_UP)


Family = Callable[[Problem], Proposal]
"""A family offers its cheapest member that meets the tolerance, or else the best it has; or it declines."""
