"""How a chain is multiplied: the public operation, its definition and its backends."""

from kmatrix.ops.chain import Pattern as Pattern
from kmatrix.ops.chain import chain_matmul as chain_matmul
from kmatrix.ops.dispatch import use_backend as use_backend
from kmatrix.ops.native_cache import set_cache_limit as set_cache_limit
from kmatrix.ops.prepared import PreparedChain as PreparedChain
from kmatrix.ops.prepared import prepare as prepare
from kmatrix.ops.segments import segments_matmul as segments_matmul
from kmatrix.ops.tuning import Tuning as Tuning
from kmatrix.ops.tuning import tune as tune

__all__ = [
    "Pattern",
    "PreparedChain",
    "Tuning",
    "chain_matmul",
    "prepare",
    "segments_matmul",
    "set_cache_limit",
    "tune",
    "use_backend",
]
