"""The minimisers on functions whose minima are known."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from kmatrix.fitting.learning.descent import Adam, gauss_newton, lbfgs

CURVATURES = torch.logspace(-2, 2, 12, dtype=torch.float64)


def bowl(x: Tensor) -> tuple[float, Tensor]:
    return float((CURVATURES * x.square()).sum()), 2 * CURVATURES * x


def rosenbrock(x: Tensor) -> tuple[float, Tensor]:
    leaf = x.clone().requires_grad_()
    loss = 100 * (leaf[1] - leaf[0] ** 2) ** 2 + (1 - leaf[0]) ** 2
    (gradient,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), gradient


def test_lbfgs_goes_far_below_the_square_of_the_rounding() -> None:
    losses = [loss for _, loss in lbfgs(bowl, torch.ones(12, dtype=torch.float64))]
    assert losses[-1] < 1e-40
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert len(losses) < 200


def test_lbfgs_follows_a_curved_valley() -> None:
    *_, (x, loss) = lbfgs(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64))
    torch.testing.assert_close(x, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-8)
    assert loss < 1e-15


def test_lbfgs_has_nothing_to_do_at_a_minimum() -> None:
    assert list(lbfgs(bowl, torch.zeros(12, dtype=torch.float64))) == []


def test_gauss_newton_converges_where_solutions_are_not_isolated() -> None:
    def residual(x: Tensor) -> Tensor:  # two factors of every number, scaled freely against each other
        return x[:3] * x[3:] - torch.arange(1.0, 4.0, dtype=torch.float64)

    start = torch.tensor([1.1, 2.0, 3.0, 1.0, 0.9, 1.1], dtype=torch.float64)
    losses = [loss for _, loss in gauss_newton(residual, start)]
    assert losses[-1] < 1e-28
    assert len(losses) < 10


def test_adam_runs_do_not_touch_each_other() -> None:
    def descended(starts: list[float], rates: list[float]) -> Tensor:
        x = torch.tensor(starts)[:, None]
        adam = Adam([x], torch.tensor(rates))
        for _ in range(50):
            adam.step([2 * adam.parameters[0]], 1.0)
        return adam.parameters[0][:, 0]

    together = descended([1.0, -3.0], [0.1, 0.02])
    torch.testing.assert_close(together, torch.cat([descended([1.0], [0.1]), descended([-3.0], [0.02])]))


def test_adam_goes_on_with_the_runs_that_are_kept() -> None:
    adam = Adam([torch.ones(3, 2)], torch.tensor([0.1, 0.2, 0.3]))
    adam.step([torch.ones(3, 2)], 1.0)
    before = adam.parameters[0].clone()
    adam.keep(torch.tensor([2, 0]))
    assert torch.equal(adam.parameters[0], before[[2, 0]])
    assert adam.rates.tolist() == torch.tensor([0.3, 0.1]).tolist()
    adam.step([torch.ones(2, 2)], 1.0)
    assert adam.parameters[0].shape == (2, 2)
