"""What a new structure or kernel is tested with: the conformance suite and a zoo of named matrices."""

from kmatrix.testing.conformance import StructureConformance as StructureConformance
from kmatrix.testing.reference import assert_equal_up_to_rounding as assert_equal_up_to_rounding
from kmatrix.testing.reference import assert_matches_reference as assert_matches_reference
from kmatrix.testing.reference import dottest as dottest
from kmatrix.testing.zoo import zoo as zoo
