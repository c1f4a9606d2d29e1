"""What ``fit`` takes beside the target, and what it hands back, in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import kmatrix as km

W = np.outer(np.arange(1.0, 7.0), np.ones(5))


@pytest.fixture(scope="module")
def found() -> km.Fit:
    return km.fit(W, km.LowRank(1), batches=())


def test_a_fit_is_told_in_a_few_lines(found: km.Fit) -> None:
    assert str(found).startswith("6 x 5 LowRank, relative error ")
    assert len(str(found).splitlines()) == 3
    assert repr(found).startswith("<Fit: 6 x 5 LowRank")
    assert len(repr(found)) < 120


@pytest.mark.parametrize("x", [np.ones(5), torch.ones(5), 3])
def test_a_fit_is_no_matrix_and_names_the_one_it_has(found: km.Fit, x: Any) -> None:
    with pytest.raises(km.DtypeError, match=r"f\.matrix @ x"):
        found @ x
    with pytest.raises(km.DtypeError, match=r"f\.matrix"):
        x @ found


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"batches": 16}, km.DtypeError, r"batches=16: not a sequence"),
        ({"batches": (1.5,)}, km.DtypeError, "not a whole number"),
        ({"progress": 1}, km.DtypeError, "progress=1: cannot be called"),
        ({"progress": lambda family: None}, km.DtypeError, r"\(family\).*family: str, attempt: Attempt"),
        ({"tol": -1}, km.ArgumentError, "tol=-1: must be positive"),
    ],
    ids=["number", "fraction", "no function", "one argument", "negative"],
)
def test_options_of_the_wrong_kind_are_refused(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        km.fit(W, km.LowRank(1), **options)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            {"budgets": 0.1},
            km.DtypeError,
            r"budgets=0\.1: not a sequence of shares; pass for example \(0\.1,\)",
        ),
        ({"budgets": ("a",)}, km.ArgumentError, "not a share of dense"),
        ({"budgets": (0.5,), "progress": 1}, km.DtypeError, "cannot be called"),
    ],
)
def test_options_of_a_comparison_too(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        km.compare(W, **options)


def test_certify_takes_a_sequence_of_batches(found: km.Fit) -> None:
    with pytest.raises(km.DtypeError, match="not a sequence"):
        km.certify(W, found.matrix, batches=16)  # type: ignore[arg-type]


def test_progress_may_be_a_method_or_a_builtin() -> None:
    class Listener:
        def hear(self, family: str, attempt: km.Attempt | None = None) -> None:
            heard.append(family)

    heard: list[str] = []
    km.fit(W, km.LowRank(1), batches=(), progress=Listener().hear)
    km.fit(W, km.LowRank(1), batches=(), progress={}.setdefault)
    assert heard == ["LowRank", "LowRank"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.bfloat16])
def test_numpy_gets_the_dense_entries(dtype: torch.dtype) -> None:
    A = km.Butterfly().random(6, 4, dtype=dtype)
    dense = A.to_dense().detach()
    expected = (dense.float() if dtype == torch.bfloat16 else dense).numpy()
    np.testing.assert_array_equal(np.asarray(A), expected)
    assert np.asarray(A).dtype == expected.dtype
    assert np.asarray(A, dtype=np.complex128).dtype == np.complex128
    assert isinstance(np.float64(2) * A, km.StructuredMatrix)
    with pytest.raises(km.ArgumentError, match="to_dense"):
        A.__array__(copy=False)
