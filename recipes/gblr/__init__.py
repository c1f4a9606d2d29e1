"""Boxes that learn where they stand, against what they should be compared with, in two small transformers."""

from ..common import Recipe
from .run import run
from .settings import cases, search, settings
from .tables import pictures, sheets

RECIPE = Recipe(
    name="gblr",
    title="Boxes learned along with the model",
    source="arXiv 2310.18882, Tables 1 to 3",
    settings=settings,
    cases=cases,
    run=run,
    sheets=sheets,
    pictures=pictures,
    search=search,
    objective=("validation", "minimize"),
    stand_in="MNIST and a small vision transformer stand in for ImageNet and ViT-B, "
    "the characters of Shakespeare and a small transformer for WikiText-103 and GPT-2.",
    takes={"small": "1 to 2 h", "paper": "GPUs, not run"},
    wants={"small": "MNIST, Tiny Shakespeare", "paper": "ImageNet, WikiText-103"},
)
