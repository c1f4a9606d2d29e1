"""Where training starts: layers that begin as zero, as the identity, or as a projected dense draw."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from kmatrix._errors import ArgumentError, FitError, complaint
from kmatrix.fitting import fit
from kmatrix.nn._layer import MatrixLayer
from kmatrix.structures import ChainMatrix, GroupedMatrix, SparseMatrix, StructuredMatrix
from kmatrix.structures.base import fill_normal, from_pairs, to_pairs
from kmatrix.structures.compose import ProductMatrix, ScaledMatrix, SumMatrix, TransposedMatrix
from kmatrix.structures.layout import Permute
from kmatrix.structures.tied import NumbersMatrix, output_scale


def zero_start_(layer: MatrixLayer) -> None:
    """Make a layer start as zero, so that ``x + layer(x)`` starts as the identity.

    Only the factor applied last is zero, and the bias: the others keep their numbers, so that gradients flow from
    the first step on. Meant for the last linear layer of each residual branch.

    Args:
        layer: changed in place.

    Raises:
        ArgumentError: if no member of the structure is zero, such as an orthogonal matrix.

    Example:
        >>> import torch, kmatrix as km
        >>> layer = km.nn.Linear(8, 8, structure=km.Monarch(2))
        >>> km.nn.zero_start_(layer)
        >>> bool((layer(torch.randn(3, 8)) == 0).all())
        True

    Reference: arXiv 2406.06248 and its code.
    """
    with torch.no_grad():
        _zero_last(layer.matrix)
        if layer.bias is not None:
            layer.bias.zero_()


@singledispatch
def _zero_last(matrix: StructuredMatrix) -> None:
    """Set what is applied last to zero."""
    name = type(matrix.structure).__name__
    way_out = "scale the branch by a parameter that starts at zero instead"
    raise ArgumentError(complaint("zero_start_", "layer", name, "it has no factor that may be zero", way_out))


@_zero_last.register
def _(matrix: ChainMatrix) -> None:
    if not len(matrix.factors):
        _zero_last.dispatch(StructuredMatrix)(matrix)
    matrix.factors[-1].zero_()


@_zero_last.register(NumbersMatrix)
@_zero_last.register(SparseMatrix)
def _(matrix: NumbersMatrix | SparseMatrix) -> None:
    matrix.stored.zero_()


@_zero_last.register(SumMatrix)
@_zero_last.register(GroupedMatrix)
def _(matrix: SumMatrix | GroupedMatrix) -> None:
    for part in matrix.members:
        _zero_last(part)


@_zero_last.register
def _(matrix: ProductMatrix) -> None:
    _zero_last(matrix.members[0])


@_zero_last.register
def _(matrix: ScaledMatrix) -> None:
    _zero_last(matrix.base)


@_zero_last.register
def _(matrix: TransposedMatrix) -> None:
    base = matrix.base
    if isinstance(base, ChainMatrix) and len(base.factors):
        base.factors[0].zero_()  # the transpose applies it last
    else:
        _zero_last(base)


def identity_start_(layer: MatrixLayer) -> None:
    """Make a square layer start as the identity, ``layer(x) = x``: for adapters and rotations.

    Args:
        layer: changed in place; its bias becomes zero.

    Raises:
        ArgumentError: if the layer is not square.
        FitError: if the structure does not contain the identity, or no method finds it.

    Example:
        >>> import torch, kmatrix as km
        >>> layer = km.nn.Linear(8, 8, structure=km.Butterfly())
        >>> km.nn.identity_start_(layer)
        >>> torch.equal(layer.weight, torch.eye(8))
        True
    """
    matrix = layer.matrix
    m, n = matrix.shape
    if m != n:
        reason, way_out = "not square", "use zero_start_ in a residual branch"
        raise ArgumentError(complaint("identity_start_", "layer", matrix.shape, reason, way_out))
    with torch.no_grad():
        if isinstance(matrix, ChainMatrix) and _all_square(matrix):
            for stored, factor in zip(matrix.factors, matrix.layout.factors, strict=True):
                eye = torch.eye(factor.b, dtype=matrix.dtype, device=stored.device)
                stored.copy_(to_pairs(eye[None, :, :, None].expand(factor.weight_shape)))
        else:
            wide = torch.complex128 if matrix.dtype.is_complex else torch.float64
            found = fit(torch.eye(n, dtype=wide), matrix.structure, batches=())
            if found.relative_error > 1e-9:
                got = f"relative error {found.relative_error:.1e}"
                way_out = "use a structure that contains it, such as km.Butterfly()"
                where = type(matrix.structure).__name__
                raise FitError(
                    complaint("identity_start_", where, got, "the identity was not reached", way_out)
                )
            matrix.load_state_dict(found.matrix.to(matrix.dtype).state_dict())
        if layer.bias is not None:
            layer.bias.zero_()


def _all_square(matrix: ChainMatrix) -> bool:
    stages = matrix.layout.stages
    return not any(isinstance(s, Permute) for s in stages) and all(f.b == f.c for f in matrix.layout.factors)


def projected_start_(layer: MatrixLayer, generator: torch.Generator | None = None, **options: Any) -> None:
    """Start at the member nearest to a dense draw: of low rank, truncated SVD with its singular values split.

    The draw is normal with the standard deviation at which a dense matrix has spectral norm ``sqrt(m / n)``.

    Args:
        layer: changed in place.
        generator: source of randomness.
        options: ``seed``, ``tol`` and ``max_seconds`` of ``km.fit``.

    Example:
        >>> import torch, kmatrix as km
        >>> layer = km.nn.Linear(16, 16, structure=km.LowRank(4))
        >>> km.nn.projected_start_(layer)
        >>> torch.linalg.matrix_rank(layer.weight).item()
        4

    Reference: Khodak, Tenenholtz, Mackey and Fusi, Initialization and regularization of factorized neural layers
    (arXiv 2105.01029).
    """
    _project(layer.matrix, generator, options)


def _project(matrix: StructuredMatrix, generator: torch.Generator | None, options: dict[str, Any]) -> None:
    if isinstance(matrix, GroupedMatrix):  # each block is a layer: of one large draw they would be too small
        for part in matrix.members:
            _project(part, generator, options)
        return
    m, n = matrix.shape
    is_complex = matrix.dtype.is_complex
    drawn = torch.empty(m, n, 2) if is_complex else torch.empty(m, n)
    fill_normal(drawn, output_scale(m, n), is_complex, generator)
    found = fit(from_pairs(drawn, is_complex), matrix.structure, batches=(), **options).matrix
    matrix.load_state_dict(found.to(matrix.dtype).state_dict())


def frobenius_penalty(model: nn.Module) -> Tensor:
    """Sum of ``||A||_F^2`` over the structured layers of a model: weight decay of products instead of factors.

    Add ``0.5 * weight_decay * frobenius_penalty(model)`` to the loss and leave those parameters without weight decay.
    Every matrix is written out for it, in time of one pass of ``n`` vectors; of two factors of low rank only the
    small Gram matrices are.

    Example:
        >>> import torch, kmatrix as km
        >>> layer = km.nn.Linear(16, 16, structure=km.LowRank(4))
        >>> torch.allclose(km.nn.frobenius_penalty(layer), layer.weight.square().sum())
        True

    Reference: arXiv 2105.01029 (Frobenius decay).
    """
    total = torch.zeros(())
    layers = [layer for layer in model.modules() if isinstance(layer, MatrixLayer)]
    for matrix in dict.fromkeys(layer.matrix for layer in layers):  # one that layers share counts once
        total = total.to(matrix.device) + _squared_norm(matrix)
    return total


def _squared_norm(matrix: StructuredMatrix) -> Tensor:
    if isinstance(matrix, ChainMatrix) and len(matrix.weights) == 2:
        one, two = matrix.layout.patterns
        plain = one.a == one.d == two.a == two.d == 1 and len(matrix.layout.stages) == 2
        if plain and matrix.shape == (two.b, one.c):
            right, left = (w[0, :, :, 0] for w in matrix.weights)
            return ((left.mH @ left) * (right @ right.mH).mT).sum().real
    return matrix.to_dense().abs().square().sum()
