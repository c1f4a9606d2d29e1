"""What can be handed to ``fit``: tensors, numpy arrays, files, and operators known only by their action.

Everything becomes a ``Target``: the dense entries in double precision, and what is needed to answer in kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kmatrix._checks import DTYPES
from kmatrix._errors import ArgumentError, DtypeError, FileFormatError, KMatrixError, complaint
from kmatrix.structures import StructuredMatrix

# 2**27 numbers are 1 GiB in float64: an operator or file above this is refused before anything is allocated.
MAX_NUMBERS = 2**27
MATVEC_BLOCK = 256


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
        return _from_file(Path(target), name)
    if name is not None:
        way_out = "leave name out, or pass the path of a file"
        raise ArgumentError(complaint("fit", "name", repr(name), "only files hold named arrays", way_out))
    if isinstance(target, Tensor):
        return _from_tensor(target.detach(), "tensor")
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


def _check_matrix(shape: tuple[int, ...], source: str) -> None:
    if len(shape) != 2 or 0 in shape:
        way_out = "pass a matrix with at least one row and one column"
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
    _check_matrix(tuple(tensor.shape), source)
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
    _check_matrix(array.shape, source)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return _from_tensor(torch.from_numpy(native), source)


def _from_operator(operator: Any) -> Target:
    """Learn the entries of an operator from its products with the unit vectors, a block at a time."""
    m, n = operator.shape
    _check_matrix((m, n), "operator")
    dtype = np.dtype(operator.dtype if operator.dtype is not None else np.float64)
    if dtype.kind not in "fc":
        dtype = np.dtype(np.float64)
    dense = np.empty((m, n), dtype=np.complex128 if dtype.kind == "c" else np.float64)
    for start in range(0, n, MATVEC_BLOCK):
        stop = min(start + MATVEC_BLOCK, n)
        block = np.zeros((n, stop - start), dtype=dtype)
        block[np.arange(start, stop), np.arange(stop - start)] = 1
        dense[:, start:stop] = operator.matmat(block)
    read = _from_array(dense, "operator")
    return Target(read.dense, torch.from_numpy(np.empty(0, dtype=dtype)).dtype, "operator", matvecs=n)


def _from_file(path: Path, name: str | None) -> Target:
    readers: dict[str, Callable[[Path, str | None], npt.NDArray[Any] | Tensor]]
    readers = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        way_out = "save it as .npy, .npz or .safetensors"
        raise FileFormatError(complaint("fit", "target", path, f"unknown suffix {path.suffix!r}", way_out))
    if not path.is_file():
        raise ArgumentError(complaint("fit", "target", path, "no such file", "check the path"))
    try:
        found = readers[path.suffix](path, name)
    except KMatrixError:
        raise
    except Exception as error:  # numpy, zipfile and tokenize raise almost anything on a damaged file
        reason = f"cannot be read: {error}"
        raise FileFormatError(complaint("fit", "target", path, reason, "save the matrix again")) from error
    read = _from_array(found, path.name) if isinstance(found, np.ndarray) else _from_tensor(found, path.name)
    return Target(read.dense, read.dtype, str(path))


def _read_npy(path: Path, name: str | None) -> npt.NDArray[Any]:
    if name is not None:
        raise ArgumentError(
            complaint("fit", "name", repr(name), "a .npy file holds one array", "leave name out")
        )
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            reason = "not an .npy file"
            raise FileFormatError(complaint("fit", "target", path, reason, "save it with numpy.save"))
    # Mapping reads the header alone, so that a hostile shape is seen before memory is spent.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    _check_matrix(array.shape, path.name)
    return np.array(array)


def _choose(path: Path, names: list[str], name: str | None) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        shown = ", ".join(sorted(names)[:8]) or "none"
        raise ArgumentError(
            complaint("fit", "name", name, f"{path.name} holds: {shown}", "name one of these")
        )
    return name


def _read_npz(path: Path, name: str | None) -> npt.NDArray[Any]:
    from zipfile import BadZipFile, ZipFile

    try:
        with ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            chosen = _choose(path, list(members), name)
            # 16 bytes a number: the claim of the archive, checked before numpy believes it.
            if members[chosen].file_size > 16 * MAX_NUMBERS + 4096:
                raise ArgumentError(
                    complaint("fit", "target", path, f"{chosen} claims too many bytes", "fit it in blocks")
                )
        with np.load(path, allow_pickle=False) as archive_arrays:
            return np.asarray(archive_arrays[chosen])
    except BadZipFile as error:
        raise FileFormatError(
            complaint("fit", "target", path, f"not an .npz archive: {error}", "save it again")
        ) from error


def _read_safetensors(path: Path, name: str | None) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as archive:
            chosen = _choose(path, list(archive.keys()), name)
            _check_matrix(tuple(archive.get_slice(chosen).get_shape()), f"{path.name}[{chosen}]")
            tensor: Tensor = archive.get_tensor(chosen)
            return tensor
    except SafetensorError as error:
        raise FileFormatError(
            complaint("fit", "target", path, f"not a safetensors file: {error}", "save it again")
        ) from error
