"""The report page: it holds its figures and pictures, needs nothing else, and trusts no title."""

from __future__ import annotations

import errno
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import kmatrix as km
from kmatrix.report import Section, write_report
from kmatrix.report.page import page

RNG = np.random.default_rng(0)
VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Collects text, tags and attributes, and sees to it that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def section(dense: np.ndarray, title: str = "a matrix", tol: float = 1e-6) -> Section:
    return Section(km.fit(dense, tol=tol, batches=(1,)), torch.from_numpy(dense), title)


@pytest.fixture(scope="module")
def rank_two() -> Section:
    return section(RNG.standard_normal((30, 2)) @ RNG.standard_normal((2, 20)))


@pytest.fixture(scope="module")
def whole(rank_two: Section) -> str:
    return page(rank_two, title="a report")


def test_the_certificate_is_told_in_full(rank_two: Section, whole: str) -> None:
    c, text = rank_two.fit.certificate, Outline(whole).text
    assert f"{c.relative_error:.3e}" in text
    assert f"at least {c.spectral_error.lower:.3e}, at most {c.spectral_error.upper:.3e}" in text
    assert f"{c.num_params:,} of {c.dense_params:,}" in text
    assert f"{c.flops:,} of {c.dense_flops:,}" in text
    assert c.dtype in text
    (timing,) = c.timings
    assert f"{timing.speedup:.2f}×, {timing.verdict} dense here" in text
    assert c.machine["processor"] in text


def test_every_attempt_and_its_reason_is_listed(rank_two: Section, whole: str) -> None:
    text = Outline(whole).text
    for attempt in rank_two.fit.history:
        assert attempt.family in text
        assert attempt.note in text
    assert whole.count('<tr class="won">') == 1


def test_the_page_stands_alone(whole: str) -> None:
    outline = Outline(whole)
    assert not re.search(r"https?://", whole)
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    sources = [value for name, value in outline.attributes if name == "src"]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)


def test_the_matrix_its_factors_and_the_curve_are_drawn(whole: str) -> None:
    pictures = [value for name, value in Outline(whole).attributes if name == "alt"]
    assert pictures == [
        "target",
        "structured matrix",
        "difference, magnified",
        "(1, 30, 2, 1)",
        "(1, 2, 20, 1)",
        "error against parameters of every family tried",
    ]


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "a & b < c"])
def test_titles_are_words_and_nothing_else(rank_two: Section, hostile: str) -> None:
    named = Section(rank_two.fit, rank_two.target, hostile)
    outline = Outline(page(named, named, title=hostile))
    assert "script" not in outline.tags
    assert "onerror" not in [name for name, _ in outline.attributes]
    assert hostile in " ".join(outline.words)


def test_several_fits_get_a_table_of_contents(rank_two: Section) -> None:
    outline = Outline(page(rank_two, Section(rank_two.fit, rank_two.target, "another"), title="two"))
    links = [value for name, value in outline.attributes if name == "href"]
    anchors = [value for name, value in outline.attributes if name == "id"]
    assert links == [f"#{anchor}" for anchor in anchors] == ["#fit-1", "#fit-2"]


@pytest.mark.parametrize("budgets", [(), (0.2, 0.4)])
def test_a_comparison_shows_every_family_beside_svd(rank_two: Section, budgets: tuple[float, ...]) -> None:
    dense = RNG.standard_normal((24, 24))
    comparison = km.compare(dense, budgets=(0.2, 0.4))
    fit = km.fit(dense, km.LowRank(2), batches=())
    made = page(Section(fit, torch.from_numpy(dense), "noise", comparison, budgets), title="noise")
    text = Outline(made).text
    for attempt in comparison:
        assert attempt.family in text
        assert f"{attempt.relative_error:.2e}" in text
    assert ('<tr class="line">' in made) == bool(
        budgets
    )  # the row of truncated SVD, a column for each budget


@pytest.mark.parametrize(
    ("dense", "tol"),
    [
        (np.array([[3.0]]), 1e-6),
        (np.zeros((4, 4)), 1e-6),
        (RNG.standard_normal((9, 9)), 1e-6),
        (np.fft.fft(np.eye(16)), 1e-10),
        (np.eye(12)[RNG.permutation(12)], 1e-6),
        (RNG.standard_normal((300, 3)) @ RNG.standard_normal((3, 5)) * 1e-150, 1e-6),
    ],
    ids=["1x1", "zero", "noise", "complex", "permutation", "tall and tiny"],
)
def test_any_fit_has_a_page(dense: np.ndarray, tol: float) -> None:
    assert "Certificate" in Outline(page(section(dense, tol=tol), title="any")).text


def test_a_page_is_written_whole_or_not_at_all(
    rank_two: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.html"
    write_report(path, rank_two)
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(km.ArgumentError, match="No space left"):
        write_report(path, rank_two, title="another")
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_without_matplotlib_the_way_out_is_named(
    rank_two: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kmatrix.report import page as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(km.BackendUnavailableError, match=r"pip install 'kmatrix\[cli\]'"):
        write_report(tmp_path / "r.html", rank_two)
    assert list(tmp_path.iterdir()) == []
