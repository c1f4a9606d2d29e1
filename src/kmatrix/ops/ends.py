"""What may surround a chain: a selection of its input, one of its output, and a bias.

The native kernels do all three while they load and store, so that permutations, padding and corners cost
nothing; elsewhere they are stock torch functions around the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.ops.definition import Patterns
from kmatrix.ops.routing import is_plain


class SingleChain(NamedTuple):
    """A matrix as one chain: ``y = (F_k ... F_1 x[gather])[take]`` for vectors of length ``n``.

    Attributes:
        weights: in order of application, as for ``chain_matmul``.
        patterns: of the factors.
        n: length of the vectors.
        gather: which entry of ``x`` each column of the first factor takes, -1 for zero; None for all in order.
        take: which rows of the last factor make up the result; None for all in order.
    """

    weights: Sequence[Tensor]
    patterns: Sequence[tuple[int, int, int, int]] | None
    n: int | None
    gather: Sequence[int] | Tensor | None
    take: Sequence[int] | Tensor | None


@runtime_checkable
class HasSingleChain(Protocol):
    """A matrix that can say which single chain it is."""

    def single_chain(self, where: str) -> SingleChain:
        """The chain; raises ``ArgumentError`` in the name of ``where`` if there is none."""


def given_chain(where: str, given: Sequence[Tensor] | HasSingleChain, *rest: Any) -> SingleChain:
    """The chain that somebody gave: a matrix, or weights with patterns, ``n``, ``gather`` and ``take``."""
    if isinstance(given, HasSingleChain):
        for name, value in zip(("patterns", "n", "gather", "take"), rest, strict=True):
            if value is not None:
                reason, way_out = "the matrix says that itself", "leave it out, or pass weights and patterns"
                raise ArgumentError(complaint(where, name, "(given)", reason, way_out))
        return given.single_chain(where)
    if isinstance(given, Tensor) or not isinstance(given, Sequence):
        reason = "neither a matrix nor a list of weights"
        way_out = "pass a StructuredMatrix, or the weights of a chain"
        raise DtypeError(complaint(where, "weights", type(given).__name__, reason, way_out))
    if not given:
        raise ArgumentError(
            complaint(where, "weights", "[]", "there is no factor", "pass at least one weight")
        )
    return SingleChain(given, *rest)


class OutsideError(Exception):
    """An index is negative or too large: stock torch has its own ways with those."""


class Ends:
    """What happens before the first factor and after the last.

    Attributes:
        n_in: columns of ``x``.
        n_out: columns of the product.
        gather: the column of ``x`` for each column of the first factor, -1 for zero; None for all in order.
        take: the row of the last factor for each column of the product; None for all in order.
        bias: added to the product; None for none.
        sources: the tensors all of this was made from.
        unchecked: indices of the caller's among them that nobody has looked at, and what they point into.
    """

    __slots__ = ("bias", "gather", "n_in", "n_out", "sources", "take", "unchecked")

    def __init__(
        self,
        n_in: int,
        n_out: int,
        gather: Tensor | None,
        take: Tensor | None,
        bias: Tensor | None,
        sources: tuple[Tensor, ...],
        unchecked: tuple[tuple[Tensor, int], ...] = (),
    ) -> None:
        self.n_in, self.n_out = n_in, n_out
        self.gather, self.take, self.bias = gather, take, bias
        self.sources, self.unchecked = sources, unchecked

    @property
    def trivial(self) -> bool:
        """Whether nothing happens at all."""
        return self.gather is None and self.take is None and self.bias is None

    @property
    def selects(self) -> bool:
        """Whether index arrays are folded in."""
        return not (self.gather is None and self.take is None)

    @property
    def points_outside(self) -> bool:
        """Whether an index that nobody has looked at lies outside of what it points into."""
        return any(
            len(index) > 0 and not (0 <= int(index.min()) and int(index.max()) < size)
            for index, size in self.unchecked
        )

    @property
    def key(self) -> tuple[object, ...]:
        """What tells these ends from others made from the same tensors."""
        which = (self.gather is None, self.take is None, self.bias is None)
        return self.n_in, self.n_out, *which, *[(s.data_ptr(), s.numel()) for s in self.sources]


@lru_cache(maxsize=256)
def padding(n: int, cols: int) -> Tensor:
    """The input selection that appends zeros; nobody may write to it."""
    return torch.cat([torch.arange(n, device="cpu"), torch.full((cols - n,), -1, device="cpu")])


@lru_cache(maxsize=256)
def cropping(rows: int) -> Tensor:
    """The output selection that keeps the first rows; nobody may write to it."""
    return torch.arange(rows, device="cpu")


def check_ends(
    where: str,
    chain: Patterns,
    n: int | None,
    gather: Sequence[int] | Tensor | None,
    take: Sequence[int] | Tensor | None,
    bias: Tensor | None,
    like: Tensor,
) -> Ends:
    """The ends of a chain that fit it, with indices of our own; raises if something does not."""
    cols, rows = chain[0].cols, chain[-1].rows
    if gather is None:
        if n not in (None, cols):
            reason, way_out = f"the first factor takes {cols}", "say with gather which entry goes where"
            raise ArgumentError(complaint(where, "n", n, reason, way_out))
        n_in = cols
    else:
        n_in = cols if n is None else n
        gather = check_index(where, "gather", gather, cols, -1, n_in)
    if take is not None:
        take = check_index(where, "take", take, None, 0, rows)
    n_out = rows if take is None else len(take)
    check_bias(where, bias, n_out, like)
    return Ends(n_in, n_out, gather, take, bias, ())


def check_index(where: str, name: str, index: object, length: int | None, low: int, high: int) -> Tensor:
    """The index as a contiguous int64 tensor of our own on the CPU, or raise if it is none or points outside."""
    try:
        found = torch.as_tensor(index, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise DtypeError(
            complaint(where, name, type(index).__name__, "not an index", "pass whole numbers")
        ) from None
    if not found.numel() and not isinstance(index, Tensor):
        found = found.long()  # an empty list holds no fractions, whatever torch makes of it
    if found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        raise DtypeError(complaint(where, f"{name}.dtype", found.dtype, "not an index", "pass whole numbers"))
    if found.ndim != 1 or (length is not None and len(found) != length):
        expected = "of one dimension" if length is None else f"of shape ({length},)"
        way_out = f"pass an index {expected}"
        raise ArgumentError(
            complaint(where, f"{name}.shape", tuple(found.shape), "does not fit the chain", way_out)
        )
    outside = ((found < low) | (found >= high)).nonzero()
    if len(outside):
        position = int(outside[0])
        raise ArgumentError(_points_outside(where, name, position, int(found[position]), low, high))
    return found.detach().to("cpu", torch.int64, copy=True).contiguous()


def _points_outside(where: str, name: str, position: int, value: int, low: int, high: int) -> str:
    argument = f"{name}[{position}]"
    if low < 0:
        reason = f"x has {high} entries, so an index is one of 0..{high - 1}, or -1 for zero"
        return complaint(where, argument, value, reason, "point inside, or say with n= how long x is")
    reason = f"the last factor has {high} rows, so an index is one of 0..{high - 1}"
    return complaint(where, argument, value, reason, "point inside")


def check_is_tensor(where: str, name: str, value: object) -> None:
    """Raise unless a value is a tensor, of whatever kind."""
    if not isinstance(value, Tensor):
        way_out = f"pass a torch.Tensor, such as torch.as_tensor({name})"
        raise DtypeError(complaint(where, name, type(value).__name__, "not a torch.Tensor", way_out))


def check_plain(where: str, name: str, value: object) -> None:
    """Raise unless a value is an ordinary tensor: memory is read or written past all rules of subclasses."""
    check_is_tensor(where, name, value)
    if not is_plain(value):
        reason = "a subclass of torch.Tensor, which may have rules of its own"
        way_out = f"pass {name}.as_subclass(torch.Tensor)"
        raise DtypeError(complaint(where, name, type(value).__name__, reason, way_out))


def check_bias(where: str, bias: Tensor | None, n_out: int, like: Tensor) -> None:
    """Raise unless the bias is one number of the dtype and device of ``like`` for each output."""
    if bias is None:
        return
    check_is_tensor(where, "bias", bias)
    if bias.dtype != like.dtype:
        raise DtypeError(
            complaint(
                where, "bias.dtype", bias.dtype, f"the weights have {like.dtype}", "convert one of them"
            )
        )
    if bias.shape != (n_out,):
        way_out = f"pass a bias of shape ({n_out},)"
        raise ArgumentError(
            complaint(where, "bias.shape", tuple(bias.shape), "does not fit the chain", way_out)
        )
    if bias.device != like.device:
        reason = f"the weights are on {like.device}"
        raise ArgumentError(complaint(where, "bias.device", bias.device, reason, "move one to the other"))
