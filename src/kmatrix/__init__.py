"""kmatrix: learnable structured linear maps."""

from kmatrix._errors import ArgumentError as ArgumentError
from kmatrix._errors import BackendUnavailableError as BackendUnavailableError
from kmatrix._errors import DtypeError as DtypeError
from kmatrix._errors import FileFormatError as FileFormatError
from kmatrix._errors import FitError as FitError
from kmatrix._errors import KMatrixError as KMatrixError
from kmatrix.structures import Butterfly as Butterfly
from kmatrix.structures import Chain as Chain
from kmatrix.structures import Factor as Factor
from kmatrix.structures import Kaleidoscope as Kaleidoscope
from kmatrix.structures import Permute as Permute
from kmatrix.structures import Product as Product
from kmatrix.structures import Scaled as Scaled
from kmatrix.structures import Structure as Structure
from kmatrix.structures import StructuredMatrix as StructuredMatrix
from kmatrix.structures import Sum as Sum
from kmatrix.structures import Transpose as Transpose

__version__ = "0.1.0.dev0"
