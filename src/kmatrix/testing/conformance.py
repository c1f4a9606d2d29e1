"""The conformance suite: a structure supplies an example or two and inherits every test."""

from __future__ import annotations

from kmatrix.testing._arithmetic import Arithmetic
from kmatrix.testing._calculus import Calculus
from kmatrix.testing._ecosystem import Ecosystem
from kmatrix.testing._storage import Storage


class StructureConformance(Arithmetic, Calculus, Ecosystem, Storage):
    """What every structure is held to; a test class of yours inherits it and names examples.

    pytest then runs every test for each example, in float64 and complex128 and, where it is cheap, in lower
    precisions. A structure that is defined elsewhere cannot be written to files (only the families of kmatrix
    are read back) and sets ``test_file_round_trip = None``.

    Attributes:
        examples: ``(structure, m, n)`` each, small; square, rectangular and prime shapes where they exist. The
            first is also used where one is enough (compilation, export, second derivatives).
        dtypes: what members may hold, out of float64 and complex128; both by default.
        half: whether members may hold bfloat16.
        counted_by_torch: whether torch's own count of operations is exactly ``flops``, as for chains.

    Example:
        >>> import kmatrix as km
        >>> from kmatrix.testing import StructureConformance
        >>> class TestButterfly(StructureConformance):
        ...     examples = ((km.Butterfly(), 12, 20), (km.Butterfly(), 7, 7))
        ...     counted_by_torch = True
    """
