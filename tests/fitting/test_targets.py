"""What can be handed to ``fit``, and what is refused with a typed error before any work is done."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import kmatrix as km
from kmatrix.fitting.targets import MAX_NUMBERS, as_target

RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64])
def test_tensors_keep_their_dtype_and_widen_their_entries(dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(W).to(dtype)
    read = as_target(tensor)
    assert read.dtype == dtype
    assert read.dense.dtype == (torch.complex128 if dtype.is_complex else torch.float64)
    assert torch.equal(read.dense.to(dtype), tensor)


def test_lazy_conjugation_is_resolved() -> None:
    tensor = torch.complex(torch.from_numpy(W), torch.from_numpy(W) + 1)
    np.testing.assert_array_equal(as_target(tensor.conj()).dense.numpy(), W - 1j * (W + 1))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byteorder", ["<f8", ">f8"])
def test_arrays_of_any_layout(order: str, byteorder: str) -> None:
    array = np.asarray(W, order=order).astype(byteorder)  # type: ignore[call-overload]
    np.testing.assert_array_equal(as_target(array).dense.numpy(), W)
    np.testing.assert_array_equal(as_target(array[::-1, ::2]).dense.numpy(), W[::-1, ::2])


def test_operators_are_learnt_from_their_products() -> None:
    read = as_target(aslinearoperator(W + 1j))
    assert read.matvecs == 4
    np.testing.assert_allclose(read.dense.numpy(), W + 1j, rtol=1e-15)


def test_operators_with_only_a_matvec() -> None:
    operator = LinearOperator(W.shape, matvec=lambda x: W @ x.reshape(-1), dtype=np.float32)
    read = as_target(operator)
    assert read.dtype == torch.float32
    np.testing.assert_allclose(read.dense.numpy(), W, rtol=1e-6)


@pytest.mark.parametrize("value", [1e308, 1e308 - 1e308j])
def test_operators_near_the_largest_numbers(value: complex) -> None:
    dense = np.full((3, 4), value)
    np.testing.assert_array_equal(as_target(aslinearoperator(dense)).dense.numpy(), dense)


def test_structured_and_sparse_matrices_are_targets() -> None:
    matrix = km.Butterfly().random(6, 4, dtype=torch.float64)
    assert torch.equal(as_target(matrix).dense, matrix.to_dense().detach())
    np.testing.assert_array_equal(as_target(scipy.sparse.csr_array(W)).dense.numpy(), W)


def test_files(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", W)
    np.savez(tmp_path / "one.npz", W)
    np.savez(tmp_path / "two.npz", a=W, b=2 * W)
    save_file({"w": torch.from_numpy(W)}, str(tmp_path / "w.safetensors"))
    for path in ("w.npy", "one.npz", "w.safetensors"):
        np.testing.assert_array_equal(as_target(tmp_path / path).dense.numpy(), W)
    np.testing.assert_array_equal(as_target(str(tmp_path / "two.npz"), name="b").dense.numpy(), 2 * W)
    with pytest.raises(km.ArgumentError, match="a, b"):
        as_target(tmp_path / "two.npz")
    with pytest.raises(km.ArgumentError, match="name='a'"):
        as_target(tmp_path / "w.npy", name="a")


def test_arrays_that_are_only_read(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", W)
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dense = as_target(mapped).dense
    np.testing.assert_array_equal(dense.numpy(), W)


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (np.ones((3, 3), dtype=np.int64), km.DtypeError, "astype"),
        (torch.ones(3, 3, dtype=torch.int32), km.DtypeError, "int32"),
        (np.ones((3, 3), dtype=bool), km.DtypeError, "bool"),
        (np.array([["a"]]), km.DtypeError, "astype"),
        (np.array([[object()]]), km.DtypeError, "object"),
        ([[1.0, 2.0]], km.DtypeError, "list"),
        (None, km.DtypeError, "NoneType"),
        (np.ones(3), km.ArgumentError, "1 dimension, needs 2"),
        (np.ma.masked_array(W, W > 0), km.DtypeError, r"W\.filled\(0\)"),
        (np.ones((2, 2, 2)), km.ArgumentError, "3 dimensions, needs 2"),
        (np.ones((0, 3)), km.ArgumentError, "non-empty matrix"),
        (np.array([[1.0, np.nan]]), km.ArgumentError, "1 of 2 entries"),
        (np.array([[np.inf, np.nan]]), km.ArgumentError, "2 of 2 entries"),
        ("missing.npy", km.ArgumentError, "no such file"),
        ("matrix.pickle", km.FileFormatError, "unknown suffix"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(type(value).__name__),
)
def test_what_is_not_a_matrix_is_refused(bad: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        as_target(bad)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"PK\x03\x04rubbish", b"\xff" * 64], ids=["empty", "npy", "zip", "ff"]
)
def test_unreadable_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(km.FileFormatError, match="w"):
        as_target(path)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.array([[object()]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "w.npz", w=np.array([[object()]], dtype=object))
    for name in ("w.npy", "w.npz"):
        with pytest.raises(km.FileFormatError, match="holds pickled objects, which are never loaded"):
            as_target(tmp_path / name)


def test_a_file_holds_as_many_bytes_as_its_header_promises(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", W)
    whole = (tmp_path / "w.npy").read_bytes()
    for content, held in ((whole[:-8], 184), (whole + bytes(8), 200)):
        (tmp_path / "w.npy").write_bytes(content)
        with pytest.raises(km.FileFormatError, match=f"promises 192 bytes, the file holds {held}"):
            as_target(tmp_path / "w.npy")


def test_a_header_that_claims_too_much_is_refused_before_memory_is_spent(tmp_path: Path) -> None:
    path = tmp_path / "w.npy"
    side = int(MAX_NUMBERS**0.5) + 1
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({side}, {side}), }}"
    header = header.ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    with pytest.raises((km.ArgumentError, km.FileFormatError)):
        as_target(path)


def test_an_operator_too_large_to_learn_is_refused() -> None:
    operator = LinearOperator((2**15, 2**15), matvec=lambda x: x, dtype=np.float64)
    with pytest.raises(km.ArgumentError, match="fit it in blocks"):
        as_target(operator)


@pytest.mark.parametrize("matmat", [None, lambda x: (W + 0j) @ x], ids=["matvec alone", "matmat"])
def test_imaginary_parts_are_not_dropped(matmat: object) -> None:
    operator = LinearOperator(
        W.shape, matvec=lambda x: (W + 1j) @ x.reshape(-1), matmat=matmat, dtype=np.float64
    )
    with pytest.raises(km.DtypeError, match="its products are complex"):
        as_target(operator)


@pytest.mark.parametrize(
    ("shape", "matvec"),
    [
        ((6, 4), lambda x: W @ x.reshape(-1) + 1),
        ((6, 4), lambda x: np.abs(W @ x.reshape(-1))),
        # The transform of columns of length one is the column itself.
        ((8, 8), lambda x: np.fft.fft(x).real),
    ],
    ids=["offset", "absolute values", "wrong axis for columns"],
)
def test_what_is_not_linear_is_refused(shape: tuple[int, int], matvec: object) -> None:
    with pytest.raises(km.ArgumentError, match="not those of a linear operator"):
        as_target(LinearOperator(shape, matvec=matvec, dtype=np.float64))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex64])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_linear_operators_of_any_scale_are_taken(dtype: type, scale: float) -> None:
    dense = (RNG.standard_normal((300, 290)) * scale).astype(dtype)
    np.testing.assert_array_equal(as_target(aslinearoperator(dense)).dense.numpy(), dense)
