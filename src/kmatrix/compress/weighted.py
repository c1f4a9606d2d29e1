"""Members of a structure near a weight in the norm of its inputs: one method for each kind of structure.

Low rank is exact. Two untied factors (block tensor-trains, block low rank, Monarch, group-and-shuffle): every tile in
turn is set to its best, given the others, which never raises the error. One factor (block diagonal): exact, row by
row. Everything else (BLAST, butterflies, sums): L-BFGS from the nearest member in the Frobenius norm; boxes (GBLR) from
the best of several.
"""

from __future__ import annotations

import time
from copy import deepcopy

import torch
from torch import Tensor

from kmatrix._errors import FitError, KMatrixError
from kmatrix._permutations import inverse
from kmatrix.compress.metric import Metric
from kmatrix.compress.weighted_boxes import aware_boxes, blind_boxes
from kmatrix.fitting import fit_into, project
from kmatrix.fitting.problem import Problem
from kmatrix.fitting.projections.tiles import Tiling, orders_of
from kmatrix.structures import GBLR, ChainMatrix, LowRank, Structure, StructuredMatrix
from kmatrix.structures.chain import ChainStructure

SWEEPS = 3
"""Rounds over the tiles; the error falls fast at first and hardly afterwards."""
GAIN = 1e-2
"""A round that lowers the error by less than this share is the last."""
TILE_DTYPE = torch.float32
"""Of the rounds over tiles: the ridge keeps their equations well within its precision."""
STEPS = 40
"""Of L-BFGS."""
SECONDS = 10.0
"""For the blind start of structures that are learnt by gradient."""


def low_rank(shape: tuple[int, int], structure: LowRank, basis: Tensor, reduced: Tensor) -> StructuredMatrix:
    """The member ``L_r B_r`` from the first columns of ``L`` and rows of ``B``; zeros where they have fewer."""
    r = structure.rank
    left, right = balanced(basis[:, :r], reduced[:r])
    missing = r - left.shape[1]
    left = torch.nn.functional.pad(left, (0, missing))
    right = torch.nn.functional.pad(right, (0, 0, 0, missing))
    weights = [right.reshape(1, r, -1, 1), left.reshape(1, -1, r, 1)]
    return ChainMatrix.from_weights(structure, (shape[0], shape[1]), weights)


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product ``left @ right``, the norm of each of its terms shared evenly between the two."""
    ours = torch.linalg.vector_norm(left, dim=-2, keepdim=True)
    theirs = torch.linalg.vector_norm(right, dim=-1, keepdim=True)
    share = (theirs.mT / ours).sqrt()
    share = torch.where(torch.isfinite(share) & (share > 0), share, 1.0)
    return left * share, right / share.mT


def blind(metric: Metric, structure: Structure) -> StructuredMatrix:
    """The member nearest in the Frobenius norm, by the method of ``km.fit``."""
    if isinstance(structure, GBLR):
        return blind_boxes(metric, structure)
    weight = metric.weight.cpu()
    try:
        matrix = project(structure, weight)
    except FitError:
        problem = Problem(weight.double(), 1e-6, deadline=time.monotonic() + SECONDS)
        matrix = fit_into(structure, problem).matrix
    return matrix.to(metric.weight.device, metric.weight.dtype)


def aware(metric: Metric, structure: Structure, start: StructuredMatrix) -> StructuredMatrix:
    """A member near the weight in the norm of the inputs, from the blind one; that one where no method applies."""
    try:
        return _nearer(metric, structure, start)
    except (KMatrixError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return start


def _nearer(metric: Metric, structure: Structure, start: StructuredMatrix) -> StructuredMatrix:
    if isinstance(start, ChainMatrix) and isinstance(structure, ChainStructure):
        factors = start.layout.factors
        tied = any(f.tie for f in factors)
        if len(factors) == 2 and not tied:
            return _tile_by_tile(metric, structure, start)
        if len(factors) == 1 and not tied and factors[0].d == 1:
            return _on_blocks(metric, structure, start)
    if isinstance(structure, GBLR):
        with torch.no_grad():
            made = aware_boxes(metric, structure, start)
            start = min(made, key=lambda matrix: metric.impact(matrix.to_dense()))
    return _descended(metric, start)


def _framed(metric: Metric, start: ChainMatrix, columns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The weight and the second moments, padded to the chain with zeros, in the order of its blocks."""
    m, n = metric.weight.shape
    regular = metric.regular
    assert regular is not None
    weight = metric.weight.new_zeros(start.layout.rows, start.layout.cols)
    weight[:m, :n] = metric.weight
    second = weight.new_zeros(weight.shape[1], weight.shape[1])
    second[:n, :n] = regular
    return weight[rows][:, columns], second[columns][:, columns]


