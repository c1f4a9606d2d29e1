"""Paper B, Table 1: a network with one hidden layer, dense and structured, on variations of MNIST and grey images."""

from ..common import Recipe
from .run import run
from .settings import Settings, cases, search, settings
from .tables import STAND_IN, pictures, sheets

RECIPE: Recipe[Settings] = Recipe(
    name="hidden-layer",
    title="Compressing a hidden layer: accuracy with 20 to 93 times fewer weights",
    source="arXiv 1903.05895, Table 1",
    settings=settings,
    cases=cases,
    run=run,
    sheets=sheets,
    pictures=pictures,
    stand_in=STAND_IN,
    search=search,
    objective=("validation", "maximize"),
    takes={"small": "15 min", "paper": "8 h (estimate)"},
    wants={"small": "MNIST, sign digits", "paper": "MNIST, grey CIFAR-10"},
)
