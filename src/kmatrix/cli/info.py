"""``kmatrix info``: what a saved file holds, or what this installation can do."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markup import escape

import kmatrix as km
from kmatrix.cli.tables import fact_table, output, plain_table
from kmatrix.ops.dispatch import BACKENDS, NATIVE, TRITON
from kmatrix.ops.native_module import build_info, native_part
from kmatrix.ops.triton.available import triton_is_here
from kmatrix.ops.wisdom import answers, obstacle, processor_name, wisdom_path
from kmatrix.report.words import brief
from kmatrix.structures.serialization import describe


def info(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A saved matrix, or the folder of a saved model; without one, this installation."
        ),
    ] = None,
) -> None:
    """Describe a saved matrix or model without loading its numbers, or this installation."""
    console = output()
    if file is not None and file.is_dir():
        _print_model(console, file)
        return
    facts = _file_facts(file) if file else _installation()
    table = fact_table(escape(str(file) if file else "kmatrix"))
    for key, value in facts.items():
        table.add_row(key, escape(value))
    console.print(table, highlight=False)


def _print_model(console: Console, folder: Path) -> None:
    """What the headers of a saved model say, layer by layer."""
    from kmatrix.compress import describe_model

    found = describe_model(folder)
    table = plain_table(escape(str(folder)), "layer", "shape", "#numbers", "#of dense", "structure")
    for layer in found.layers:
        m, n = layer.shape
        share = f"{layer.num_params / (m * n):.1%}"
        name = layer.names[0] + (f" (+{len(layer.names) - 1})" if len(layer.names) > 1 else "")
        table.add_row(
            escape(name), f"{m} x {n}", f"{layer.num_params:,}", share, escape(brief(layer.structure))
        )
    if found.layers:
        console.print(table, highlight=False)
    structured = sum(layer.num_params for layer in found.layers)
    facts = fact_table("all of it" if found.layers else escape(str(folder)))
    facts.add_row("structured layers", f"{len(found.layers)}, {structured:,} numbers")
    facts.add_row(
        "all numbers", f"{found.num_params:,}, with {len(found.tied)} names that share those of others"
    )
    facts.add_row("file", f"{found.file_bytes:,} bytes, by kmatrix {escape(found.kmatrix_version)}")
    console.print(facts, highlight=False)


def _file_facts(file: Path) -> dict[str, str]:
    """What the header of a saved matrix says; its numbers are not read."""
    found = describe(file)
    m, n = found.shape
    shares = (("parameters", found.num_params, m * n), ("FLOPs a vector", found.flops, 2 * m * n))
    return {
        "shape": f"{m} x {n}",
        "structure": brief(found.structure),
        "number type": str(found.dtype).removeprefix("torch."),
        **{what: f"{count:,} of {dense:,} ({count / dense:.2%} of dense)" for what, count, dense in shares},
        **dict(_certified(found.certificate or {})),
        "file": f"{found.file_bytes:,} bytes, format {found.format_version}, by kmatrix {found.kmatrix_version}",
    }


def _certified(certificate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the certificate in a file says. Anyone can write a file, so nothing is taken for granted about its form."""
    error = certificate.get("relative_error")
    if isinstance(error, int | float):
        yield "certified error", f"{error:.2e} (Frobenius, relative)"
    if certificate.get("interrupted") is True:
        yield "search", "cut short: this is the best it had"
    timings = certificate.get("timings")
    for timing in timings if isinstance(timings, list) else []:
        match timing:
            case {"batch": int(batch), "speedup": int() | float() as speedup}:
                yield f"time, batch {batch}", f"{speedup:.2f}x dense when it was measured"
    machine = certificate.get("machine")
    if isinstance(machine, dict) and machine:
        yield "measured on", ", ".join(f"{key} {value}" for key, value in machine.items())[:500]


def _installation() -> dict[str, str]:
    return {
        "kmatrix": km.__version__,
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "numpy": np.__version__,
        "scipy": _version("scipy"),
        "safetensors": _version("safetensors"),
        "processor": processor_name(),
        "backends": ", ".join(b.name for b in BACKENDS if b.name not in _absent()),
        "kernels": _kernels(),
        "wisdom": _wisdom(),
    }


def _absent() -> set[str]:
    """Backends that this machine cannot run."""
    absent = set() if native_part().module else {NATIVE.name}
    return absent if torch.cuda.is_available() and triton_is_here().ok else absent | {TRITON.name}


def _kernels() -> str:
    """Which instruction set computes, or why the portable path does."""
    module, isa, reason = native_part()
    if module is None:
        return f"portable: {reason}"
    compiler = build_info().get("compiler", "an unknown compiler")
    return f"{isa}, of {', '.join(module.compiled())}; compiled by {compiler}"


def _wisdom() -> str:
    path = wisdom_path()
    if path is None:
        if os.environ.get("KMATRIX_WISDOM") == "":
            return "none: KMATRIX_WISDOM is empty"
        return "none: there is no home folder to keep it in; name a file with KMATRIX_WISDOM"
    found = obstacle(path)
    if found is not None:
        return f"{path}, not kept: {found}"
    known = answers()
    many = f"{known} schedule{'' if known == 1 else 's'} measured"
    return f"{path}, {many}" if path.exists() else f"{path}, not there yet"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
