"""Paper A, Table 4 and Figure 5: a translator with a structured decoder, how good it is and how fast."""

from ..common import Recipe
from .run import run
from .settings import Settings, cases, search, settings
from .tables import STAND_IN, pictures, sheets

RECIPE: Recipe[Settings] = Recipe(
    name="translation",
    title="Translation with a structured decoder: BLEU and sentences per second",
    source="arXiv 2012.14966, Table 4 and Figure 5",
    settings=settings,
    cases=cases,
    run=run,
    sheets=sheets,
    pictures=pictures,
    stand_in=STAND_IN,
    search=search,
    takes={"small": "1 h", "paper": "GPU, not run"},
    wants={"small": "Tatoeba, Python documentation", "paper": "IWSLT'14"},
)
