"""Learning the numbers of any structure by gradient: a race of random starts, then L-BFGS on the best of them.

The race runs all starts at once in single precision and drops the worst half by half; the winners have their relaxed
permutations rounded and are refined in double precision.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, FitError, complaint
from kmatrix.fitting.certificate import relative_error
from kmatrix.fitting.chains.nesting import renest
from kmatrix.fitting.learning.descent import gauss_newton, lbfgs
from kmatrix.fitting.learning.harden import harden
from kmatrix.fitting.learning.race import Objective, Race, field_of, gradients_of, objectives, with_numbers
from kmatrix.structures import Structure, StructuredMatrix

_WARM_UP = 20
_HONEST = 1.05  # a sketch is believed while the whole matrix is at most this much worse
_TRIAL = 40  # L-BFGS steps before finalists are compared
_WINDOW = 40  # steps over which progress is judged
_STALLED = 0.999  # share of the loss left after them at which refining ends
_CRAWLING = 0.1  # share left at which Gauss-Newton takes over, near a solution of a small problem
_NEAR = 1e-3  # relative error that is near
_JACOBIAN = 1 << 23  # entries of the largest Jacobian


class Moment(NamedTuple):
    """Where learning stood: seconds and steps since the start, the phase, and the root of the mean squared entry error.

    While racing the error is that of the relaxed matrix, and on larger matrices it is an estimate.
    """

    seconds: float
    steps: int
    phase: str
    rmse: float


Watch = Callable[[Moment], None]
Draw = Callable[[torch.dtype, torch.Generator], StructuredMatrix]


@dataclass(frozen=True)
class Learned:
    """What gradient learning found.

    Attributes:
        matrix: the best member, in double precision, its permutations fixed.
        relative_error: ``||W - A||_F / ||W||_F``, over all entries.
        rounds: how often random starts were drawn.
        steps: gradient steps, those of all starts running together counted once.
        seconds: time taken.
        history: how the error went.
        interrupted: whether Ctrl-C or the deadline cut it short.
    """

    matrix: StructuredMatrix
    relative_error: float
    rounds: int
    steps: int
    seconds: float
    history: tuple[Moment, ...] = field(repr=False)
    interrupted: bool = False

    def seconds_to(self, rmse: float) -> float:
        """When the error first fell to ``rmse``; infinite if it never did. Relaxed matrices do not count."""
        return next((m.seconds for m in self.history if m.phase != "race" and m.rmse <= rmse), math.inf)


def learn(
    target: Tensor,
    structure: Structure,
    *,
    restarts: int = 8,
    steps: int = 200,
    refine: int = 1000,
    rounds: int = 1,
    rates: tuple[float, float] = (0.02, 0.2),
    tol: float = 1e-13,
    closed_form: bool = True,
    starts: Sequence[StructuredMatrix] = (),
    draw: Draw | None = None,
    seed: int = 0,
    deadline: float = math.inf,
    progress: Watch | None = None,
) -> Learned:
    """Fit the numbers of a structure to a dense matrix by gradient descent; works for every structure.

    Minimises ``||W - A||_F^2``. Each round draws ``restarts`` members, runs Adam on all of them together, with rates
    drawn log-uniformly and successive halving, rounds the relaxed permutations of the survivors, and refines the best
    by L-BFGS; where what remains is a chain that the hierarchical factorisation solves, that finishes it. The best
    so far is kept: Ctrl-C and the deadline return it.

    Args:
        target: ``(m, n)`` real or complex tensor.
        structure: the family.
        restarts: random members per round.
        steps: Adam steps per round.
        refine: most L-BFGS steps per round.
        rounds: how often to start afresh while the tolerance is not met.
        rates: range of the Adam rates.
        tol: relative Frobenius error at which to stop.
        closed_form: whether the hierarchical factorisation may finish what it can.
        starts: members to begin with, besides the random ones; not changed.
        draw: makes a random member of a number type from a generator, if not as ``structure.random`` does.
        seed: of every draw.
        deadline: clock time (``time.monotonic``) at which to stop.
        progress: called now and then with the latest moment.

    Raises:
        ArgumentError: if the target is not a finite matrix of a shape that the structure has.
        FitError: if the structure holds no numbers to learn, or was interrupted before there was any result.

    Example:
        >>> import torch
        >>> from kmatrix.structures import Butterfly
        >>> W = Butterfly().random(8, 8, dtype=torch.float64).to_dense().detach()
        >>> learn(W, Butterfly()).relative_error < 1e-12
        True

    Reference: Dao et al., arXiv 1903.05895, section 4.1, for the loss, the relaxed permutations and the rounding.
    """
    for name, value in (("restarts", restarts), ("steps", steps), ("refine", refine)):
        check_size("learn", name, value, minimum=0)
    check_size("learn", "rounds", rounds)
    if restarts == 0 and not starts:
        way_out = "pass restarts=1 or more"
        raise ArgumentError(complaint("learn", "restarts", 0, "there are no starts either", way_out))
    limits = _Limits(steps, refine, tol, deadline, closed_form)
    work = _Work(_checked(target, structure), structure, limits, progress)
    generator = torch.Generator().manual_seed(seed)
    dtype = field_of(structure, work.target)
    low, high = (math.log(rate) for rate in rates)
    interrupted = False
    try:
        for start in starts:
            work.offer(harden(_double(start)), "start")
        for number in range(rounds):
            members = [_drawn(work, dtype, generator, draw) for _ in range(restarts)]
            spread = torch.empty(restarts).uniform_(low, high, generator=generator).exp()
            work.round(members, spread, starts if number == 0 else ())
            if work.done():
                break
        interrupted = work.late()
    except KeyboardInterrupt:
        interrupted = True
    if work.best is None:
        raise FitError(
            complaint("learn", "structure", structure, "stopped before the first result", "allow more time")
        )
    seconds = time.perf_counter() - work.began
    return Learned(
        matrix=work.best,
        relative_error=work.error,
        rounds=work.rounds,
        steps=work.steps_done,
        seconds=seconds,
        history=tuple(work.history),
        interrupted=interrupted,
    )


def _drawn(
    work: _Work, dtype: torch.dtype, generator: torch.Generator, draw: Draw | None
) -> StructuredMatrix:
    if draw is not None:
        return draw(dtype, generator)
    return work.structure.random(*work.target.shape, dtype=dtype, generator=generator)


def _checked(target: Tensor, structure: Structure) -> Tensor:
    if target.ndim != 2 or 0 in target.shape:
        shape = tuple(target.shape)
        raise ArgumentError(complaint("learn", "target.shape", shape, "not a matrix", "pass (m, n) numbers"))
    if not (target.is_floating_point() or target.is_complex()):
        raise DtypeError(complaint("learn", "target.dtype", target.dtype, "not floating", "use .double()"))
    if not bool(torch.isfinite(target.abs()).all()):
        raise ArgumentError(complaint("learn", "target", "...", "holds NaN or infinity", "clean it first"))
    structure.check(*target.shape)
    return target.detach().cpu().to(torch.complex128 if target.is_complex() else torch.float64)


def _double(matrix: StructuredMatrix) -> StructuredMatrix:
    """A copy in double precision."""
    import copy

    return copy.deepcopy(matrix).double()


class _Limits(NamedTuple):
    """How far to go: Adam and L-BFGS steps per round, relative error, clock time, and the closed form."""

    steps: int
    refine: int
    tol: float
    deadline: float
    closed_form: bool


class _Work:
    """The state of one call of ``learn``: the best so far and the clock."""

    def __init__(self, target: Tensor, structure: Structure, limits: _Limits, progress: Watch | None) -> None:
        self.target, self.structure = target, structure
        self.limits, self.progress = limits, progress
        self.began = time.perf_counter()
        self.best: StructuredMatrix | None = None
        self.error = math.inf
        self.rounds = self.steps_done = 0
        self.history: list[Moment] = []
        # Errors are relative inside and per entry outside, where the papers report them.
        self.rms = float(target.abs().square().mean().sqrt())

    def late(self) -> bool:
        return time.monotonic() > self.limits.deadline

    def done(self) -> bool:
        return self.error <= self.limits.tol or self.late()

    def note(self, phase: str, error: float) -> None:
        seconds = time.perf_counter() - self.began
        self.history.append(Moment(seconds, self.steps_done, phase, error * self.rms))
        if self.progress:
            self.progress(self.history[-1])

    def offer(self, matrix: StructuredMatrix, phase: str) -> float:
        """Measure a candidate over all entries, keep it if it is the best, and return its relative error."""
        with torch.no_grad():
            error = relative_error(self.target, matrix.to_dense())
        if error < self.error or self.best is None:
            self.best, self.error = matrix, error
        self.note(phase, error)
        return error

    def round(
        self, members: list[StructuredMatrix], rates: Tensor, starts: Sequence[StructuredMatrix]
    ) -> None:
        """Race, round the permutations, try each finalist briefly, refine the best."""
        if self.done() and self.best is not None:
            return
        finalists = [harden(_double(start)) for start in starts]
        if members:
            self.rounds += 1
            finalists += self.race(members, rates)
        trial = min(_TRIAL, self.limits.refine)
        tried = []
        for matrix in finalists:
            if self.best is None or not self.done():
                tried.append((self.descend(matrix, trial), matrix))
        tried.sort(key=lambda pair: pair[0])
        if tried and not self.done():
            self.descend(tried[0][1], self.limits.refine - trial)

    def race(self, members: list[StructuredMatrix], rates: Tensor) -> list[StructuredMatrix]:
        """Adam on random members, the worst half dropped three times; the hardened survivors, best first."""
        race = Race(members, objectives(self.target, members[0])[0], rates)
        steps = self.limits.steps
        halvings = {steps * k // 10 for k in (4, 6, 8)}
        try:
            for step in range(steps):
                race.step(_share(step, steps))
                self.steps_done += 1
                if step in halvings:
                    race.drop()
                if step % 10 == 9:
                    self.note("race", math.sqrt(float(race.losses.min())))
                if self.late():
                    break
        except KeyboardInterrupt:
            self.offer(harden(race.survivors()[0].double()), "interrupted")
            raise
        return [harden(run.double()) for run in race.survivors()]

    def descend(self, matrix: StructuredMatrix, steps: int) -> float:
        """Refine the matrix in place, then take the closed form if there is one; returns the relative error."""
        error = math.inf
        for objective in objectives(self.target, matrix):
            error, seen = self.refine(matrix, objective, steps)
            if self.done() or error <= _HONEST * seen:
                break
        if self.done() or not self.limits.closed_form:
            return error
        solved = renest(matrix, self.target)
        return error if solved is None else min(error, self.offer(solved, "closed form"))

    def refine(self, matrix: StructuredMatrix, objective: Objective, steps: int) -> tuple[float, float]:
        """L-BFGS, then the last digits by Gauss-Newton, in place: the relative error, and the one that is seen."""
        names = [(name, p.shape) for name, p in matrix.named_parameters()]
        if not names:  # rounding a relaxed permutation can leave nothing to learn
            error = self.offer(matrix, "rounded")
            return error, error

        def split(flat: Tensor) -> dict[str, Tensor]:
            pieces = torch.split(flat, [shape.numel() for _, shape in names])
            return {name: piece.view(shape) for (name, shape), piece in zip(names, pieces, strict=True)}

        def evaluate(flat: Tensor) -> tuple[float, Tensor]:
            leaf = flat.detach().requires_grad_()
            loss = objective(matrix, split(leaf))
            return float(loss.detach()), gradients_of(loss, [leaf])[0]

        def residual(flat: Tensor) -> Tensor:
            return objective.gap(matrix, split(flat)).flatten() * math.sqrt(objective.scale)

        x = torch.cat([p.detach().flatten() for p in matrix.parameters()])
        losses: list[float] = []
        small = len(x) * objective.outputs.numel() <= _JACOBIAN
        crawling = False
        try:
            for point, loss in lbfgs(evaluate, x) if steps > 0 else ():
                x = point
                losses.append(loss)
                self.steps_done += 1
                crawling = small and loss < _NEAR**2 and _decrease(losses) > _CRAWLING
                if crawling or self._settled(losses, steps):
                    break
            else:  # L-BFGS sees no way down any more
                here = losses[-1] if losses else evaluate(x)[0]
                crawling = small and steps > 0 and self.limits.tol**2 < here < _NEAR**2
            if crawling and not self.late():
                for point, loss in gauss_newton(residual, x):
                    x = point
                    losses.append(loss)
                    self.steps_done += 1
                    if loss <= self.limits.tol**2 or self.late():
                        break
        finally:  # also when interrupted: what has been reached is kept
            with_numbers(matrix, split(x))
            error = self.offer(matrix, "refine")
        return error, math.sqrt(losses[-1]) if losses else math.inf

    def _settled(self, losses: list[float], steps: int) -> bool:
        if len(losses) % 10 == 0:
            self.note("refine", math.sqrt(losses[-1]))
        if len(losses) >= steps or losses[-1] <= self.limits.tol**2 or self.late():
            return True
        return _decrease(losses) > _STALLED


def _decrease(losses: list[float]) -> float:
    """What share of the loss is left after the last steps; zero while there were too few to tell."""
    return losses[-1] / losses[-1 - _WINDOW] if len(losses) > _WINDOW else 0.0


def _share(step: int, steps: int) -> float:
    """Warm up, then a half cosine."""
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
