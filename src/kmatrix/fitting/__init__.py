"""Dense in, structured out: the search, the fitting algorithms and the certificate of the error.

What is called from outside stands here, with the question and the answer:

- ``api`` (``fit``), ``named`` (``fit_into``, one structure) and ``comparison`` (``compare``, every family at a budget);
- ``targets`` and ``problem`` (what is asked), ``result`` and ``certificate`` (what comes back);
  ``energy`` is the arithmetic of truncation that all share.

Behind them are seven rooms, each using only what stands below it:

- ``search``: the families tried when no structure is named, and the loop that judges them;
- ``starts``: members near the target by construction; ``learning``: any structure by gradient; ``boxes``: sums of
  rank-one boxes;
- ``orders``: the orders of rows and columns under which a matrix is cheap;
- ``projections``: nearest members by direct methods; ``chains``: factorisations along known supports.
"""

from kmatrix.fitting.api import fit as fit
from kmatrix.fitting.boxes.fit import BoxFit as BoxFit
from kmatrix.fitting.boxes.fit import fit_boxes as fit_boxes
from kmatrix.fitting.boxes.fit import low_rank_boxes as low_rank_boxes
from kmatrix.fitting.certificate import Certificate as Certificate
from kmatrix.fitting.certificate import SpectralEstimate as SpectralEstimate
from kmatrix.fitting.certificate import Timing as Timing
from kmatrix.fitting.certificate import certify as certify
from kmatrix.fitting.comparison import compare as compare
from kmatrix.fitting.named import fit_into as fit_into
from kmatrix.fitting.projections.nearest import project as project
from kmatrix.fitting.projections.tied import project_permutation as project_permutation
from kmatrix.fitting.projections.tied import project_tied as project_tied
from kmatrix.fitting.result import Attempt as Attempt
from kmatrix.fitting.result import Fit as Fit
