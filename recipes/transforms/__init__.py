"""Paper B, figure 3: eight matrices learned by gradient, found by the algebraic fit, and approximated."""

from ..common import Recipe
from .run import run
from .settings import Settings, cases, search, settings
from .tables import pictures, sheets

RECIPE: Recipe[Settings] = Recipe(
    name="transforms",
    title="Learning fast transforms from their entries, by gradient and by algebra",
    source="arXiv 1903.05895, Fig. 3",
    settings=settings,
    cases=cases,
    run=run,
    sheets=sheets,
    pictures=pictures,
    search=search,
    objective=("rmse", "minimize"),
    dealt=True,
    takes={"small": "1 h", "paper": "not run"},
)
