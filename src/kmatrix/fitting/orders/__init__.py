"""Orders of rows and columns under which a matrix is cheap.

``discovery`` finds them from the entries alone, with ``trees`` (walking down from whole rows to tiles), ``grouping``
(what spans a line or a plane together) and ``partitions`` (from nested partitions to an order and a price). ``tiles``
tries the known orders for a tolerance, with ``radices``; ``toeplitz`` sorts shuffled Toeplitz matrices.
"""
