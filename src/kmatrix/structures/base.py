"""What a structured matrix is; with ``Structure``, the two abstract classes every family implements.

A ``Structure`` names a class of matrices and holds no numbers; a ``StructuredMatrix`` holds the numbers of
one member and behaves as a linear operator. A new family implements the abstract methods of both and inherits
the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kmatrix._checks import COMPLEX_OF, HALF_DTYPES, check_last_dim
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.ops.ends import SingleChain
from kmatrix.structures._operands import as_array, fixed_number, times_array
from kmatrix.structures.pairs import empty_parameter as empty_parameter
from kmatrix.structures.pairs import fill_normal as fill_normal
from kmatrix.structures.pairs import from_pairs as from_pairs
from kmatrix.structures.pairs import in_order
from kmatrix.structures.pairs import stored_dtype as stored_dtype
from kmatrix.structures.pairs import to_pairs as to_pairs
from kmatrix.structures.structure import Structure as Structure

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

M = TypeVar("M", bound="StructuredMatrix")


def plus(y: Tensor, bias: Tensor) -> Tensor:
    """Products with a bias, which autocast may have left in another precision than theirs."""
    return y + (bias if bias.is_complex() != y.is_complex() else bias.to(y.dtype))


_PRODUCTS = (Tensor.__matmul__, Tensor.matmul, torch.matmul)


class StructuredMatrix(nn.Module, ABC):
    """One ``m x n`` matrix of a given structure: an ``nn.Module`` that behaves as a linear operator.

    Complex numbers are stored as trailing real pairs, so that ``.double()``, optimisers and DDP treat them as
    they treat every other parameter.

    Attributes:
        structure: the class of matrices this one belongs to.
        shape: ``(m, n)``, outputs first, as ``nn.Linear.weight`` has it.
    """

    structure: Structure
    shape: tuple[int, int]

    # Without this numpy would take ``scalar * A`` and ``array @ A`` apart entry by entry.
    __array_ufunc__ = None

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer ``x @ A`` at once: wording the error that brings it to us takes torch longer than a small product."""
        if func in _PRODUCTS and not kwargs and len(args) == 2:
            left, right = args
            return left @ right if isinstance(left, StructuredMatrix) else right.__rmatmul__(left)
        return NotImplemented

    def __init__(self, structure: Structure, shape: tuple[int, int]) -> None:
        super().__init__()
        self.structure = structure
        self.shape = shape

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor: ...

    @abstractmethod
    def _matmul(self, x: Tensor) -> Tensor:
        """Multiply along the last axis, ``(*, n) -> (*, m)``; ``x`` has been checked and promoted."""

    @abstractmethod
    def _rmatmul(self, x: Tensor) -> Tensor:
        """Multiply by the plain transpose along the last axis, ``(*, m) -> (*, n)``."""

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Redraw the numbers at the initialisation recommended for training."""

    def check_state(self) -> None:
        """Raise ``ArgumentError`` if a buffer holds what no member has (an index out of range); after loading."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Number type of the matrix (complex if its numbers are)."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the numbers live."""

    @property
    def num_params(self) -> int:
        """How many numbers the matrix holds; a complex number counts as one."""
        return self.structure.num_params(*self.shape)

    @property
    def flops(self) -> int:
        """Operations to multiply one vector; a multiply and an add are two."""
        return self.structure.flops(*self.shape)

    def _affine(self, x: Tensor, bias: Tensor) -> Tensor:
        """``_matmul(x) + bias``, in one pass where the family has one."""
        return plus(self._matmul(x), bias)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply the last axis of ``x`` and add a bias: ``(*, n) -> (*, m)``, as layers do.

        A real matrix takes complex input and a complex matrix takes real input; precisions do not mix.

        Raises:
            ArgumentError: if the last dimension of ``x`` is not ``n``.
            DtypeError: if ``x`` is no tensor, or has another precision than the matrix.
        """
        if bias is None:
            return self._promoted(self._matmul, x, self.shape[1])
        check_last_dim(type(self.structure).__name__, x, self.shape[1])
        if x.dtype == self.dtype:
            return self._affine(x, bias)
        return plus(self._promoted(self._matmul, x, self.shape[1]), bias)

    def rforward(self, x: Tensor) -> Tensor:
        """Multiply the last axis of ``x`` by the plain transpose: ``(*, m) -> (*, n)``, as ``forward``."""
        return self._promoted(self._rmatmul, x, self.shape[0])

    def _promoted(self, multiply: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
        name = type(self.structure).__name__
        check_last_dim(name, x, size)
        dtype = self.dtype
        if x.dtype == dtype:
            return multiply(x)
        # The meta device has no autocast to ask about.
        autocast = not x.is_meta and torch.is_autocast_enabled(x.device.type)
        if x.is_complex() and COMPLEX_OF.get(dtype) == x.dtype:
            if not autocast:
                return torch.complex(multiply(x.real), multiply(x.imag))
            with torch.autocast(x.device.type, enabled=False):  # halves have no complex numbers
                return torch.complex(multiply(x.real), multiply(x.imag))
        if COMPLEX_OF.get(x.dtype) == dtype:
            return multiply(x.to(dtype))
        if autocast and x.dtype in (*HALF_DTYPES, torch.float32):
            if dtype in (*HALF_DTYPES, torch.float32):
                return multiply(x)
            if dtype == torch.complex64:
                return multiply(x.to(dtype))
        way_out = f"convert one of them, for example x.to({dtype})"
        raise DtypeError(complaint(name, "x.dtype", x.dtype, f"the matrix holds {dtype}", way_out))

    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: StructuredMatrix) -> StructuredMatrix: ...
    @overload
    def __matmul__(self, other: npt.NDArray[Any]) -> npt.NDArray[Any]: ...
    def __matmul__(self, other: object) -> object:
        """Matrix product: ``A @ x`` with ``x`` of shape ``(n,)`` or ``(*, n, k)``, or ``A @ B``.

        A numpy array gives a numpy array (without gradients); a structured matrix gives their lazy product.
        In code for ``torch.compile`` write ``A(x)``: it does not trace operators of modules.
        """
        if isinstance(other, StructuredMatrix):
            from kmatrix.structures.compose import product

            return product(self, other)
        if isinstance(other, np.ndarray):
            return times_array("A @ x", self.__matmul__, self.dtype, self.device, other)
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim == 1:
            return self(other)
        if other.ndim == 0:
            reason = "a scalar is not a vector"
            raise ArgumentError(complaint("A @ x", "x.ndim", 0, reason, "scale with c * A instead"))
        return self(other.mT).mT

    @overload
    def __rmatmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __rmatmul__(self, other: npt.NDArray[Any]) -> npt.NDArray[Any]: ...
    def __rmatmul__(self, other: object) -> object:
        """Matrix product with a tensor or numpy array on the left: ``x @ A``, ``(*, m) -> (*, n)``."""
        if isinstance(other, np.ndarray):
            return times_array("x @ A", self.__rmatmul__, self.dtype, self.device, other)
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim == 0:
            reason = "a scalar is not a vector"
            raise ArgumentError(complaint("x @ A", "x.ndim", 0, reason, "scale with c * A instead"))
        return self.rforward(other)

    @property
    def T(self) -> StructuredMatrix:
        """The transpose, sharing this matrix's numbers."""
        from kmatrix.structures.compose import transpose

        return transpose(self, conjugate=False)

    @property
    def H(self) -> StructuredMatrix:
        """The conjugate transpose (adjoint), sharing this matrix's numbers."""
        from kmatrix.structures.compose import transpose

        return transpose(self, conjugate=True)

    def __add__(self, other: StructuredMatrix) -> StructuredMatrix:
        from kmatrix.structures.compose import sum_of

        if not isinstance(other, StructuredMatrix):
            return NotImplemented
        return sum_of(self, other)

    def __radd__(self, other: int) -> StructuredMatrix:
        # What ``sum([A, B, C])`` starts from.
        return self if type(other) is int and other == 0 else NotImplemented

    def __mul__(self, scalar: complex | Tensor) -> StructuredMatrix:
        """The multiple ``scalar * A`` by a fixed number, which a tensor or array without axes may hold.

        Raises:
            ArgumentError: if the scalar is not finite, complex for a real matrix, or a tensor whose gradients are
                recorded.
        """
        from kmatrix.structures.compose import scaled

        number = fixed_number("c * A", scalar)
        return NotImplemented if number is None else scaled(self, number)

    __rmul__ = __mul__

    def __truediv__(self, scalar: complex | Tensor) -> StructuredMatrix:
        """The multiple ``1 / scalar * A``, as ``scalar * A``."""
        number = fixed_number("A / c", scalar)
        if number is None:
            return NotImplemented
        if number == 0:
            raise ArgumentError(complaint("A / c", "c", scalar, "division by zero", "use another number"))
        return self * (1 / number)

    def __neg__(self) -> StructuredMatrix:
        return self * -1.0

    def __sub__(self, other: StructuredMatrix) -> StructuredMatrix:
        if not isinstance(other, StructuredMatrix):
            return NotImplemented
        return self + (-other)

    def single_chain(self, where: str = "single_chain") -> SingleChain:
        """The matrix as one chain, ``A x = (F_k ... F_1 x[gather])[take]``, for ``km.ops.prepare`` and ``km.ops.tune``.

        Chains have it unless something is permuted between their factors, and so have their transposes and multiples,
        and products where chain meets chain.

        Args:
            where: who asks, for the words of the complaint.

        Raises:
            ArgumentError: if it is not one chain.
        """
        from kmatrix.structures.single_chain import single_chain

        return single_chain(where, self)

    def to_dense(self) -> Tensor:
        """The matrix as an ordinary ``(m, n)`` tensor; differentiable."""
        eye = torch.eye(self.shape[1], dtype=self.dtype, device=self.device)
        return self(eye).mT.contiguous()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """The dense entries for ``np.asarray(A)``, without gradients; float32 where the matrix holds bfloat16."""
        return as_array(self.to_dense(), dtype, copy)

    def aslinearoperator(self) -> LinearOperator:
        """The matrix as a ``scipy.sparse.linalg.LinearOperator`` (numpy in, numpy out)."""
        from scipy.sparse.linalg import LinearOperator

        adjoint = self.H
        # numpy has no bfloat16, and half precision is no type to iterate in.
        dtype = torch.empty(0, dtype=torch.float32 if self.dtype in HALF_DTYPES else self.dtype).numpy().dtype
        return LinearOperator(
            dtype=dtype,
            shape=self.shape,
            matvec=lambda x: self @ np.asarray(x).reshape(-1),
            rmatvec=lambda x: adjoint @ np.asarray(x).reshape(-1),
            matmat=lambda x: self @ x,
            rmatmat=lambda x: adjoint @ x,
        )

    def to(self: M, *args: Any, **kwargs: Any) -> M:
        """Move or convert the numbers, as ``nn.Module.to`` does; a complex dtype names that of complex matrices.

        Raises:
            DtypeError: if a real matrix is asked to become complex.
        """
        args = tuple(self._part_of(argument) for argument in args)
        kwargs = {name: self._part_of(argument) for name, argument in kwargs.items()}
        return super().to(*args, **kwargs)

    def _part_of(self, argument: Any) -> Any:
        """An argument of ``to`` in terms of the stored numbers."""
        if isinstance(argument, Tensor):
            return torch.empty(0, dtype=self._part_dtype(argument.dtype), device=argument.device)
        return self._part_dtype(argument) if isinstance(argument, torch.dtype) else argument

    def _apply(self: M, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> M:
        # ``model.to(torch.complex64)`` would turn the real pairs themselves into complex numbers.
        def apply(stored: Tensor) -> Tensor:
            changed = in_order(fn, stored)
            if changed.is_complex() and not stored.is_complex():
                return stored.to(changed.device, self._part_dtype(changed.dtype))
            return changed

        applied: M = super()._apply(apply, recurse)  # type: ignore[no-untyped-call]
        return applied

    def _part_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype that the stored numbers take when the matrix is converted to ``dtype``."""
        if not dtype.is_complex:
            return dtype
        if not self.dtype.is_complex:
            name = type(self.structure).__name__
            way_out = "multiply complex vectors as it is, or make a complex member"
            raise DtypeError(complaint(name, "dtype", dtype, f"the matrix is real, {self.dtype}", way_out))
        return dtype.to_real()

    def extra_repr(self) -> str:
        m, n = self.shape
        return f"{self.structure}, shape=({m}, {n}), num_params={self.num_params}, dtype={self.dtype}"
