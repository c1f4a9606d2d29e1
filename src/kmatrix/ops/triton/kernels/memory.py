"""Reading and writing numbers, and what the caches are told about them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def numbers(place, mask, FRESH: tl.constexpr, ONCE: tl.constexpr):
    """What lies there, zero where masked.

    What other programs of the launch have written (``FRESH``) need not take room in the first cache, which the wait
    before has emptied. What is read ``ONCE`` is the first to leave the second cache, so that vectors between factors
    stay; loads that the compiler begins ahead of time do not carry this hint.
    """
    if FRESH:
        return tl.load(place, mask=mask, other=0.0, cache_modifier=".cg")
    elif ONCE:
        return tl.load(place, mask=mask, other=0.0, eviction_policy="evict_first")
    else:
        return tl.load(place, mask=mask, other=0.0)


@triton.jit
def put(place, x, mask, LAST: tl.constexpr):
    """Store; what nobody reads again (``LAST``) is the first to leave the second cache."""
    if LAST:
        tl.store(place, x, mask=mask, eviction_policy="evict_first")
    else:
        tl.store(place, x, mask=mask)
