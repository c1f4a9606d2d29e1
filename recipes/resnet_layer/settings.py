"""What the runs depend on, for each preset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..common import Case
from .models import EXTRAS

if TYPE_CHECKING:
    import optuna

RATES = (0.1, 0.2)
DECAYS = (0.1, 0.2)


@dataclass(frozen=True)
class Settings:
    """Settings of all runs.

    Attributes:
        data: which images; synthetic ones are random.
        width: channels of the first stage.
        steps: of optimisation; the rate is multiplied by ``decay`` after each quarter of them.
        batch: images in a step.
        rate: learning rate of SGD.
        decay: factor on the rate.
        momentum: of SGD.
        weight_decay: of all weights but those of butterflies, gains and biases.
        shift: most pixels that a training image is moved by, in each direction; it is also flipped half of the time.
    """

    data: Literal["cifar10", "sign-digits", "synthetic"]
    width: int
    steps: int
    batch: int = 128
    rate: float = 0.1
    decay: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-4
    shift: int = 4


def settings(preset: str) -> Settings:
    """Settings of a preset."""
    if preset == "paper":
        return Settings("cifar10", 64, 35_100)  # 100 passes; 5,000 of the 50,000 images are for validation
    if preset == "small":
        return Settings("sign-digits", 8, 400, batch=64, decay=0.2)
    return Settings("synthetic", 2, 2, batch=8)


def cases(settings: Settings) -> list[Case]:
    """The layers that are compared."""
    return [Case(name, {"extra": name}) for name in EXTRAS]


def search(trial: optuna.trial.BaseTrial, settings: Settings, case: Case) -> Settings:
    """The paper's choice of rates and of factors on them."""
    rate = trial.suggest_categorical("rate", RATES)
    return replace(settings, rate=rate, decay=trial.suggest_categorical("decay", DECAYS))