def _tile_by_tile(metric: Metric, structure: ChainStructure, start: ChainMatrix) -> StructuredMatrix:
    """Rounds over the blocks of columns: every tile in turn becomes the best of its rank, given the others.

    With ``E`` the weight minus all other tiles of the same rows, ``X = E C_k (C_kk)^-1`` is the best tile without a
    bound on its rank, and ``U_r U_r^T X`` the best of rank ``r``, ``U`` the left singular vectors of ``X C_kk^(1/2)``.
    """
    tiling = Tiling.of(start)
    (height, width), (b, c) = tiling.grid, (tiling.second.b, tiling.first.c)
    columns, rows = (torch.from_numpy(index.ravel()) for index in (tiling.columns, tiling.rows))
    weight, second = (t.to(TILE_DTYPE) for t in _framed(metric, start, columns, rows))
    weight = weight.reshape(height, b, width * c)
    roots = [_roots(second[k * c : (k + 1) * c, k * c : (k + 1) * c]) for k in range(width)]
    with torch.no_grad():
        padded = weight.new_zeros(start.layout.rows, start.layout.cols)
        padded[: start.shape[0], : start.shape[1]] = start.to_dense()
    gap = weight - padded[rows][:, columns].reshape(height, b, width * c)
    # Within the rows of a block, directions of the output count as they matter; between blocks tiles are independent.
    turn, back = _row_roots(metric, start, rows, (height, b))
    weight, gap = turn @ weight, turn @ gap
    values = tiling.first.rows
    left, right = weight.new_zeros(values, b), weight.new_zeros(values, c)
    before = float("inf")
    for _ in range(SWEEPS):
        for k, (whiten, unwhiten) in enumerate(roots):
            own = slice(k * c, (k + 1) * c)
            gap[..., own] = weight[..., own]
            best = gap @ (second[:, own] @ whiten)
            for rank, used, places in tiling.groups:
                here = torch.nonzero(used % width == k).squeeze(-1)
                blocks = used[here] // width
                u = _left_vectors(best[blocks], rank)
                v = (u.mT @ best[blocks]) @ unwhiten
                gap[blocks, :, own] = weight[blocks, :, own] - u @ v
                u, v = balanced(back[blocks] @ u, v)
                left[places[here]], right[places[here]] = u.mT, v
        error = metric_of(gap.reshape(height * b, -1), second)
        if not error < before * (1 - GAIN):
            break
        before = error
    weights = [w.to(metric.weight.dtype) for w in tiling.weights(left, right)]
    return ChainMatrix.from_weights(structure, start.shape, weights)


def _row_roots(
    metric: Metric, start: ChainMatrix, rows: Tensor, blocks: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """``R`` and ``R^-1 (blocks, b, b)`` with ``R R`` the diagonal blocks of ``G``; 1 for rows that are padding."""
    height, b = blocks
    outer = torch.eye(start.layout.rows, dtype=TILE_DTYPE, device=metric.weight.device)
    m = metric.weight.shape[0]
    if metric.outer is not None:
        outer[:m, :m] = metric.outer.diag() if metric.outer.ndim == 1 else metric.outer
    own = rows.reshape(height, b)
    values, vectors = torch.linalg.eigh(outer[own.unsqueeze(2), own.unsqueeze(1)])
    scales = values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    return scales.unsqueeze(-1) * vectors.mT, vectors / scales.unsqueeze(-2)


def metric_of(gap: Tensor, second: Tensor) -> float:
    """``tr(E C E^T)``."""
    return float(((gap @ second) * gap).sum())


def _roots(block: Tensor) -> tuple[Tensor, Tensor]:
    """``V s^(-1/2)`` and ``s^(-1/2) V^T`` of a positive semidefinite ``V s V^T``; zero where ``s`` is (padding)."""
    values, vectors = torch.linalg.eigh(0.5 * (block + block.mT))
    floor = values[-1:].clamp_min(0) * torch.finfo(block.dtype).eps * len(values)
    inverse_root = torch.where(values > floor, values.clamp_min(1e-300).rsqrt(), 0.0)
    return vectors * inverse_root, inverse_root.unsqueeze(-1) * vectors.mT


def _left_vectors(tiles: Tensor, rank: int) -> Tensor:
    """Leading left singular vectors ``(count, b, rank)`` of matrices ``(count, b, c)``; zero beyond their sides."""
    b, c = tiles.shape[-2:]
    kept = min(rank, b, c)
    if b <= c:
        vectors = torch.linalg.eigh(tiles @ tiles.mT)[1].flip(-1)[..., :kept]
    else:
        inner = torch.linalg.eigh(tiles.mT @ tiles)[1].flip(-1)[..., :kept]
        vectors = torch.linalg.qr(tiles @ inner).Q
    return torch.nn.functional.pad(vectors, (0, rank - kept))


def _on_blocks(metric: Metric, structure: ChainStructure, start: ChainMatrix) -> StructuredMatrix:
    """Block diagonal: every block is the least squares solution for its rows, ``W C_k (C_kk)^-1``."""
    (factor,) = start.layout.factors
    columns, outer = orders_of(start)
    weight, second = _framed(metric, start, torch.from_numpy(columns), torch.from_numpy(inverse(outer)))
    blocks = []
    for k in range(factor.a):
        own = slice(k * factor.c, (k + 1) * factor.c)
        whiten, unwhiten = _roots(second[own, own])
        rows = weight[k * factor.b : (k + 1) * factor.b]
        blocks.append((rows @ (second[:, own] @ whiten)) @ unwhiten)
    return ChainMatrix.from_weights(structure, start.shape, [torch.stack(blocks).unsqueeze(-1)])


def _descended(metric: Metric, start: StructuredMatrix) -> StructuredMatrix:
    """L-BFGS on all numbers of a copy of the start at once."""
    matrix = deepcopy(start)
    parameters = [p for p in matrix.parameters() if p.requires_grad]
    second, outer = metric.regular, metric.outer
    outer = outer.diag() if outer is not None and outer.ndim == 1 else outer
    scale = max(metric.impact(torch.zeros_like(metric.weight)), torch.finfo(torch.float64).tiny)
    optimiser = torch.optim.LBFGS(parameters, max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        gap = metric.weight - matrix.to_dense()
        through = gap.detach() / scale if second is None else gap.detach() @ second / scale
        through = through if outer is None else outer @ through
        # Its gradient is that of the quadratic form, without a second product with C.
        (2 * (through * gap).sum()).backward()  # type: ignore[no-untyped-call]
        return (through * gap.detach()).sum()

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        return start
    return matrix
