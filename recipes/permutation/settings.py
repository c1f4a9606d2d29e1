"""Everything that a run depends on, for each preset."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..common import Case
from . import kaleidoscope, sinkhorn
from .scrambles import RANKS

if TYPE_CHECKING:
    import optuna

LEARNERS = ("kaleidoscope", "sampled", "sinkhorn", "seriation")
"""Methods that find an arrangement first; the others classify what they are given."""
OTHERS = ("unpermuted", "fc", "gru", "cnn", "dense")


@dataclass(frozen=True)
class Sampled:
    """The paper's way: see ``kaleidoscope.sampled``."""

    steps: int = 1_000
    chains: int = 4
    batch: int = 8
    rate: float = 0.05
    entropy: float = 0.5
    temperature: float = 0.5


@dataclass(frozen=True)
class Settings:
    """Of a preset.

    Attributes:
        data: names and epochs of the classifiers.
        synthetic_side: blobs of this size instead of the data; 0 for the data.
        counts: the most images that classifiers are trained and tested on.
        pixel_images: from how many the distances between pixels are computed; those between lines are from all.
        lines: how kaleidoscopes learn orders of rows and columns.
        pixels: how they learn an order of all pixels.
        sampled_lines: the paper's way, rows and columns.
        sampled_pixels: the paper's way, all pixels.
        sinkhorn_lines: Gumbel-Sinkhorn, rows and columns.
        sinkhorn_pixels: Gumbel-Sinkhorn, all pixels.
        widths: channels of the network's stages.
        blocks: in each stage.
        hidden: width of the fully connected and of the recurrent network.
        batch: images in a step.
        rate: of Adam.
        decay: weight decay of Adam.
        drop: epochs after which the rate falls to a fifth, again and again; 0 for half a cosine.
        augment: whether training images are shifted and mirrored before their pixels are permuted, as in the paper's
            code: only who knows the latent order can do that.
        every: steps between validations.
    """

    data: tuple[tuple[str, int], ...]
    synthetic_side: int = 0
    counts: tuple[int, int] = (60_000, 10_000)
    pixel_images: int = 3_000
    lines: kaleidoscope.Plan = field(default_factory=kaleidoscope.Plan)
    pixels: kaleidoscope.Plan = field(default_factory=kaleidoscope.Plan)
    sampled_lines: Sampled = field(default_factory=Sampled)
    sampled_pixels: Sampled = field(default_factory=Sampled)
    sinkhorn_lines: sinkhorn.Plan = field(default_factory=sinkhorn.Plan)
    sinkhorn_pixels: sinkhorn.Plan = field(default_factory=sinkhorn.Plan)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    hidden: int = 1_024
    batch: int = 128
    rate: float = 2e-4
    decay: float = 5e-4
    drop: int = 50
    augment: bool = True
    every: int = 352


PRESETS = {
    "smoke": Settings(
        data=(("synthetic", 2),), synthetic_side=8, counts=(96, 32), pixel_images=96,
        lines=kaleidoscope.Plan(chains=4, first=30, stages=8, steps=12, select=4, restarts=3),
        pixels=kaleidoscope.Plan(chains=2, first=10, stages=2, steps=5, select=2, restarts=1),
        sampled_lines=Sampled(steps=5, chains=2), sampled_pixels=Sampled(steps=5, chains=2),
        sinkhorn_lines=sinkhorn.Plan(chains=2, steps=10),
        sinkhorn_pixels=sinkhorn.Plan(chains=1, steps=5), widths=(4, 8), blocks=1, hidden=16, batch=32, rate=3e-3,
        decay=0.0, drop=0, augment=False, every=3,
    ),
    "small": Settings(
        data=(("mnist", 6), ("sign-digits", 10)), counts=(2_000, 1_000),
        # Steps are such that the three that learn take about as long as each other: 10 s for lines, 20 for pixels.
        lines=kaleidoscope.Plan(chains=8, stages=50),
        pixels=kaleidoscope.Plan(chains=1, first=60, stages=6, restarts=1),
        sampled_lines=Sampled(steps=2_000, rate=0.1, entropy=5.0),
        sampled_pixels=Sampled(steps=1_800, rate=0.2, entropy=0.3),
        sinkhorn_lines=sinkhorn.Plan(steps=500),
        sinkhorn_pixels=sinkhorn.Plan(chains=1, steps=80, iterations=5),
        widths=(8, 16, 32), blocks=1, hidden=256, batch=32, rate=3e-3, decay=0.0, drop=0, augment=False, every=100,
    ),
    "paper": Settings(
        data=(("cifar10", 200),), lines=kaleidoscope.Plan(stages=200),
        pixels=kaleidoscope.Plan(chains=4, first=1_000, stages=100, restarts=2),
        sampled_lines=Sampled(steps=70_400, batch=128), sampled_pixels=Sampled(steps=70_400, batch=128),
        sinkhorn_pixels=sinkhorn.Plan(chains=2, steps=2_000),
    ),
}  # fmt: skip


def settings(preset: str) -> Settings:
    """The settings of a preset."""
    return PRESETS[preset]


def cases(settings: Settings) -> list[Case]:
    """Every method on the bit reversal; on random permutations those that look for an arrangement.

    Classifiers stand behind all of them but the baselines on random permutations, which are compared by what they
    recover.
    """
    found = []
    for data, _ in settings.data:
        wanted = [("unpermuted", "none")]
        wanted += [(method, "bit-reversal") for method in (*OTHERS[1:], *LEARNERS)]
        wanted += [(method, kind) for kind in ("rows-columns", "pixels") for method in LEARNERS]
        for method, kind in wanted:
            classified = kind in ("none", "bit-reversal") or method == "kaleidoscope"
            options = {"data": data, "permutation": kind, "method": method, "classified": classified}
            found.append(Case(f"{method}/{kind}/{data}", options))
    return found


def search(trial: optuna.trial.BaseTrial, settings: Settings, case: Case) -> Settings:
    """What the paper searches: the rate of the permutation, its temperature and entropy; else the network's rate."""
    if case.options["method"] == "sampled":
        name = "sampled_lines" if RANKS[case.options["permutation"]] == 2 else "sampled_pixels"
        way = replace(
            getattr(settings, name),
            rate=trial.suggest_float("permutation_rate", 1e-4, 1e-1, log=True),
            temperature=trial.suggest_float("temperature", 0.1, 2.0, log=True),
            entropy=trial.suggest_float("entropy", 1e-2, 1e1, log=True),
        )
        changed: dict[str, Any] = {name: way}
        return replace(settings, **changed)
    return replace(settings, rate=trial.suggest_float("rate", 1e-4, 1e-2, log=True))
