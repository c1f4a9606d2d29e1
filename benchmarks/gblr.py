"""Sums of rank-one boxes beside dense: products, training steps and a vision transformer, on one thread.

    python benchmarks/gblr.py                          # everything, some minutes; keep the machine quiet
    python benchmarks/gblr.py --only products --sizes 1024

At 30 % of the multiplications, as many boxes as columns. Everyone takes turns; a figure is the median of a turn's mean
with quartiles, and "faster" the median of how many times less time it takes than dense in the same round. Before any
clock starts, each is held to float64.

- products: random boxes and boxes as learned (those of ``--boxes``, scaled up), beside ``F.linear``, a low rank of the
  same multiplications as two of them, and the formulation in training, two products with masked factors of full size.
- steps: forward, backward and AdamW, as it comes and fused, of boxes that learn, beside ``nn.Linear`` and the same
  boxes with masks by an inverse Fourier transform for each box, with gradients in closed form by two more, as the
  definition has it.
- model: the vision transformer of recipes/gblr, all matrices of its blocks boxes or dense, of the same values.

Writes what it measured over what is there of the same name in the file.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import kmatrix as km
from kmatrix.benchmark.clock import Race, Runner, race, using_threads
from kmatrix.benchmark.contenders import Contender, Problem, dense, ours, relative, rounding
from kmatrix.benchmark.limits import held_to
from kmatrix.cli.recipe import recipes
from kmatrix.fitting.certificate import machine
from kmatrix.structures import Boxes, GBLRMatrix
from kmatrix.structures.gaudi.matrix import Gaudi, GaudiMatrix

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "recipes" / "gblr" / "results" / "small" / "results.json"
RECIPE = f"{recipes().__name__}.gblr"
BUDGET = 0.3
LEARNED, WIDTH = "characters/scratch/gblr", 128
"""The case of the recipe whose boxes are scaled up, and the size of the matrix they were learned for."""
SINGLE, DOUBLE = torch.float32, torch.float64


@dataclass(frozen=True)
class Row:
    """One contender of a case: microseconds, how many times less time than dense, both with quartiles."""

    part: str
    case: str
    name: str
    us: float
    us_low: float
    us_high: float
    faster: float
    faster_low: float
    faster_high: float
    error: float
    rounds: int
    cores: float


def measured(
    part: str, case: str, contenders: Mapping[str, Runner], errors: Mapping[str, float], seconds: float
) -> list[Row]:
    """Everyone in turn; ``dense`` is what they are compared to."""
    found: Race = race(contenders, seconds).fair(case)
    rows = []
    for name in contenders:
        time, ratio = found.time(name), found.ratio("dense", name)
        micros = (1e6 * t for t in time)
        rows.append(Row(part, case, name, *micros, *ratio, errors[name], found.rounds, found.cores[name]))
    return rows


# Products


def random_boxes(n: int) -> GBLRMatrix:
    """Boxes of all widths up to twice their mean, anywhere."""
    return km.GBLR(budget=BUDGET).random(n, n, dtype=SINGLE, generator=torch.Generator().manual_seed(n))


def learned_boxes(file: Path, n: int) -> GBLRMatrix:
    """Boxes that a recipe has learned for a smaller square matrix, all its rows and columns longer by one factor.

    As many copies of each as the factor, their edges moved by up to half of it, and cut to the budget.
    """
    rows = json.loads(file.read_text())["rows"]
    (found,) = (r["boxes"] for r in rows if (r["case"], r["seed"]) == (LEARNED, 1))
    boxes = next(iter(found.values()))
    small = torch.tensor([[int(place) for place in box.split()] for box in boxes]).double().mT
    factor = n / WIDTH
    generator = torch.Generator().manual_seed(n)
    places = small.repeat_interleave(math.ceil(factor), 1) * factor
    places += (torch.rand(places.shape, generator=generator, dtype=DOUBLE) - 0.5) * factor
    places = places[:, torch.randperm(places.shape[1], generator=generator)[:n]]
    widths = places[1::2].clamp(1, n)
    widths *= BUDGET * n * n / widths.sum()
    widths = widths.floor().clamp(1, n).long()
    starts = places[::2].round().long() % n
    boxes = Boxes(starts[0], widths[0], starts[1], widths[1])
    left, right = (torch.randn(total, generator=generator) for total in (boxes.row_total, boxes.col_total))
    return GBLRMatrix.from_boxes((n, n), boxes, left, right)


def low_rank(problem: Problem) -> Contender:
    """Two dense products of the same multiplications."""
    n = problem.matrix.shape[1]
    rank = problem.matrix.flops // (4 * n)
    generator = torch.Generator().manual_seed(n)
    u, v = (torch.randn(shape, generator=generator) for shape in ((n, rank), (rank, n)))
    inputs = problem.inputs()
    truth = functional.linear(functional.linear(inputs[0].double(), v.double()), u.double())
    return Contender(
        lambda x: functional.linear(functional.linear(x, v), u),
        inputs,
        None,
        lambda: [truth],
        rounding(SINGLE, n),
    )


def masked(problem: Problem) -> Contender:
    """Two products with factors of full size, zero outside of the boxes, made beforehand."""
    assert isinstance(problem.matrix, GBLRMatrix)
    with torch.no_grad():
        u, v = (factor.contiguous() for factor in problem.matrix.factors())
    truth = ours(problem)
    return Contender(
        lambda x: functional.linear(functional.linear(x, v), u),
        truth.inputs,
        None,
        truth.expected,
        truth.tolerance,
    )


def products(options: argparse.Namespace) -> Iterator[list[Row]]:
    """At every size and batch, for each kind of boxes."""
    kinds: dict[str, Callable[[int], GBLRMatrix]] = {"random": random_boxes}
    if options.boxes is not None and options.boxes.is_file():
        kinds["learned"] = partial(learned_boxes, options.boxes)
    for n in options.sizes:
        for kind, make in kinds.items():
            matrix = make(n).requires_grad_(False)
            assert matrix.num_params <= BUDGET * n * n
            for batch in options.batches:
                problem = Problem(matrix, batch)
                contenders = {"dense": dense(problem, SINGLE), "low rank": low_rank(problem)}
                contenders |= {"masked factors": masked(problem), "boxes": ours(problem)}
                case = f"{n}, {kind} boxes, batch {batch}"
                errors = {name: contender.checked(case) for name, contender in contenders.items()}
                yield measured("products", case, contenders, errors, options.seconds)


# Training steps


class TransformedMask(torch.autograd.Function):
    """The mask of rounded boxes by inverse transforms, and its gradients by two more: the definition, step by step."""

    @staticmethod
    def forward(ctx: Any, width: Tensor, start: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(width, start)
        ctx.n = n
        _, spectrum, _ = _spectra(width, start, n)
        return torch.fft.irfft(spectrum, n, norm="forward")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        f, spectrum, slope = _spectra(*ctx.saved_tensors, ctx.n)
        to_start = torch.fft.irfft(-2j * math.pi * f * spectrum, ctx.n, norm="forward")
        to_width = torch.fft.irfft(slope, ctx.n, norm="forward")
        return torch.linalg.vecdot(grad, to_width), torch.linalg.vecdot(grad, to_start), None


def _spectra(width: Tensor, start: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    f = torch.arange(n // 2 + 1, dtype=width.dtype)
    w, s = ((t * n).round().unsqueeze(-1) / n for t in (width, start))
    size = w * torch.sinc(f * w) / torch.sinc(f / n)
    spectrum = torch.polar(size, math.pi * f * (1 / n - w - 2 * s))
    slope = torch.polar(1 / torch.sinc(f / n), math.pi * f * (1 / n - 2 * s - 2 * w))
    return f, spectrum, slope


class Transformed(nn.Module):
    """The same boxes as of a ``GaudiMatrix``, by transforms and two products with masked factors."""

    def __init__(self, matrix: GaudiMatrix) -> None:
        super().__init__()
        for name in ("left", "right", "widths", "starts"):
            setattr(self, name, nn.Parameter(getattr(matrix, name).detach().clone()))

    def forward(self, x: Tensor) -> Tensor:
        u, v = (
            content * TransformedMask.apply(self.widths[k], self.starts[k], content.shape[1])
            for k, content in enumerate((self.left, self.right))
        )
        return functional.linear(functional.linear(x, v), u.mT)


def learning(n: int) -> GaudiMatrix:
    """Boxes at the start of learning, a tenth off whole positions."""
    matrix = Gaudi(budget=BUDGET).random(n, n, dtype=DOUBLE, generator=torch.Generator().manual_seed(n))
    assert isinstance(matrix, GaudiMatrix)
    with torch.no_grad():
        matrix.starts.add_(0.1 / n)
    return matrix


def gradients(layer: nn.Module, x: Tensor, upstream: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, list(layer.parameters()), upstream)]


def step_of(layer: nn.Module, inputs: list[Tensor], upstream: Tensor, fused: bool) -> Runner:
    """Forward, backward to the parameters and to the vectors, as inside a model, and the optimiser."""
    optimiser = torch.optim.AdamW(layer.parameters(), lr=1e-9, fused=fused)  # the boxes stay where they are

    def run(x: Tensor) -> None:
        with torch.enable_grad():
            layer(x.detach().requires_grad_()).backward(upstream)
        optimiser.step()
        optimiser.zero_grad()

    return Runner(run, inputs)


def steps(options: argparse.Namespace) -> Iterator[list[Row]]:
    """At every size and batch."""
    for n in options.sizes:
        exact = learning(n)
        for batch in options.step_batches:
            generator = torch.Generator().manual_seed(batch)
            x, upstream = (torch.randn(batch, n, generator=generator) for _ in range(2))
            truth = gradients(exact, x.double(), upstream.double())
            plain = nn.Linear(n, n, bias=False)
            layers: dict[str, nn.Module] = {"dense": plain, "learning": copy.deepcopy(exact).float()}
            layers["masks by transforms"] = Transformed(copy.deepcopy(exact).float())
            errors = {"dense": 0.0}
            for name in ("learning", "masks by transforms"):
                found = gradients(layers[name], x, upstream)
                errors[name] = max(relative(f, t) for f, t in zip(found, truth, strict=True))
                if not errors[name] <= 1e-2:  # gradients of widths are differences of large sums
                    raise SystemExit(f"{name}, {n}, {batch}: error {errors[name]:.1e}")
            for fused in (False, True):
                runners = {name: step_of(layer, [x], upstream, fused) for name, layer in layers.items()}
                case = f"{n}, {batch} vectors" + (", fused AdamW" if fused else "")
                yield measured("steps", case, runners, errors, options.seconds)


# A model


def model(options: argparse.Namespace) -> Iterator[list[Row]]:
    """The vision transformer at some widths, with random boxes."""
    dense_matrices = importlib.import_module(f"{RECIPE}.methods").dense_matrices
    ViT = importlib.import_module(f"{RECIPE}.vit").ViT

    for width, layers in options.models:
        torch.manual_seed(0)
        boxes = ViT(width, layers, max(1, width // 64), patch=4).eval().requires_grad_(False)
        plain = copy.deepcopy(boxes)
        for name, linear in dense_matrices(boxes).items():
            matrix = km.GBLR(budget=BUDGET).random(linear.out_features, linear.in_features)
            plain.get_submodule(name).weight.copy_(matrix.to_dense())
            parent, _, leaf = name.rpartition(".")
            layer = km.nn.Linear.from_matrix(matrix, linear.bias).requires_grad_(False)
            setattr(boxes.get_submodule(parent), leaf, layer)
        yield from models(f"ViT of width {width}, {layers} layers", plain, boxes, options)


def models(case: str, plain: nn.Module, boxes: nn.Module, options: argparse.Namespace) -> Iterator[list[Row]]:
    """Two models of the same function at some batches."""
    for batch in options.images:
        generator = torch.Generator().manual_seed(batch)
        images = torch.randn(batch, 28, 28, generator=generator)
        with torch.no_grad():
            truth = copy.deepcopy(plain).double()(images.double())
            pair = {"dense": plain, "boxes": boxes}
            errors = {name: relative(net(images), truth) for name, net in pair.items()}
        if not max(errors.values()) <= 1e-4:
            raise SystemExit(f"{case}, batch {batch}: errors {errors}")

        def runner(net: nn.Module, images: Tensor = images) -> Runner:
            def run(x: Tensor) -> Tensor:
                with torch.inference_mode():
                    return net(x)

            return Runner(run, [images])

        runners = {name: runner(net) for name, net in pair.items()}
        yield measured("model", f"{case}, {batch} images", runners, errors, options.seconds)


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[list[Row]]]] = {
    "products": products, "steps": steps, "model": model
}  # fmt: skip


def show(rows: list[dict[str, Any]]) -> Table:
    table = Table("part", "case", "contender", "ms (quartiles)", "times faster than dense", "error")
    for r in rows:
        time = f"{r['us'] / 1e3:.3f} ({r['us_low'] / 1e3:.3f} to {r['us_high'] / 1e3:.3f})"
        ratio = f"{r['faster']:.2f} ({r['faster_low']:.2f} to {r['faster_high']:.2f})"
        table.add_row(r["part"], r["case"], r["name"], time, ratio, f"{r['error']:.1e}")
    return table


def pair(text: str) -> tuple[int, int]:
    width, layers = text.split("x")
    return int(width), int(layers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 3072])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument(
        "--step-batches", type=int, nargs="+", default=[16, 64, 256, 2048], help="vectors of a training step"
    )
    parser.add_argument(
        "--models", type=pair, nargs="+", default=[(96, 2), (384, 6), (768, 4)], help="such as 384x6"
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16])
    parser.add_argument(
        "--boxes", type=Path, default=RESULTS, help="results of the recipe gblr, for learned boxes"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gblr.json")
    options = parser.parse_args()

    known = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        with held_to(1), using_threads(1):
            for rows in PARTS[part](options):
                fresh = [{k: round4(v) for k, v in asdict(row).items()} for row in rows]
                Console(width=150).print(show(fresh))
                names = {(row["part"], row["case"]) for row in fresh}
                known = [row for row in known if (row["part"], row["case"]) not in names] + fresh
                facts = {"machine": machine() | {"kmatrix": km.__version__, "threads": "1"}, "budget": BUDGET}
                lines = ",\n".join(json.dumps(row) for row in known)
                options.out.write_text(json.dumps(facts)[:-1] + f', "rows": [\n{lines}\n]}}\n')


def round4(value: Any) -> Any:
    """Four digits are more than a clock gives."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
