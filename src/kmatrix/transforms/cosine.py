"""Exact cosine and sine transforms of any size as real learnable chains, scaled as in scipy.fft."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import even_odd_reversed
from kmatrix.structures import ChainMatrix
from kmatrix.transforms._draft import Array, Draft, unit_roots
from kmatrix.transforms._folded import folded
from kmatrix.transforms._mirrored import mirrored
from kmatrix.transforms._requests import EXPONENT, INVERSE, Norm, check_norm, real_dtype

Type = Literal[1, 2, 3, 4]
_INVERSE_TYPE: dict[Type, Type] = {1: 1, 2: 3, 3: 2, 4: 4}


def dct(
    n: int,
    *,
    type: Type = 2,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make a discrete cosine transform of type 1 to 4, of any size.

    With sums over j from 0, k from 0::

        1:  y_k = x_0 + (-1)^k x_(n-1) + 2 sum_(0<j<n-1) x_j cos(pi k j / (n - 1))
        2:  y_k = 2 sum_j x_j cos(pi k (2j + 1) / (2n))
        3:  y_k = x_0 + 2 sum_(j>0) x_j cos(pi (2k + 1) j / (2n))
        4:  y_k = 2 sum_j x_j cos(pi (2k + 1)(2j + 1) / (4n))

    Types 2 to 4 are DFTs of the inputs in the order evens up, odds down, turned by a phase. They are written
    as real butterflies of tile rank 2 that compute the conjugate half of no spectrum: a leaf of ``r1``
    points and a factor of ``2 r n`` numbers for every other radix, ``4 n (log2 n - 1)`` for powers of two
    from 4 on. After an odd leaf, the other factors hold a slot more, ``(r1 + 1) / r1`` times the numbers.
    Type 1 is the DFT of mirrored data of period ``2 (n - 1)``, with the radices of ``n - 1``: each of the
    other radices costs ``(r1 + 2) / r1`` times ``2 r (n - 1)`` numbers. Large primes go through the chirp
    rule where that halves the numbers. Types 2 to 4 with ``norm="ortho"`` have orthogonal factors where the
    leaf is even.

    Args:
        n: size.
        type: 1, 2, 3 or 4.
        norm: ``"backward"`` leaves it as above, ``"ortho"`` makes it orthogonal, ``"forward"`` divides by
            ``2n`` (type 1: ``2 (n - 1)``).
        tied: store the blocks that a factor repeats once (types 2 to 4).
        dtype: real type; torch's default if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if ``n < 1``, ``n < 2`` for type 1, or the type or norm does not exist.
        DtypeError: if ``dtype`` is not real.

    Example:
        >>> import numpy as np, scipy.fft, torch
        >>> from kmatrix import transforms
        >>> C = transforms.dct(1000, dtype=torch.float64)
        >>> x = np.random.default_rng(0).standard_normal(1000)
        >>> np.allclose(C @ x, scipy.fft.dct(x)), C.num_params
        (True, 38000)

    Reference: Makhoul, IEEE Trans. ASSP 28 (1980) 27; arXiv 2012.14966, lemma J.4.
    """
    return _make("dct", n, type, check_norm("dct", norm), tied, dtype, device)


