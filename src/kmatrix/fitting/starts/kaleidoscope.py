"""Members of the kaleidoscope hierarchy by construction: the theorems, applied to what stands out in a matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kmatrix import constructions
from kmatrix._errors import FitError
from kmatrix._permutations import bit_reversal, inverse
from kmatrix.constructions.factors import ButterflyFactors
from kmatrix.constructions.kform import KForm, from_matrix, padded_size
from kmatrix.constructions.permutations import permutation_halves
from kmatrix.fitting.chains.hierarchical import balance_chain, hierarchical
from kmatrix.fitting.chains.peeling import peel
from kmatrix.fitting.orders.discovery import Discovery, discover
from kmatrix.fitting.orders.trees import Check
from kmatrix.fitting.problem import TIME_IS_UP, TimeUp
from kmatrix.fitting.starts.fastfood import recognise_fastfood
from kmatrix.structures import ChainMatrix, Kaleidoscope, StructuredMatrix

Named = Iterator[tuple[KForm, str]]


def kaleidoscope_starts(
    structure: Kaleidoscope, target: Tensor, *, tol: float, seed: int = 0, check: Check = lambda: None
) -> Iterator[tuple[StructuredMatrix, str]]:
    """Members near the target, cheapest construction first; those too wide or too large for the structure are left out.

    Args:
        structure: the family.
        target: ``(m, n)`` float64 or complex128; real targets get real members.
        tol: relative error at which an order of rows and columns counts as found.
        seed: of the search for orders.
        check: called now and then; what it raises ends the making of starts.
    """
    size = structure.layout(*target.shape).cols
    for form, how in _forms(structure, target, tol, seed, check):
        check()
        if form.width > structure.width or form.size > size:
            continue
        form = form.with_size(size).with_width(structure.width)  # noqa: PLW2901
        weights = [torch.as_tensor(w) for half in form.halves for w in half.twiddles]
        if target.is_complex() or not any(w.is_complex() for w in weights):
            yield _matrix(structure, target, weights), how


def _matrix(structure: Kaleidoscope, target: Tensor, weights: list[Tensor]) -> ChainMatrix:
    shape = (target.shape[0], target.shape[1])
    return ChainMatrix.from_weights(structure, shape, balance_chain([w.to(target.dtype) for w in weights]))


def _forms(structure: Kaleidoscope, target: Tensor, tol: float, seed: int, check: Check) -> Named:
    m, n = target.shape
    size = padded_size(m, n)
    framed = nn.functional.pad(target, (0, size - n, 0, size - m))
    if m == n == size:
        yield _peeled(framed), "peeling"
    yield KForm.of((m, n), [_butterfly(framed)]), "a hierarchical factorisation"
    yield KForm.of((m, n), [_butterfly(framed.T).transpose()]), "a transposed hierarchical factorisation"
    if m == n:
        yield _of(_monomial(target)), "one entry in each row and column"
    yield from _low_rank(structure, target)
    if structure.width >= 4:
        yield from _sparse(structure, target, size)
    if structure.width >= 2 and m == n == size:
        yield from _ordered(framed, tol, seed, check)
        yield from _fastfood(framed)


def _fastfood(framed: Tensor) -> Named:
    try:
        s, g, p, b = recognise_fastfood(framed)
    except FitError:
        return
    yield _of(constructions.fastfood(s / len(p), g, p, b)), "a Fastfood matrix"


def _of(matrix: ChainMatrix) -> KForm:
    return from_matrix("starts", "matrix", matrix)[0]


def _peeled(framed: Tensor) -> KForm:
    weights = [w.numpy() for w in peel(framed).weights]
    half = len(weights) // 2
    size = len(framed)
    return KForm(
        (size, size),
        (ButterflyFactors(size, tuple(weights[:half])), ButterflyFactors(size, tuple(weights[half:]))),
    )


def _butterfly(framed: Tensor) -> ButterflyFactors:
    size = len(framed)
    levels = size.bit_length() - 1
    found = hierarchical(framed, [(2, 2)] * levels, ranks=[1] * (levels - 1))
    return ButterflyFactors(size, tuple(w.numpy() for w in found.weights))


def _monomial(target: Tensor) -> ChainMatrix:
    """The largest entries of which no two share a row or column."""
    from scipy.optimize import linear_sum_assignment

    columns = linear_sum_assignment(target.abs().square().numpy(), maximize=True)[1]
    entries = target[torch.arange(len(columns)), torch.from_numpy(columns)]
    return constructions.scale(constructions.permutation(columns, dtype=torch.float64), left=entries)


def _low_rank(structure: Kaleidoscope, target: Tensor) -> Named:
    """As much of the singular value decomposition as fits."""
    rank = min(*target.shape, 1 if structure.expansion == 1 else 2)
    if structure.expansion >= 4:
        rank = min(*target.shape, 2 * structure.width + 2)
    u, s, vh = torch.linalg.svd(target, full_matrices=False)
    yield _of(constructions.low_rank(u[:, :rank] * s[:rank], vh[:rank])), f"singular vectors, rank {rank}"


def _sparse(structure: Kaleidoscope, target: Tensor, size: int) -> Named:
    """As many of the largest entries as fit."""
    terms = 1 if structure.expansion == 1 else 2
    if structure.expansion >= 4:
        terms = 2 * (structure.width // 4) + 2
    flat = target.flatten()
    kept = flat.abs().topk(min(terms * size, len(flat))).indices
    entries = torch.zeros_like(flat)
    entries[kept] = flat[kept]
    yield _of(constructions.sparse(entries.view_as(target))), "the largest entries"


def _ordered(framed: Tensor, tol: float, seed: int, check: Check) -> Named:
    """A butterfly between orders of rows and columns: bit reversal, then whatever ``discover`` finds."""
    size = len(framed)
    natural, reverse = torch.arange(size).numpy(), bit_reversal(size)
    orders = [(natural, reverse, "bit-reversed columns"), (reverse, natural, "bit-reversed rows")]
    found = discover(framed, tol=tol, seed=seed, check=check)
    if isinstance(found, Discovery):
        orders.append((found.row_perm, found.col_perm, found.how))
    for rows, columns, how in orders:
        butterfly = _butterfly(framed[torch.from_numpy(rows)][:, torch.from_numpy(columns)])
        pieces = [*permutation_halves(columns, size)] if (columns != natural).any() else []
        pieces.append(butterfly)
        pieces += permutation_halves(inverse(rows), size) if (rows != natural).any() else ()
        yield KForm.of((size, size), pieces), f"a hierarchical factorisation, {how}"
    if isinstance(found, Discovery) and found.interrupted:
        raise TimeUp(TIME_IS_UP)
