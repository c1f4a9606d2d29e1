"""Paper B, Table 2: a ResNet18 with a dense or a structured layer before its classifier."""

from ..common import Recipe
from .run import run
from .settings import Settings, cases, search, settings
from .tables import STAND_IN, pictures, sheets

RECIPE: Recipe[Settings] = Recipe(
    name="resnet-layer",
    title="ResNet18 with an extra structured layer before the classifier",
    source="arXiv 1903.05895, Table 2",
    settings=settings,
    cases=cases,
    run=run,
    sheets=sheets,
    pictures=pictures,
    stand_in=STAND_IN,
    search=search,
    objective=("validation", "maximize"),
    takes={"small": "10 min", "paper": "GPU, not run"},
    wants={"small": "sign digits", "paper": "CIFAR-10"},
)
