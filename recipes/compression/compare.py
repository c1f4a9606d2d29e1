"""Compress a trained model to half and to a quarter of its parameters: ours against truncated SVDs.

python -m recipes.compression.compare mlp --data DATA --trained runs/mlp --out out/mlp.json

Every method sees the same calibration batches and gets the same short fine-tune, ``km.heal`` with the dense model as
teacher; its best state on the validation part is kept. Nothing is chosen on the test part: it is only measured on it.
Results are written after every method, and a second start does what is missing.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn

import kmatrix as km

from ..common.files import replace
from ..common.tasks import Batch, Task
from ..common.versions import made_with
from . import baselines
from .picture import draw
from .tasks import load_task
from .training import MODEL

BUDGETS = (0.5, 0.25)
METHODS = {
    "ours": "kmatrix",
    "svd": "SVD, one ratio",
    "aware": "activation-aware SVD, one ratio",
    "svd-ours": "SVD, our budgets",
    "aware-ours": "activation-aware SVD, our budgets",
}
LOOKED_AT = 16_384
"""Characters, or images, of the validation part on which states of a heal are compared."""
HEAL_BATCHES = 20_000_000
"""The first batch of the fine-tune: far from those of training and of calibration, all of the training part."""


def chosen(module: nn.Module, name: str) -> bool:
    """The matrices that every method may replace: all but the last, which nobody gains by (10 or 65 rows)."""
    return name != "head"


def matrix_parameters(module: nn.Module) -> int:
    """The parameters of a layer without its bias, whatever it has become."""
    return sum(p.numel() for name, p in module.named_parameters() if not name.endswith("bias"))


@dataclass(frozen=True)
class Healing:
    """The fine-tune of all methods."""

    steps: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Batches:
    """The training batches of some steps."""

    task: Task
    first: int
    count: int

    def __iter__(self) -> Iterator[Batch]:
        return (self.task.batch(self.first + step) for step in range(self.count))

    def __len__(self) -> int:
        return self.count


class Comparison:
    """A trained model and what every method makes of it."""

    def __init__(
        self, task: Task, dense: nn.Module, preset: str, healing: Healing, verify_speed: bool = False
    ) -> None:
        self.task, self.dense, self.healing, self.verify_speed = task, dense, healing, verify_speed
        batches = 8 if preset == "smoke" else 64
        self.names = list(baselines.layers(dense, chosen))
        self.inputs = [task.batch(10_000_000 + step)[0] for step in range(batches)]
        self._moments: dict[str, torch.Tensor] | None = None

    def moments(self) -> dict[str, torch.Tensor]:
        """What the layers of the dense model see, once for all baselines."""
        if self._moments is None:
            self._moments = baselines.second_moments(self.dense, self.names, self.inputs)
        return self._moments

    def ours(self, budget: float) -> tuple[nn.Module, dict[str, Any]]:
        """``km.compress_``, and the parameters it gave each layer."""
        model = copy.deepcopy(self.dense)
        report = km.compress_(
            model,
            budget=budget,
            calibration=self.inputs,
            filter_fn=chosen,
            verify_speed=self.verify_speed,
        )
        counts = {name: matrix_parameters(model.get_submodule(name)) for name in self.names}
        return model, {"counts": counts, "layers": describe(model, self.names), "predicted": report.loss}

    def baseline(
        self, method: str, budget: float, counts: dict[str, int]
    ) -> tuple[nn.Module, dict[str, Any]]:
        """One of the truncated SVDs."""
        model = copy.deepcopy(self.dense)
        if method.endswith("ours"):
            ranks = baselines.ranks_of(model, counts)
        else:
            ranks = baselines.uniform_ranks(model, self.names, int(budget * baselines.parameters(model)))
        baselines.replace(model, ranks, self.moments() if method.startswith("aware") else None)
        return model, {"ranks": ranks}

    def made(self, method: str, budget: float, counts: dict[str, int]) -> tuple[nn.Module, dict[str, Any]]:
        """The model that a method makes, and its row of the record so far."""
        began = time.perf_counter()
        model, extra = self.ours(budget) if method == "ours" else self.baseline(method, budget, counts)
        seconds = time.perf_counter() - began
        count = baselines.parameters(model)
        share = count / baselines.parameters(self.dense)
        row = {"method": method, "budget": budget, "parameters": count, "share": share}
        return model, row | {"before": self.qualities(model), "seconds": round(seconds, 1), **extra}

    def healed(self, model: nn.Module) -> dict[str, Any]:
        """What a row says of the heal."""
        began = time.perf_counter()
        report = self.heal(model)
        seconds = round(time.perf_counter() - began, 1)
        return {
            "after": self.qualities(model),
            "seconds_heal": seconds,
            "validation_while_healing": report.scores,
        }

    def dense_healed(self) -> dict[str, Any]:
        """The dense model after the same fine-tune: how much of a gain is only more training."""
        return {"before": self.qualities(self.dense), **self.healed(copy.deepcopy(self.dense))}

    def heal(self, model: nn.Module) -> Any:
        """The same for every method: the dense model's answers on training batches, not their labels."""
        how = self.healing
        return km.heal(
            model,
            Batches(self.task, HEAL_BATCHES, how.steps),
            teacher=self.dense,
            steps=how.steps,
            lr=how.lr,
            weight_decay=how.weight_decay,
            forward=self.forward,
            validate=lambda model: self.task.quality(model, "validation", LOOKED_AT)["loss"],
        )

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """As in training: products in bfloat16 where the model was trained so."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.task.schedule.half):
            output: Tensor = model(batch[0])
        return output

    def qualities(self, model: nn.Module) -> dict[str, dict[str, float]]:
        model.eval()
        return {part: self.task.quality(model, part) for part in ("validation", "test")}


def describe(model: nn.Module, names: list[str]) -> dict[str, str]:
    """What every layer has become, in a word."""
    layers = {name: model.get_submodule(name) for name in names}
    return {name: str(getattr(layer, "structure", "dense")) for name, layer in layers.items()}


def run(
    comparison: Comparison, record: dict[str, Any], methods: list[str], store: Callable[[], None]
) -> None:
    """Fill a record with what it lacks: first all models, which takes little, then their heals, which take long."""
    rows: dict[tuple[float, str], dict[str, Any]] = {(r["budget"], r["method"]): r for r in record["rows"]}
    wanted = [(budget, method) for budget in record["budgets"] for method in methods]
    models: dict[tuple[float, str], nn.Module] = {}
    for budget, method in wanted:
        known = rows.get((budget, method), {})
        counts = rows.get((budget, "ours"), {}).get("counts", {})
        if "after" in known or (method.endswith("-ours") and not counts):
            continue  # without our budgets there is nothing to follow
        models[budget, method], row = comparison.made(method, budget, counts)
        rows[budget, method] = row
        record["rows"] = list(rows.values())
        store()
    if "after" not in record["dense"]:
        record["dense"] |= comparison.dense_healed()
        store()
    for key, model in models.items():
        rows[key] |= comparison.healed(model)
        store()


def show(record: dict[str, Any], measure: str) -> Table:
    """The table for the terminal and for README.md: test quality."""
    dense = record["dense"]["before"]["test"][measure]
    unit = "accuracy, %" if measure == "accuracy" else "loss, nats per character"
    table = Table(title=f"{record['task']}: test {unit}; dense {dense:.4f}")
    for column in ("budget", "method", "parameters", "before heal", "after heal", "change to dense"):
        table.add_column(column, justify="left" if column == "method" else "right")
    rows = sorted(record["rows"], key=lambda row: (-row["budget"], list(METHODS).index(row["method"])))
    healed = {"method": "dense", "budget": 1.0, "share": 1.0, **record["dense"]}
    for row in (*rows, healed):
        before = row["before"]["test"][measure]
        cells = ["", ""]
        if "after" in row:
            after = row["after"]["test"][measure]
            change = f"{after - dense:+.2f} points" if measure == "accuracy" else f"{after / dense - 1:+.2%}"
            cells = [f"{after:.4f}", change]
        name = METHODS.get(row["method"], "dense, with the same heal")
        table.add_row(f"{row['budget']:.0%}", name, f"{row['share']:.1%}", f"{before:.4f}", *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=("mlp", "transformer"))
    parser.add_argument("--data", type=Path, help="folder with the data; else the environment's KMATRIX_DATA")
    parser.add_argument("--trained", type=Path, required=True, help="what train.py wrote")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON file of the results; a picture appears beside it"
    )
    parser.add_argument("--preset", choices=("full", "smoke"), default="full")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--rate", type=float, help="learning rate of the heal")
    parser.add_argument(
        "--verify-speed",
        action="store_true",
        help="let ours choose only what is measured faster (batch 1); without, the choice does not depend on the load",
    )
    options = parser.parse_args()

    torch.manual_seed(0)
    task = load_task(options.model, options.preset, options.data)
    dense = task.build()
    dense.load_state_dict(load_file(options.trained / MODEL))
    dense.eval()
    healing = Healing(task.schedule.steps * 3 // 100, options.rate or task.heal_lr, 0.0)
    comparison = Comparison(task, dense, options.preset, healing, options.verify_speed)

    record: dict[str, Any] = {
        "task": task.name,
        "preset": options.preset,
        "budgets": list(BUDGETS),
        "rows": [],
    }
    if options.out.is_file():
        record = json.loads(options.out.read_text())
    record.setdefault("dense", {"before": comparison.qualities(dense)})
    record |= {
        "versions": made_with(torch.device("cpu")),
        "heal": asdict(healing),
        "verify_speed": options.verify_speed,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def store() -> None:
        replace(options.out, lambda path: path.write_text(json.dumps(record, indent=1) + "\n"))

    run(comparison, record, options.methods, store)
    store()
    Console(width=max(110, Console().width)).print(show(record, task.measure))
    draw(record, task.measure, METHODS, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
