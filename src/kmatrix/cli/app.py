"""The typer application: one command per file, and one wording for every complaint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape

from kmatrix import __version__
from kmatrix._errors import KMatrixError
from kmatrix.cli.bench import bench
from kmatrix.cli.compress import compress
from kmatrix.cli.demo import demo
from kmatrix.cli.fit import fit
from kmatrix.cli.info import info
from kmatrix.cli.names import in_options
from kmatrix.cli.recipe import recipe_list, recipe_run

Arguments = ParamSpec("Arguments")

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _complain(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Turn the library's typed errors into one line on stderr and exit code 2; anything else is our bug and shows."""

    @functools.wraps(command)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KMatrixError as error:
            text = in_options(str(error), command.__name__)
            text = " ".join(text.split())  # messages of other libraries may bring line breaks along
            Console(stderr=True).print(f"[red]error[/red] {escape(text)}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None

    return wrapped


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kmatrix {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Any matrix in, a certified fast operator out."""


app.command()(_complain(fit))
app.command()(_complain(compress))
app.command()(_complain(info))
app.command()(_complain(bench))
app.command()(_complain(demo))

recipe = typer.Typer(no_args_is_help=True, help="The papers' experiments: list them, run them.")
recipe.command("list")(_complain(recipe_list))
recipe.command("run")(_complain(recipe_run))
app.add_typer(recipe, name="recipe")
