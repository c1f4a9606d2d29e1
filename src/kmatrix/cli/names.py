"""The one table from names on the command line to structures and the options each takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import kmatrix.structures as st
from kmatrix._errors import ArgumentError, complaint


@dataclass(frozen=True)
class Named:
    """A structure class, the options it takes, and those it cannot do without."""

    structure: type[st.Structure]
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


STRUCTURES: Mapping[str, Named] = {
    "blast": Named(st.BLAST, ("nblocks", "rank"), ("nblocks", "rank")),
    "block-circulant": Named(st.BlockCirculant, ("block",), ("block",)),
    "block-diagonal": Named(st.BlockDiagonal, ("nblocks",), ("nblocks",)),
    "block-low-rank": Named(st.BlockLowRank, ("nblocks", "rank")),
    "block-tensor-train": Named(st.BlockTensorTrain, ("nblocks", "rank")),
    "bpbp": Named(st.BPBP, ("depth",)),
    "butterfly": Named(st.Butterfly, ("ranks",)),
    "circulant": Named(st.Circulant),
    "dense": Named(st.Dense),
    "gblr": Named(st.GBLR, ("nblocks", "budget")),
    "hankel": Named(st.Hankel),
    "kaleidoscope": Named(st.Kaleidoscope, ("width", "expansion")),
    "kronecker": Named(st.Kronecker, ("rank",)),
    "low-rank": Named(st.LowRank, ("rank",), ("rank",)),
    "monarch": Named(st.Monarch, ("nblocks", "order")),
    "obb": Named(st.OBB, ("width",)),
    "orthogonal-butterfly": Named(st.OrthogonalButterfly),
    "sparse": Named(st.Sparse, ("nnz",), ("nnz",)),
    "toeplitz": Named(st.Toeplitz),
}


def structure_from(name: str, given: Mapping[str, float | None]) -> st.Structure:
    """Build the structure a user named, with the options that were given.

    Raises:
        ArgumentError: if the name is unknown, an option does not belong to it, or one it needs is missing.
    """
    if name not in STRUCTURES:
        raise ArgumentError(
            complaint("kmatrix fit", "--into", name, "unknown", f"use one of {', '.join(STRUCTURES)}")
        )
    named = STRUCTURES[name]
    options = {key: value for key, value in given.items() if value is not None}
    for key, value in options.items():
        if key not in named.options:
            takes = ", ".join(f"--{o}" for o in named.options) or "no options"
            reason = f"{name} does not take it"
            raise ArgumentError(complaint("kmatrix fit", f"--{key}", value, reason, f"it takes {takes}"))
    for key in named.required:
        if key not in options:
            raise ArgumentError(
                complaint("kmatrix fit", f"--{key}", None, f"{name} needs it", f"pass --{key} N")
            )
    return named.structure(**options)


OPTIONS = {option for named in STRUCTURES.values() for option in named.options} | {
    "batches",
    "max_seconds",
    "name",
    "of",
    "seed",
    "tol",
}
OF_COMPRESS = {
    "batch": "--batch",
    "budget": "--budget",
    "calibration": "--calibration",
    "filter_fn": "--layers",
    "lr": "--lr",
    "max_batches": "--max-batches",
    "of": "--of",
    "seed": "--seed",
    "tol": "--tol",
}
FILES = ("path", "target")
LIBRARY = ("fit", "describe", "save", "report", "bench", "compare", "compress_", "heal", "select")


def in_options(complaint_of_library: str, command: str) -> str:
    """A complaint of the library about its arguments, in the words of the command line: options and files.

    Example:
        >>> in_options("fit: tol=-1: must be positive; pass at least 2e-16", "fit")
        'kmatrix fit: --tol=-1: must be positive; pass at least 2e-16'
        >>> in_options("describe: path=x.npy: an .npy file; use another", "info")
        'kmatrix info: x.npy: an .npy file; use another'
        >>> in_options("GBLR: budget=0.001: too little for a box; use a larger budget", "fit")
        'kmatrix fit: --budget=0.001: too little for a box; use a larger --budget'
        >>> in_options("compress_: budget=0.1: too small; pass budget=0.2 or more", "compress")
        'kmatrix compress: --budget=0.1: too small; pass --budget 0.2 or more'
        >>> in_options("kmatrix recipe: --out=None: results go there; pass --out OUT", "recipe")
        'kmatrix recipe: no --out: results go there; pass --out OUT'
    """
    not_given = re.fullmatch(r"(kmatrix \w+): (--[\w-]+)=None: (.*)", complaint_of_library, re.DOTALL)
    if not_given:
        return "{}: no {}: {}".format(*not_given.groups())
    where, colon, rest = complaint_of_library.partition(": ")
    argument, equals, value = rest.partition("=")
    if command == "compress":
        if equals and argument in OF_COMPRESS:
            return f"kmatrix compress: {OF_COMPRESS[argument]}={_ways_out_of_compress(value)}"
        rest = _ways_out_of_compress(rest)
    if equals and argument in OPTIONS:
        value = value.replace("; use a larger budget", "; use a larger --budget")
        return f"kmatrix {command}: --{argument.replace('_', '-')}={value}"
    if where not in LIBRARY:
        return f"{where}{colon}{rest}"
    return f"kmatrix {command}: " + (value if argument in FILES else rest)


def _ways_out_of_compress(text: str) -> str:
    """Arguments of ``compress_`` that its ways out name, as options."""
    head, semicolon, way_out = text.replace("verify_speed=False", "--no-verify-speed").rpartition("; ")
    for words, option in (
        ("pass budget=", "pass --budget "),
        (", a wider filter_fn, or more structures", ", or choose wider --layers"),
        ("leave verify_speed on", "leave --no-verify-speed out"),
        ("a wider filter_fn", "other --layers"),
        ("a narrower filter_fn", "fewer --layers"),
    ):
        way_out = way_out.replace(words, option)
    return head + semicolon + way_out
