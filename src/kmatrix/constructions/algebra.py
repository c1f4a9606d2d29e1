"""K-matrices made from K-matrices: scaled, multiplied, inverted, summed, stacked, tensored (appendix H)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from kmatrix._errors import ArgumentError, complaint
from kmatrix.constructions._inputs import Array, ArrayLike, Like, joint, take_array
from kmatrix.constructions.factors import ButterflyFactors, direct_sum
from kmatrix.constructions.kform import KForm, from_matrix, padded_size
from kmatrix.constructions.sums import sum_forms
from kmatrix.structures import ChainMatrix, StructuredMatrix


def scale(
    matrix: StructuredMatrix, *, left: ArrayLike | None = None, right: ArrayLike | None = None
) -> ChainMatrix:
    """Scale the rows and columns of a K-matrix, ``diag(left) M diag(right)``: the same width and expansion.

    Args:
        matrix: a K-matrix of shape ``(m, n)``.
        left: ``(m,)`` numbers, or nothing.
        right: ``(n,)`` numbers, or nothing.

    Raises:
        ArgumentError: if ``matrix`` is not a K-matrix, or a diagonal has the wrong length or numbers not
            finite.

    The result keeps the precision of ``matrix``; complex diagonals make it complex.

    Example:
        >>> import torch, kmatrix as km
        >>> P = km.constructions.permutation([1, 0])
        >>> km.constructions.scale(P, left=[2.0, 3.0]).to_dense().tolist()
        [[0.0, 2.0], [3.0, 0.0]]

    Reference: arXiv 2012.14966, Lemma H.1.
    """
    form, kind = from_matrix("scale", "matrix", matrix)
    m, n = form.shape
    return form.scaled(_diagonal("left", left, m, form.size), _diagonal("right", right, n, form.size)).matrix(
        kind
    )


def product_of(matrices: Sequence[StructuredMatrix]) -> ChainMatrix:
    """Multiply K-matrices: widths add, the expansion is the largest.

    ``M_1 M_2 ... M_k``, written as one K-matrix. Between two corners stands a mask of ones and zeros on the
    diagonal, folded into a factor, so no width is spent on it.

    Args:
        matrices: at least one K-matrix, the last applied first; neighbouring shapes must agree.

    Raises:
        ArgumentError: if the list is empty, a member is not a K-matrix, or shapes do not chain.

    Example:
        >>> import kmatrix as km
        >>> P = km.constructions.permutation([1, 2, 0])
        >>> PP = km.constructions.product_of([P, P])
        >>> PP.structure.width, PP.to_dense().argmax(1).tolist()
        (2, [2, 0, 1])

    Reference: arXiv 2012.14966, Lemma H.2.
    """
    forms, kind = _read_all("product_of", matrices)
    for left, right in pairwise(forms):
        if left.shape[1] != right.shape[0]:
            reason = f"{left.shape} cannot multiply {right.shape}"
            way_out = "make neighbouring shapes agree"
            raise ArgumentError(complaint("product_of", "matrices", len(forms), reason, way_out))
    return multiply_forms(forms).matrix(kind)


def inverse(matrix: StructuredMatrix) -> ChainMatrix:
    """Invert a K-matrix factor by factor: the same width, expansion 1.

    ``(M_1 M_2*)^-1 = M_2*^-1 M_1^-1``, where the inverse of a member of B lies in B* and the other way round.

    Args:
        matrix: a square K-matrix whose size is a power of two and whose expansion is 1 (the inverse of a
            corner is not the corner of the inverse).

    Raises:
        ArgumentError: if the matrix is not of that kind, or one of its factors is singular.

    Example:
        >>> import kmatrix as km
        >>> H = km.constructions.hadamard(4)
        >>> (km.constructions.inverse(H) @ H).to_dense().diagonal().tolist()
        [1.0, 1.0, 1.0, 1.0]

    Reference: arXiv 2012.14966, Lemma H.6.
    """
    form, kind = from_matrix("inverse", "matrix", matrix)
    if form.shape != (form.size, form.size):
        reason = f"it is a corner of a product of size {form.size}"
        way_out = "pass a square matrix of a power-of-two size of at least 2 with expansion 1"
        raise ArgumentError(complaint("inverse", "matrix.shape", form.shape, reason, way_out))
    return KForm(form.shape, tuple(half.inverse() for half in reversed(form.halves))).matrix(kind)


def sum_of(matrices: Sequence[StructuredMatrix]) -> ChainMatrix:
    """Add m K-matrices of width w, expansion e: width ``w max(1, ceil(m/2) - 1)``, expansion at most 4e.

    The expanded space holds four copies of the vector: the sum so far, the input, and two at work, so that
    every further w pairs of butterflies add two terms; the first and the last w pairs add three, and four
    terms alone need one round. One or two terms need expansion e or 2e only. (The smallest butterfly has
    two points, so an expanded 1 x 1 matrix counts twice that.)

    Args:
        matrices: at least one K-matrix, all of one shape; narrower ones are padded with identities.

    Raises:
        ArgumentError: if the list is empty, a member is not a K-matrix, or shapes differ.

    Example:
        >>> import kmatrix as km
        >>> P, H = km.constructions.permutation([1, 0]), km.constructions.hadamard(2)
        >>> S = km.constructions.sum_of([P, H])
        >>> S.structure, S.to_dense().tolist()
        (Kaleidoscope(width=1, expansion=2), [[1.0, 2.0], [2.0, -1.0]])

    Reference: arXiv 2012.14966, Lemma H.5, which states width mw and expansion 4e; the construction here
    uses the two copies that the lemma leaves idle.
    """
    forms, kind = _read_all("sum_of", matrices)
    if len({form.shape for form in forms}) > 1:
        shapes = [form.shape for form in forms]
        raise ArgumentError(complaint("sum_of", "shapes", shapes, "they differ", "add matrices of one shape"))
    return sum_forms(forms).matrix(kind)


def block_diagonal(matrices: Sequence[StructuredMatrix]) -> ChainMatrix:
    """Put K-matrices on the diagonal: the width is the largest, the expansion too.

    ``diag(M_1, ..., M_k)`` of shape ``(kn, kn)``. The blocks share factors: the points are ordered
    (expansion, block, place), which keeps all strides in the order of their class and all corners together.

    Args:
        matrices: at least one K-matrix, all square of one size ``n``, a power of two of at least 2.

    Raises:
        ArgumentError: if the list is empty, a member is not a K-matrix, or shapes differ or are not a power
            of two.

    Example:
        >>> import kmatrix as km
        >>> P, H = km.constructions.permutation([1, 0]), km.constructions.hadamard(2)
        >>> D = km.constructions.block_diagonal([P, H])
        >>> D.structure.width, D.shape
        (1, (4, 4))

    Reference: arXiv 2012.14966, Lemmas H.3 and H.4, which state width w + 2 when e > 1; the order of points
    above saves the two permutations.
    """
    forms, kind = _read_all("block_diagonal", matrices)
    n = forms[0].shape[1]
    if any(form.shape != (n, n) for form in forms) or n != padded_size(n, n):
        shapes = [form.shape for form in forms]
        reason = "the blocks must be square, of one power-of-two size of at least 2"
        raise ArgumentError(complaint("block_diagonal", "shapes", shapes, reason, "pad them to such a size"))
    return stack_forms(forms).matrix(kind)


def kronecker(a: StructuredMatrix, b: StructuredMatrix) -> ChainMatrix:
    """Tensor two K-matrices: width ``max(w_a, w_b)`` and expansion ``e_a e_b``.

    ``A (x) B = (A (x) I)(I (x) B)``. The factors of A commute with those of B, so a half of A and a half of
    B merge into one butterfly, the strides of B below those of A.

    Args:
        a: a K-matrix of any shape ``(m, n)``.
        b: a square K-matrix whose size is a power of two.

    Raises:
        ArgumentError: if one is not a K-matrix, or ``b`` is not square of a power-of-two size of at least 2.

    Example:
        >>> import kmatrix as km
        >>> H = km.constructions.hadamard(2)
        >>> km.constructions.kronecker(H, H).to_dense()[1].tolist()
        [1.0, -1.0, 1.0, -1.0]

    Reference: arXiv 2012.14966, Lemma H.7, which states width w_a + w_b + 6.
    """
    first, kind_a = from_matrix("kronecker", "a", a)
    second, kind_b = from_matrix("kronecker", "b", b)
    m, n = second.shape
    if m != n or n != padded_size(n, n):
        way_out = "pad it with zeros to such a size"
        reason = "must be square of a power-of-two size of at least 2"
        raise ArgumentError(complaint("kronecker", "b.shape", (m, n), reason, way_out))
    return kronecker_forms(first, second).matrix(joint([kind_a, kind_b]))


def multiply_forms(forms: Sequence[KForm]) -> KForm:
    """The product of forms whose shapes chain, the last applied first."""
    size = max(form.size for form in forms)
    halves: tuple[ButterflyFactors, ...] = ()
    for k, form in enumerate(reversed(forms)):
        wide = form.with_size(size)
        if k < len(forms) - 1 and form.shape[0] < size:
            wide = wide.scaled(left=(np.arange(size) < form.shape[0]).astype(np.float64))
        halves += wide.halves
    return KForm((forms[0].shape[0], forms[-1].shape[1]), halves)


def stack_forms(forms: Sequence[KForm]) -> KForm:
    """The block-diagonal matrix of square forms of one power-of-two size, completed by identities."""
    size, width = max(form.size for form in forms), max(form.width for form in forms)
    n = forms[0].shape[0]
    blocks = [form.with_size(size).with_width(width) for form in forms]
    count = 1 << (len(blocks) - 1).bit_length()
    halves = []
    for k in range(2 * width):
        filler = [ButterflyFactors.identity(size, increasing=k % 2 == 1)] * (count - len(blocks))
        parts = [block.halves[k] for block in blocks] + filler
        between = [
            np.tile(np.eye(2)[None, :, :, None], (size * count // (2 * d), 1, 1, d))
            for d in _powers(n, count)
        ]
        halves.append(_merged(direct_sum(parts, inner=n).twiddles, between, increasing=k % 2 == 1))
    return KForm((n * len(forms), n * len(forms)), tuple(halves))


def kronecker_forms(a: KForm, b: KForm) -> KForm:
    """``a (x) b`` for a square ``b`` of a power-of-two size; points are ordered (e_a, e_b, n_a, n_b)."""
    width = max(a.width, b.width)
    n, padded = b.shape[0], padded_size(*a.shape)
    halves = []
    for k, (of_a, of_b) in enumerate(
        zip(a.with_width(width).halves, b.with_width(width).halves, strict=True)
    ):
        spread_a = direct_sum([of_a.repeated_inside(n)] * (b.size // n), inner=padded * n)
        spread_b = direct_sum([direct_sum([of_b] * padded, inner=n)] * (a.size // padded))
        halves.append(_merged(spread_a.twiddles, spread_b.twiddles, increasing=k % 2 == 1))
    return KForm((a.shape[0] * n, a.shape[1] * n), tuple(halves))


def _powers(start: int, count: int) -> list[int]:
    """``start, 2 start, ...``: the strides that tell ``count`` blocks of ``start`` points apart."""
    return [start << i for i in range(count.bit_length() - 1)]


def _merged(some: Sequence[Array], others: Sequence[Array], *, increasing: bool) -> ButterflyFactors:
    """One half from factors of different strides that commute unless they come from the same list."""
    twiddles = sorted([*some, *others], key=lambda w: int(w.shape[3]), reverse=not increasing)
    return ButterflyFactors(2 * twiddles[0].shape[0] * twiddles[0].shape[3], tuple(twiddles))


def _diagonal(name: str, given: ArrayLike | None, length: int, size: int) -> Array | None:
    """A diagonal of ``length`` numbers, continued by ones to ``size``."""
    if given is None:
        return None
    diagonal, _ = take_array("scale", name, given, 1)
    if diagonal.size != length:
        reason = f"this side of the matrix has {length}"
        raise ArgumentError(
            complaint("scale", f"{name}.size", diagonal.size, reason, f"pass {length} numbers")
        )
    return np.pad(diagonal, (0, size - length), constant_values=1.0)


def _read_all(where: str, matrices: Sequence[StructuredMatrix]) -> tuple[list[KForm], Like]:
    if not matrices:
        raise ArgumentError(
            complaint(where, "matrices", "[]", "nothing to combine", "pass at least one K-matrix")
        )
    read = [from_matrix(where, f"matrices[{i}]", matrix) for i, matrix in enumerate(matrices)]
    return [form for form, _ in read], joint([kind for _, kind in read])
