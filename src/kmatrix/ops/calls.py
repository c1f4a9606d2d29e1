"""Products that ran before: recognised, checked and run again in about two microseconds.

The long way through ``chain_matmul`` asks each tensor a dozen questions, and every one costs as much as a tenth
of a small product. So the native part keeps a record of what the tensors of a call looked like; the next call
compares all of it at once and goes to the kernel, or declines and goes the long way, which knows everything.
A record holds no tensors, and nothing in it is trusted: not even that the weights are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from kmatrix.ops.definition import Patterns
from kmatrix.ops.dispatch import NATIVE, native_is_next
from kmatrix.ops.ends import Ends, OutsideError
from kmatrix.ops.native import ready_chain, schedule_of
from kmatrix.ops.native_cache import PACKED
from kmatrix.ops.native_layout import described, lie_in_place
from kmatrix.ops.native_module import DONE, WATCHED, CallType, native_part
from kmatrix.ops.routing import nothing_watches

_MOST = 512  # records; all are dropped when there are more
_NOTHING: tuple[Tensor, ...] = ()
_UNKNOWN = object()


class _Record(NamedTuple):
    """One call: what its result looks like, and how to run it."""

    patterns: object  # the very tuple that was given
    chain: Patterns
    shapes_tell: bool  # whether the weights' shapes are the patterns
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    run: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor], Tensor, int, bool], int]

    def is_for(self, patterns: Any) -> bool:
        """Whether these patterns mean the same chain."""
        if patterns is None:
            return self.shapes_tell
        try:
            return tuple(patterns) == self.chain
        except TypeError:
            return False


# Looked up once, as in routing; the native part itself uses one thread after a fork.
_threads = torch.get_num_threads
_grad_enabled = torch.is_grad_enabled

_records: dict[object, _Record] = {}
_seen: set[object] = set()
_holders: dict[Hashable, set[object]] = {}  # the records of each entry of the cache


def _drop(key: Hashable) -> None:
    """Records hold what was copied, too: they leave with it."""
    for record_key in list(_holders.pop(key, ())):
        _records.pop(record_key, None)


PACKED.when_dropped = _drop


@lru_cache(maxsize=1)
def recorder() -> CallType | None:
    """What makes records; None if this build or this torch has no way to."""
    module = native_part().module
    if module is None or not hasattr(module, "use_tensors") or not module.use_tensors(Tensor, Parameter):
        return None
    return module.Call


def _key(x: Tensor, weights: Sequence[Tensor], others: tuple[Tensor, ...], kind: int) -> object:
    first, last = weights[0], weights[-1]
    # Complex weights are new views of their stored pairs on every call, but of the same memory.
    if first.dtype.is_complex:
        return x.shape, first.data_ptr(), last.data_ptr(), len(others), kind
    return x.shape, id(first), id(last), len(others), kind


def repeated(
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: object,
    others: tuple[Tensor, ...] = _NOTHING,
    kind: int = -1,
    out: Tensor | None = None,
) -> Tensor | Patterns | None:
    """The product, if a call like this one was recorded and nothing about it is unusual; else None.

    ``others`` are further tensors that the chain was made from, and ``kind`` tells how. If all is as it was
    but autograd watches, the patterns come back: nothing needs to be checked again. ``out`` has been checked.
    """
    try:
        known = _records.get((x.shape, id(weights[0]), id(weights[-1]), len(others), kind))
        if known is None and x.is_complex():
            known = _records.get(_key(x, weights, others, kind))
    except (AttributeError, IndexError, TypeError, KeyError, RuntimeError):  # the last: nothing in memory
        return None
    if known is None:
        return None
    given, chain, _, shape, strides, dtype, run = known
    if not (given is patterns or known.is_for(patterns)) or not nothing_watches() or not native_is_next():
        return None
    y = empty(shape, strides, dtype) if out is None else out
    found = run(x, weights, others, y, _threads(), _grad_enabled())
    return y if found == DONE else chain if found == WATCHED else None


def record(
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: object,
    chain: Patterns,
    ends: Ends | None = None,
    kind: int = -1,
    held: Sequence[Tensor] | None = None,
) -> None:
    """Remember a call that nothing watched and the native kernels ran, when it comes for the second time.

    ``held`` are the tensors that ``repeated`` will be asked about where the weights are new views of them on every
    call, and ``patterns`` those that will come with them.
    """
    new_call = recorder()
    if new_call is None or type(weights) not in (list, tuple) or x.device.type != "cpu" or not x.numel():
        return
    others = _NOTHING if ends is None else ends.sources
    asked = weights if held is None else held
    key = _key(x, asked, others, kind)
    if key not in _seen:
        if len(_seen) > 8 * _MOST:
            _seen.clear()
        _seen.add(key)
        return
    if not lie_in_place(x) or not native_is_next() or not NATIVE.can_run(x, weights, chain).ok:
        return
    if any(w.is_conj() for w in weights):
        return
    kept, description = described(weights, chain)
    batch = x.shape[:-1].numel()
    if any(one is not other for one, other in zip(kept, weights, strict=True)):
        return
    schedule, pointers = schedule_of(description, batch, ends), [w.data_ptr() for w in kept]
    try:
        ready = ready_chain(description, schedule, pointers, ends)
        call = new_call(ready.chain, [*asked, *others], len(asked), ready.packed, ready.stamp)
    except (ValueError, OutsideError):  # a tensor that is described to nobody, such as one lazily negated
        return
    if len(_records) >= _MOST:
        forget()
    fixed = isinstance(patterns, tuple) and all(isinstance(p, tuple) for p in patterns)
    tells = held is None and all(tuple(w.shape) == p for w, p in zip(weights, chain, strict=True))
    meant = chain if held is None else tuple(cast(Patterns, patterns))
    shape = (*x.shape[:-1], description.n_out if ends is None else ends.n_out)
    strides = torch.empty(shape, device="meta").stride()
    if ready.key is not None:
        _holders.setdefault(ready.key, set()).add(key)
    _records[key] = _Record(patterns if fixed else _UNKNOWN, meant, tells, shape, strides, x.dtype, call.run)
    # Asked last, because an entry may leave the cache at any time.
    if ready.key is not None and not PACKED.holds(ready.key, ready.chain):
        _drop(ready.key)
        _records.pop(key, None)


def forget() -> None:
    """Drop all records, because schedules have changed."""
    _records.clear()
    _holders.clear()


def _fast_empty() -> Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor]:
    """An uninitialised tensor of the CPU; torch's own shortcut, where it is, takes half the time."""
    guards = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
    shortcut = getattr(guards, "_empty_strided_cpu", None)
    if shortcut is not None:
        fast: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor] = shortcut
        return fast
    return lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype, device="cpu")


empty = _fast_empty()
