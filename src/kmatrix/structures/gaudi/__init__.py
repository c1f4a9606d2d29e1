"""Boxes that learn where they stand and how wide they are: the Gaudi mask, and matrices made of such boxes."""

from kmatrix.structures.gaudi.content import masked as masked
from kmatrix.structures.gaudi.mask import gaudi_mask as gaudi_mask
from kmatrix.structures.gaudi.matrix import Gaudi as Gaudi
from kmatrix.structures.gaudi.matrix import GaudiMatrix as GaudiMatrix
