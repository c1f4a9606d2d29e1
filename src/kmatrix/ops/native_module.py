"""The compiled part of the library, as the rest of it sees it: loaded once, absent with a reason.

``kmatrix._native`` knows addresses and strides, no tensors, so that one build serves every torch. Without it,
or where it refuses to run, everything works on the portable path.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

DTYPE_CODES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.complex64: 2,
    torch.complex128: 3,
    torch.bfloat16: 4,
    torch.float16: 5,
}


class NativeChain(Protocol):
    """A chain with fixed sizes, passes and index arrays, and the weights it packed last."""

    packed_nbytes: int

    def pack(self, pointers: Sequence[int]) -> None:
        """Copy the weights of the factors in order of use."""

    def set_bias(self, pointer: int) -> None:
        """Copy a bias; 0 removes it."""

    def forward(
        self, x: int, x_row: int, x_col: int, y: int, y_row: int, y_col: int, batch: int, threads: int
    ) -> None:
        """The product through tiles of rows and packed weights."""

    def order(self, weights: Sequence[int]) -> None:
        """Copy weights into the order in which one row uses them, where that pays; they must not change any more."""

    def rows(
        self,
        weights: Sequence[int],
        x: int,
        x_row: int,
        x_col: int,
        y: int,
        y_row: int,
        y_col: int,
        batch: int,
        threads: int,
    ) -> None:
        """The product of a few rows, weights read where they are."""

    def backward(
        self,
        grad: int,
        grad_row: int,
        grad_col: int,
        x: int,
        x_row: int,
        x_col: int,
        grad_x: int,
        grad_x_row: int,
        grad_x_col: int,
        grad_weights: Sequence[int],
        batch: int,
        threads: int,
    ) -> None:
        """Gradients; ``grad_x`` 0 where it is not wanted."""


class ChainType(Protocol):
    """The class of ``NativeChain``."""

    def __call__(
        self,
        dtype: int,
        patterns: Sequence[int],
        strides: Sequence[int],
        passes: Sequence[int],
        tile_vectors: int,
        n_in: int,
        n_out: int,
        gather: Sequence[int] | None,
        take: Sequence[int] | None,
        isa: str = "",
    ) -> NativeChain:
        """Describe a chain; ValueError if something does not fit."""

    def can_fuse(self, dtype: int, patterns: Sequence[int], first: int, count: int, isa: str = "") -> bool:
        """Whether these factors may form one pass."""


DONE, WATCHED = 1, 2  # what NativeCall.run says; 0 is neither


class NativeCall(Protocol):
    """A product that ran, and what its tensors looked like."""

    def run(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        others: Sequence[Tensor],
        y: Tensor,
        threads: int,
        grad: bool,
    ) -> int:
        """``DONE``: it ran again, into ``y``; ``WATCHED``: it could, but for autograd; else something is new."""

    def fix(self, pointers: Sequence[int]) -> None:
        """The weights lie at these addresses and nobody changes them."""

    def run_fixed(self, x: Tensor, y: Tensor, threads: int) -> bool:
        """Run with fixed weights, or decline because ``x`` or ``y`` does not fit."""


class CallType(Protocol):
    """The class of ``NativeCall``."""

    def __call__(
        self, chain: NativeChain, tensors: Sequence[Tensor], weights: int, packed: bool, stamp: int
    ) -> NativeCall:
        """Remember a call: weights first, then what else the chain was made from; the stamp of what was copied."""


class NativeBoxes(Protocol):
    """A sum of boxes with fixed sizes, and the numbers it packed last."""

    packed_nbytes: int

    def pack(self, places: int, left: int, right: int) -> None:
        """Copy boxes and numbers in order of use; IndexError if a box lies outside or the widths do not add up."""

    def forward(
        self,
        x: int,
        x_row: int,
        x_col: int,
        y: int,
        y_row: int,
        y_col: int,
        bias: int,
        batch: int,
        threads: int,
    ) -> None:
        """The product through tiles of rows and packed numbers; ``bias`` may be 0."""

    def rows(
        self,
        places: int,
        left: int,
        right: int,
        x: int,
        x_row: int,
        x_col: int,
        y: int,
        y_row: int,
        y_col: int,
        bias: int,
        batch: int,
        threads: int,
    ) -> None:
        """The product of a few rows, boxes and numbers read where they are; IndexError as ``pack``."""

    def run(
        self,
        x: Tensor,
        left: Tensor,
        right: Tensor,
        places: Tensor,
        bias: Tensor | None,
        y: Tensor,
        most: int,
        threads: int,
        grad: bool,
    ) -> int:
        """``DONE``: the product of at most ``most`` rows is in ``y``; ``WATCHED``: but for autograd; else neither."""


class BoxesType(Protocol):
    """The class of ``NativeBoxes``."""

    def __call__(
        self,
        dtype: int,
        n_in: int,
        n_out: int,
        n_boxes: int,
        n_left: int,
        n_right: int,
        isa: str = "",
    ) -> NativeBoxes:
        """Describe a sum of boxes; ValueError if a size is below 1."""


class NativeWindows(Protocol):
    """Rows under masks that are differences of two windows of a table, by address; everything is contiguous."""

    def masked(
        self, table: int, content: int, first: int, last: int, out: int, rows: int, size: int, threads: int
    ) -> None:
        """The content under its masks, elsewhere; IndexError if a window leaves the table."""

    def gradients(
        self,
        table: int,
        grad: int,
        content: int,
        first: int,
        last: int,
        to_content: int,
        to_width: int,
        to_start: int,
        rows: int,
        size: int,
        threads: int,
    ) -> None:
        """The gradients of the content, and two sums for each row; IndexError likewise."""


class WindowsType(Protocol):
    """The class of ``NativeWindows``."""

    def __call__(self, dtype: int, length: int, isa: str = "") -> NativeWindows:
        """Describe a table; ValueError if the number type has no kernels."""


class NativeModule(Protocol):
    """What ``kmatrix._native`` offers."""

    sources: str  # what sources_digest() was when it was built

    Chain: ChainType
    Call: CallType
    Boxes: BoxesType
    Windows: WindowsType

    def use_tensors(self, tensor: type, parameter: type) -> bool:
        """Tell it about torch; False if this torch does not describe its tensors to others."""

    def forked(self) -> None:
        """This process is the child of a fork: use one thread."""

    def compiled(self) -> tuple[str, ...]:
        """Instruction sets in this build, best first."""

    def default_isa(self) -> str:
        """The one in use; RuntimeError if the environment names one that is absent."""

    def fingerprint(self, pointers: Sequence[int], nbytes: Sequence[int]) -> int:
        """A number that changes when the bytes do."""

    def limits(self, isa: str = "") -> tuple[int, int, int]:
        """Bytes of a vector register, and the widest passes of 2x2 factors, real and complex, as powers of 2."""


class NativePart(NamedTuple):
    """The compiled module (None if it cannot run), its instruction set, and why or why not."""

    module: NativeModule | None
    isa: str
    reason: str


@lru_cache(maxsize=1)
def native_part() -> NativePart:
    """Load the compiled module, once in a process."""
    try:
        module = cast(NativeModule, importlib.import_module("kmatrix._native"))
        here = sources_digest()
        if here and getattr(module, "sources", None) != here:
            return _absent(
                "the native kernels were built from other sources (run `make native`, or pip install again)"
            )
        isa = _requested_isa(module) or module.default_isa()
    except ImportError as error:
        if build_info().get("native"):
            return _absent(f"the native kernels cannot be loaded ({error})")
        return _absent(f"the native kernels are not built ({build_info().get('reason', error)})")
    except RuntimeError as error:
        return _absent(f"the native kernels cannot run ({error})")
    if _process.forked:
        module.forked()
    return NativePart(module, isa, f"native kernels, {isa}")


def _requested_isa(module: NativeModule) -> str:
    """The instruction set that ``$KMATRIX_ISA`` names, in any case; "" if it names none.

    Raises:
        RuntimeError: if it is not in this build, or this processor does not run it.
    """
    asked = os.environ.get("KMATRIX_ISA", "").strip()
    if asked:
        try:
            module.limits(asked.lower())
        except ValueError:
            built = ", ".join(module.compiled())
            reason = "not in this build, or not on this processor"
            raise RuntimeError(f"KMATRIX_ISA={asked}: {reason}; the build holds {built}") from None
    return asked.lower()


def sources_digest() -> str:
    """A digest of the C++ sources beside this package, as CMake takes it (cmake/native.cmake); "" without any.

    In a source tree a module can be older than its sources, after ``git pull`` say, and then means other things by
    its arguments. A wheel brings a module and no sources.
    """
    folder = resources.files("kmatrix").joinpath("csrc")
    if not folder.is_dir():
        return ""
    files = sorted((f for f in folder.iterdir() if f.name.endswith((".h", ".cpp"))), key=lambda f: f.name)
    lines = [f"{f.name} {hashlib.sha256(f.read_bytes()).hexdigest()}\n" for f in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=1)
def build_info() -> dict[str, Any]:
    """What the build has left behind: its compiler and instruction sets, or why there are no kernels."""
    try:
        info = json.loads(resources.files("kmatrix").joinpath("_build_info.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _absent(reason: str) -> NativePart:
    _log.warning("%s: the portable path runs instead, correct, but it may be slower than dense", reason)
    return NativePart(None, "", reason)


class _Process:
    """Whether this process is the child of a fork, which the threads of OpenMP do not survive."""

    forked = False

    def note_fork(self) -> None:
        """The pool of threads is gone, and whoever asks for it waits forever."""
        self.forked = True
        if native_part.cache_info().currsize:
            module = native_part().module
            if module is not None:
                module.forked()


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.note_fork)


def threads() -> int:
    """How many threads a product may use: one in a forked child."""
    return 1 if _process.forked else torch.get_num_threads()
