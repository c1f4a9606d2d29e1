"""``KMATRIX_ISA``: which build of the kernels runs."""

from __future__ import annotations

import pytest

from kmatrix.ops.native_module import native_part

load = native_part.__wrapped__  # past the cache: the environment is read once in a process
needs_native = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)


@needs_native
@pytest.mark.parametrize(
    "write", [str.lower, str.upper, str.title, " {} ".format], ids=["lower", "upper", "title", "spaces"]
)
def test_any_case_names_it(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_ISA", write("baseline"))
    assert load().isa == "baseline"


@needs_native
def test_no_name_leaves_the_choice_to_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMATRIX_ISA", raising=False)
    best = load().isa
    monkeypatch.setenv("KMATRIX_ISA", "")
    assert load().isa == best


@needs_native
def test_a_name_that_means_nothing_is_told_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KMATRIX_ISA", "MMX")
    part = load()
    assert part.module is None
    assert "KMATRIX_ISA=MMX: not in this build, or not on this processor; the build holds" in part.reason
    assert "baseline" in part.reason
    assert "portable path" in caplog.text
