"""What can be handed to ``fit``: tensors, numpy arrays, files, and operators known only by their action.

Everything becomes a ``Target``: the dense entries in double precision, and what is needed to answer in kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kmatrix._checks import DTYPES
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.fitting.files import MAX_NUMBERS as MAX_NUMBERS
from kmatrix.fitting.files import read_file
from kmatrix.structures import StructuredMatrix

MATVEC_BLOCK = 256
CHECKS = 2


@dataclass(frozen=True)
class Target:
    """A matrix to fit.

    Attributes:
        dense: its entries, float64 or complex128, on the CPU.
        dtype: the number type it came in, which the result will have.
        source: what it was, for messages and reports.
        matvecs: how many products were spent to learn the entries (0 if they were given).
    """

    dense: Tensor
    dtype: torch.dtype
    source: str
    matvecs: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return (self.dense.shape[0], self.dense.shape[1])


def as_target(target: object, *, name: str | None = None) -> Target:
    """Read whatever the user handed to ``fit``.

    Args:
        target: a 2-D tensor or numpy array of floating or complex numbers, a path to a ``.npy``, ``.npz`` or
            ``.safetensors`` file, or a ``scipy.sparse.linalg.LinearOperator``.
        name: which array of a file with several.

    Raises:
        ArgumentError: if it is not a matrix, is empty, or holds NaN or infinity.
        DtypeError: if its numbers are not floating or complex.
        FileFormatError: if a file cannot be read as what its suffix says.
    """
    if isinstance(target, str | Path):
        found = read_file(Path(target), name, check_matrix)
        source = Path(target).name
        read = _from_array(found, source) if isinstance(found, np.ndarray) else _from_tensor(found, source)
        return Target(read.dense, read.dtype, str(target))
    if name is not None:
        way_out = "leave name out, or pass the path of a file"
        raise ArgumentError(complaint("fit", "name", repr(name), "only files hold named arrays", way_out))
    if isinstance(target, Tensor):
        return _from_tensor(target.detach(), "tensor")
    if isinstance(target, np.ma.MaskedArray):
        way_out = "fill them first, for example W.filled(0)"
        raise DtypeError(complaint("fit", "target", "MaskedArray", "masked entries have no value", way_out))
    if isinstance(target, np.ndarray):
        return _from_array(target, "array")
    if isinstance(target, StructuredMatrix):
        return _from_tensor(target.to_dense().detach(), type(target).__name__)
    from scipy.sparse import issparse
    from scipy.sparse.linalg import LinearOperator

    if issparse(target):
        return _from_array(target.toarray(), "sparse matrix")  # type: ignore[attr-defined]
    if isinstance(target, LinearOperator):
        return _from_operator(target)
    way_out = "pass a tensor, a numpy array, a file name or a scipy LinearOperator"
    raise DtypeError(complaint("fit", "target", type(target).__name__, "not a matrix", way_out))


def check_matrix(shape: tuple[int, ...], source: str) -> None:
    """Raise unless this is the shape of a matrix of a size that can be fitted."""
    way_out = "pass a matrix with at least one row and one column"
    if len(shape) != 2:
        reason = f"{len(shape)} dimension{'' if len(shape) == 1 else 's'}, needs 2"
        raise ArgumentError(complaint("fit", f"{source}.shape", shape, reason, way_out))
    if 0 in shape:
        raise ArgumentError(complaint("fit", f"{source}.shape", shape, "not a non-empty matrix", way_out))
    if shape[0] * shape[1] > MAX_NUMBERS:
        reason = f"more than {MAX_NUMBERS} entries"
        raise ArgumentError(complaint("fit", f"{source}.shape", shape, reason, "fit it in blocks"))


def _from_tensor(tensor: Tensor, source: str) -> Target:
    if tensor.dtype not in DTYPES:
        way_out = "convert it first, for example W.to(torch.float64)"
        raise DtypeError(
            complaint("fit", f"{source}.dtype", tensor.dtype, "not floating or complex", way_out)
        )
    check_matrix(tuple(tensor.shape), source)
    if tensor.is_meta:
        raise ArgumentError(
            complaint("fit", f"{source}.device", "meta", "it holds no numbers", "load them first")
        )
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    dense = tensor.resolve_conj().resolve_neg().to("cpu", wide).contiguous()
    finite = torch.isfinite(dense)
    if not bool(finite.all()):
        bad = dense.numel() - int(finite.sum())
        reason = f"{bad} of {dense.numel()} entries are NaN or infinite"
        raise ArgumentError(
            complaint("fit", source, tuple(tensor.shape), reason, "remove or fill them first")
        )
    return Target(dense, tensor.dtype, source)


def _from_array(array: npt.NDArray[Any], source: str) -> Target:
    if array.dtype.kind not in "fc":
        way_out = "convert it first, for example W.astype(np.float64)"
        raise DtypeError(complaint("fit", f"{source}.dtype", array.dtype, "not floating or complex", way_out))
    if array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
        array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    check_matrix(array.shape, source)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if (
        not native.flags.writeable
    ):  # as of np.load(..., mmap_mode="r"); torch knows no tensors to be read alone
        native = native.copy()
    return _from_tensor(torch.from_numpy(native), source)


def _from_operator(operator: Any) -> Target:
    """Learn the entries of an operator from its products with the unit vectors, a block at a time."""
    m, n = operator.shape
    check_matrix((m, n), "operator")
    dtype = np.dtype(operator.dtype if operator.dtype is not None else np.float64)
    if dtype.kind not in "fc":
        dtype = np.dtype(np.float64)
    dense = np.empty((m, n), dtype=np.complex128 if dtype.kind == "c" else np.float64)
    for start in range(0, n, MATVEC_BLOCK):
        stop = min(start + MATVEC_BLOCK, n)
        block = np.zeros((n, stop - start), dtype=dtype)
        block[np.arange(start, stop), np.arange(stop - start)] = 1
        dense[:, start:stop] = _of_declared_kind(operator.matmat(block), dtype)
    read = _from_array(dense, "operator")
    _check_linear(operator, dense, dtype)
    return Target(read.dense, torch.from_numpy(np.empty(0, dtype=dtype)).dtype, "operator", matvecs=n)


def _of_declared_kind(products: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Products as they are, or an error where storing them as numbers of ``dtype`` would lose imaginary parts."""
    products = np.asarray(products)
    if products.dtype.kind == "c" and dtype.kind != "c":
        way_out = "declare the operator with dtype=np.complex128, or return the real part"
        raise DtypeError(complaint("fit", "operator.dtype", dtype, "its products are complex", way_out))
    return products


