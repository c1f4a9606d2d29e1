"""The fast transforms as K-matrices in the classes of the paper: radix-2 and exact (appendix J)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import Index, bit_reversal
from kmatrix.constructions._inputs import Array, ArrayLike, joint, like, take_array, take_permutation
from kmatrix.constructions.factors import ButterflyFactors, strides
from kmatrix.constructions.kform import KForm, padded_size
from kmatrix.constructions.permutations import permutation_halves, permutation_halves_reversed
from kmatrix.structures import ChainMatrix


def dft(
    shape: int | Sequence[int], *, unitary: bool = False, dtype: torch.dtype | None = None
) -> ChainMatrix:
    """Write the discrete Fourier transform as a K-matrix: width 2, expansion 1, in any number of dimensions.

    ``F[j, k] = exp(-2 pi i j k / n)``, and the Kronecker product of such matrices for more dimensions.
    ``F = B P`` with the decimation-in-time butterfly B and the bit reversal P, which has width 1; the
    butterflies of the dimensions follow each other into one larger butterfly.

    Args:
        shape: lengths of the dimensions (of the row-major input), powers of two.
        unitary: divide every factor by sqrt(2), so that all factors and the product are unitary.
        dtype: complex type; the complex counterpart of torch's default if not given.

    Raises:
        ArgumentError: if a length is not a power of two (``kmatrix.transforms.dft`` takes any).
        DtypeError: if ``dtype`` is not complex.

    Example:
        >>> import torch, kmatrix as km
        >>> F = km.constructions.dft(4, dtype=torch.complex128)
        >>> x = torch.tensor([1, 2, 3, 4], dtype=torch.complex128)
        >>> F.structure.width, torch.allclose(F @ x, torch.fft.fft(x))
        (2, True)

    Reference: arXiv 2012.14966, Lemmas J.1 and J.10, and J.9 for the unitary one.
    """
    kind = like("dft", dtype, is_complex=True)
    lengths = _lengths("dft", shape)
    n = math.prod(lengths)
    butterfly = fourier_butterfly(lengths, sign=-1, scale=math.sqrt(0.5) if unitary else 1.0)
    halves = permutation_halves(_reversals(lengths), butterfly.size)
    return KForm.of((n, n), [*halves, butterfly]).matrix(kind)


def hadamard(n: int, *, unitary: bool = False, dtype: torch.dtype | None = None) -> ChainMatrix:
    """Write the Walsh-Hadamard matrix (natural order) as a single butterfly: width 1, expansion 1.

    ``H_1 = 1``, ``H_2n = [[H_n, H_n], [H_n, -H_n]]``: every 2 x 2 block of every factor is
    ``[[1, 1], [1, -1]]``.

    Args:
        n: a power of two.
        unitary: divide every factor by sqrt(2).
        dtype: number type; torch's default if not given.

    Raises:
        ArgumentError: if ``n`` is not a power of two.

    Example:
        >>> import kmatrix as km
        >>> km.constructions.hadamard(2).to_dense().tolist()
        [[1.0, 1.0], [1.0, -1.0]]

    Reference: arXiv 2012.14966, Lemma J.2.
    """
    kind = like("hadamard", dtype)
    (n,) = _lengths("hadamard", n)
    return KForm.of((n, n), [hadamard_butterfly(n, math.sqrt(0.5) if unitary else 1.0)]).matrix(kind)


def circulant(c: ArrayLike) -> ChainMatrix:
    """Write a circular convolution as one complex K-matrix of width 1: no permutation is needed.

    ``C[j, k] = c[(j - k) mod n] = B D B*``: B is the inverse Fourier butterfly before its bit reversal P,
    and ``D = diag(P fft(c)) / n``. Expansion 1 where all lengths are powers of two, else 2 (as a Toeplitz
    matrix). More axes give the multi-dimensional convolution, acting on the row-major vector.

    Args:
        c: the first column, ``(n,)`` or an array whose axes are all powers of two.

    Raises:
        ArgumentError: if it is empty, holds numbers that are not finite, or has several axes not all powers
            of two.

    Example:
        >>> import kmatrix as km
        >>> C = km.constructions.circulant([1.0, 2.0, 3.0, 4.0])
        >>> C.structure.width, C.to_dense()[0].real.detach().numpy().round(6).tolist()
        (1, [1.0, 4.0, 3.0, 2.0])

    Reference: arXiv 2012.14966, Lemmas J.5 and J.11.
    """
    column, kind = take_array("circulant", "c", c, None)
    lengths, n = column.shape, column.size
    if column.ndim == 1 and n & (n - 1):
        return toeplitz_form(column, np.roll(column[::-1], 1)).matrix(kind)
    return _convolution(column, _lengths("circulant", lengths), (n, n)).matrix(kind)


def toeplitz(c: ArrayLike, r: ArrayLike) -> ChainMatrix:
    """Write a Toeplitz matrix as a complex K-matrix of width 1 and expansion at most 2.

    ``T[j, k] = c[j - k]`` for ``j >= k`` and ``r[k - j]`` above the diagonal.

    Args:
        c: ``(m,)`` first column.
        r: ``(n,)`` first row; ``r[0]`` is not used, as in scipy.

    Raises:
        ArgumentError: if one is empty or holds numbers that are not finite.

    Example:
        >>> import kmatrix as km
        >>> T = km.constructions.toeplitz([1.0, 2.0], [1.0, 5.0, 6.0])
        >>> T.structure, T.to_dense()[1].real.detach().numpy().round(6).tolist()
        (Kaleidoscope(width=1, expansion=1), [2.0, 1.0, 5.0])

    Reference: arXiv 2012.14966, Lemma J.6.
    """
    column, of_c = take_array("toeplitz", "c", c, 1)
    row, of_r = take_array("toeplitz", "r", r, 1)
    return toeplitz_form(column, row).matrix(joint([of_c, of_r]))


def fastfood(s: ArrayLike, g: ArrayLike, p: ArrayLike, b: ArrayLike) -> ChainMatrix:
    """Write the Fastfood matrix ``S H G P H B`` as a K-matrix: width 2, expansion 1.

    H is the Walsh-Hadamard matrix, S, G, B are diagonal and P is a permutation, ``(P x)[i] = x[p[i]]``.
    ``S H G`` is in B, ``H B`` in B* (H is symmetric), and P in B*B, which fits between them.

    Args:
        s: ``(n,)`` numbers, n a power of two.
        g: ``(n,)`` numbers.
        p: ``(n,)`` index array holding each of 0 .. n-1 once.
        b: ``(n,)`` numbers.

    Raises:
        ArgumentError: if lengths differ or are not a power of two, ``p`` is not a permutation, or numbers
            are not finite.

    Example:
        >>> import kmatrix as km
        >>> A = km.constructions.fastfood([1.0, 1.0], [1.0, 1.0], [1, 0], [1.0, 1.0])
        >>> A.structure.width, A.to_dense().tolist()
        (2, [[2.0, 0.0], [0.0, -2.0]])

    Reference: arXiv 2012.14966, Lemma J.7.
    """
    index = take_permutation("fastfood", "p", p)
    (n,) = _lengths("fastfood", index.size)
    diagonals, kinds = [], []
    for name, given in (("s", s), ("g", g), ("b", b)):
        diagonal, kind = take_array("fastfood", name, given, 1)
        if diagonal.size != n:
            way_out = f"pass {n} numbers"
            raise ArgumentError(complaint("fastfood", f"{name}.size", diagonal.size, f"p has {n}", way_out))
        diagonals.append(np.pad(diagonal, (0, padded_size(n, n) - n)))
        kinds.append(kind)
    last, middle, first = diagonals
    hadamards = hadamard_butterfly(n)
    sort = permutation_halves_reversed(index, hadamards.size)
    pieces = [hadamards.transpose().scaled(right=first), *sort, hadamards.scaled(left=last, right=middle)]
    return KForm.of((n, n), pieces).matrix(joint(kinds))


def fourier_butterfly(lengths: Sequence[int], *, sign: int, scale: float = 1.0) -> ButterflyFactors:
    """The butterfly B of ``F = B P``: factors ``[[I, W], [I, -W]]``, ``W = diag(exp(sign 2 pi i j / k))``."""
    size = max(2, math.prod(lengths))
    twiddles = []
    inner = 1
    for length in reversed(lengths):
        for half in strides(length, increasing=True):
            turn = np.exp(sign * 1j * np.pi * np.arange(half) / half)
            block = scale * np.array([[np.ones(half), turn], [np.ones(half), -turn]])
            tiled = np.tile(block[None], (size // (2 * half * inner), 1, 1, 1))
            twiddles.append(np.repeat(tiled, inner, axis=3))
        inner *= length
    if not twiddles:
        return ButterflyFactors.identity(size, increasing=True)
    return ButterflyFactors(size, tuple(twiddles))


def hadamard_butterfly(n: int, scale: float = 1.0) -> ButterflyFactors:
    """The Walsh-Hadamard matrix as a member of B; the identity on one point."""
    identity = ButterflyFactors.identity(padded_size(n, n), increasing=True)
    if n == 1:
        return identity
    block = scale * np.array([[1.0, 1.0], [1.0, -1.0]])[None, :, :, None]
    return ButterflyFactors(n, tuple(np.broadcast_to(block, w.shape) for w in identity.twiddles))


def toeplitz_form(column: Array, row: Array) -> KForm:
    """A Toeplitz matrix as the corner of the smallest power-of-two circulant that holds it."""
    m, n = column.size, row.size
    length = padded_size(m + n - 1, 1)
    gap = np.zeros(length - m - n + 1)
    return _convolution(np.concatenate([column, gap, row[:0:-1]]), (length,), (m, n))


def _convolution(column: Array, lengths: Sequence[int], shape: tuple[int, int]) -> KForm:
    butterfly = fourier_butterfly(lengths, sign=1)
    spectrum = np.fft.fftn(column).reshape(-1)[_reversals(lengths)] / column.size
    spectrum = np.pad(spectrum, (0, butterfly.size - spectrum.size))
    return KForm.of(shape, [butterfly.adjoint(), butterfly.scaled(right=spectrum)])


def _reversals(lengths: Sequence[int]) -> Index:
    """Bit reversal along every axis of a row-major array."""
    points = np.arange(math.prod(lengths)).reshape(tuple(lengths))
    for axis, length in enumerate(lengths):
        points = points.take(bit_reversal(length), axis=axis)
    return points.reshape(-1)


def _lengths(where: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    lengths = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    lengths = tuple(check_size(where, "length", length) for length in lengths)
    if not lengths or any(length & (length - 1) for length in lengths):
        way_out = "use kmatrix.transforms, which takes any length"
        raise ArgumentError(complaint(where, "length", shape, "not a power of two", way_out))
    return lengths
