"""``kmatrix recipe``: the papers' experiments, which live outside the library in ``recipes/``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.markup import escape

from kmatrix._errors import ArgumentError, BackendUnavailableError, complaint
from kmatrix.cli.tables import output, plain_table

PACKAGE = "kmatrix_recipes"
FOLDER_VARIABLE = "KMATRIX_DATA"


def recipe_list() -> None:
    """List the recipes."""
    package = recipes()
    shown = plain_table("recipes", "name", "what it shows")
    needed = plain_table("what the presets take, and the data they want", "name", "small", "paper", "data")
    for folder in package.FOLDERS:
        recipe = package.load(folder)
        shown.add_row(recipe.name, escape(f"{recipe.title} ({recipe.source})"))
        data = f"{recipe.wants['small']}; paper: {recipe.wants['paper']}" if recipe.wants else "none"
        needed.add_row(recipe.name, recipe.takes["small"], recipe.takes["paper"], escape(data))
    console = output()
    console.print(shown, "", needed, sep="\n")
    console.print(
        "\nRoughly, with 3 seeds, on one idle core where no GPU is named. The READMEs say where the data are from.\n"
        "kmatrix recipe run NAME --out OUT         synthetic data, seconds to a minute\n"
        "    --preset small --data DATA            real data",
        highlight=False,
    )


def recipe_run(
    name: Annotated[str, typer.Argument(help="Of the recipe, as `kmatrix recipe list` prints it.")],
    out: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Folder of the results; goes on from what is there.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(help="smoke: seconds, synthetic data. small: minutes. paper: the original setting."),
    ] = "smoke",
    seeds: Annotated[int, typer.Option(help="How many runs of every case.")] = 3,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Folder with the data.", envvar=FOLDER_VARIABLE, show_envvar=True),
    ] = None,
    cases: Annotated[
        list[str] | None, typer.Option(help="Only cases of such names, as in 'dft*'; may be given again.")
    ] = None,
    search: Annotated[
        int, typer.Option(help="Search settings for each case first, with so many trials.")
    ] = 0,
    storage: Annotated[
        str | None, typer.Option(help="Where trials are kept, a URL for optuna; machines may share it.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One step of every case, synthetic tensors, nothing written.")
    ] = False,
) -> None:
    """Run a recipe: every case with every seed, tables, pictures and a page.

    Ctrl-C and SIGTERM leave the tables of what is finished (exit codes 130 and 143), and the same command goes on.
    Under torchrun (`torchrun --nproc-per-node 2 -m kmatrix recipe run ...`) the processes share the work.
    """
    package = recipes()
    recipe = _load(package, name)
    runner = importlib.import_module(f"{package.__name__}.common.runner")
    options = runner.Options(preset, seeds, out, data, tuple(cases or ()), device, dry_run, search, storage)
    first = os.environ.get("RANK", "0") == "0"
    try:
        found = runner.execute(recipe, options)
    except runner.StoppedError as stop:
        kept = f"{stop.kept} of {stop.planned} runs are kept in {out}, with their tables"
        typer.echo(f"stopped: {kept}; the same command goes on from there", err=True)
        raise typer.Exit(128 + stop.number) from None
    except KeyboardInterrupt:  # of a dry run, or of a process of torchrun that is not the first
        if first:
            typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(130) from None
    if first:
        runner.print_sheets(found, None if dry_run else out, output())


def recipes() -> ModuleType:
    """The package of the recipes: of the checkout that the library is in, or as it was installed.

    Raises:
        BackendUnavailableError: if they are in neither place.
    """
    if PACKAGE in sys.modules:
        return sys.modules[PACKAGE]
    folder = Path(__file__).parents[3] / "recipes"
    if (folder / "__init__.py").is_file():
        spec = importlib.util.spec_from_file_location(
            PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[PACKAGE]
            raise
        return module
    try:
        return importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise
        reason, way_out = "the recipes are not installed", "install kmatrix from its wheel or its repository"
        raise BackendUnavailableError(complaint("kmatrix recipe", "recipes", None, reason, way_out)) from None


def _load(package: ModuleType, name: str) -> Any:
    try:
        return package.load(name)
    except KeyError:
        names = ", ".join(folder.replace("_", "-") for folder in package.FOLDERS)
        raise ArgumentError(
            complaint("kmatrix recipe run", "NAME", name, "no such recipe", f"there are {names}")
        ) from None
