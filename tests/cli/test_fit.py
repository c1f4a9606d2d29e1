"""``kmatrix fit``: what it prints and writes, its exit codes, and one line for every complaint."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from click.testing import Result
from safetensors.numpy import save_file

import kmatrix as km

Command = Callable[..., Result]


def complaint(result: Result) -> str:
    """The one line on standard error with which a command refused."""
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error ")
    return line.removeprefix("error ")


def test_a_matrix_is_fitted_saved_and_reported(kmatrix: Command, low_rank: Path, tmp_path: Path) -> None:
    result = kmatrix("fit", low_rank, "--tol", "1e-6", "--out", "A.safetensors", "--report", "A.html")
    assert result.exit_code == 0
    assert "matrix written to A.safetensors" in result.stdout
    assert "report written to A.html" in result.stdout
    A = km.load(tmp_path / "A.safetensors")
    np.testing.assert_allclose(A.to_dense().detach(), np.load(low_rank), atol=1e-12)
    about = km.describe(tmp_path / "A.safetensors")
    assert about.certificate is not None
    assert about.certificate["num_params"] == A.num_params
    page = (tmp_path / "A.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script", page)
    assert "W.npy" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["A.html", "A.safetensors", "W.npy"]


def test_the_certificate_and_every_family_are_printed(kmatrix: Command, low_rank: Path) -> None:
    result = kmatrix("fit", low_rank, "--tol", "1e-6")
    for words in ("what was tried", "low rank", "Toeplitz", "butterfly", "certificate", "relative error"):
        assert words in result.stdout
    assert "100 of 600 (16.67% of dense)" in result.stdout
    assert re.search(
        r"time, batch 1 .*x dense: (faster than|about as fast as|NOT faster than) dense here", result.stdout
    )
    assert re.search(
        r"LowRank\(rank=2\): the cheapest to reach 1e-06 of the \d+ families searched", result.stdout
    )


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_tables_fit_the_terminal(kmatrix: Command, low_rank: Path, columns: int) -> None:
    result = kmatrix("fit", low_rank, "--tol", "1e-6", columns=columns)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in result.stdout  # nothing was cut to fit
    assert ("seconds" in result.stdout) == (columns >= 100)


def test_a_named_structure_is_fitted(kmatrix: Command, low_rank: Path, tmp_path: Path) -> None:
    result = kmatrix("fit", low_rank, "--into", "monarch", "--nblocks", 2, "--out", "M.safetensors")
    assert result.exit_code == 0
    assert km.load(tmp_path / "M.safetensors").structure == km.Monarch(nblocks=2)


def test_boxes_are_fitted_within_their_budget(kmatrix: Command, low_rank: Path, tmp_path: Path) -> None:
    result = kmatrix(
        "fit",
        low_rank,
        "--into",
        "gblr",
        "--nblocks",
        2,
        "--budget",
        0.8,
        "--tol",
        "1e-6",
        "--out",
        "G.safetensors",
    )
    assert result.exit_code == 0
    made, (m, n) = km.load(tmp_path / "G.safetensors"), np.load(low_rank).shape
    assert isinstance(made, km.GBLRMatrix)
    assert len(made.boxes) <= 2
    assert made.num_params <= 0.8 * m * n


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--into", "gblr", "--budget", "0.0001"), "kmatrix fit: --budget=0.0001: .*; use a larger --budget"),
        (("--into", "gblr", "--budget", "nan"), "kmatrix fit: --budget=nan: not a positive, finite"),
        (("--into", "gblr", "--budget", "-1"), "kmatrix fit: --budget=-1.0: not a positive, finite"),
        (("--into", "gblr", "--budget", "0"), "kmatrix fit: --budget=0.0: not a positive, finite"),
        (
            ("--into", "monarch", "--budget", "0.3"),
            "--budget=0.3: monarch does not take it; it takes --nblocks",
        ),
        (("--budget", "0.3", "--tol", "0.1"), "--budget=0.3: it belongs to a named structure"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(
    kmatrix: Command, low_rank: Path, options: tuple[str, ...], said: str
) -> None:
    assert re.search(said, complaint(kmatrix("fit", low_rank, *options)))


@pytest.mark.parametrize(("rank", "code"), [(2, 0), (1, 1)])
def test_missing_the_tolerance_with_a_named_structure_is_exit_code_1(
    kmatrix: Command, low_rank: Path, tmp_path: Path, rank: int, code: int
) -> None:
    result = kmatrix(
        "fit", low_rank, "--into", "low-rank", "--rank", rank, "--tol", "1e-6", "--out", "A.safetensors"
    )
    assert result.exit_code == code
    assert ("does not reach 1e-06" in result.stdout.replace("\n", " ")) == bool(code)
    assert (tmp_path / "A.safetensors").is_file()  # the best there is, whatever the verdict


def test_no_structure_is_an_honest_dense(kmatrix: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(1).standard_normal((12, 12)))
    result = kmatrix("fit", "noise.npy", "--tol", "1e-9")
    assert result.exit_code == 0
    assert "Dense: no structure cheaper than dense" in result.stdout.replace("\n", " ")


def test_arrays_of_a_file_are_chosen_by_name(kmatrix: Command, tmp_path: Path) -> None:
    save_file({"a": np.eye(6), "b": scipy.fft.dct(np.eye(8), axis=0)}, tmp_path / "two.safetensors")
    assert "holds: a, b" in complaint(kmatrix("fit", "two.safetensors", "--tol", "1e-6"))
    result = kmatrix("fit", "two.safetensors", "--name", "b", "--tol", "1e-6")
    assert result.exit_code == 0
    assert "of 64" in result.stdout


def test_cost_can_be_operations(kmatrix: Command, low_rank: Path) -> None:
    assert kmatrix("fit", low_rank, "--tol", "1e-6", "--of", "flops").exit_code == 0


def test_the_answer_has_the_dtype_of_the_file(kmatrix: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "W.npy", np.outer(np.arange(6.0), np.arange(5.0)).astype(np.float32))
    assert kmatrix("fit", "W.npy", "--tol", "1e-3", "--out", "A.safetensors").exit_code == 0
    assert km.load(tmp_path / "A.safetensors").dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "kmatrix fit: no --tol: neither a tolerance nor a structure was given; pass --tol"),
        (["--tol", "0"], "kmatrix fit: --tol=0.0: must be positive"),
        (["--tol", "-1"], "kmatrix fit: --tol=-1.0: must be positive"),
        (["--tol", "1e-20"], "kmatrix fit: --tol=1e-20: below the rounding"),
        (["--tol", "2"], "zero matrix"),
        (["--tol", "nan"], "not a finite number"),
        (["--tol", "1e-3", "--of", "time"], "use params or flops"),
        (["--tol", "1e-3", "--max-seconds", "-1"], "kmatrix fit: --max-seconds=-1.0: not a positive number"),
        (["--tol", "1e-3", "--seed", "-1"], "at least 0"),
        (["--tol", "1e-3", "--name", "w"], "one array"),
        (["--tol", "1e-3", "--rank", "3"], "name one with --into"),
        (["--into", "monark"], "use one of blast"),
        (["--into", "low-rank"], "low-rank needs it"),
        (["--into", "toeplitz", "--rank", "3"], "toeplitz does not take it"),
        (["--into", "monarch", "--rank", "3"], "it takes --nblocks, --order"),
        (
            ["--into", "low-rank", "--rank", "0"],
            "kmatrix fit: --rank=0: must be a whole number of at least 1",
        ),
        (["--into", "circulant"], "square"),
        (["--tol", "1e-3", "--out", "A.npy"], "not a .safetensors file"),
        (["--tol", "1e-3", "--report", "A.txt"], "not a .html file"),
        (["--tol", "1e-3", "--out", "no/A.safetensors"], "mkdir -p"),
        (["--tol", "1e-3", "--report", "no/A.html"], "mkdir -p"),
        (["--tol", "1e-3", "--out", "folder.safetensors"], "it is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_makes_no_sense_is_refused_in_one_line(
    kmatrix: Command, low_rank: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    assert says in complaint(kmatrix("fit", low_rank, *arguments))


def _write(path: Path, content: Any) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.npy", None, "kmatrix fit: missing.npy: no such file"),
        ("W.csv", b"1,2\n3,4\n", "unknown suffix '.csv'"),
        ("bad.npy", b"not a matrix", "not an .npy file"),
        ("bad.npz", b"not an archive", "not an .npz archive"),
        ("bad.safetensors", b"neither this", "not a safetensors file"),
        ("cut.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8',", "cannot be read"),
        ("vector.npy", np.ones(5), "1 dimension, needs 2"),
        ("empty.npy", np.ones((0, 3)), "not a non-empty matrix"),
        ("nan.npy", np.full((3, 3), np.nan), "NaN or infinite"),
        ("integers.npy", np.eye(3, dtype=int), "not floating or complex"),
    ],
)
def test_files_without_a_matrix_are_refused_in_one_line(
    kmatrix: Command, tmp_path: Path, name: str, content: Any, says: str
) -> None:
    _write(tmp_path / name, content)
    assert says in complaint(kmatrix("fit", name, "--tol", "1e-3"))


def test_the_input_is_never_written_over(kmatrix: Command, tmp_path: Path) -> None:
    save_file({"w": np.eye(4)}, tmp_path / "W.safetensors")
    before = (tmp_path / "W.safetensors").read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to("W.safetensors")
    for out in ("W.safetensors", "./W.safetensors", "link.safetensors"):
        assert "the target itself" in complaint(
            kmatrix("fit", "W.safetensors", "--tol", "1e-3", "--out", out)
        )
    assert (tmp_path / "W.safetensors").read_bytes() == before


def test_bad_places_are_found_before_the_work(
    kmatrix: Command, low_rank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the fit was started")

    monkeypatch.setattr(km, "fit", never)
    said = complaint(kmatrix("fit", low_rank, "--tol", "1e-3", "--out", "no/A.safetensors"))
    assert said.startswith("kmatrix fit: --out=no/A.safetensors: ")


def test_an_interrupted_search_keeps_the_best_so_far(
    kmatrix: Command, low_rank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kmatrix.fitting.search import loop

    def interrupted(problem: object) -> None:
        raise KeyboardInterrupt

    families = dict(loop.FAMILIES)
    shortened = (("low rank", families["low rank"]), ("slow", interrupted))
    monkeypatch.setattr(loop.Search.run, "__defaults__", (shortened,))
    result = kmatrix("fit", low_rank, "--tol", "1e-6", "--out", "A.safetensors")
    assert result.exit_code == 130
    assert "cut short" in result.stdout
    assert km.load(tmp_path / "A.safetensors").structure == km.LowRank(rank=2)
    kept = km.describe(tmp_path / "A.safetensors").certificate
    assert kept is not None and kept["interrupted"] is True
    assert "cut short: this is the best it had" in kmatrix("info", "A.safetensors").stdout


@pytest.mark.parametrize(("pressed", "code"), [(True, 130), (False, 0)])
def test_ctrl_c_and_the_end_of_the_time_are_told_apart(
    kmatrix: Command, low_rank: Path, monkeypatch: pytest.MonkeyPatch, pressed: bool, code: int
) -> None:
    from kmatrix.fitting.problem import TimeUp
    from kmatrix.fitting.search import loop

    def slow(problem: object) -> None:
        if pressed:
            signal.raise_signal(signal.SIGINT)
        raise TimeUp("time is up")

    monkeypatch.setattr(loop.Search.run, "__defaults__", ((("slow", slow),),))
    # A shell starts what it puts into the background with the signal ignored.
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert kmatrix("fit", low_rank, "--tol", "1e-6", "--max-seconds", 9).exit_code == code
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)


def test_our_own_bugs_are_not_hidden(low_rank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from kmatrix.cli.app import app

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(km, "fit", broken)
    result = CliRunner().invoke(app, ["fit", str(low_rank), "--tol", "1e-3"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_help_names_every_structure(kmatrix: Command) -> None:
    from kmatrix.cli.names import STRUCTURES

    text = " ".join(kmatrix("fit", "--help", columns=200).stdout.split())
    assert [name for name in STRUCTURES if name not in text] == []
    assert "Exit codes" in text
