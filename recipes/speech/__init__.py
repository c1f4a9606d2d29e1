"""Raw speech through a learned transform, a log power spectrum and a Bi-LSTM, beside hand-made filter banks."""

from ..common import Recipe
from .run import run, search
from .settings import cases, settings
from .tables import pictures, sheets

RECIPE = Recipe(
    name="speech",
    title="Speech front end: a K-matrix that begins as the DFT, beside mel filter banks",
    source="arXiv 2012.14966, Tables 1 and 5",
    settings=settings,
    cases=cases,
    run=run,
    sheets=sheets,
    pictures=pictures,
    stand_in="Connected spoken digits made of FSDD, with a held-out speaker and CTC, stand in for TIMIT's phones.",
    search=search,
    takes={"small": "20 min", "paper": "GPU, not run"},
    wants={"small": "spoken digits (FSDD)", "paper": "TIMIT"},
)
