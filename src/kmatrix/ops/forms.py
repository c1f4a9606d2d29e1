"""The forms in which one factor is applied with stock torch kernels; ``schedule`` picks among them.

Vectors come as rows ``(N, n)`` or as columns ``(p, q, r, N)`` with ``p*q*r = n``, possibly strided: two axes
mean rows. Each form turns vectors into the operand it multiplies, multiplies it, and knows the gradient of
its weight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from kmatrix.ops.definition import Pattern
from kmatrix.ops.schedule import FEW_TERMS, FormName

_FEW_COLUMNS = 16  # below, a matrix product is faster with the vectors on the left


def as_rows(h: Tensor) -> Tensor:
    """The vectors as rows; contiguous if they came as columns."""
    return h if h.ndim == 2 else h.reshape(-1, h.shape[-1]).t().contiguous()


def _swapped(shape: torch.Size) -> torch.Size:
    return torch.Size((shape[0], shape[2], shape[1], shape[3]))


class Form(ABC):
    """One factor, its weight packed for one way of applying it."""

    def __init__(self, packed: Tensor, pattern: Pattern, shape: torch.Size) -> None:
        self.packed = packed
        self.pattern = pattern
        self.shape = shape  # of the weight that was packed

    @classmethod
    @abstractmethod
    def of(cls, weight: Tensor, pattern: Pattern) -> Form:
        """Pack a weight of shape (a, b, c, d), of size 1 where it is tied."""

    @abstractmethod
    def operand(self, h: Tensor) -> Tensor:
        """The vectors in the shape and layout that this form multiplies."""

    @abstractmethod
    def apply(self, operand: Tensor) -> Tensor:
        """Multiply by the factor; returns rows or columns."""

    @abstractmethod
    def gradient(self, grad: Tensor, operand: Tensor) -> Tensor:
        """Gradient of the packed weight, from the operands that the adjoint and this form made."""

    @abstractmethod
    def unpack(self, gradient: Tensor) -> Tensor:
        """A gradient of the packed weight as one of the weight that was packed."""

    def adjoint(self) -> Form:
        """The conjugate transpose, in the same form."""
        return type(self)(self.packed.mH.resolve_conj(), self.pattern.transposed, _swapped(self.shape))


class Gemm(Form):
    """One matrix for all groups, ``d == 1``: a plain matrix product on rows."""

    @classmethod
    def of(cls, weight: Tensor, pattern: Pattern) -> Form:
        return cls(weight[0, :, :, 0], pattern, weight.shape)

    def operand(self, h: Tensor) -> Tensor:
        rows = as_rows(h)
        return rows.reshape(rows.shape[0] * self.pattern.a, self.pattern.c)

    def apply(self, operand: Tensor) -> Tensor:
        return F.linear(operand, self.packed).view(-1, self.pattern.rows)

    def gradient(self, grad: Tensor, operand: Tensor) -> Tensor:
        return grad.t() @ operand.conj()

    def unpack(self, gradient: Tensor) -> Tensor:
        return gradient.view(self.shape)


class Kron(Form):
    """One matrix for all groups and diagonals: a matrix product on each group of rows."""

    @classmethod
    def of(cls, weight: Tensor, pattern: Pattern) -> Form:
        return cls(weight[0, :, :, 0], pattern, weight.shape)

    def operand(self, h: Tensor) -> Tensor:
        rows = as_rows(h)
        return rows.reshape(rows.shape[0] * self.pattern.a, self.pattern.c, self.pattern.d)

    def apply(self, operand: Tensor) -> Tensor:
        product = torch.bmm(self.packed.expand(operand.shape[0], -1, -1), operand)
        return product.view(-1, self.pattern.rows)

    def gradient(self, grad: Tensor, operand: Tensor) -> Tensor:
        return torch.einsum("nbd,ncd->bc", grad, operand.conj())

    def unpack(self, gradient: Tensor) -> Tensor:
        return gradient.view(self.shape)


class Sum(Form):
    """Elementwise products and sums on rows: no arithmetic is saved or wasted, and nothing is moved."""

    @classmethod
    def of(cls, weight: Tensor, pattern: Pattern) -> Form:
        return cls(weight, pattern, weight.shape)

    def adjoint(self) -> Form:
        return type(self)(
            self.packed.transpose(1, 2).conj().resolve_conj(), self.pattern.transposed, self.shape
        )

    def operand(self, h: Tensor) -> Tensor:
        rows = as_rows(h)
        return rows.reshape(rows.shape[0], self.pattern.a, self.pattern.c, self.pattern.d)

    def apply(self, operand: Tensor) -> Tensor:
        if self.pattern.c > FEW_TERMS:
            y = (self.packed * operand.unsqueeze(2)).sum(3)
        else:
            first, *terms = zip(self.packed.unbind(2), operand.unsqueeze(2).unbind(3), strict=True)
            y = torch.mul(*first)
            for w, x in terms:
                y.addcmul_(w, x)
        return y.reshape(operand.shape[0], self.pattern.rows)

    def gradient(self, grad: Tensor, operand: Tensor) -> Tensor:
        if self.pattern.c > FEW_TERMS:
            return torch.einsum("nabd,nacd->abcd", grad, operand.conj())
        return torch.stack([(grad * x.unsqueeze(2)).sum(0) for x in operand.conj().unbind(2)], 2)

    def unpack(self, gradient: Tensor) -> Tensor:
        return gradient if gradient.shape == self.shape else gradient.sum_to_size(self.shape)


class Bmm(Form):
    """A batch of matrix products on columns, one for each group and diagonal.

    With a weight tied along ``d`` the diagonals join the vectors as columns of one matrix product for each
    group.
    """

    @classmethod
    def of(cls, weight: Tensor, pattern: Pattern) -> Form:
        a, b, c, _ = pattern
        d = weight.shape[3]
        packed = weight.permute(0, 3, 1, 2).contiguous().expand(a, d, b, c).reshape(a * d, b, c)
        return cls(packed, pattern, weight.shape)

    @property
    def joined(self) -> bool:
        """Whether the diagonals are columns."""
        return self.packed.shape[0] == self.pattern.a

    def operand(self, h: Tensor) -> Tensor:
        a, _, c, d = self.pattern
        if h.ndim == 2 and d == 1:
            return h.view(-1, a, c).permute(1, 2, 0)
        columns = h.t().contiguous() if h.ndim == 2 else h
        if self.joined:
            return columns.reshape(a, c, d * columns.shape[-1])
        return columns.reshape(a, c, d, -1).transpose(1, 2).reshape(a * d, c, -1)

    def apply(self, operand: Tensor) -> Tensor:
        a, b, _, d = self.pattern
        few = operand.shape[2] < _FEW_COLUMNS
        y = torch.bmm(operand.mT, self.packed.mT).mT if few else torch.bmm(self.packed, operand)
        return y.view(a, b, d, -1) if self.joined else y.view(a, d, b, -1).transpose(1, 2)

    def gradient(self, grad: Tensor, operand: Tensor) -> Tensor:
        return torch.bmm(grad, operand.mH)

    def unpack(self, gradient: Tensor) -> Tensor:
        a, b, c, d = self.pattern
        full = gradient.unsqueeze(3) if self.joined else gradient.view(a, d, b, c).permute(0, 2, 3, 1)
        return full if full.shape == self.shape else full.sum_to_size(self.shape)


FORMS: dict[FormName, type[Form]] = {"gemm": Gemm, "kron": Kron, "sum": Sum, "bmm": Bmm}
