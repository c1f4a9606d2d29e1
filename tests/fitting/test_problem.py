"""The words and counts of a problem."""

from __future__ import annotations

import time

import pytest
import torch

import kmatrix as km
from kmatrix.fitting.problem import Problem, TimeUp


def test_complex_numbers_for_a_real_target_cost_more() -> None:
    real = Problem(torch.eye(8, dtype=torch.float64), 1e-6)
    matrix = km.Butterfly().random(8, 8, dtype=torch.complex128)
    assert real.cost(matrix) == 2 * matrix.num_params
    assert real.operations(matrix) == 4 * matrix.flops
    assert Problem(torch.eye(8, dtype=torch.complex128), 1e-6).operations(matrix) == matrix.flops


def test_no_member_may_take_more_operations_than_dense_or_the_cheapest() -> None:
    problem = Problem(torch.eye(8, dtype=torch.float64), 1e-6, of="flops")
    assert (problem.dense_flops, problem.max_flops()) == (128, 127)
    problem.cheapest = 50
    assert (problem.max_flops(), problem.max_params()) == (49, 24)
    assert Problem(torch.eye(8, dtype=torch.float64), 1e-6).max_flops() == 128


def test_time_is_up_after_the_deadline() -> None:
    Problem(torch.eye(2), 1e-6).check_time()
    with pytest.raises(TimeUp, match="time is up"):
        Problem(torch.eye(2), 1e-6, deadline=time.monotonic() - 1).check_time()
