"""``compress_stream``: a stack of weights too large for memory, one weight at a time, under one budget."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix.compress._progress import Step, showing
from kmatrix.compress.budget import Option, choose
from kmatrix.compress.candidates import low_rank_factors
from kmatrix.compress.layers import Place
from kmatrix.compress.metric import Metric
from kmatrix.compress.sizes import members
from kmatrix.compress.timing import Clock
from kmatrix.compress.weighted import low_rank
from kmatrix.structures import LowRank
from kmatrix.structures.serialization import save

HEADROOM = 1.25
"""Largest rank that is tried, against that of the budget: what a layer may get more than its share."""


@dataclass(frozen=True)
class Streamed:
    """What became of one weight.

    Attributes:
        name: its name, and that of its file.
        shape: ``(m, n)``.
        rank: of what stands in the file; None if the weight stays dense, and has no file.
        error: relative squared error, in the norm of the second moments if there were any.
        speedup: measured against dense; None if the clock was left alone, or the weight stays dense.
    """

    name: str
    shape: tuple[int, int]
    rank: int | None
    error: float
    speedup: float | None

    @property
    def num_params(self) -> int:
        """Numbers of what stands there now."""
        return math.prod(self.shape) if self.rank is None else self.rank * sum(self.shape)


def compress_stream(
    weights: Mapping[str, Callable[[], Tensor]],
    folder: str | Path,
    budget: float = 0.5,
    *,
    moments: Callable[[str], Tensor | None] | None = None,
    batch: int = 1,
    verify_speed: bool = True,
    seed: int = 0,
    progress: bool | Step = True,
) -> tuple[Streamed, ...]:
    """Compress weights to low rank one after the other, never holding more than one.

    The factors of the largest rank that is tried are put aside on disk, beside ``folder``; all smaller ranks are their
    beginnings. When the errors of all weights are known, one choice is made under the budget, and the chosen matrices
    are written, each to ``folder/<name>.safetensors`` (``km.load`` reads them). Where the smaller side is 1024 or more
    and ranks are up to half of it, decompositions begin with random directions (Halko et al.).

    Args:
        weights: functions that make or read the weights ``(m, n)``, by name.
        folder: where the matrices go; made if it is not there.
        budget: numbers to keep, as a share of those of all weights.
        moments: the second moments ``(n, n)`` of a weight's inputs by its name, or None for the norm of the weight.
        batch: vectors that meet a weight at once, for the clock.
        verify_speed: whether ranks that are not measured faster than dense are left out.
        seed: of the random directions.
        progress: whether to show a bar on a terminal, or a function ``(what, done, total)``.

    Raises:
        ArgumentError: if the budget cannot be reached, or is no share, a name cannot be that of a file, the folder
            has a file of that name already, or something is not a real matrix.

    Example:
        >>> import tempfile, torch, kmatrix as km
        >>> from kmatrix.compress import compress_stream
        >>> weights = {f"layer{k}": lambda: torch.randn(64, 48) for k in range(3)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = compress_stream(weights, folder, 0.5, verify_speed=False)
        ...     km.load(f"{folder}/layer1.safetensors").shape
        (64, 48)
        >>> sum(one.num_params for one in found) <= 0.5 * 3 * 64 * 48
        True

    Reference: randomised decompositions: arXiv 0909.4061.
    """
    where = "compress_stream"
    if isinstance(budget, bool) or not isinstance(budget, Real) or not 0 < float(budget) <= 1:
        way_out = "pass for example 0.5"
        raise ArgumentError(complaint(where, "budget", budget, "not a share of dense", way_out))
    clock = Clock(check_size(where, "batch", batch), model_bytes=1 << 62) if verify_speed else None
    folder = Path(folder)
    _check_names(weights, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with showing(where, progress) as step, tempfile.TemporaryDirectory(dir=folder) as aside:
        items = []
        for done, (name, make) in enumerate(weights.items(), 1):
            items.append(_put_aside(name, make(), budget, moments, clock, seed, Path(aside)))
            step(f"decomposing: {name}", done, len(weights))
        options = [[Option(0.0, math.prod(i.shape)), *i.options] for i in items]
        picked = choose(options, budget * sum(math.prod(i.shape) for i in items))
        found = []
        for done, (item, k) in enumerate(zip(items, picked, strict=True), 1):
            found.append(_written(item, k, folder))
            step(f"writing: {item.name}", done, len(items))
    return tuple(found)


def _check_names(names: Iterable[str], folder: Path) -> None:
    """Raise unless every name is that of a new file right in the folder, as names may come out of other files."""
    for name in names:
        file = f"{name}.safetensors"
        if not name or Path(file).name != file or "\\" in name or "\0" in name:
            reason, way_out = (
                "it cannot be the name of a file",
                "rename it, for example with dots for slashes",
            )
            raise ArgumentError(complaint("compress_stream", "weights", repr(name), reason, way_out))
        if (folder / file).exists():
            # A weight that stays dense has no file, and an old one would be taken for it.
            reason, way_out = f"{file} is there already", "pass an empty folder"
            raise ArgumentError(complaint("compress_stream", "folder", folder, reason, way_out))


@dataclass(frozen=True)
class _Aside:
    """A weight whose factors lie on disk: its shape, number type, and the ranks that may be chosen."""

    name: str
    shape: tuple[int, int]
    file: Path
    ranks: tuple[int, ...]
    options: tuple[Option, ...]
    errors: tuple[float, ...]
    speedups: tuple[float | None, ...]


def _put_aside(
    name: str,
    weight: Tensor,
    budget: float,
    moments: Callable[[str], Tensor | None] | None,
    clock: Clock | None,
    seed: int,
    aside: Path,
) -> _Aside:
    is_tensor = isinstance(weight, Tensor)
    if not is_tensor or weight.ndim != 2 or not weight.is_floating_point():
        got = f"{weight.dtype} of shape {tuple(weight.shape)}" if is_tensor else type(weight).__name__
        way_out = "pass real matrices, convolutions as weight.flatten(1)"
        raise ArgumentError(
            complaint("compress_stream", f"weights[{name!r}]", got, "not a real matrix", way_out)
        )
    if not bool(torch.isfinite(weight).all()):
        reason, way_out = "it holds numbers that are not finite", "leave it out"
        raise ArgumentError(complaint("compress_stream", f"weights[{name!r}]", "tensor", reason, way_out))
    m, n = weight.shape
    most = HEADROOM * budget * m * n / (m + n)
    structures = [s for s in members([LowRank], m, n) if isinstance(s, LowRank) and s.rank <= most]
    speeds: dict[int, float | None] = {s.rank: None for s in structures}
    if clock is not None:
        place = Place("linear", (m, n), False, weight.dtype, weight.device.type)
        timings = clock.against_dense(place, structures)
        speeds = {
            s.rank: t.speedup
            for s, t in timings.items()
            if isinstance(s, LowRank) and t.verdict == "faster than"
        }
    file = aside / f"{len(list(aside.iterdir()))}.safetensors"
    ranks = tuple(sorted(speeds))
    if not ranks:
        return _Aside(name, (m, n), file, (), (), (), ())
    metric = Metric.of(weight, None if moments is None else moments(name))
    left, right, errors = low_rank_factors(metric, ranks[-1], seed)
    save_file(
        {"left": left.to(weight.dtype).contiguous(), "right": right.to(weight.dtype).contiguous()}, file
    )
    own = [float(errors[min(r, len(errors) - 1)]) for r in ranks]
    # Errors of all weights count by the size of what is lost.
    options = tuple(Option(e * metric.energy, r * (m + n)) for e, r in zip(own, ranks, strict=True))
    return _Aside(name, (m, n), file, ranks, options, tuple(own), tuple(speeds[r] for r in ranks))


def _written(item: _Aside, k: int, folder: Path) -> Streamed:
    if k == 0:
        return Streamed(item.name, item.shape, None, 0.0, None)
    rank = item.ranks[k - 1]
    with safe_open(item.file, framework="pt") as file:
        left, right = file.get_slice("left")[:, :rank], file.get_slice("right")[:rank]
    save(low_rank(item.shape, LowRank(rank), left, right), folder / f"{item.name}.safetensors")
    return Streamed(item.name, item.shape, rank, item.errors[k - 1], item.speedups[k - 1])


def weights_of(path: str | Path) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The matrices of a safetensors file by name, each read when its function is called."""

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
            return tensor

        return read

    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if len(file.get_slice(name).get_shape()) == 2]
    for name in names:
        yield name, reader(name)
