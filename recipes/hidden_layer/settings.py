"""What the runs depend on, for each preset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..common import Case
from .models import METHODS

if TYPE_CHECKING:
    import optuna

TIME = "time"
BG_ROT, NOISE, CIFAR, SIGNS = "mnist-bg-rot", "mnist-noise", "cifar10-grey", "signs-grey"


@dataclass(frozen=True)
class Settings:
    """Settings of all runs.

    Attributes:
        data: names of the data sets, and how many optimisation steps on each.
        train: images of the rebuilt data sets to train on, a part of which is for validation.
        test: images of the rebuilt data sets to test on.
        batch: images in a step.
        validation: share of the training images to choose the rate and the moment by.
        momentum: of SGD.
        rates: learning rates to choose from; the paper's, for BP.
        low_rates: likewise, for the methods that diverge with most of those.
        rounds: ``(steps, left)``: how many rates are left after so many steps; all go to the end if empty.
        every: steps between validations.
        timed: rounds in which the methods take turns, in the case that measures time.
        noise: weight of the correlated part of the noise; 0 is white.
        bandwidth: distance in pixels over which the noise is correlated.
        spread: least standard deviation of a patch of a photograph.
        synthetic: random images instead of data.
    """

    data: tuple[tuple[str, int], ...]
    train: int
    test: int
    batch: int = 50
    validation: float = 0.15
    momentum: float = 0.9
    rates: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    low_rates: tuple[float, ...] = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
    rounds: tuple[tuple[int, int], ...] = ()
    every: int = 204
    timed: int = 10
    noise: float = 1.0
    bandwidth: float = 6.0
    spread: float = 0.1
    synthetic: bool = False


def settings(preset: str) -> Settings:
    """Settings of a preset."""
    if preset == "paper":
        # 50 passes; the paper does not say how many. 204 steps are a pass over the MNIST sets.
        return Settings(((BG_ROT, 10_200), (NOISE, 10_200), (CIFAR, 42_500)), 12_000, 50_000)
    if preset == "small":
        data = ((BG_ROT, 2_000), (NOISE, 2_000), (SIGNS, 1_000))
        return Settings(data, 12_000, 10_000, rounds=((150, 2), (400, 1)), every=100)
    return Settings(
        ((BG_ROT, 4), (NOISE, 4)),
        120,
        40,
        rates=(0.01, 0.05),
        low_rates=(0.001, 0.002),
        rounds=((2, 1),),
        every=2,
        timed=1,
        synthetic=True,
    )


def cases(settings: Settings) -> list[Case]:
    """The time of a step of all methods, and every method on every data set."""
    return [Case(TIME, {"method": None})] + [
        Case(
            f"{method}/{data}", {"method": method, "data": data, **({"more": what.more} if what.more else {})}
        )
        for data, _ in settings.data
        for method, what in METHODS.items()
    ]


def rates(settings: Settings, method: str) -> tuple[float, ...]:
    """The learning rates that a method chooses from."""
    what = METHODS[method]
    grid = settings.low_rates if what.low else settings.rates
    return grid if len(grid) == 1 else grid + what.more  # a search has settled on one


def search(trial: optuna.trial.BaseTrial, settings: Settings, case: Case) -> Settings:
    """One learning rate instead of those to choose from in every run; for times there is nothing to search."""
    if case.name == TIME:
        return settings
    grid = {"rates": Settings.rates, "low_rates": Settings.low_rates}
    rate = trial.suggest_categorical("rate", rates(replace(settings, **grid), case.options["method"]))
    return replace(settings, rates=(rate,), low_rates=(rate,), rounds=())
