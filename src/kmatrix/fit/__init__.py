"""Dense in, structured out: the search, the fitting algorithms and the certificate of the error."""

from kmatrix.fit.api import fit as fit
from kmatrix.fit.certificate import Certificate as Certificate
from kmatrix.fit.certificate import SpectralEstimate as SpectralEstimate
from kmatrix.fit.certificate import Timing as Timing
from kmatrix.fit.certificate import certify as certify
from kmatrix.fit.compare import compare as compare
from kmatrix.fit.projections_tied import project_permutation as project_permutation
from kmatrix.fit.projections_tied import project_tied as project_tied
from kmatrix.fit.result import Attempt as Attempt
from kmatrix.fit.result import Fit as Fit
