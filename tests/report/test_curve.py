"""Error against parameters: anything can be drawn beside the line of truncated SVD."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from matplotlib.image import imread

from kmatrix.fitting import Attempt
from kmatrix.fitting.comparison import TruncatedSVD
from kmatrix.report.curve import by_budget, error_curve


def attempt(family: str, error: float | None, size: int | None) -> Attempt:
    return Attempt(family, None, error, size, size, 0.1, False, "")


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
