"""How much time compressed models take, against dense, one thread.

python -m recipes.compression.speed --data DATA --trained runs --out recipes/compression/results/speed.json

Three parts: the two trained models at batches of 1 and 64; the decoding step of a transformer of width 512; and 200
layers that ``km.compress_`` chose, measured again.
"""

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

import kmatrix as km

from ..common.clock import race
from ..common.files import replace
from ..common.models import Transformer
from ..common.versions import made_with
from .tasks import load_task
from .training import MODEL

BUDGETS = (0.5, 0.25)
QUICK = (km.LowRank, km.Monarch)
"""Without block tensor-trains, which are fitted for minutes: what is lost does not matter here."""
PARTS = ("models", "decoding", "layers")


@dataclass(frozen=True)
class Sizes:
    """How large and how long."""

    rounds: int
    width: int
    layers: int
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    shapes: tuple[int, ...]
    together: int
    wanted: int


SIDES = (256, 320, 384, 512, 640, 768, 1024, 1536)
FULL = Sizes(
    41, width=512, layers=6, contexts=(64, 256), batches=(1, 64), shapes=SIDES, together=10, wanted=200
)
SMOKE = Sizes(2, width=64, layers=1, contexts=(8,), batches=(1,), shapes=(64, 96), together=2, wanted=2)


def is_matrix(module: nn.Module, name: str) -> bool:
    return not name.endswith("head")


