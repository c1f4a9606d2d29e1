"""What is learned by gradient: tied butterflies with complex factors after relaxed permutations, as in the paper.

BP for most targets, BPBP for convolution, and BPP, one more level of permutation first, for the cosine and the sine
transform. Real targets are met by the real part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch

import kmatrix as km

Init = Literal["normal", "orthogonal"]
NAMES = {"convolution": "BPBP", "dct": "BPP", "dst": "BPP"}


def name_of(target: str) -> str:
    """``"BP"``, ``"BPP"`` or ``"BPBP"``."""
    return NAMES.get(target, "BP")


def random_member(
    target: str,
    n: int,
    *,
    init: Init = "orthogonal",
    tied_logits: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> km.StructuredMatrix:
    """A random complex member of the class that the paper learns for a target.

    Args:
        target: whose class.
        n: size, a power of two.
        init: of the 2 x 2 blocks: normal numbers, or unitary blocks.
        tied_logits: one set of choices for all levels of a permutation.
        generator: source of randomness.
        device: where the numbers are.
    """
    structure = km.BPBP(depth=2 if name_of(target) == "BPBP" else 1, tied_logits=tied_logits)
    modules = structure.empty(n, n, dtype=torch.complex64)
    modules.reset_parameters(generator, init=init)
    if name_of(target) != "BPP":
        return modules.to(device)
    first = km.BPPermutation(levels=1).random(n, n, dtype=torch.complex64, generator=generator)
    return km.product(modules, first).to(device)


def hardened(matrix: km.StructuredMatrix) -> km.StructuredMatrix:
    """The matrix with every relaxed permutation rounded; the twiddles are copied."""
    if isinstance(matrix.structure, km.Product):
        parts = [hardened(part) for part in cast("Sequence[km.StructuredMatrix]", matrix.members)]
        return km.product(*parts)
    if isinstance(matrix, km.structures.BPBPMatrix | km.structures.BPPermutationMatrix):
        return matrix.harden()
    return matrix
