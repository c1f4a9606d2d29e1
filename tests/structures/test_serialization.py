"""Files: what comes back, what is refused, and that nothing but the typed error ever comes out."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from kmatrix import __version__
from kmatrix._errors import ArgumentError, DtypeError, FileFormatError
from kmatrix.structures import (
    AFDF,
    BPBP,
    OBB,
    Butterfly,
    ChainMatrix,
    Circulant,
    Dense,
    Diagonal,
    Fastfood,
    GroupShuffle,
    Kronecker,
    LowRank,
    Monarch,
    Permutation,
    PermutationMatrix,
    RealPart,
    Sparse,
    StructuredMatrix,
)
from kmatrix.structures._safetensors import pack
from kmatrix.structures.serialization import describe, load, save

f64 = torch.float64


def matrix(seed: int = 0) -> StructuredMatrix:
    """A product of everything a tree of structures can hold."""
    generator = torch.Generator().manual_seed(seed)
    real = Butterfly().random(6, 5, dtype=f64, generator=generator)
    part = RealPart(BPBP(depth=1)).random(6, 5, dtype=f64, generator=generator)
    permutation = Permutation().random(6, 6, dtype=f64, generator=generator)
    return 0.5 * (permutation @ real + part) @ Sparse(nnz=7).random(5, 4, dtype=f64, generator=generator)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "A.safetensors"


@pytest.mark.parametrize(
    "A",
    [
        matrix(),
        Kronecker().random(5, 4, dtype=torch.bfloat16),
        OBB(unitary=True).random(6, 6, dtype=torch.complex64),
        AFDF().random(4, 3, dtype=torch.complex128) @ Dense().random(3, 7, dtype=f64),
        (1 - 2j) * Butterfly().random(4, 4, dtype=torch.complex64).T.H,
        LowRank(1).random(3, 4, dtype=torch.float16),
        PermutationMatrix.from_index(np.array([2, 0, 1]), dtype=torch.complex64),
        Monarch(nblocks=2).random(4, 4).H @ Circulant().random(4, 4) - Fastfood().random(4, 4),
        Dense().random(3, 3) @ (Dense().random(3, 3) + Dense().random(3, 3).T) @ Diagonal().random(3, 3),
    ],
    ids=lambda A: type(A.structure).__name__,
)
def test_trees_of_any_dtypes_come_back(A: StructuredMatrix, path: Path) -> None:
    save(A, path)
    B = load(path)
    assert [type(part) for part in B.modules()] == [type(part) for part in A.modules()]
    assert (B.structure, B.shape, B.dtype) == (A.structure, A.shape, A.dtype)
    assert torch.equal(A.to_dense(), B.to_dense())
    assert all(stored.requires_grad for stored in B.parameters())


def test_numbers_come_back_bit_by_bit(path: Path) -> None:
    A = Dense().random(2, 3, dtype=f64)
    odd = torch.tensor([[float("nan"), float("inf"), -0.0], [5e-324, 1.0, -float("inf")]], dtype=f64)
    with torch.no_grad():
        A.get_parameter("factors.0").copy_(odd.reshape(1, 2, 3, 1))
    save(A, path)
    kept, loaded = (M.get_parameter("factors.0").view(torch.int64) for M in (A, load(path)))
    assert torch.equal(kept, loaded)


def test_permutations_that_were_given_come_back(path: Path) -> None:
    s = GroupShuffle(nblocks=2, shuffles=("given", "stride", "given"))
    weights = s.random(6, 4).weights
    given = [torch.randperm(4), torch.randperm(4), torch.randperm(6)]
    save(ChainMatrix.from_weights(s, (6, 4), weights, given), path)
    B = load(path)
    assert isinstance(B, ChainMatrix)
    assert all(torch.equal(B.permutation(k), index) for k, index in enumerate(given))


def test_other_programs_read_the_file(path: Path) -> None:
    A = matrix()
    save(A, path)
    tensors = safetensors.torch.load_file(path)
    assert set(tensors) == set(A.state_dict())
    assert all(torch.equal(tensors[name], value) for name, value in A.state_dict().items())
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["kmatrix"])["format_version"] == 1


def test_the_same_matrix_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    save(matrix(), first)
    save(matrix(), second)
    assert first.read_bytes() == second.read_bytes()


def test_format_one_stays_readable(path: Path) -> None:
    """A file as version 0.1 wrote it, byte by byte; a reader that refuses it breaks every file there is."""
    node = (
        '{"type":"Scaled","shape":[2,2],"dtype":"float32","scalar":[2.0,0.0],"of":'
        '{"type":"Butterfly","shape":[2,2],"dtype":"float32","fields":{"radices":null,"ranks":1}}}'
    )
    description = f'{{"format_version":1,"kmatrix_version":"0.1.0","matrix":{node}}}'
    tensor = '{"dtype":"F32","shape":[1,2,2,1],"data_offsets":[0,16]}'
    header = f'{{"__metadata__":{{"kmatrix":{json.dumps(description)}}},"base.factors.0":{tensor}}}'.encode()
    numbers = np.array([1, 2, 3, 4], dtype="<f4").tobytes()
    path.write_bytes(len(header).to_bytes(8, "little") + header + numbers)
    assert load(path).to_dense().tolist() == [[2.0, 4.0], [6.0, 8.0]]


def test_numbers_shared_by_parts_are_stored_for_each(path: Path) -> None:
    A = Dense().random(3, 3)
    gram = A.T @ A
    save(gram, path)
    assert torch.equal(load(path).to_dense(), gram.to_dense())


def test_load_puts_numbers_where_asked(path: Path) -> None:
    save(Butterfly().random(4, 4), path)
    assert load(path, device="meta").device.type == "meta"


def test_describe_reads_the_header_alone(path: Path) -> None:
    A = matrix()
    certificate = {
        "relative_error": 1e-7,
        "timings": ({"batch": 1, "seconds": np.float32(0.5)},),
        "n": np.int64(3),
    }
    save(A, path, certificate=certificate)
    size = path.stat().st_size
    found = describe(path)
    assert (found.shape, found.structure, found.dtype) == (A.shape, A.structure, A.dtype)
    assert (found.num_params, found.flops, found.file_bytes) == (A.num_params, A.flops, size)
    assert (found.format_version, found.kmatrix_version) == (1, __version__)
    assert found.certificate == {"relative_error": 1e-7, "timings": [{"batch": 1, "seconds": 0.5}], "n": 3}
    # Numbers it does not read may be anything: an index out of range is for load to find.
    content = path.read_bytes()
    index = A.state_dict()["parts.0.base.parts.0.parts.0.permutation_0"].numpy().tobytes()
    path.write_bytes(content.replace(index, (99).to_bytes(8, "little") * 6))
    assert path.read_bytes() != content
    assert describe(path).shape == A.shape
    with pytest.raises(FileFormatError, match="not a permutation"):
        load(path)


@pytest.mark.parametrize(
    ("certificate", "named"),
    [
        ({"a": float("nan")}, "certificate.a"),
        ({"a": [1, {"b": torch.ones(1)}]}, r"certificate.a\[1\].b"),
        ({1: 2}, "certificate"),
        ({"a": b"bytes"}, "certificate.a"),
        ([1, 2], "certificate"),
        ({"a": "x" * 2**20}, "certificate"),
    ],
    ids=["nan", "tensor", "key", "bytes", "list", "long"],
)
def test_certificates_are_plain_and_short(certificate: Any, named: str, path: Path) -> None:
    with pytest.raises(ArgumentError, match=named):
        save(Dense().random(2, 2), path, certificate=certificate)
    assert not path.exists()


def test_certificates_that_nest_without_end_are_refused(path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with pytest.raises(ArgumentError, match="not plain JSON"):
        save(Dense().random(2, 2), path, certificate=endless)


class ForeignMatrix(ChainMatrix):
    """A matrix that a user wrote."""


def test_matrices_that_users_wrote_are_refused_with_the_way_out(path: Path) -> None:
    s = Dense()
    with pytest.raises(ArgumentError, match=r"ForeignMatrix.*state_dict\(\)"):
        save(ForeignMatrix(s, (2, 2), s.layout(2, 2), dtype=f64), path)
    with pytest.raises(ArgumentError, match=r"Linear.*state_dict\(\)"):
        save(torch.nn.Linear(2, 2), path)  # type: ignore[arg-type]
    assert not path.exists()


def test_a_matrix_without_numbers_is_refused(path: Path) -> None:
    with pytest.raises(ArgumentError, match="meta device"):
        save(Butterfly().empty(4, 4, device="meta"), path)
    assert not path.exists()


def test_ranks_may_be_larger_than_what_is_stored(path: Path) -> None:
    A = Butterfly(ranks=1000).random(5, 5)
    save(A, path)
    assert load(path).structure == A.structure


def test_what_load_would_refuse_is_not_written(path: Path) -> None:
    A = Dense().random(2, 2)
    A.register_buffer("extra", torch.zeros(1))
    with pytest.raises(ArgumentError, match="extra"):
        save(A, path)
    deep: StructuredMatrix = Dense().random(2, 2)
    for _ in range(40):
        deep = (-deep).T
    with pytest.raises(ArgumentError, match="deep"):
        save(deep, path)
    assert not path.exists()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="No such file or directory"):
        save(Dense().random(2, 2), tmp_path / "missing" / "A.safetensors")
    with pytest.raises(ArgumentError, match="No such file or directory"):
        load(tmp_path / "missing.safetensors")
    with pytest.raises(ArgumentError, match="a folder; pass the file of a matrix"):
        load(tmp_path)


class FullDisk:
    """A file on a disk that has no room for its second half."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, content: bytes) -> int:
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def _no_room(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full(patch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def opened(path: Path, mode: str = "r", **options: Any) -> Any:
        file = real(path, mode, **options)
        return FullDisk(file) if mode == "xb" else file

    patch.setattr("kmatrix._files.Path.open", opened)


@pytest.mark.parametrize(
    "break_disk",
    [
        _full,
        lambda patch: patch.setattr("kmatrix._files.os.fsync", _no_room),
        lambda patch: patch.setattr("kmatrix._files.Path.replace", _no_room),
    ],
    ids=["write", "fsync", "rename"],
)
def test_a_full_disk_leaves_the_old_file(
    break_disk: Callable[[pytest.MonkeyPatch], None], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(Dense().random(2, 2), path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        break_disk(patch)
        with pytest.raises(ArgumentError, match="No space left on device"):
            save(matrix(), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_unknown_number_types_are_not_packed() -> None:
    with pytest.raises(ValueError, match="complex128"):
        pack({"x": torch.zeros(2, dtype=torch.complex128)}, {})


@pytest.mark.parametrize("name", [None, 3, b"A.safetensors", ["A.safetensors"]])
def test_what_names_no_file_is_refused(name: Any) -> None:
    for use in (load, describe, lambda at: save(matrix(), at)):
        with pytest.raises(DtypeError, match=r"path=.*pathlib\.Path"):
            use(name)
