"""The papers' experiments, one folder each: they use the public API of kmatrix alone and are run by ``kmatrix recipe``.

``common`` has what they share: what a recipe is, data, training, and the runner that repeats, resumes and reports.
"""

import importlib
from typing import Any

from .common import Recipe

FOLDERS = (
    "transforms",
    "hidden_layer",
    "resnet_layer",
    "shufflenet",
    "speech",
    "permutation",
    "translation",
    "gblr",
    "recovery",
)
"""In the order of the list that the command prints."""


def load(name: str) -> Recipe[Any]:
    """The recipe of a name as on the command line.

    Raises:
        KeyError: if there is none.
    """
    folder = name.replace("-", "_")
    if folder not in FOLDERS:
        raise KeyError(name)
    recipe = importlib.import_module(f".{folder}", __package__).RECIPE
    assert isinstance(recipe, Recipe)
    return recipe
