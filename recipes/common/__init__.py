"""What all recipes share. A recipe needs these names; ``training``, ``data`` and ``sheets`` have more."""

from .recipe import Case as Case
from .recipe import Recipe as Recipe
from .recipe import Row as Row
from .recipe import Run as Run
from .recipe import Sheet as Sheet
