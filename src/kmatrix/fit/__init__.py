"""Dense in, structured out: the search, the fitting algorithms and the certificate of the error.

Where to go next:

- the question and the answer: ``api`` (``fit``), ``targets``, ``problem``, ``result``, ``certificate``, ``compare``;
- the search without a named structure: ``auto`` (the loop), ``families`` (what is tried);
- one named structure: ``named``, ``projections`` and ``projections_tied`` (closed forms), ``alternating``, ``blast``,
  ``pursuit`` (sparse plus low rank), ``truncation`` (batched SVDs);
- chains: ``hierarchical`` (the factorisation and its error bound), ``polish``, ``nesting``;
- orders of rows and columns: ``orders`` and ``trees``, ``grouping``, ``discovery`` (exact), ``tiles`` with ``radices``
  (for a tolerance), ``toeplitz_orders``;
- learning by gradient: ``gradient`` (the method), ``race`` and ``descent`` (its parts), ``harden``, ``starts`` with
  ``kaleidoscope_starts``, ``orthogonal_starts``, ``peeling`` and ``fastfood`` (where to start from).
"""

from kmatrix.fit.api import fit as fit
from kmatrix.fit.certificate import Certificate as Certificate
from kmatrix.fit.certificate import SpectralEstimate as SpectralEstimate
from kmatrix.fit.certificate import Timing as Timing
from kmatrix.fit.certificate import certify as certify
from kmatrix.fit.compare import compare as compare
from kmatrix.fit.named import fit_into as fit_into
from kmatrix.fit.projections import project as project
from kmatrix.fit.projections_tied import project_permutation as project_permutation
from kmatrix.fit.projections_tied import project_tied as project_tied
from kmatrix.fit.result import Attempt as Attempt
from kmatrix.fit.result import Fit as Fit
