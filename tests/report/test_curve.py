"""Error against parameters: the line of truncated SVD is right, and anything can be drawn beside it."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from kmatrix.fitting import Attempt
from kmatrix.report.curve import TruncatedSVD, by_budget, error_curve


def attempt(family: str, error: float | None, size: int | None) -> Attempt:
    return Attempt(family, None, error, size, size, 0.1, False, "")


@pytest.mark.parametrize("shape", [(7, 7), (12, 5), (1, 4)])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_errors_are_those_of_the_truncations(shape: tuple[int, int], scale: float) -> None:
    dense = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    svd = TruncatedSVD.of(dense * scale)
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    for rank in range(len(s) + 1):
        left = dense - u[:, :rank] * s[:rank] @ vh[:rank]
        expected = float(torch.linalg.norm(left) / torch.linalg.norm(dense))
        assert svd.errors[rank] == pytest.approx(expected, abs=1e-14)
        assert svd.error(rank * sum(shape)) == svd.errors[rank]


def test_a_size_between_two_ranks_buys_the_smaller_one() -> None:
    svd = TruncatedSVD.of(torch.eye(4, dtype=torch.float64))
    assert [svd.rank(size) for size in (0, 7, 8, 15, 16, 10**6)] == [0, 0, 1, 1, 2, 4]
    assert svd.error(8) == pytest.approx(np.sqrt(3 / 4))


def test_a_zero_matrix_has_no_error_to_speak_of() -> None:
    assert TruncatedSVD.of(torch.zeros(3, 3)).errors.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "attempts",
    [
        [],
        [attempt("declined", None, None)],
        [attempt("exact", 0.0, 5)],
        [attempt(f"family {k}", 10.0**-k, 3 + k) for k in range(30)],
        [attempt("low rank", 0.5, 8), attempt("low rank", 0.1, 16), attempt("hopeless", 1.0, 1)],
    ],
    ids=["none", "declined", "exact", "many", "curve"],
)
@pytest.mark.parametrize("n", [1, 6])
def test_anything_can_be_drawn(attempts: list[Attempt], n: int) -> None:
    svd = TruncatedSVD.of(torch.eye(n, dtype=torch.float64))
    chosen = attempts[0] if attempts else None
    content = base64.b64decode(error_curve(attempts, svd, chosen).removeprefix("data:image/png;base64,"))
    drawn = imread(io.BytesIO(content), format="png")
    assert drawn.shape[1] > drawn.shape[0] > 400


def test_drawing_touches_no_figure_of_the_user() -> None:
    import matplotlib._pylab_helpers as helpers

    before = len(helpers.Gcf.figs)
    error_curve([], TruncatedSVD.of(torch.eye(3)))
    assert len(helpers.Gcf.figs) == before


def test_attempts_are_sorted_into_budgets() -> None:
    small, better = attempt("a", 0.5, 9), attempt("a", 0.4, 10)
    tried = [small, better, attempt("a", 0.1, 11), attempt("b", 0.2, 99), attempt("c", None, None)]
    assert by_budget(tried, (0.1, 0.5), 100) == {"a": [better, tried[2]], "b": [None, None]}


def test_only_what_beats_svd_by_more_than_rounding_wins() -> None:
    svd = TruncatedSVD.of(torch.eye(4, dtype=torch.float64))
    errors = [svd.error(8) * (1 + gap) for gap in (-1e-3, -1e-15, 0.0, 1e-3)]
    assert [svd.loses_to(attempt("a", error, 8)) for error in errors] == [True, False, False, False]
    assert not svd.loses_to(attempt("declined", None, None))
