"""Schedules: the rule, what measuring teaches, and a file that can do no harm."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from kmatrix._errors import ArgumentError, BackendUnavailableError, DtypeError
from kmatrix.ops import Pattern, chain_matmul, native, tune, use_backend, wisdom
from kmatrix.ops.definition import flatten_patterns, reference_chain_matmul
from kmatrix.ops.native_module import DTYPE_CODES, native_part
from kmatrix.ops.native_plan import Schedule, batch_class, best_passes, default_schedule, tile_heights
from kmatrix.structures import Kaleidoscope

needs_native = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
UP = tuple(Pattern(32 >> k, 2, 2, 1 << k) for k in range(6))
F32 = torch.float32


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of its own for each test, and nothing known before or after."""
    path = tmp_path / "folder" / "wisdom.json"
    monkeypatch.setenv("KMATRIX_WISDOM", str(path))
    wisdom.forget()
    native.forget_schedules()
    yield path
    wisdom.forget()
    native.forget_schedules()


@needs_native
def test_the_rule_takes_the_fewest_passes() -> None:
    widest = native_part().module.limits()[1]
    for k in range(1, 13):
        chain = tuple(Pattern(1 << (k - 1 - i), 2, 2, 1 << i) for i in range(k))
        passes = best_passes(chain, F32)
        assert sum(passes) == k
        assert len(passes) == -(-k // widest)
        assert list(passes) == sorted(passes, reverse=True)


@needs_native
def test_a_turn_around_is_one_pass() -> None:
    """The last factors of a butterfly and the first of its transpose touch the same registers."""
    chain = (*UP, *UP[::-1])
    widest = native_part().module.limits()[1]
    assert len(best_passes(chain, F32)) < 2 * -(-len(UP) // widest)


@needs_native
@pytest.mark.parametrize("n", [64, 256, 1000, 1024, 4096])
@pytest.mark.parametrize("dtype", [F32, torch.bfloat16, torch.float64, torch.complex64], ids=str)
def test_a_kaleidoscope_turns_around_inside_a_pass(n: int, dtype: torch.dtype) -> None:
    """The plan of BB* has no border between B and B*: one pass holds stages on both sides of it."""
    patterns = Kaleidoscope(width=1).random(n, n).layout.patterns
    middle = len(patterns) // 2
    assert patterns[:middle] == patterns[middle:][::-1]
    borders = list(accumulate(best_passes(patterns, dtype)))
    assert borders[-1] == len(patterns)
    assert middle not in borders


@needs_native
def test_every_set_can_turn_around_in_registers() -> None:
    module = native_part().module
    sets = module.compiled()
    flat = flatten_patterns((UP[-1], UP[-1]))
    for isa in sets[sets.index(native_part().isa) :]:
        for code in DTYPE_CODES.values():
            assert module.Chain.can_fuse(code, flat, 0, 2, isa)


@needs_native
def test_mixed_chains_group_what_can_be_grouped() -> None:
    chain = (Pattern(1, 12, 7, 1), Pattern(6, 2, 2, 1), Pattern(3, 2, 2, 2), Pattern(1, 3, 3, 4))
    assert best_passes(chain, F32) == (1, 2, 1)
    assert best_passes((Pattern(2, 3, 4, 5),), F32) == (1,)


def test_batch_classes() -> None:
    assert [batch_class(b) for b in (1, 2, 3, 16, 17, 4096, 10**6)] == [1, 2, 4, 16, 32, 4096, 4096]


@needs_native
def test_tiles_are_no_higher_than_the_batch() -> None:
    lanes = native_part().module.limits()[0] // 4
    for batch in (1, 16, 64, 4096):
        height = default_schedule(UP, F32, batch).tile_vectors
        assert height == 1 or height * lanes < 2 * batch
        assert all(h == 1 or h * lanes < 2 * batch for h in tile_heights(F32, batch))


@needs_native
def test_few_rows_read_the_weights_where_they_are() -> None:
    lanes = native_part().module.limits()[0] // 4
    butterfly = tuple(Pattern(512 >> k, 2, 2, 1 << k) for k in range(10))
    blocks = (Pattern(32, 32, 32, 1), Pattern(1, 32, 32, 32))
    for chain in (butterfly, blocks, UP):
        assert default_schedule(chain, F32, lanes // 2).kernel == "rows"
    assert default_schedule(blocks, F32, 2 * lanes).kernel == "tiles"
    assert default_schedule(butterfly, F32, 256).kernel == "rows"
    assert default_schedule(butterfly, F32, 256, selects=True).kernel == "tiles"
    assert default_schedule(butterfly, F32, 4096).kernel == "tiles"
    assert default_schedule(butterfly, torch.float64, 256).kernel == "tiles"


@needs_native
def test_what_is_learned_is_kept_and_used(file: Path) -> None:
    weights = [torch.randn(p) for p in UP]
    found = tune(weights, batch=40, seconds=0.05)
    assert found.tried > 3
    assert found.seconds <= found.rule_seconds
    assert found.path == str(file)
    ((key, entry),) = json.loads(file.read_text())["entries"].items()
    assert all(words in key for words in ("float32", "batch 64", "1 thread", native_part().isa, "32.2.2.1"))
    assert tuple(entry["passes"]) == found.schedule.passes
    assert entry["microseconds"] > 0
    wisdom.forget()
    native.forget_schedules()
    assert wisdom.learned_schedule(UP, F32, 64, 1) == found.schedule
    _, description = native.described(weights, UP)
    assert native.schedule_of(description, 40) == found.schedule
    assert wisdom.learned_schedule(UP, F32, 128, 1) is None
    assert wisdom.learned_schedule(UP, torch.float64, 64, 1) is None
    assert wisdom.learned_schedule(UP, F32, 64, 2) is None
    assert str(found).count("us") == 1


@needs_native
def test_answers_of_two_processes_meet_in_one_file(file: Path) -> None:
    wisdom.remember("mine", Schedule("rows", (1,), 1), {})
    file.write_text(json.dumps({"format": 1, "entries": {"theirs": {"kernel": "rows"}}}))
    wisdom.remember("mine too", Schedule("tiles", (1, 2), 4), {"microseconds": 1.5})
    entries = json.loads(file.read_text())["entries"]
    assert set(entries) == {"theirs", "mine too"}
    assert entries["mine too"] == {
        "kernel": "tiles",
        "passes": [1, 2],
        "tile_vectors": 4,
        "microseconds": 1.5,
    }
    assert [p.name for p in file.parent.iterdir()] == ["wisdom.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\x00nonsense",
        b"[]",
        b'{"format": 1}',
        b'{"format": 2, "entries": {}}',
        b'{"format": 1, "entries": []}',
        b"[" * 100_000,
    ],
    ids=["bytes", "list", "no entries", "newer", "wrong entries", "deep"],
)
def test_foreign_files_are_passed_over_with_one_line(
    file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="kmatrix"):
        for _ in range(3):
            assert wisdom.learned_schedule(UP, F32, 64, 1) is None
    (line,) = [record.message for record in caplog.records]
    assert str(file) in line


@needs_native
@pytest.mark.parametrize(
    "entry",
    [
        3,
        {},
        {"kernel": "magic", "passes": [3, 3], "tile_vectors": 1},
        {"kernel": "tiles", "passes": [3, 2], "tile_vectors": 1},
        {"kernel": "tiles", "passes": [7, -1], "tile_vectors": 1},
        {"kernel": "tiles", "passes": [6], "tile_vectors": 1},
        {"kernel": "tiles", "passes": [3, True, True, True], "tile_vectors": 1},
        {"kernel": "tiles", "passes": "33", "tile_vectors": 1},
        {"kernel": "tiles", "passes": [3, 3], "tile_vectors": "high"},
        {"kernel": "tiles", "passes": [3, 3], "tile_vectors": 10**30},
    ],
    ids=str,
)
def test_strange_answers_do_no_harm(file: Path, entry: object) -> None:
    key = wisdom.question(UP, F32, 64, 1)
    file.parent.mkdir()
    file.write_text(json.dumps({"format": 1, "entries": {key: entry}}))
    weights, x = [torch.randn(p) for p in UP], torch.randn(50, 64)
    with use_backend("native"):
        torch.testing.assert_close(
            chain_matmul(x, weights), reference_chain_matmul(x, weights), rtol=1e-4, atol=1e-4
        )


@needs_native
def test_results_do_not_depend_on_the_schedule(file: Path) -> None:
    weights, x = [torch.randn(p) for p in UP], torch.randn(50, 64)
    file.parent.mkdir()
    results = []
    for kernel, passes, height in (("tiles", (3, 3), 1), ("tiles", (1, 2, 3), 4), ("rows", (1,) * 6, 1)):
        wisdom.remember(wisdom.question(UP, F32, 64, 1), Schedule(kernel, passes, height), {})  # type: ignore[arg-type]
        native.forget_schedules()
        with use_backend("native"):
            results.append(chain_matmul(x, weights))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KMATRIX_WISDOM", "")
    assert wisdom.wisdom_path() is None
    assert wisdom.remember("key", Schedule("rows", (1,), 1), {}) is None
    monkeypatch.delenv("KMATRIX_WISDOM")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wisdom.wisdom_path() == tmp_path / "kmatrix" / "wisdom.json"


def test_a_folder_that_cannot_be_written(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.parent.write_text("in the way")
    with caplog.at_level(logging.WARNING, logger="kmatrix"):
        assert wisdom.remember("key", Schedule("rows", (1,), 1), {}) is None
    assert "not kept" in caplog.text


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="no factor"):
        tune([], batch=4)
    weights = [torch.randn(UP[0])]
    with pytest.raises(DtypeError):
        tune(weights, batch=1.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        tune(weights, batch=0)
    absent = native_part()._replace(module=None, reason="the native kernels are not built (no compiler)")
    monkeypatch.setattr(native, "native_part", lambda: absent)
    with pytest.raises(BackendUnavailableError, match="no compiler"):
        tune(weights, batch=4)
