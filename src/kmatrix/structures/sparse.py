"""Sparse matrices with a fixed support, applied by gathering and adding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures.base import (
    Structure,
    StructuredMatrix,
    empty_parameter,
    fill_normal,
    from_pairs,
    stored_dtype,
    to_pairs,
)


@dataclass(frozen=True)
class Sparse(Structure):
    """Matrices with ``nnz`` numbers at fixed positions, zero elsewhere.

    Args:
        nnz: how many numbers; the positions belong to the matrix and do not count as parameters.

    Raises:
        ArgumentError: if ``nnz`` is not positive, or more than the shape has entries.

    Example:
        >>> import kmatrix as km
        >>> km.Sparse(nnz=50).random(20, 30).num_params
        50
    """

    nnz: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("Sparse", "nnz", self.nnz)

    def check(self, m: int, n: int) -> None:
        if self.nnz > m * n:
            reason = f"a {m} x {n} matrix has {m * n} entries"
            raise ArgumentError(complaint("Sparse", "nnz", self.nnz, reason, "use fewer, or Dense"))

    def num_params(self, m: int, n: int) -> int:
        return self.nnz

    def flops(self, m: int, n: int) -> int:
        return 2 * self.nnz

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> SparseMatrix:
        dtype = self._admit(m, n, dtype)
        return SparseMatrix(self, (m, n), dtype=dtype, device=device)


class SparseMatrix(StructuredMatrix):
    """A sparse matrix: entry ``values[k]`` at ``(rows[k], cols[k])``.

    Attributes:
        rows: row of every number, int64; positions are in ascending row-major order.
        cols: column of every number, int64.
        stored: the numbers, real pairs if complex.
    """

    rows: Tensor
    cols: Tensor

    def __init__(
        self,
        structure: Sparse,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape)
        self._is_complex = dtype.is_complex
        self.stored = empty_parameter((structure.nnz,), dtype, device)
        for name in ("rows", "cols"):
            self.register_buffer(name, torch.zeros(structure.nnz, dtype=torch.int64, device=device))

    @classmethod
    def from_dense(cls, matrix: Tensor, nnz: int) -> SparseMatrix:
        """The ``nnz`` entries of largest modulus: the nearest matrix with that many entries (Frobenius).

        Args:
            matrix: an ``(m, n)`` tensor, real or complex.
            nnz: how many entries to keep.

        Raises:
            ArgumentError: if it is not a matrix, or has fewer entries.

        Example:
            >>> import torch
            >>> from kmatrix.structures import SparseMatrix
            >>> A = SparseMatrix.from_dense(torch.tensor([[3.0, 0.1], [-2.0, 1.0]]), nnz=2)
            >>> A.to_dense().tolist()
            [[3.0, 0.0], [-2.0, 0.0]]
        """
        if matrix.ndim != 2:
            shape = tuple(matrix.shape)
            raise ArgumentError(complaint("from_dense", "matrix.shape", shape, "not a matrix", "pass (m, n)"))
        structure = Sparse(nnz)
        m, n = matrix.shape
        made = structure.empty(m, n, dtype=matrix.dtype, device=matrix.device)
        with torch.no_grad():
            flat = matrix.detach().reshape(-1)
            made._set_support(torch.topk(flat.abs(), nnz, sorted=False).indices)
            made.stored.copy_(to_pairs(flat[made.rows * n + made.cols]))
        return made

    def _set_support(self, positions: Tensor) -> None:
        """Take the given flat positions as the support."""
        positions = positions.sort().values
        self.rows.copy_(positions // self.shape[1])
        self.cols.copy_(positions % self.shape[1])

    @property
    def values(self) -> Tensor:
        """The numbers, in the order of ``rows`` and ``cols``."""
        return from_pairs(self.stored, self._is_complex)

    @property
    def dtype(self) -> torch.dtype:
        return stored_dtype("Sparse", self.stored, self._is_complex)

    @property
    def device(self) -> torch.device:
        return self.stored.device

    def check_state(self) -> None:
        m, n = self.shape
        inside = (self.rows >= 0) & (self.rows < m) & (self.cols >= 0) & (self.cols < n)
        down, right = self.rows.diff(), self.cols.diff()
        ascending = (down > 0) | ((down == 0) & (right > 0))
        if not bool(inside.all()) or not bool(ascending.all()):
            reason = f"not ascending positions of a {m} x {n} matrix"
            got = f"array({len(self.rows)},)"
            raise ArgumentError(complaint("Sparse", "rows, cols", got, reason, "name each position once"))

    def _matmul(self, x: Tensor) -> Tensor:
        return _gather_add(x, self.values, self.cols, self.rows, self.shape[0])

    def _rmatmul(self, x: Tensor) -> Tensor:
        return _gather_add(x, self.values, self.rows, self.cols, self.shape[1])

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw a uniformly random support, and normal numbers at the spectral scale of its mean row."""
        m, n = self.shape
        nnz = self.stored.shape[0]
        if self.device.type != "meta":
            device = "cpu" if generator is None else generator.device
            seed = int(torch.randint(2**62, (), generator=generator, device=device))
            # numpy draws without replacement in O(nnz) memory; torch would permute all m * n positions.
            drawn = np.random.default_rng(seed).choice(m * n, nnz, replace=False, shuffle=False)
            self._set_support(torch.from_numpy(drawn))
        fan_in, fan_out = max(1.0, nnz / m), max(1.0, nnz / n)
        std = min(1.0, (fan_out / fan_in) ** 0.5) / fan_in**0.5
        fill_normal(self.stored, std, self._is_complex, generator)


def _gather_add(x: Tensor, values: Tensor, source: Tensor, target: Tensor, size: int) -> Tensor:
    """Add ``values[k] * x[source[k]]`` into ``y[target[k]]`` along the last axis, which becomes ``size``."""
    # With the features first, every gathered and added piece is a contiguous row over the batch.
    columns = x.reshape(-1, x.shape[-1]).mT
    terms = columns[source] * values.unsqueeze(-1)
    sums = terms.new_zeros(size, columns.shape[1]).index_add(0, target, terms)
    return sums.mT.reshape(*x.shape[:-1], size)
