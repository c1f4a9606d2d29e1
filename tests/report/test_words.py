"""Structures and verdicts in few words."""

from __future__ import annotations

import pytest

import kmatrix as km
from kmatrix.fitting import Attempt, Timing
from kmatrix.report.words import brief, judged, options
from kmatrix.structures import BlockTensorTrain, Permutation, Toeplitz

FACTORS = (km.Factor(3, 2, 2, 1), km.Factor(1, 3, 3, 2))


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (None, ""),
        (km.Butterfly(), "Butterfly"),
        (km.Butterfly(ranks=2), "Butterfly(ranks=2)"),
        (km.Kaleidoscope(width=2, expansion=4), "Kaleidoscope(width=2, expansion=4)"),
        (km.Chain(FACTORS), "Chain of 2 factors"),
        (km.Chain((km.Permute(6), *FACTORS, km.Permute(6))), "Chain of 2 factors, 2 permutations"),
        (km.Chain((km.Permute(6), FACTORS[0])), "Chain of 1 factor, 1 permutation"),
        (km.Chain((km.Permute(6),)), "Chain of 1 permutation"),
        (km.Product((Permutation(), Toeplitz()), (4,)), "Permutation × Toeplitz"),
        (
            km.Sum((BlockTensorTrain(4, rank=2), km.Butterfly())),
            "BlockTensorTrain(nblocks=4, rank=2) + Butterfly",
        ),
    ],
    ids=str,
)
def test_structures_are_told_briefly(structure: km.Structure | None, words: str) -> None:
    assert brief(structure) == words


def test_long_options_are_cut() -> None:
    text = options(km.Butterfly(radices=((2, 2),) * 40, ranks=(1,) * 39))
    assert len(text) == 60
    assert text.endswith("…")


@pytest.mark.parametrize(
    ("dense", "structured", "says"), [(2.0, 1.0, "faster"), (1.0, 1.0, "about as fast"), (1.0, 2.0, "NOT")]
)
def test_only_less_time_is_called_faster(dense: float, structured: float, says: str) -> None:
    assert judged(Timing(1, dense, structured)).startswith(says)


def test_attempts_are_plain_data() -> None:
    made = Attempt("low rank", km.Butterfly(), 0.5, 8, 16, 0.1, False, "why")
    assert made.to_json()["structure"] == "Butterfly(radices=None, ranks=1)"
