"""Paper A, Table 7: how near K-matrices, sparse and low-rank ones come to structured targets, with equal counts."""

from ..common import Recipe
from .run import run
from .settings import Settings, cases, search, settings
from .tables import pictures, sheets

RECIPE: Recipe[Settings] = Recipe(
    name="recovery",
    title="Recovering structured matrices with as many parameters as they need",
    source="arXiv 2012.14966, Table 7",
    settings=settings,
    cases=cases,
    run=run,
    sheets=sheets,
    pictures=pictures,
    search=search,
    objective=("error", "minimize"),
    dealt=True,
    takes={"small": "25 min", "paper": "not run"},
)
