"""Packed weights, kept from one product to the next and never trusted unseen.

Weights change without a trace: an optimiser steps through ``.data``, numpy and other processes write into
shared memory, and no version counter moves. So an entry is found by where its weights lie, and a fingerprint
of their bytes decides on every call whether it still holds. Entries keep copies, never tensors.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from kmatrix._checks import check_size
from kmatrix.ops.native_module import NativeChain

Entry = TypeVar("Entry")

DEFAULT_LIMIT = 64 * 2**20


def _nothing(key: Hashable) -> None:
    pass


class PackedCache(Generic[Entry]):
    """The entries used last, up to a number of bytes."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self.nbytes = 0
        self.when_dropped: Callable[[Hashable], None] = _nothing  # told the key of an entry that has left
        self._entries: OrderedDict[Hashable, tuple[int, int, Entry]] = OrderedDict()
        self._renew_lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        """A new lock; in a forked child the old one may be held by a thread that was left behind."""
        self._lock = threading.Lock()

    def get(self, key: Hashable, stamp: int, make: Callable[[], tuple[Entry, int | None]]) -> Entry:
        """The entry of a key if it bears this stamp, else the one that ``make`` returns with its size.

        An outdated entry is dropped and not overwritten: another thread may be reading it. A size of None
        says that the new entry must not be kept.
        """
        with self._lock:
            known = self._entries.get(key)
            if known is not None and known[0] == stamp:
                self._entries.move_to_end(key)
                return known[2]
        entry, nbytes = make()
        dropped: list[Hashable] = []
        with self._lock:
            outdated = self._entries.pop(key, None)
            if outdated is not None:
                self.nbytes -= outdated[1]
                dropped.append(key)
            if nbytes is not None and nbytes <= self.limit:
                self._entries[key] = (stamp, nbytes, entry)
                self.nbytes += nbytes
                dropped += self._shrink()
        self._tell(dropped)
        return entry

    def holds(self, key: Hashable, entry: Entry) -> bool:
        """Whether this very entry is kept under this key."""
        with self._lock:
            known = self._entries.get(key)
            return known is not None and known[2] is entry

    def _shrink(self) -> list[Hashable]:
        dropped = []
        while self.nbytes > self.limit:
            key, (_, nbytes, _) = self._entries.popitem(last=False)
            self.nbytes -= nbytes
            dropped.append(key)
        return dropped

    def _tell(self, dropped: list[Hashable]) -> None:
        """Outside of the lock: what is set free by it may want the lock itself."""
        for key in dropped:
            self.when_dropped(key)

    def resize(self, limit: int) -> None:
        """Hold at most so many bytes from now on."""
        with self._lock:
            self.limit = limit
            dropped = self._shrink()
        self._tell(dropped)

    def __len__(self) -> int:
        return len(self._entries)


def set_cache_limit(nbytes: int) -> None:
    """Bound the memory that copies of weights, packed for the native kernels, may take; 64 MiB at first.

    Those used least recently go first; 0 packs anew for every product.

    Args:
        nbytes: how many bytes all copies together may take.

    Raises:
        ArgumentError: if ``nbytes`` is negative.
        DtypeError: if it is not a whole number.

    Example:
        >>> set_cache_limit(64 * 2**20)
    """
    PACKED.resize(check_size("set_cache_limit", "nbytes", nbytes, minimum=0))


PACKED: PackedCache[NativeChain] = PackedCache()
