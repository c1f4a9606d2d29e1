"""What a recipe is: settings for each preset, cases to compare, how one is run, and how results are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from .errors import DataError, complaint
from .processes import Processes

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""What one run measured: JSON values."""
S = TypeVar("S")
T = TypeVar("T")
PRESETS = ("smoke", "small", "paper")


@dataclass(frozen=True)
class Case:
    """One of the things that a recipe compares.

    Attributes:
        name: unique and readable, such as ``"bpbp-real/mnist-noise"``.
        options: JSON values, all that makes it different from the others.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sheet:
    """One table of results.

    Attributes:
        title: what it shows.
        columns: headings; those that begin with ``#`` hold numbers.
        rows: cells, as text.
        notes: sentences below it: which data stand in for which, and other caveats.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


class Progress(Protocol):
    """Shows how far something is; the figures beside it are names and values."""

    def __call__(self, what: str, done: int, total: int, **figures: float) -> None: ...


def silent(what: str, done: int, total: int, **figures: float) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class Run:
    """One run of a case, as the recipe's ``run`` is given it.

    Attributes:
        seed: of everything that is drawn; torch's global generator has it already.
        device: where to compute.
        folder: of this run alone, for checkpoints; gone when its row is written.
        rank: which process this is, of those that share the batches of this run.
        world: how many those are; 1 but under torchrun.
        dry: one optimisation step on synthetic tensors of the right shape, to see that everything fits together.
        trial: of a search, which sees no row but the entry that is searched by: the test set can stay out of it.
        data_folder: where the data are.
        progress: shows how far the run is.
        shared_folder: of all runs, for what several of them need, such as a dense model to begin with.
    """

    seed: int
    device: torch.device
    folder: Path
    rank: int = 0
    world: int = 1
    dry: bool = False
    data_folder: Path | None = None
    progress: Progress = silent
    shared_folder: Path | None = None
    trial: bool = False

    def shared(self) -> Path:
        """A folder that all runs have, for what several of them need; the run's own where there is none.

        Who writes there makes it: a run that lacks its data leaves nothing behind.
        """
        return self.folder if self.shared_folder is None else self.shared_folder

    def data(self) -> Path:
        """The folder with the data.

        Raises:
            DataError: if none was given, or it is no folder.
        """
        way_out = "pass --data DATA or set KMATRIX_DATA; the recipe's README says what belongs there"
        if self.data_folder is None:
            raise DataError(complaint("kmatrix recipe", "--data", None, "this preset needs data", way_out))
        if not self.data_folder.is_dir():
            raise DataError(complaint("kmatrix recipe", "--data", self.data_folder, "not a folder", way_out))
        return self.data_folder

    def agree(self, value: T) -> T:
        """What the first of the processes that share this run has, as whether a file is there."""
        return Processes(self.rank, self.world).agree(value)

    def share(self, indices: Tensor) -> Tensor:
        """This process's part of a batch that all processes share, given by the indices of all."""
        return indices[self.rank :: self.world]


def nothing(settings: Any, rows: Sequence[Row]) -> Mapping[str, Figure]:
    """No pictures."""
    return {}


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """An experiment that anyone can run again.

    Attributes:
        name: as on the command line.
        title: one line.
        source: the paper, and its table or figure.
        settings: for a preset, a frozen dataclass of JSON values that every run depends on.
        cases: what is compared.
        run: one case with one seed; on several processes each calls it, and what rank 0 returns is kept.
        sheets: tables of what is there so far, the paper's figures beside ours.
        pictures: figures by the names of their files, without ending.
        stand_in: which data stand in for which, in one sentence; shown wherever results are.
        search: settings with what a trial of optuna suggests.
        objective: the entry of the row that a search looks at, and ``"minimize"`` or ``"maximize"``.
        dealt: whether several processes share the runs among them rather than the batches of each run.
        takes: roughly how long each preset takes, with three seeds on one idle core if it does not say otherwise.
        wants: which data the presets want; those that are not named want none.
    """

    name: str
    title: str
    source: str
    settings: Callable[[str], S]
    cases: Callable[[S], Sequence[Case]]
    run: Callable[[S, Case, Run], Row]
    sheets: Callable[[S, Sequence[Row]], Sequence[Sheet]]
    pictures: Callable[[S, Sequence[Row]], Mapping[str, Figure]] = nothing
    stand_in: str = ""
    search: Callable[[optuna.trial.BaseTrial, S, Case], S] | None = None
    objective: tuple[str, str] = ("validation", "minimize")
    dealt: bool = False
    takes: Mapping[str, str] = field(default_factory=dict)
    wants: Mapping[str, str] = field(default_factory=dict)
