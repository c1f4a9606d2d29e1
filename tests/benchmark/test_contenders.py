"""Everyone computes what they say, at sizes where checking costs nothing; who does not is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import kmatrix as km
from kmatrix.benchmark.cases import Case, Goal, butterfly, cases, chain, fourier, half, member, training
from kmatrix.benchmark.contenders import (
    INPUTS,
    Contender,
    Problem,
    WrongResultError,
    block_products,
    is_bare,
    ours,
)
from kmatrix.benchmark.suite import GROUPS

SMALL = [
    butterfly(16, 1),
    butterfly(64, 5),
    half(32, 3),
    chain("kmatrix", "BB*", km.Kaleidoscope(), 16, 16, 3),
    chain("monarch", "Monarch", km.Monarch(nblocks=4), 16, 16, 9),
    chain("sizes", "mixed radix", km.Butterfly(), 30, 30, 4),
    chain("sizes", "padded", km.Butterfly(), 17, 17, 4),
    chain("rectangles", "butterfly", km.Butterfly(), 48, 12, 4),
    chain("blocks", "blocks", km.Butterfly(radices=((4, 4), (3, 3), (2, 2))), 24, 24, 5),
    fourier(16, 3),
    fourier(10, 3),
    training(16, 4),
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_everyone_is_right(case: Case) -> None:
    contenders = case.contenders()
    assert case.baseline in contenders and "kmatrix" in contenders
    with torch.enable_grad() if case.graded else torch.inference_mode():
        for name, contender in contenders.items():
            assert contender.checked(name) <= contender.tolerance


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_tolerances_are_rounding(case: Case) -> None:
    """A result that is off by a percent is refused, by a tenth in half precision."""
    for name, contender in case.contenders().items():
        off = 1.1 if "16" in name else 1.01
        wrong = dataclasses.replace(
            contender, expected=lambda c=contender, f=off: [f * e for e in c.expected()]
        )
        with pytest.raises(WrongResultError, match="more than rounding"):
            wrong.checked(name)


@pytest.mark.parametrize("bad", [torch.full((3,), torch.nan), torch.zeros(3), torch.ones(4)], ids=str)
def test_wrong_numbers_and_shapes_are_refused(bad: torch.Tensor) -> None:
    contender = Contender(lambda _: bad, [None], None, lambda: [torch.ones(3, dtype=torch.float64)], 1e-6)
    with pytest.raises(WrongResultError, match=r"bench: .*report it"):
        contender.checked("somebody")


def test_products_in_blocks_take_any_pattern() -> None:
    structure = km.Chain((km.Factor(2, 3, 4, 5), km.Factor(3, 4, 2, 5)))
    problem = Problem(member(structure, 60, 40), 6)
    for features_first in (False, True):
        block_products(problem, features_first=features_first).checked("blocks")


def test_the_matrix_of_a_problem_stays_as_it_is() -> None:
    matrix = member(km.Butterfly(), 17, 17)
    assert not is_bare(matrix)
    Problem(matrix, 2).dense_weight(torch.bfloat16)
    ours(Problem(matrix, 2), torch.float64).error()
    assert matrix.dtype == torch.float32


def test_inputs_differ_and_lie_on_cache_lines() -> None:
    inputs = Problem(member(km.Butterfly(), 64, 64), 3).inputs()
    assert len(inputs) == INPUTS
    assert all(x.data_ptr() % 64 == 0 for x in inputs)
    assert not torch.equal(inputs[0], inputs[1])


def test_goals_name_contenders_and_cases_name_groups() -> None:
    found = list(cases())
    assert {case.group for case in found} <= set(GROUPS)
    assert len({case.name for case in found}) == len(found)
    for case in found:
        if max(case.shape) > 1100 or case.batch > 256:
            continue
        names = case.contenders().keys()
        assert {name for goal in case.goals for name in (goal.over, goal.of)} <= names
    aims = [goal for case in found for goal in case.goals if goal.aim is not None]
    assert aims and all(isinstance(g, Goal) and g.aim is not None and g.aim > g.must for g in aims)


@pytest.mark.parametrize("peer", ["lazylinop", "pyfaust"])
def test_peers_take_part_where_they_are_installed(peer: str) -> None:
    pytest.importorskip(peer, reason="an optional rival")
    assert any(name.startswith(peer) for name in butterfly(16, 3).contenders())
