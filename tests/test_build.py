"""The build: each set of kernels holds its own instructions and can be forced, and no compiler is no obstacle."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
VECTOR_BYTES = {"avx512": 64, "avx2": 32}
OTHERS = 16


def info_beside(package: str) -> dict[str, Any] | None:
    path = Path(str(resources.files(package))) / "_build_info.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_build_info_tells_the_truth() -> None:
    info = info_beside("kmatrix")
    if info is None:
        pytest.skip("installed by other means than the build")
    if info["native"]:
        from kmatrix import _native

        assert list(_native.compiled()) == info["instruction_sets"]
        assert re.match(r"(GNU|Clang|AppleClang) \d+\.", info["compiler"])
    else:
        assert info["reason"]
        with pytest.raises(ImportError):
            from kmatrix import _native


def test_the_source_archive_holds_what_a_build_needs_and_nothing_built(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("needs the source tree")
    code = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CMakeLists.txt", "LICENSE", "NOTICE"} <= names
    assert {f"cmake/{name}" for name in ("native.cmake", "probe.cpp", "sources.cpp.in")} <= names
    package = {"csrc/variant.cpp", "csrc/kmatrix.h", "csrc/bindings.cpp", "data/kemar_hrir.npz", "py.typed"}
    assert {f"src/kmatrix/{name}" for name in package} <= names
    built = re.compile(r"^(\.venv|build|dist)/|\.(so|o|a|pyc)$|_build_info\.json|CMakeCache")
    assert not [name for name in names if built.search(name)]


# ---- instruction sets ----


def test_each_set_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    native = pytest.importorskip("kmatrix._native")
    monkeypatch.delenv("KMATRIX_ISA", raising=False)
    compiled = native.compiled()
    here = compiled[compiled.index(native.default_isa()) :]  # the sets are nested
    assert compiled[-1] == "baseline"
    for isa in here:
        monkeypatch.setenv("KMATRIX_ISA", isa)
        assert native.default_isa() == isa
        assert native.limits()[0] == native.limits(isa)[0] == VECTOR_BYTES.get(isa, OTHERS)


def test_an_absent_set_is_refused_and_the_present_ones_named(monkeypatch: pytest.MonkeyPatch) -> None:
    native = pytest.importorskip("kmatrix._native")
    monkeypatch.setenv("KMATRIX_ISA", "mmx")
    with pytest.raises(RuntimeError, match=r"KMATRIX_ISA=mmx: .* baseline"):
        native.default_isa()
    with pytest.raises(ValueError, match="isa='mmx'"):
        native.limits("mmx")


def registers(module: str) -> dict[str, Counter[str]]:
    """How many instructions of each namespace km_<isa> use which vector registers."""
    command = ["objdump", "-d", "--no-show-raw-insn", module]
    found: dict[str, Counter[str]] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        counts: Counter[str] = Counter()
        for line in process.stdout:
            if line.endswith(">:\n"):
                name = re.search(r"\dkm_(avx512|avx2|baseline)", line)
                counts = found.setdefault(name[1], Counter()) if name else Counter()
            else:
                counts.update(set(re.findall(r"%([xyz]mm)", line)))
    return found


@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump")
def test_each_set_holds_its_own_instructions() -> None:
    """Templates of one name would be merged by the linker: one set everywhere, or a crash on older processors."""
    native = pytest.importorskip("kmatrix._native")
    if sysconfig.get_platform() != "linux-x86_64":
        pytest.skip("instructions of other processors")
    found = registers(native.__file__)
    if not found:
        pytest.skip("stripped")
    assert set(found) == set(native.compiled())
    assert found["avx512"]["zmm"] > 1000
    assert found["avx2"]["ymm"] > 1000 and not found["avx2"]["zmm"]
    assert found["baseline"]["xmm"] > 1000 and not found["baseline"]["ymm"] + found["baseline"]["zmm"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is loaded")
def test_shares_the_threads_of_torch() -> None:
    pytest.importorskip("torch")
    native = pytest.importorskip("kmatrix._native")
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    assert native.__file__ in loaded
    assert len([path for path in loaded if "libgomp" in Path(path).name]) <= 1


# ---- machines that cannot build it ----


@pytest.fixture
def cmake() -> str:
    found = shutil.which("cmake", path=sysconfig.get_path("scripts")) or shutil.which("cmake")
    if not found or not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("needs CMake and the source tree")
    return found


def configure(
    cmake: str, folder: Path, compiler: Path | str, *options: str
) -> subprocess.CompletedProcess[str]:
    command = [cmake, "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}", *options]
    environment = {**os.environ, "CXX": str(compiler)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_without_a_compiler_the_install_goes_on(cmake: str, tmp_path: Path) -> None:
    done = configure(cmake, tmp_path, tmp_path / "none")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "_build_info.json").read_text()) == {
        "native": False,
        "reason": "no working C++ compiler was found",
    }
    assert "without its native part: no working C++ compiler" in done.stderr


def test_with_a_compiler_that_cannot_compile_the_install_goes_on(cmake: str, tmp_path: Path) -> None:
    done = configure(cmake, tmp_path, script(tmp_path / "broken", "exit 1"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "_build_info.json").read_text())["native"] is False


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_with_a_compiler_too_old_for_the_kernels_the_install_goes_on(cmake: str, tmp_path: Path) -> None:
    pytest.importorskip("nanobind")
    refuses = 'case "$*" in *probe.cpp*) echo "error: no such builtin" >&2; exit 1;; esac; exec c++ "$@"'
    done = configure(cmake, tmp_path, script(tmp_path / "old", refuses))
    assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "_build_info.json").read_text())
    assert info["native"] is False
    assert info["reason"].endswith(("cannot compile the kernels: error: no such builtin", "has no OpenMP"))


def test_a_build_that_insists_fails_without_a_compiler(cmake: str, tmp_path: Path) -> None:
    done = configure(cmake, tmp_path, tmp_path / "none", "-DKMATRIX_NATIVE=ON")
    assert done.returncode != 0
    assert "no working C++ compiler was found" in done.stderr


def test_it_can_be_left_out(cmake: str, tmp_path: Path) -> None:
    done = configure(cmake, tmp_path, "c++", "-DKMATRIX_NATIVE=OFF")
    assert done.returncode == 0, done.stderr
    assert "switched off" in json.loads((tmp_path / "_build_info.json").read_text())["reason"]
