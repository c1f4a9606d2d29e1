"""What a structured matrix is: the algebra and the families."""

from kmatrix.structures.base import Structure as Structure
from kmatrix.structures.base import StructuredMatrix as StructuredMatrix
from kmatrix.structures.butterfly import Butterfly as Butterfly
from kmatrix.structures.chain import Chain as Chain
from kmatrix.structures.chain import ChainMatrix as ChainMatrix
from kmatrix.structures.chain import Factor as Factor
from kmatrix.structures.chain import Permute as Permute
from kmatrix.structures.compose import Product as Product
from kmatrix.structures.compose import Scaled as Scaled
from kmatrix.structures.compose import Sum as Sum
from kmatrix.structures.compose import Transpose as Transpose
from kmatrix.structures.compose import product as product
from kmatrix.structures.compose import sum_of as sum_of
from kmatrix.structures.kaleidoscope import Kaleidoscope as Kaleidoscope
