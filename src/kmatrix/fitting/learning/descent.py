"""Descent on plain vectors: Adam for many starts at once, and L-BFGS down to the last digit.

Neither knows what it minimises. Both have no absolute thresholds, so that a loss of 1e-24 is still brought down.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], tuple[float, Tensor]]
"""From a flat vector to the loss and its gradient."""

_SUFFICIENT, _CURVATURE = 1e-4, 0.9
_LINE_STEPS = 25
_DIRECTIONS = 64


def lbfgs(evaluate: Evaluate, x: Tensor, *, memory: int = 40) -> Iterator[tuple[Tensor, float]]:
    """Minimise by L-BFGS with a bisecting weak-Wolfe line search; yields each iterate and its loss.

    Ends when the gradient vanishes or no step along the direction makes the loss smaller.

    Args:
        evaluate: loss and gradient at a vector.
        x: where to start; not changed.
        memory: how many pairs of steps and gradient differences are remembered.

    Example:
        >>> squares = lambda x: (float(x.square().sum()), 2 * x)
        >>> *_, (x, loss) = lbfgs(squares, torch.ones(3, dtype=torch.float64))
        >>> loss < 1e-20
        True

    Reference: Nocedal and Wright, Numerical Optimization, algorithm 7.4; the line search of Lewis and Overton, 2013.
    """
    loss, gradient = evaluate(x)
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=memory)
    while math.isfinite(loss) and loss > 0:
        direction = -_apply_inverse(pairs, gradient)
        slope = float(direction @ gradient)
        if not slope < 0:
            return
        first = 1.0 if pairs else 1.0 / math.sqrt(-slope)
        found = _line_search(evaluate, x, loss, direction, slope, first)
        if found is None:
            return
        step, new_loss, new_gradient = found
        moved, turned = step * direction, new_gradient - gradient
        curvature = float(moved @ turned)
        if curvature > 0:
            pairs.append((moved, turned, curvature))
        x, loss, gradient = x + moved, new_loss, new_gradient
        yield x, loss


def _apply_inverse(pairs: deque[tuple[Tensor, Tensor, float]], gradient: Tensor) -> Tensor:
    """The two-loop recursion: the inverse Hessian that the pairs suggest, times the gradient."""
    q = gradient.clone()
    shares = []
    for moved, turned, curvature in reversed(pairs):
        shares.append(float(moved @ q) / curvature)
        q -= shares[-1] * turned
    if pairs:
        _, turned, curvature = pairs[-1]
        q *= curvature / float(turned @ turned)
    for (moved, turned, curvature), share in zip(pairs, reversed(shares), strict=True):
        q += (share - float(turned @ q) / curvature) * moved
    return q


def _line_search(
    evaluate: Evaluate, x: Tensor, loss: float, direction: Tensor, slope: float, step: float
) -> tuple[float, float, Tensor] | None:
    """A step of sufficient decrease and curvature; if rounding hides those, any step that decreases the loss."""
    low, high = 0.0, math.inf
    fallback = None
    for _ in range(_LINE_STEPS):
        value, gradient = evaluate(x + step * direction)
        if value < loss and (fallback is None or value < fallback[1]):
            fallback = (step, value, gradient)
        if not value <= loss + _SUFFICIENT * step * slope:
            high = step
        elif float(gradient @ direction) < _CURVATURE * slope:
            low = step
        else:
            return step, value, gradient
        step = (low + high) / 2 if high < math.inf else 2 * low
    return fallback


def gauss_newton(
    residual: Callable[[Tensor], Tensor], x: Tensor, *, steps: int = 30
) -> Iterator[tuple[Tensor, float]]:
    """Bring a small residual down to rounding by damped Gauss-Newton steps; yields like ``lbfgs``.

    The damping is in proportion to the residual, so that convergence stays quadratic where solutions are not isolated
    (factors can be scaled against each other). Ends when no damping lowers the sum of squares.

    Args:
        residual: a real vector of differentiable numbers from a flat one.
        x: where to start, near a solution; not changed.
        steps: most steps.

    Reference: Yamashita and Fukushima, On the rate of convergence of the Levenberg-Marquardt method, 2001.
    """
    gap = residual(x)
    loss, damping = float(gap @ gap), 1e-2
    for _ in range(steps):
        jacobian = _jacobian(residual, x)
        gram, slope = jacobian.T @ jacobian, jacobian.T @ gap
        for _ in range(_LINE_STEPS):
            shift = damping * math.sqrt(loss) * float(gram.diagonal().amax())
            factor, failed = torch.linalg.cholesky_ex(gram + shift * torch.eye(len(x), dtype=x.dtype))
            trial = x - torch.cholesky_solve(slope[:, None], factor)[:, 0]
            new_gap = residual(trial)
            new_loss = float(new_gap @ new_gap)
            if not failed and new_loss < loss:
                break
            damping *= 8
        else:
            return
        x, gap, loss, damping = trial, new_gap, new_loss, damping / 8
        yield x, loss


def _jacobian(residual: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Column by column, a few at a time, as all at once would hold every intermediate that often.

    The pullback is linear, so its own pullback is the derivative along a direction (torch's forward mode is not used:
    it compiles deprecated scripts when it is first called).
    """
    # Indexed, as the stubs of vjp also know a third value that only has_aux gives.
    pulled = torch.func.vjp(residual, x)
    gap, pullback = pulled[0], pulled[1]

    def along(direction: Tensor) -> Tensor:
        forward = torch.func.vjp(lambda weights: pullback(weights)[0], torch.zeros_like(gap))[1]
        derivative: Tensor = forward(direction)[0]
        return derivative

    directions = torch.split(torch.eye(len(x), dtype=x.dtype), _DIRECTIONS)
    return torch.cat([torch.func.vmap(along)(some) for some in directions]).mT


class Adam:
    """Adam on parameters that each hold one run per entry of their first axis, every run with its own rate.

    Args:
        parameters: tensors ``(runs, ...)``, changed in place.
        rates: ``(runs,)`` step sizes.
    """

    def __init__(self, parameters: list[Tensor], rates: Tensor) -> None:
        self.parameters = parameters
        self.rates = rates
        self._means = [torch.zeros_like(p) for p in parameters]
        self._squares = [torch.zeros_like(p) for p in parameters]
        self._steps = 0

    def step(self, gradients: Sequence[Tensor], share: float) -> None:
        """Move by ``share`` of the rates, against gradients of the parameters' shapes."""
        self._steps += 1
        unbias = math.sqrt(1 - 0.99**self._steps) / (1 - 0.9**self._steps)
        with torch.no_grad():
            for p, g, mean, square in zip(
                self.parameters, gradients, self._means, self._squares, strict=True
            ):
                mean.mul_(0.9).add_(g, alpha=0.1)
                square.mul_(0.99).addcmul_(g, g, value=0.01)
                rate = (share * unbias * self.rates).view(-1, *[1] * (p.ndim - 1))
                p.sub_(rate * mean / (square.sqrt() + 1e-12))

    def keep(self, runs: Tensor) -> None:
        """Go on with the given runs only."""
        self.rates = self.rates[runs]
        for tensors in (self.parameters, self._means, self._squares):
            tensors[:] = [t[runs].contiguous() for t in tensors]
