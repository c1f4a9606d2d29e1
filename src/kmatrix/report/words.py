"""Structures and verdicts in few words, for tables that people read."""

from __future__ import annotations

from kmatrix.fitting import Attempt, Fit, Timing
from kmatrix.structures._words import brief as brief
from kmatrix.structures._words import options as options


def judged(timing: Timing) -> str:
    """Whether measured times are a win, in the words of every table."""
    return f"{timing.verdict} dense here"


def chosen_attempt(fit: Fit) -> Attempt | None:
    """The attempt whose matrix was returned, or ``None`` if the answer is dense."""
    cheap = [a for a in fit.history if a.met is not False and a.structure == fit.matrix.structure]
    return next((a for a in cheap if a.num_params == fit.certificate.num_params), None)
