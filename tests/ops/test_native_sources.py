"""A native module beside other sources than it was built from, as after ``git pull``: it is not used."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kmatrix as km
from kmatrix.ops import native_module
from kmatrix.ops.native_module import native_part, sources_digest

load = native_part.__wrapped__  # past the cache: a process loads it once
native = pytest.importorskip("kmatrix._native")
SOURCES = Path(km.__file__).parent / "csrc"


def older(**known: Any) -> SimpleNamespace:
    """A module of another build: without what came later."""
    return SimpleNamespace(default_isa=native.default_isa, limits=native.limits, **known)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the given module the one that is loaded."""

    def replace(module: Any) -> None:
        monkeypatch.setattr(native_module, "importlib", SimpleNamespace(import_module=lambda name: module))

    return replace


@pytest.mark.skipif(not SOURCES.is_dir(), reason="installed without the sources")
def test_the_module_here_is_of_the_sources_here() -> None:
    assert native.sources == sources_digest()
    assert load().module is native


@pytest.mark.skipif(not SOURCES.is_dir(), reason="installed without the sources")
@pytest.mark.parametrize("known", [{}, {"sources": "0" * 64}], ids=["before there were digests", "another"])
def test_a_module_of_other_sources_is_absent(
    known: Any, loads: Any, caplog: pytest.LogCaptureFixture
) -> None:
    loads(older(**known))
    part = load()
    assert part.module is None
    assert "built from other sources (run `make native`, or pip install again)" in part.reason
    assert "portable path" in caplog.text


@pytest.mark.skipif(not SOURCES.is_dir(), reason="installed without the sources")
def test_products_go_on_without_it_and_explain_says_why(loads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loads(older())
    part = load()
    for name in ("prepared", "native", "native_plan", "calls", "wisdom", "tuning"):
        module = importlib.import_module(f"kmatrix.ops.{name}")
        monkeypatch.setattr(module, "native_part", lambda: part)
    A = km.Butterfly().random(16, 16, dtype=torch.float64)
    x = torch.randn(3, 16, dtype=torch.float64)
    assert torch.allclose(A(x), x @ A.to_dense().T)
    told = km.explain(A, batch=3, seconds=0.01)
    assert told.backend == "portable"
    assert "built from other sources" in next(c.reason for c in told.candidates if c.name == "native")


def test_a_change_of_a_source_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native_module.resources, "files", lambda package: tmp_path)
    assert sources_digest() == ""
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.h").write_text("int a;")
    (tmp_path / "csrc" / "b.cpp").write_text("int b;")
    seen = {sources_digest()}
    (tmp_path / "csrc" / "notes~").write_text("not a source")
    assert sources_digest() in seen
    (tmp_path / "csrc" / "b.cpp").write_text("int c;")
    seen.add(sources_digest())
    shutil.move(tmp_path / "csrc" / "b.cpp", tmp_path / "csrc" / "c.cpp")
    seen.add(sources_digest())
    assert len(seen) == 3


def test_a_wheel_brings_no_sources_and_its_module_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native_module, "sources_digest", lambda: "")
    assert load().module is native