def inputs_of(model: nn.Module, names: list[str], run: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    """What some layers are given when the model runs once."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.__setitem__(name, args[0].detach().clone())
        )
        for name in names
    ]
    with torch.inference_mode():
        run(model)
    for handle in handles:
        handle.remove()
    return seen


def changed(dense: nn.Module, small: nn.Module) -> list[str]:
    """The names of the layers that were swapped."""
    return [
        name
        for name, module in dense.named_modules()
        if isinstance(module, nn.Linear) and type(small.get_submodule(name)) is not nn.Linear
    ]


def end_to_end(
    dense: nn.Module, small: nn.Module, run: Callable[[nn.Module], object], rounds: int
) -> dict[str, float]:
    """Times of both models and of their swapped layers alone, run one after the other on what they saw in the model.

    Amdahl's law: with p the share of the swapped layers in the dense model's time and s how many times faster they are
    by themselves, the whole model can be 1 / (1 - p + p / s) times faster.
    """
    names = changed(dense, small)
    seen = inputs_of(dense, names, run)

    def layers(model: nn.Module) -> Callable[[], object]:
        pairs = [(model.get_submodule(name), seen[name]) for name in names]
        return lambda: [layer(x) for layer, x in pairs]

    contenders = {
        "dense": lambda: run(dense),
        "small": lambda: run(small),
        "dense layers": layers(dense),
        "small layers": layers(small),
    }
    with torch.inference_mode():
        found = race(contenders, rounds)
    speedup, low, high = found.ratio("dense", "small")
    times = {name: found.time(name).median for name in contenders}
    share = times["dense layers"] / times["dense"]
    of_layers = found.ratio("dense layers", "small layers").median
    allowed = 1 / (1 - share + share / of_layers)
    return {
        "dense_ms": 1e3 * times["dense"],
        "small_ms": 1e3 * times["small"],
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "swapped": len(names),
        "share": share,
        "speedup_of_layers": of_layers,
        "amdahl": allowed,
        "of_amdahl": speedup / allowed,
    }


def shrink(
    dense: nn.Module,
    budget: float,
    calibration: list[Any] | None,
    batch: int,
    sizes: Sizes,
    structures: tuple[Any, ...] | None = None,
) -> tuple[nn.Module, float]:
    """A compressed copy and its share of the parameters."""
    small = copy.deepcopy(dense).eval()
    km.compress_(
        small,
        budget=budget,
        calibration=calibration,
        batch=batch,
        filter_fn=is_matrix,
        structures=structures,
        sensitivity=False,  # times do not depend on what is lost
        verify_speed=sizes is FULL,  # layers of the smoke preset are too small for anything to be faster
    )
    count = [sum(p.numel() for p in model.parameters()) for model in (small, dense)]
    return small, count[0] / count[1]


def models(options: argparse.Namespace, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """The trained models, each compressed for the batch at which it is measured."""
    for name in ("mlp", "transformer"):
        task = load_task(name, options.preset, options.data)
        dense = task.build().eval()
        dense.load_state_dict(load_file(options.trained / name / MODEL))
        calibration = [task.batch(10_000_000 + step)[0] for step in range(8)]
        for batch in sizes.batches:
            (example,) = task.example(batch)
            for budget in BUDGETS:
                # The layers of the transformer see batch x context vectors at once.
                vectors = example.numel() if example.ndim == 2 else batch
                small, kept = shrink(dense, budget, calibration, vectors, sizes, QUICK)
                times = end_to_end(dense, small, lambda model, x=example: model(x), sizes.rounds)
                yield {"model": name, "batch": batch, "budget": budget, "kept": kept, **times}


def decoding(options: argparse.Namespace, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """One step of decoding with half-full caches. The weights are random: the time does not depend on them."""
    heads = max(1, sizes.width // 64)
    for batch in sizes.batches:
        torch.manual_seed(0)
        dense = Transformer(65, sizes.width, sizes.layers, heads, max(sizes.contexts)).eval()
        models = [(budget, *shrink(dense, budget, None, batch, sizes)) for budget in BUDGETS]
        codes = torch.randint(0, 65, (batch,))
        for context in sizes.contexts:
            caches = [torch.randn_like(cache[..., :context, :]) for cache in dense.new_cache(batch)]

            def step(
                model: nn.Module,
                codes: Tensor = codes,
                caches: list[Tensor] = caches,
                position: int = context // 2,
            ) -> object:
                return model.step(codes, caches, position)

            for budget, small, kept in models:
                times = end_to_end(dense, small, step, sizes.rounds)
                row = {"model": "decoding", "tokens": context // 2, "batch": batch, "budget": budget}
                yield {**row, "kept": kept, **times}


def layers(options: argparse.Namespace, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """Chosen layers of many shapes, each measured again against the dense layer it replaced.

    The columns of the random weights fall off by powers between 0 and 1, so that every share of low rank is chosen.
    """
    sides = sizes.shapes
    rng = torch.Generator().manual_seed(0)
    found = 0
    while True:
        for batch in sizes.batches:
            for budget in BUDGETS:
                picks = torch.randint(0, len(sides), (sizes.together, 2), generator=rng).tolist()
                dense = nn.ModuleList(nn.Linear(sides[a], sides[b]) for a, b in picks).eval()
                for layer in dense:
                    power = float(torch.rand((), generator=rng))
                    with torch.no_grad():
                        layer.weight *= torch.arange(1, layer.in_features + 1) ** -power
                small, _ = shrink(dense, budget, None, batch, sizes, QUICK)
                held = sum(4 * p.numel() for p in dense.parameters())
                for name in changed(dense, small):
                    pair = dense.get_submodule(name), small.get_submodule(name)
                    yield remeasured(*pair, batch, held, sizes.rounds)
                    found += 1
                    if found == sizes.wanted:
                        return


def remeasured(
    dense: nn.Module, small: nn.Module, batch: int, model_bytes: int, rounds: int
) -> dict[str, Any]:
    """One layer against dense: it counts as slower if the median of the rounds says so.

    Copies of each run in turn, as many as hold the weights of the dense model: as in a model, a layer meets its weight
    after the others have passed through the caches.
    """
    assert isinstance(dense, nn.Linear)
    x = torch.randn(batch, dense.in_features)
    copies = max(1, min(32, model_bytes // (4 * dense.weight.numel())))

    def turns(layer: nn.Module) -> Callable[[], object]:
        endless = cycle([layer, *(copy.deepcopy(layer) for _ in range(copies - 1))])
        return lambda: next(endless)(x)

    with torch.inference_mode():
        found = race({"dense": turns(dense), "small": turns(small)}, rounds)
    middle, low, high = found.ratio("dense", "small")
    shape = [dense.out_features, dense.in_features]
    what = str(getattr(small, "structure", type(small).__name__))
    return {"shape": shape, "batch": batch, "structure": what, "speedup": middle, "low": low, "high": high}


def name_of(row: dict[str, Any]) -> str:
    """The model, and how many tokens its caches hold."""
    return f"{row['model']}, {row['tokens']} tokens" if "tokens" in row else str(row["model"])


def table(rows: list[dict[str, Any]]) -> Table:
    """The models and the decoding step: how much faster they are, the share of the swapped layers in the dense time,
    how much faster those are by themselves, and what Amdahl's law then allows.
    """
    shown = Table(title="Time of compressed models, one thread")
    columns = (
        "model",
        "batch",
        "budget",
        "kept",
        "dense, ms",
        "ours, ms",
        "faster",
        "share",
        "layers",
        "allowed",
    )
    for column in (*columns, "reached"):
        shown.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for r in rows:
        shown.add_row(
            name_of(r), str(r["batch"]), f"{r['budget']:.0%}", f"{r['kept']:.1%}",
            f"{r['dense_ms']:.3f}", f"{r['small_ms']:.3f}", f"{r['speedup']:.2f}x", f"{r['share']:.0%}",
            f"{r['speedup_of_layers']:.2f}x", f"{r['amdahl']:.2f}x", f"{r['of_amdahl']:.0%}",
        )  # fmt: skip
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the data; else the environment's KMATRIX_DATA")
    parser.add_argument(
        "--trained", type=Path, help="folder with mlp/ and transformer/ as train.py wrote them"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--preset", choices=("full", "smoke"), default="full")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = FULL if options.preset == "full" else SMOKE
    record: dict[str, Any] = {"preset": options.preset}
    if options.out.is_file():
        record = json.loads(options.out.read_text())
    record["versions"] = made_with(torch.device("cpu"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        measured: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
            "models": models,
            "decoding": decoding,
            "layers": layers,
        }
        record[part] = []
        for row in track(measured[part](options, sizes), f"{part} ", total=None):
            record[part].append(row)
            replace(options.out, lambda path: path.write_text(json.dumps(record, indent=1) + "\n"))
    console = Console(width=max(110, Console().width))
    console.print(table([*record.get("models", []), *record.get("decoding", [])]))
    if record.get("layers"):
        slower = [row for row in record["layers"] if row["speedup"] < 1]
        console.print(
            f"{len(record['layers'])} chosen layers measured again: {len(slower)} slower than dense"
        )
        for row in slower:
            console.print(row)


if __name__ == "__main__":
    main()
