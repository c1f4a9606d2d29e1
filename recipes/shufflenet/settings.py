"""Everything that a run depends on, for each preset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ..common import Case
from .mixing import MIXINGS

if TYPE_CHECKING:
    import optuna

TRAINED, TIMED = "train", "time"
HELD_OUT = 10_000


@dataclass(frozen=True)
class Width:
    """A width of the network and how it is trained.

    Attributes:
        factor: what all numbers of channels are multiplied by.
        batch: images in a step, of all processes together.
        rate: learning rate after the warm-up.
    """

    factor: float
    batch: int
    rate: float


@dataclass(frozen=True)
class Settings:
    """Of a preset.

    Attributes:
        data: ``"synthetic"``, ``"sign digits"`` or ``"imagenet"``.
        classes: of the data.
        size: height and width of the images that the network sees.
        widths: of the networks that are trained.
        mixings: keys of ``MIXINGS``, what is compared.
        epochs: passes over the training images.
        warmup: epochs in which the learning rate grows from nothing.
        schedule: how it falls after them: ``"linear"`` and ``"cosine"`` to zero, ``"step"`` to a tenth at 30, 60 and
            80 of 90 epochs.
        momentum: of SGD.
        decay: weight decay, of convolutions and the last layer; none of norms and structured maps.
        structured_rate: multiplier on the learning rate of structured maps.
        smoothing: of the labels.
        smallest: least part of an image that a training crop has.
        flips: whether half of the training images are mirrored.
        held_out: training photographs of ImageNet that are kept for choices.
        timed: widths of the networks that are timed.
        timed_sizes: sizes of the images at inference, batch 1.
        timed_batch: images in a timed training step, of ``size``.
        rounds: how often each is timed, in turns.
    """

    data: Literal["synthetic", "sign digits", "imagenet"]
    classes: int
    size: int
    widths: tuple[Width, ...]
    mixings: tuple[str, ...]
    epochs: int
    warmup: int
    schedule: Literal["linear", "cosine", "step"]
    momentum: float = 0.9
    decay: float = 4e-5
    structured_rate: float = 1.0
    smoothing: float = 0.0
    smallest: float = 0.08
    flips: bool = True
    held_out: int = 0
    timed: tuple[float, ...] = (0.25, 0.5, 1.0)
    timed_sizes: tuple[int, ...] = (224,)
    timed_batch: int = 32
    rounds: int = 30


ALL = tuple(MIXINGS)

PRESETS = {
    "smoke": Settings(
        "synthetic", classes=4, size=32, widths=(Width(0.125, 16, 0.1),), mixings=ALL, epochs=1, warmup=0,
        schedule="linear", smallest=0.5, timed=(0.125,), timed_sizes=(32,), timed_batch=4, rounds=1,
    ),
    "small": Settings(
        "sign digits", classes=10, size=64, widths=(Width(0.25, 64, 0.05),),
        mixings=("shuffle", "hadamard", "k", "identity", "dense"), epochs=15, warmup=2, schedule="linear",
        smallest=0.5, timed_sizes=(64, 224), rounds=8,
    ),
    # The paper names SGD, the epochs, batches and rates and refers to the ShuffleNet paper for the rest: a rate that
    # falls in a straight line, weight decay 4e-5.
    "paper": Settings(
        "imagenet", classes=1000, size=224,
        widths=(Width(0.25, 2048, 0.8), Width(0.5, 2048, 0.8), Width(1.0, 1792, 0.7)),
        mixings=ALL, epochs=90, warmup=5, schedule="linear", rounds=100,
    ),
}  # fmt: skip


def settings(preset: str) -> Settings:
    """The settings of a preset."""
    return PRESETS[preset]


def cases(settings: Settings) -> list[Case]:
    """Each mixing at each width, then the clock at each width."""
    trained = [
        Case(f"{mixing}/width-{w.factor:g}", {"kind": TRAINED, "mixing": mixing, "width": w.factor})
        for w in settings.widths
        for mixing in settings.mixings
    ]
    timed = [Case(f"time/width-{width:g}", {"kind": TIMED, "width": width}) for width in settings.timed]
    return trained + timed


def search(trial: optuna.trial.BaseTrial, settings: Settings, case: Case) -> Settings:
    """Learning rates of the network and of its structured maps; for what is timed there is nothing to search."""
    if case.options["kind"] == TIMED:
        return settings
    rate = trial.suggest_float("rate", 0.02, 2.0, log=True)
    structured = trial.suggest_float("structured_rate", 0.1, 10.0, log=True)
    widths = tuple(replace(width, rate=rate) for width in settings.widths)
    # Nothing is chosen by the images that results are reported on.
    held_out = HELD_OUT if settings.data == "imagenet" else 0
    return replace(settings, widths=widths, structured_rate=structured, held_out=held_out)
