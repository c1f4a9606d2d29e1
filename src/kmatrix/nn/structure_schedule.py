"""What changes over the steps in which boxes are learned: what they may cost, and how soft their edges are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kmatrix._checks import check_finite, check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.structures.gaudi.mask import checked_sigma


@dataclass(frozen=True)
class Schedule:
    """What changes over the steps of structure learning.

    Attributes:
        steps: how many there are in all.
        begin: share of the steps after which the boxes begin to shrink.
        reach: share of the steps after which they meet the budget, and after which masks are exact.
        sigma: the Gaussian of the masks at first and at ``reach``, growing by the same factor with each step, such as
            ``(2.0, 100.0)`` for boxes that begin at the cost of dense, as in the paper; None for exact masks always.

    Raises:
        ArgumentError: if a number is missing or out of range.
        DtypeError: if ``steps`` is not a whole number.
    """

    steps: int
    begin: float = 0.05
    reach: float = 0.6
    sigma: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_size("Schedule", "steps", self.steps)
        check_finite("Schedule", "begin", self.begin)
        check_finite("Schedule", "reach", self.reach)
        for name, low, value, high in (
            ("begin", 0.0, self.begin, self.reach),
            ("reach", self.begin, self.reach, 1.0),
        ):
            if not low <= value <= high:
                reason = f"not from {low:g} to {high:g}"
                way_out = "pass shares of the steps, 0 <= begin <= reach <= 1"
                raise ArgumentError(complaint("Schedule", name, value, reason, way_out))
        if self.sigma is None:
            return
        if not isinstance(self.sigma, (tuple, list)) or len(self.sigma) != 2:
            way_out = "pass the first and the last, such as (2.0, 100.0), or None for exact masks"
            raise ArgumentError(complaint("Schedule", "sigma", repr(self.sigma), "not a pair", way_out))
        for sigma in self.sigma:
            if math.isinf(checked_sigma("Schedule", sigma)):
                way_out = (
                    "pass a number of frequencies such as 100, or sigma=None for exact masks all the time"
                )
                raise ArgumentError(
                    complaint("Schedule", "sigma", repr(self.sigma), "not finite numbers", way_out)
                )

    def progress(self, step: int) -> float:
        """How much of the way from the first cost to the budget is behind, from 0 to 1."""
        begin, reach = self.begin * self.steps, self.reach * self.steps
        return min(1.0, max(0.0, (step - begin) / max(reach - begin, 1.0)))

    def sigma_at(self, step: int) -> float:
        """The Gaussian after so many steps."""
        if self.sigma is None or step >= self.reach * self.steps:
            return math.inf
        first, last = self.sigma
        return float(first * (last / first) ** (step / (self.reach * self.steps)))


def check_schedule(where: str, schedule: Schedule | None, steps: int) -> None:
    """Raise if a schedule is none, or for another number of steps: the budget would be met too early or too late."""
    if not isinstance(schedule, Schedule | None):
        way_out = f"pass Schedule({steps}, ...)"
        raise DtypeError(complaint(where, "schedule", repr(schedule), "not a kmatrix.nn.Schedule", way_out))
    if schedule is not None and schedule.steps != steps:
        reason = f"it is for {schedule.steps} steps, and there are {steps}"
        raise ArgumentError(complaint(where, "schedule", schedule, reason, f"pass Schedule({steps}, ...)"))
