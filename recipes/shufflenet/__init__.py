"""Channel shuffles of ShuffleNet as learned kaleidoscopes: arXiv 2012.14966, Tables 2 and 6."""

from ..common import Recipe
from . import run, settings, tables

RECIPE: Recipe[settings.Settings] = Recipe(
    name="shufflenet",
    title="Channel shuffles in ShuffleNet, 8 groups: shuffle, Hadamard, K",
    source="arXiv 2012.14966, Tables 2 and 6",
    settings=settings.settings,
    cases=settings.cases,
    run=run.run,
    sheets=tables.sheets,
    pictures=tables.pictures,
    stand_in="Sign digits (1,450 training images of hand signs, 64 x 64, ten classes) stand in for ImageNet.",
    search=settings.search,
    objective=("validation", "maximize"),
    takes={"small": "15 min", "paper": "GPUs, not run"},
    wants={"small": "sign digits", "paper": "ImageNet"},
)
