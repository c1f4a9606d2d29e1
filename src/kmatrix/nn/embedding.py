"""``Embedding``: a look-up table that is a structured matrix, whose rows are computed on demand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kmatrix._checks import check_dtype, check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.nn._layer import checked_matrix, checked_structure, fitted, refuse_weight
from kmatrix.ops import Pattern, chain_matmul
from kmatrix.ops.routing import nothing_watches
from kmatrix.structures import Structure, StructuredMatrix
from kmatrix.structures.chain import AbstractChainMatrix
from kmatrix.structures.layout import Permute, transposed_chain


class Embedding(nn.Module):
    """A look-up table whose rows are those of a structured matrix: ``y = A[index]``.

    The output layer of a language model has the same shape, and shares the matrix with
    ``km.nn.Linear.from_matrix(embedding.matrix)``: one set of numbers, trained by both.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: size of each row.
        padding_idx: a row that reads as zeros and gets no gradient.
        structure: the class of matrices; the table is a ``num_embeddings x embedding_dim`` member.
        device: where the numbers live.
        dtype: number type; the default dtype of torch if not given.

    Shape:
        Input whole numbers ``(*)``, output ``(*, embedding_dim)``.

    Raises:
        ArgumentError: if no matrix of that shape has the structure.

    Example:
        >>> import torch, kmatrix as km
        >>> embedding = km.nn.Embedding(1000, 64, structure=km.LowRank(rank=16))
        >>> head = km.nn.Linear.from_matrix(embedding.matrix)
        >>> head(embedding(torch.tensor([[3, 7, 7]]))).shape
        torch.Size([1, 3, 1000])
        >>> sum(p.numel() for p in torch.nn.ModuleList([embedding, head]).parameters())
        17024
    """

    matrix: StructuredMatrix

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        structure: Structure,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        m = check_size("Embedding", "num_embeddings", num_embeddings)
        n = check_size("Embedding", "embedding_dim", embedding_dim)
        dtype = check_dtype("Embedding", dtype or torch.get_default_dtype())
        self._set_up(
            checked_structure("Embedding", structure).empty(m, n, dtype=dtype, device=device), padding_idx
        )
        self.reset_parameters()

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_weight(self, name)
        super().__setattr__(name, value)

    def _set_up(self, matrix: StructuredMatrix, padding_idx: int | None) -> None:
        nn.Module.__init__(self)
        self.matrix = matrix
        rows = matrix.shape[0]
        if padding_idx is not None:
            if not -rows <= padding_idx < rows:
                reason, way_out = f"the table has {rows} rows", "use one of them"
                raise ArgumentError(complaint("Embedding", "padding_idx", padding_idx, reason, way_out))
            padding_idx %= rows
        self.padding_idx = padding_idx

    @classmethod
    def from_matrix(cls, matrix: StructuredMatrix, padding_idx: int | None = None) -> Embedding:
        """A table of a matrix that there is, shared and not copied."""
        checked_matrix("Embedding.from_matrix", matrix)
        table = cls.__new__(cls)
        table._set_up(matrix, padding_idx)
        return table

    @classmethod
    def from_embedding(cls, dense: nn.Embedding, structure: Structure, **options: Any) -> Embedding:
        """The table of that structure nearest to a trained one, in the Frobenius norm.

        Args:
            dense: the trained table; ``max_norm``, ``scale_grad_by_freq`` and ``sparse`` have no counterpart.
            structure: the class of matrices to fit.
            options: ``seed``, ``tol`` and ``max_seconds`` of ``km.fit``.
        """
        for name, neutral in (("max_norm", None), ("scale_grad_by_freq", False), ("sparse", False)):
            if getattr(dense, name) != neutral:
                reason, way_out = "a structured table cannot do that", f"set it to {neutral} first"
                raise ArgumentError(
                    complaint("Embedding.from_embedding", name, getattr(dense, name), reason, way_out)
                )
        matrix = fitted("Embedding.from_embedding", dense.weight, structure, options)
        matrix.requires_grad_(dense.weight.requires_grad)
        return cls.from_matrix(matrix, dense.padding_idx).train(dense.training)

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self.matrix.shape[0]

    @property
    def embedding_dim(self) -> int:
        """Size of each row."""
        return self.matrix.shape[1]

    @property
    def weight(self) -> Tensor:
        """The dense table, computed anew each time it is read; differentiable."""
        dense = self.matrix.to_dense()
        if self.padding_idx is None:
            return dense
        kept = torch.ones(dense.shape[0], 1, dtype=dense.dtype, device=dense.device)
        kept[self.padding_idx] = 0
        return dense * kept

    def dense(self) -> nn.Embedding:
        """An ``nn.Embedding`` with the same rows."""
        weight = self.weight.detach()
        trained = any(p.requires_grad for p in self.matrix.parameters())
        rows, dim = weight.shape
        table = nn.Embedding(rows, dim, self.padding_idx, device="meta", dtype=weight.dtype)
        table.weight = nn.Parameter(weight, requires_grad=trained)
        return table.train(self.training)

    def reset_parameters(self) -> None:
        """Redraw the matrix at its recommended start.

        Rows then have a norm of about 1, as an output layer that shares the matrix needs; those of ``nn.Embedding``
        have ``sqrt(embedding_dim)``. Multiply what is looked up where a model relies on that.
        """
        self.matrix.reset_parameters()

    def forward(self, index: Tensor) -> Tensor:
        """Rows of the table: ``(*) -> (*, embedding_dim)``.

        Raises:
            DtypeError: if the index is no tensor of whole numbers.
        """
        if not isinstance(index, Tensor):
            got, way_out = type(index).__name__, "pass torch.as_tensor(index)"
            raise DtypeError(complaint("Embedding", "index", got, "not a tensor", way_out))
        if index.dtype not in (torch.int64, torch.int32):
            way_out = "pass index.long()"
            raise DtypeError(complaint("Embedding", "index.dtype", index.dtype, "not whole numbers", way_out))
        y = rows(self.matrix, index)
        return y if self.padding_idx is None else y.masked_fill((index == self.padding_idx).unsqueeze(-1), 0)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


def rows(matrix: StructuredMatrix, index: Tensor) -> Tensor:
    """Rows of a structured matrix, ``A[index]``: ``(*) -> (*, n)``, without the others where that is cheaper.

    Of a chain, the last factor has only ``c`` numbers in each row; they are gathered, and the other factors, which
    are smaller for a tall matrix, are applied. Other matrices are multiplied by unit vectors, or written out once
    there are more indices than columns.

    Args:
        matrix: an ``m x n`` matrix.
        index: whole numbers from 0 to ``m - 1``.

    Example:
        >>> import torch, kmatrix as km
        >>> A = km.LowRank(2).random(100, 8)
        >>> torch.allclose(rows(A, torch.tensor([4, 99])), A.to_dense()[[4, 99]], atol=1e-6)
        True
    """
    m, n = matrix.shape
    if (
        index.device.type == "cpu"
        and index.numel()
        and not torch.compiler.is_compiling()
        and nothing_watches()
    ):
        least, most = (int(end) for end in index.aminmax())
        if least < 0 or most >= m:
            got, reason = least if least < 0 else most, f"the matrix has {m} rows"
            raise ArgumentError(complaint("rows", "index", got, reason, f"use 0 to {m - 1}"))
    if isinstance(matrix, AbstractChainMatrix) and type(matrix)._matmul is AbstractChainMatrix._matmul:
        if not any(isinstance(stage, Permute) for stage in matrix.layout.stages):
            return _rows_of_chain(matrix, index)
    # What is exported must not be a choice between batch sizes.
    if torch.compiler.is_exporting() or index.numel() > n:
        return matrix.to_dense()[index]
    units = functional.one_hot(index.long(), m).to(matrix.dtype)
    return matrix.rforward(units)


def _rows_of_chain(matrix: AbstractChainMatrix, index: Tensor) -> Tensor:
    """Rows of a chain of factors alone, from its last factor back to its first."""
    weights, patterns = matrix.weights, matrix.layout.patterns
    last = patterns[-1]
    a, b, c, d = last
    places = index.long().reshape(-1)
    group, rest = places // (b * d), places % (b * d)
    row, lane = rest // d, rest % d
    if a == d == 1:
        wide = weights[-1].reshape(b, c).index_select(0, places)
    else:
        picked = weights[-1].expand(last)[group, row, :, lane]  # (k, c)
        columns = (group * (c * d) + lane).unsqueeze(1) + torch.arange(c, device=index.device) * d
        wide = picked.new_zeros(places.shape[0], last.cols).scatter(1, columns, picked)
    back, back_patterns = transposed_chain(weights[:-1], patterns[:-1])
    found = chain_matmul(wide, back, [Pattern(*p) for p in back_patterns]) if back else wide
    return found[:, : matrix.shape[1]].reshape(*index.shape, matrix.shape[1])
