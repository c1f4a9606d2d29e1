"""A dense matrix as a product of sparse factors whose supports are known.

``hierarchical`` is the factorisation with its error bound, ``nesting`` applies it to the chains of structures,
``members`` go between the two; ``polish`` improves all numbers by least squares, ``peeling`` splits a matrix into
two butterflies.
"""
