"""kmatrix: learnable structured linear maps. Any matrix in, a certified fast operator out.

Start with ``fit``. ``structures`` says what can come out, ``transforms`` and ``constructions`` make exact members.
"""

import importlib as _importlib
import typing as _typing

from kmatrix import constructions as constructions
from kmatrix import nn as nn
from kmatrix import ops as ops
from kmatrix import transforms as transforms
from kmatrix._errors import ArgumentError as ArgumentError
from kmatrix._errors import BackendUnavailableError as BackendUnavailableError
from kmatrix._errors import DtypeError as DtypeError
from kmatrix._errors import FileFormatError as FileFormatError
from kmatrix._errors import FitError as FitError
from kmatrix._errors import KMatrixError as KMatrixError
from kmatrix.fitting import Attempt as Attempt
from kmatrix.fitting import Certificate as Certificate
from kmatrix.fitting import Fit as Fit
from kmatrix.fitting import certify as certify
from kmatrix.fitting import compare as compare
from kmatrix.fitting import fit as fit
from kmatrix.fitting import fit_into as fit_into
from kmatrix.nn import densify_ as densify_
from kmatrix.nn import replace_linear_ as replace_linear_
from kmatrix.structures import ACDC as ACDC
from kmatrix.structures import AFDF as AFDF
from kmatrix.structures import BLAST as BLAST
from kmatrix.structures import BPBP as BPBP
from kmatrix.structures import GBLR as GBLR
from kmatrix.structures import OBB as OBB
from kmatrix.structures import BlockCirculant as BlockCirculant
from kmatrix.structures import BlockDiagonal as BlockDiagonal
from kmatrix.structures import BlockLowRank as BlockLowRank
from kmatrix.structures import BlockTensorTrain as BlockTensorTrain
from kmatrix.structures import Boxes as Boxes
from kmatrix.structures import BPPermutation as BPPermutation
from kmatrix.structures import Butterfly as Butterfly
from kmatrix.structures import Chain as Chain
from kmatrix.structures import ChainMatrix as ChainMatrix
from kmatrix.structures import Circulant as Circulant
from kmatrix.structures import Dense as Dense
from kmatrix.structures import Diagonal as Diagonal
from kmatrix.structures import Factor as Factor
from kmatrix.structures import Fastfood as Fastfood
from kmatrix.structures import FixedBPBP as FixedBPBP
from kmatrix.structures import Gaudi as Gaudi
from kmatrix.structures import GaudiMatrix as GaudiMatrix
from kmatrix.structures import GBLRMatrix as GBLRMatrix
from kmatrix.structures import Grouped as Grouped
from kmatrix.structures import GroupShuffle as GroupShuffle
from kmatrix.structures import Hankel as Hankel
from kmatrix.structures import Kaleidoscope as Kaleidoscope
from kmatrix.structures import Kronecker as Kronecker
from kmatrix.structures import LowRank as LowRank
from kmatrix.structures import Monarch as Monarch
from kmatrix.structures import OrthogonalButterfly as OrthogonalButterfly
from kmatrix.structures import Permutation as Permutation
from kmatrix.structures import Permute as Permute
from kmatrix.structures import Product as Product
from kmatrix.structures import RealPart as RealPart
from kmatrix.structures import Scaled as Scaled
from kmatrix.structures import Sparse as Sparse
from kmatrix.structures import Structure as Structure
from kmatrix.structures import StructuredMatrix as StructuredMatrix
from kmatrix.structures import Sum as Sum
from kmatrix.structures import Toeplitz as Toeplitz
from kmatrix.structures import Transpose as Transpose
from kmatrix.structures import deformable_butterfly as deformable_butterfly
from kmatrix.structures import product as product
from kmatrix.structures import sum_of as sum_of
from kmatrix.structures.explain import explain as explain
from kmatrix.structures.serialization import describe as describe
from kmatrix.structures.serialization import load as load

__version__ = "0.1.0.dev0"

# What not every program needs is imported when it is first asked for.
_LATER = ("data", "report", "testing")
_FROM_LATER = {
    "compress_": "compress",
    "CompressReport": "compress",
    "heal": "compress",
    "learn_structure": "compress",
    "LearnReport": "compress",
    "load_model": "compress",
    "lower_": "compress",
    "LoweringReport": "compress",
    "save": "compress",
}

if _typing.TYPE_CHECKING:
    from types import ModuleType as _ModuleType

    from kmatrix import data as data
    from kmatrix import report as report
    from kmatrix.compress import CompressReport as CompressReport
    from kmatrix.compress import LearnReport as LearnReport
    from kmatrix.compress import LoweringReport as LoweringReport
    from kmatrix.compress import compress_ as compress_
    from kmatrix.compress import heal as heal
    from kmatrix.compress import learn_structure as learn_structure
    from kmatrix.compress import load_model as load_model
    from kmatrix.compress import lower_ as lower_
    from kmatrix.compress import save as save

    testing: _ModuleType  # not imported: cli, which imports this package, has no business with it
else:

    def __getattr__(name: str) -> object:
        if name in _LATER:
            return _importlib.import_module(f"kmatrix.{name}")
        if name in _FROM_LATER:
            return getattr(_importlib.import_module(f"kmatrix.{_FROM_LATER[name]}"), name)
        raise AttributeError(f"module 'kmatrix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_FROM_LATER})
