"""How a chain is multiplied: the public operation, its definition and its backends."""

from kmatrix.ops.chain import Pattern as Pattern
from kmatrix.ops.chain import chain_matmul as chain_matmul
from kmatrix.ops.dispatch import use_backend as use_backend

__all__ = ["Pattern", "chain_matmul", "use_backend"]