def _check_linear(operator: Any, dense: npt.NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Compare products with random vectors, one alone and a block, with those of the entries that were learnt.

    The entries say nothing of an operator that is not linear, nor of one whose ``matvec`` treats the ``(n, 1)``
    columns that scipy passes unlike vectors.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((dense.shape[1], CHECKS + 1))
    if dtype.kind == "c":
        x = x + 1j * rng.standard_normal(x.shape)
    x = x.astype(dtype)
    # Products with the entries must stay within the number range, and so must their squares.
    scale = 2.0 ** max(0, math.frexp(max(np.abs(dense.real).max(), np.abs(dense.imag).max()))[1] - 500)
    dense = dense / scale
    one = _of_declared_kind(operator.matvec(x[:, 0] / scale), dtype)
    block = _of_declared_kind(operator.matmat(x[:, 1:] / scale), dtype)
    # As large as the products are on average. Iterative solvers may be good to half the digits only.
    allowed = math.sqrt(float(np.finfo(dtype).eps)) * float(np.linalg.norm(dense)) * math.sqrt(x.shape[1])
    gaps = np.linalg.norm(np.column_stack([one, block]) - dense @ x, axis=0)
    if not (gaps <= allowed).all():
        worst = float(gaps.max() / (np.linalg.norm(dense) or 1.0))
        reason = f"its products are not those of a linear operator, they differ by {worst:.1e}"
        way_out = "check that matvec is linear, without offset, and takes (n,) and (n, 1) alike"
        raise ArgumentError(complaint("fit", "operator", tuple(operator.shape), reason, way_out))
