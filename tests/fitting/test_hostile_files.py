"""Files with any bytes: ``fit`` either reads a matrix or complains in its own words, in bounded memory."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import kmatrix as km
from kmatrix.fitting.targets import as_target


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(12.0).reshape(3, 4))
    return stream.getvalue()


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, w=np.arange(12.0).reshape(3, 4))
    return stream.getvalue()


WHOLE = {".npy": _npy(), ".npz": _npz(), ".safetensors": save({"w": np.arange(12.0).reshape(3, 4)})}


def read(path: Path, content: bytes) -> None:
    """Read the file as a target; the library's own complaints are fine, anything else is not."""
    path.write_bytes(content)
    try:
        found = as_target(path)
    except km.KMatrixError as error:
        assert str(path) in str(error) or path.name in str(error)
    else:
        assert found.dense.numel() * 8 <= 64 * len(content) + 4096


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(suffix: str, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(WHOLE[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read(tmp_path / f"W{suffix}", bytes(content[: data.draw(st.integers(0, len(content)))]))
    read(tmp_path / f"W{suffix}", bytes(content))


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes(suffix: str, tmp_path: Path, content: bytes) -> None:
    read(tmp_path / f"W{suffix}", content)
    read(tmp_path / f"W{suffix}", WHOLE[suffix][:12] + content)


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    header = WHOLE[".npy"][:128].replace(b"(3, 4)", b"(9**9)")
    assert header != WHOLE[".npy"][:128]
    with zipfile.ZipFile(tmp_path / "W.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", header + bytes(1000))
    with pytest.raises(km.FileFormatError, match="cannot be read"):
        as_target(tmp_path / "W.npz")


def test_a_shape_beyond_the_limit_is_refused_before_memory_is_spent(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    )
    with (tmp_path / "W.npy").open("wb") as file:
        file.write(stream.getvalue())
        file.truncate(len(stream.getvalue()) + (1 << 43))  # a sparse file of 8 TiB: honest about its size
    with pytest.raises(km.ArgumentError, match="more than 134217728 entries"):
        as_target(tmp_path / "W.npy")
