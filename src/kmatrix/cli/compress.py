"""``kmatrix compress``: a function that builds a model, and its weights, in; a smaller and faster model out."""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

import kmatrix as km
from kmatrix._checks import check_size
from kmatrix._errors import complaint
from kmatrix._files import write_atomically
from kmatrix.cli.tables import Lines, fact_table, output
from kmatrix.report.compression import write_compression_report
from kmatrix.report.page import check_available

if TYPE_CHECKING:
    from kmatrix.compress import CompressReport, HealReport

_WHERE = "as package.module:function; the current folder is looked in first"


def compress(
    build: Annotated[str, typer.Argument(help=f"What builds the model, {_WHERE}.")],
    out: Annotated[Path, typer.Option(help="Folder where the compressed model goes.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="A .safetensors file with the weights; those of the build if left out."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help=f"What gives the calibration batches, {_WHERE}.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Share of dense to keep.")] = 0.5,
    of: Annotated[str, typer.Option(help="Of what: params, flops or time.")] = "params",
    batch: Annotated[int, typer.Option(help="Vectors that meet a layer at once, for the clock.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Threads to measure with; torch's own if left out.")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option(help="Names of layers, with * and ?; !NAME leaves out. Repeatable.")
    ] = None,
    tol: Annotated[
        float | None, typer.Option(help="Largest relative squared error of any layer's outputs.")
    ] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Offer the projections of nn.MultiheadAttention too.")
    ] = False,
    verify_speed: Annotated[
        bool, typer.Option(help="Choose only what is measured faster than dense here.")
    ] = True,
    heal: Annotated[int, typer.Option(help="Steps of fine-tuning towards the dense model.")] = 0,
    lr: Annotated[float, typer.Option(help="Learning rate of --heal.")] = 3e-5,
    max_batches: Annotated[int | None, typer.Option(help="How many calibration batches to take.")] = None,
    report: Annotated[Path | None, typer.Option(help="Where an HTML page goes.")] = None,
    json_report: Annotated[Path | None, typer.Option("--json", help="Where the figures go as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
) -> None:
    """Compress a trained model: fit every layer, measure here, choose under one budget, and save.

    The functions named are imported and called: name only code that you trust.

    Exit codes: 0 done, 2 something was refused (where only --heal failed, the model is saved without it), 130 Ctrl-C
    (nothing is written, but for a --heal that was cut short: its best state is).
    """
    from kmatrix.compress.storage import check_saveable

    console = output()
    for option, path, suffix in (("--report", report, ".html"), ("--json", json_report, ".json")):
        _check_place(option, path, suffix)
    _check_out(out)
    if report is not None:
        check_available()
    if heal < 0:
        way_out = "pass a number of steps"
        raise km.ArgumentError(complaint("kmatrix compress", "--heal", heal, "below 0", way_out))
    if heal and calibration is None:
        way_out = "pass --calibration package.module:function"
        raise km.ArgumentError(complaint("kmatrix compress", "--heal", heal, "there are no batches", way_out))
    if threads is not None:
        torch.set_num_threads(check_size("kmatrix compress", "--threads", threads))
    with _Interruptible() as work:
        model = _model(build, weights, console)
        check_saveable(model)  # before the work, not after it
        batches: Any = None if calibration is None else _batches(calibration)
        dense = copy.deepcopy(model) if heal else None
        found = km.compress_(
            model,
            budget,
            of=of,  # type: ignore[arg-type]  # checked there
            calibration=batches,
            batch=batch,
            filter_fn=layers or None,
            tol=tol,
            attention=attention,
            verify_speed=verify_speed,
            max_batches=max_batches,
            seed=seed,
            progress=_progress(),
        )
        healed = None if dense is None else _healed(model, batches, dense, heal, lr)
        km.save(model, out)
        work.written.append(out)
        if report is not None:
            write_compression_report(report, found, title=f"{build} compressed")
            work.written.append(report)
        if json_report is not None:
            write_atomically("kmatrix compress", json_report, json.dumps(found.to_json(), indent=1).encode())
            work.written.append(json_report)
        show(console, found)
        if healed is not None and not isinstance(healed, str):
            console.print(f"healed: {healed}", highlight=False)
        for what, path in (("model", out), ("report", report), ("figures", json_report)):
            if path is not None:
                console.print(f"{what} written to {escape(str(path))}", highlight=False, soft_wrap=True)
    if isinstance(healed, str):
        way_out = f"what was written to {out} is the compressed model, not healed"
        raise km.ArgumentError(complaint("kmatrix compress", "--heal", heal, f"it failed: {healed}", way_out))
    if healed is not None and healed.interrupted:
        raise typer.Exit(130)


class _Interruptible:
    """Work that Ctrl-C ends with a line and exit code 130, instead of a traceback."""

    def __init__(self) -> None:
        self.written: list[Path] = []

    def __enter__(self) -> _Interruptible:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            what = f"written: {', '.join(map(str, self.written))}" if self.written else "nothing was written"
            typer.echo(f"interrupted, {what}", err=True)
            raise typer.Exit(130) from None


def _progress() -> bool | Lines:
    """A bar on a terminal, lines now and then elsewhere."""
    return True if sys.stderr.isatty() else Lines()


def _healed(model: nn.Module, batches: Any, dense: nn.Module, steps: int, lr: float) -> HealReport | str:
    """What healing did, or why it failed; then the model is as it was before, so that the compression is not lost."""
    before = copy.deepcopy(model.state_dict())
    try:
        return km.heal(model, batches, teacher=dense, steps=steps, lr=lr, progress=_progress())
    except Exception as error:  # much of what runs is the user's: batches, and the model on them
        model.load_state_dict(before)
        return str(error) if isinstance(error, km.KMatrixError) else f"{type(error).__name__}: {error}"


def _function(option: str, text: str) -> Callable[[], Any]:
    """The function that ``package.module:function`` names."""
    module, colon, name = text.partition(":")
    where, way_out = "kmatrix compress", "name it as package.module:function"
    if not (module and colon and name):
        raise km.ArgumentError(complaint(where, option, repr(text), "not a module and a function", way_out))
    if "" not in sys.path:
        sys.path.insert(0, "")  # python -m does the same
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:  # whatever else goes wrong in a module of the user's is shown as it is
        raise km.ArgumentError(complaint(where, option, repr(text), str(error), way_out)) from None
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise km.ArgumentError(complaint(where, option, repr(text), str(error), way_out)) from None
    if not callable(found):
        raise km.ArgumentError(complaint(where, option, repr(text), "cannot be called", way_out))
    function: Callable[[], Any] = found
    return function


def _model(build: str, weights: Path | None, console: Console) -> nn.Module:
    model = _function("build", build)()
    where = "kmatrix compress"
    if not isinstance(model, nn.Module):
        way_out = "return the model"
        got = type(model).__name__
        raise km.DtypeError(
            complaint(where, "build", repr(build), f"it returned {got}, no nn.Module", way_out)
        )
    if weights is None:
        console.print("no --weights given: the numbers are those that the build made", highlight=False)
        return model.eval()
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(model, weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        way_out = "pass the .safetensors file of this model's state_dict"
        raise km.FileFormatError(complaint(where, "--weights", weights, str(error), way_out)) from None
    return model.eval()


def _batches(calibration: str) -> Any:
    """What the function gives; where that is an iterator, something that calls it again for every pass."""
    function = _function("--calibration", calibration)
    batches = function()
    return _Passes(function, batches) if isinstance(batches, Iterator) else batches


class _Passes:
    """Batches of a generator, from the beginning each time."""

    def __init__(self, function: Callable[[], Any], first: Iterator[Any]) -> None:
        self._function = function
        self._first: Iterator[Any] | None = first

    def __iter__(self) -> Iterator[Any]:
        batches, self._first = self._first, None
        return iter(self._function()) if batches is None else batches


def _check_out(out: Path) -> None:
    """Raise before the work if nothing could be written afterwards."""
    if out.suffix == ".safetensors" or (out.exists() and not out.is_dir()):
        reason = "a model goes to a folder, not to a file"
    elif not out.resolve().parent.is_dir():
        reason = "its folder does not exist"
    elif not os.access(out if out.exists() else out.resolve().parent, os.W_OK):
        reason = "nothing can be written there"
    else:
        return
    way_out = "pass the name of a folder, which is made if it is not there"
    raise km.ArgumentError(complaint("kmatrix compress", "--out", out, reason, way_out))


def _check_place(option: str, path: Path | None, suffix: str) -> None:
    if path is None:
        return
    if path.suffix != suffix:
        reason, way_out = f"not a {suffix} file", f"name one, such as {path.stem or 'report'}{suffix}"
    elif not path.resolve().parent.is_dir():
        reason, way_out = "its folder does not exist", f"make it first: mkdir -p {path.resolve().parent}"
    else:
        return
    raise km.ArgumentError(complaint("kmatrix compress", option, path, reason, way_out))


def show(console: Console, found: CompressReport) -> None:
    """Print what became of every layer, and the totals."""
    console.print(found)
    console.print()
    console.print(_totals(found))


def _totals(found: CompressReport) -> Table:
    table = fact_table("the model")
    share = found.params / found.dense_params
    table.add_row("parameters", f"{found.params:,} of {found.dense_params:,} ({share:.1%} of dense)")
    now, dense = found.flops
    table.add_row("FLOPs", f"{now / dense:.1%} of dense, in the layers above" if dense else "")
    if found.layer_seconds is not None:
        now, dense = found.layer_seconds
        table.add_row("time", f"{dense / now:.2f}x less than dense, in the layers above, batch {found.batch}")
    table.add_row("budget", f"{found.budget:.1%} of dense {found.of}, {found.reached:.1%} reached")
    table.add_row("predicted change", f"{found.loss:.2e} of the squared size of the output")
    table.add_row("took", f"{found.seconds:.1f} s")
    return table
