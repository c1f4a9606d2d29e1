"""A dense matrix in, the nearest member out, for the families that have a direct method.

``nearest`` has the rules (``project``), ``tied`` those of families with tied diagonals; exact minimisers but for
``alternating`` (padded Kronecker sums, sums of structures), ``blast`` and ``pursuit`` (sparse plus low rank), which
end in local ones. ``truncation`` does batched SVDs.
"""
