"""``Linear``: a drop-in for ``nn.Linear`` that holds a structured matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kmatrix._checks import check_dtype, check_size
from kmatrix.nn._layer import (
    MatrixLayer,
    checked_matrix,
    checked_structure,
    empty_bias,
    fitted,
    given_bias,
    size_remark,
)
from kmatrix.structures import Structure, StructuredMatrix


class Linear(MatrixLayer):
    """A linear layer with a structured matrix: ``y = A x + b`` along the last axis.

    Args:
        in_features: size of each input vector.
        out_features: size of each output vector.
        bias: whether to add a learned bias.
        structure: the class of matrices; the weight is a ``out_features x in_features`` member.
        device: where the numbers live.
        dtype: number type; the default dtype of torch if not given.

    Attributes:
        matrix: the structured matrix, of shape ``(out_features, in_features)``.
        bias: the bias, or None; real pairs if the matrix is complex.

    Shape:
        Input ``(*, in_features)``, output ``(*, out_features)``.

    Raises:
        ArgumentError: if no matrix of that shape has the structure.
        DtypeError: if ``structure`` is not a ``Structure``.

    Example:
        >>> import torch, kmatrix as km
        >>> layer = km.nn.Linear(256, 1024, structure=km.Monarch(nblocks=4))
        >>> layer(torch.randn(32, 256)).shape, layer.matrix.num_params
        (torch.Size([32, 1024]), 81920)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        structure: Structure,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        n = check_size("Linear", "in_features", in_features)
        m = check_size("Linear", "out_features", out_features)
        dtype = check_dtype("Linear", dtype or torch.get_default_dtype())
        matrix = checked_structure("Linear", structure).empty(m, n, dtype=dtype, device=device)
        super().__init__(matrix, empty_bias(m, bias, dtype, device))
        self.reset_parameters()

    @classmethod
    def from_matrix(cls, matrix: StructuredMatrix, bias: Tensor | None = None) -> Linear:
        """A layer of a matrix that there is, shared and not copied.

        Args:
            matrix: the structured matrix, of shape ``(out_features, in_features)``.
            bias: one number for each row, or None; a parameter is shared, a tensor is copied.

        Raises:
            ArgumentError: if the bias does not have one number for each row.
            DtypeError: if ``matrix`` is no structured matrix, or the bias has another dtype.
        """
        checked_matrix("Linear.from_matrix", matrix)
        layer = cls.__new__(cls)
        MatrixLayer.__init__(layer, matrix, given_bias("Linear.from_matrix", bias, matrix))
        return layer

    @classmethod
    def from_linear(cls, dense: nn.Linear, structure: Structure, **options: Any) -> Linear:
        """The layer of that structure nearest to a trained dense one, in the Frobenius norm of the weight.

        Args:
            dense: the trained layer; its bias is shared.
            structure: the class of matrices to fit.
            options: ``seed``, ``tol`` and ``max_seconds`` of ``km.fit``.

        Raises:
            ArgumentError: if no matrix of that shape has the structure, or the weight is not finite.
        """
        matrix = fitted("Linear.from_linear", dense.weight, structure, options)
        layer = cls.from_matrix(matrix, dense.bias)
        matrix.requires_grad_(dense.weight.requires_grad)
        return layer.train(dense.training)

    @property
    def in_features(self) -> int:
        """Size of each input vector."""
        return self.matrix.shape[1]

    @property
    def out_features(self) -> int:
        """Size of each output vector."""
        return self.matrix.shape[0]

    @property
    def weight(self) -> Tensor:
        """The dense ``(out_features, in_features)`` weight, computed anew each time it is read; differentiable."""
        return self.matrix.to_dense()

    def extra_repr(self) -> str:
        features = f"in_features={self.in_features}, out_features={self.out_features}"
        remark = size_remark(self.matrix, self.in_features * self.out_features)
        return f"{features}, bias={self.bias is not None}{remark}"
