"""``kmatrix info``: what a saved file holds, or what this installation can do."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import kmatrix as km
from kmatrix.fit.certificate import processor_name
from kmatrix.structures.serialization import describe


def info(
    file: Annotated[
        Path | None, typer.Argument(help="A saved matrix; without one, this installation.")
    ] = None,
) -> None:
    """Describe a saved matrix without loading its numbers, or this installation."""
    console = Console()
    table = Table(show_header=False, title=str(file) if file else "kmatrix", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in (_file_facts(file) if file else _installation()).items():
        table.add_row(key, escape(value))
    console.print(table)


def _file_facts(file: Path) -> dict[str, str]:
    raise NotImplementedError


def _installation() -> dict[str, str]:
    return {
        "kmatrix": km.__version__,
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "numpy": np.__version__,
        "scipy": _version("scipy"),
        "safetensors": _version("safetensors"),
        "processor": processor_name(),
        "native CPU kernels": "not in this version: chains run on the portable path (torch batched products)",
        "GPU kernels": "not in this version",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