def idct(
    n: int,
    *,
    type: Type = 2,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make the inverse of a discrete cosine transform: ``idct(n, ...) @ dct(n, ...)`` is the identity.

    Types 1 and 4 are their own inverses, types 2 and 3 each other's, up to the scale; so are the counts.

    Args:
        n: size.
        type: of the transform that is inverted: 1, 2, 3 or 4.
        norm: of the transform that is inverted.
        tied: store the blocks that a factor repeats once (types 2 to 4).
        dtype: real type; torch's default if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if ``n < 1``, ``n < 2`` for type 1, or the type or norm does not exist.
        DtypeError: if ``dtype`` is not real.

    Example:
        >>> import numpy as np, scipy.fft, torch
        >>> from kmatrix import transforms
        >>> x = np.random.default_rng(0).standard_normal(60)
        >>> np.allclose(transforms.idct(60, dtype=torch.float64) @ scipy.fft.dct(x), x)
        True

    Reference: as for ``dct``.
    """
    inverse = INVERSE[check_norm("idct", norm)]
    return _make("idct", n, _INVERSE_TYPE[_check_type("idct", type)], inverse, tied, dtype, device)


def dst(
    n: int,
    *,
    type: Type = 2,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make a discrete sine transform of type 1 to 4, of any size.

    With sums over j from 0, k from 0::

        1:  y_k = 2 sum_j x_j sin(pi (k + 1)(j + 1) / (n + 1))
        2:  y_k = 2 sum_j x_j sin(pi (k + 1)(2j + 1) / (2n))
        3:  y_k = (-1)^k x_(n-1) + 2 sum_(j<n-1) x_j sin(pi (2k + 1)(j + 1) / (2n))
        4:  y_k = 2 sum_j x_j sin(pi (2k + 1)(2j + 1) / (4n))

    Types 2 to 4 are the cosine transforms with one side reversed and every second sign of the other changed,
    which costs nothing: they have as many numbers. Type 1 is the DFT of odd data of period ``2 (n + 1)``,
    with the radices of ``n + 1``, as the DCT of type 1 is of even data.

    Args:
        n: size.
        type: 1, 2, 3 or 4.
        norm: ``"backward"`` leaves it as above, ``"ortho"`` makes it orthogonal, ``"forward"`` divides by
            ``2n`` (type 1: ``2 (n + 1)``).
        tied: store the blocks that a factor repeats once (types 2 to 4; the factor that changes
            signs only where the leaf is even).
        dtype: real type; torch's default if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if ``n < 1``, or the type or norm does not exist.
        DtypeError: if ``dtype`` is not real.

    Example:
        >>> import numpy as np, scipy.fft, torch
        >>> from kmatrix import transforms
        >>> S = transforms.dst(1023, type=1, dtype=torch.float64)
        >>> x = np.random.default_rng(0).standard_normal(1023)
        >>> np.allclose(S @ x, scipy.fft.dst(x, type=1)), S.num_params
        (True, 46080)

    Reference: Makhoul, IEEE Trans. ASSP 28 (1980) 27; arXiv 2012.14966, lemma J.3; the phase of the type 2
    as a turned DFT is ``i exp(-i pi (k + 1) / (2n))``, not the one printed in arXiv 1903.05895.
    """
    return _make("dst", n, type, check_norm("dst", norm), tied, dtype, device)


def idst(
    n: int,
    *,
    type: Type = 2,
    norm: Norm | None = "backward",
    tied: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ChainMatrix:
    """Make the inverse of a discrete sine transform: ``idst(n, ...) @ dst(n, ...)`` is the identity.

    Types 1 and 4 are their own inverses, types 2 and 3 each other's, up to the scale; so are the counts.

    Args:
        n: size.
        type: of the transform that is inverted: 1, 2, 3 or 4.
        norm: of the transform that is inverted.
        tied: store the blocks that a factor repeats once (types 2 to 4; the factor that changes
            signs only where the leaf is even).
        dtype: real type; torch's default if not given.
        device: where the numbers live.

    Raises:
        ArgumentError: if ``n < 1``, or the type or norm does not exist.
        DtypeError: if ``dtype`` is not real.

    Example:
        >>> import numpy as np, scipy.fft, torch
        >>> from kmatrix import transforms
        >>> x = np.random.default_rng(0).standard_normal(60)
        >>> np.allclose(transforms.idst(60, dtype=torch.float64) @ scipy.fft.dst(x), x)
        True

    Reference: as for ``dst``.
    """
    inverse = INVERSE[check_norm("idst", norm)]
    return _make("idst", n, _INVERSE_TYPE[_check_type("idst", type)], inverse, tied, dtype, device)


def _check_type(where: str, type: Type) -> Type:
    if type not in _INVERSE_TYPE:
        raise ArgumentError(complaint(where, "type", type, "no such type", "use 1, 2, 3 or 4"))
    return type


def _make(
    where: str,
    n: int,
    type: Type,
    norm: Norm,
    tied: bool,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> ChainMatrix:
    cosine = where.endswith("dct")
    n = check_size(where, "n", n)
    kind = _check_type(where, type)
    if kind == 1 and cosine and n < 2:
        raise ArgumentError(complaint(where, "n", n, "type 1 has two ends", "use n >= 2 or another type"))
    make = {1: _first, 2: _second, 3: _third, 4: _fourth}[kind]
    return make(n, norm, cosine).build((n, n), real_dtype(where, dtype), device, tied=tied)


def _scale(size: int, norm: Norm) -> float:
    return float((2 * size) ** EXPONENT[norm])


def _first(n: int, norm: Norm, cosine: bool) -> Draft:
    half_period = n - 1 if cosine else n + 1
    draft = mirrored(half_period, 1 if cosine else -1).scaled(_scale(half_period, norm))
    if not cosine or norm != "ortho":
        return draft
    ends = np.ones(n)
    ends[[0, -1]] = 2**0.5
    return draft.with_columns(ends).with_rows(1 / ends)


def _second(n: int, norm: Norm, cosine: bool, end: float = 1.0) -> Draft:
    """Type 2; ``end`` multiplies the row of the constant (DCT) or alternating (DST) vector."""
    pick = 2 * _scale(n, norm) * unit_roots(np.arange(n), 4 * n)
    pick[0] *= 0.5**0.5 if norm == "ortho" else end
    draft = folded(n, pick, exponent=EXPONENT[norm]).reading(even_odd_reversed(n))
    return draft if cosine else draft.with_columns(_alternating(n)).writing(np.arange(n)[::-1])


def _third(n: int, norm: Norm, cosine: bool) -> Draft:
    return _second(n, norm, cosine, end=0.5).transposed


def _fourth(n: int, norm: Norm, cosine: bool) -> Draft:
    # The sum over (j + 1/4)(k + 1/2) takes the odd inputs, which run down, with the other sign.
    pick = 2 * _scale(n, norm) * unit_roots(2 * np.arange(n) + 1, 8 * n)
    draft = folded(n, pick, half=1, exponent=EXPONENT[norm]).reading(even_odd_reversed(n))
    draft = draft.with_columns(_alternating(n))
    return draft if cosine else draft.reading(np.arange(n)[::-1]).with_rows(_alternating(n))


def _alternating(n: int) -> Array:
    signs: Array = 1.0 - 2.0 * (np.arange(n) % 2)
    return signs
