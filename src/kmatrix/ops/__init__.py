"""How a chain is multiplied: the public operation, its definition and its backends."""

from kmatrix.ops.chain import Pattern as Pattern
from kmatrix.ops.chain import chain_matmul as chain_matmul

__all__ = ["Pattern", "chain_matmul"]
