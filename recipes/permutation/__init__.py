"""Images whose pixels were permuted, put in order by a kaleidoscope: arXiv 2012.14966, Table 3."""

from ..common import Recipe
from . import run, settings, tables

RECIPE: Recipe[settings.Settings] = Recipe(
    name="permutation",
    title="A latent permutation of pixels, learned by total variation, then a CNN",
    source="arXiv 2012.14966, Table 3",
    settings=settings.settings,
    cases=settings.cases,
    run=run.run,
    sheets=tables.sheets,
    pictures=tables.pictures,
    stand_in="MNIST (28 x 28, padded to 32) and sign digits (resized to 32 x 32) stand in for CIFAR-10.",
    search=settings.search,
    objective=("validation", "maximize"),
    takes={"small": "1.5 h", "paper": "GPU, not run"},
    wants={"small": "MNIST, sign digits", "paper": "CIFAR-10"},
)
