"""Train from scratch at half the FLOPs: structures with and without the scaling rules, against dense.

python -m recipes.compression.scratch --data DATA --out recipes/compression/results/scratch.json

An MLP on MNIST whose two large matrices are replaced before training. Learning rates are chosen on the validation part
with one seed; the table is the test accuracy over three other seeds, at dense's learning rate (rules of scaling are
there so that nothing is tuned again) and at each variant's own best one.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import kmatrix as km

from ..common.files import replace
from ..common.models import MLP
from ..common.tasks import Digits, Schedule
from ..common.versions import made_with
from .tasks import load_task
from .training import parameter_groups, train

Shape = tuple[int, int]


def largest(make: Callable[[int], km.Structure], shape: Shape, share: float, most: int) -> km.Structure:
    """The member of a family, by one whole number, with the most FLOPs of at most a share of dense's."""
    m, n = shape
    best: tuple[int, km.Structure] | None = None
    for size in range(1, most + 1):
        try:
            structure = make(size)
            flops = structure.flops(m, n)
        except km.ArgumentError:
            continue
        if flops <= share * 2 * m * n and (best is None or flops > best[0]):
            best = flops, structure
    if best is None:
        raise SystemExit(f"nothing of at most {share:.0%} of dense's FLOPs for {m} x {n}")
    return best[1]


def families(share: float) -> dict[str, Callable[[int, int], km.Structure]]:
    """The structures of the table, each at the largest size within the share of dense's FLOPs."""
    return {
        "low rank": lambda m, n: largest(km.LowRank, (m, n), share, min(m, n)),
        "Monarch": lambda m, n: largest(km.Monarch, (m, n), share, 64),
        "block tensor-train": lambda m, n: largest(
            lambda rank: km.BlockTensorTrain(nblocks=16, rank=rank), (m, n), share, 64
        ),
        "Kaleidoscope": lambda m, n: largest(lambda e: km.Kaleidoscope(expansion=2**e), (m, n), share, 6),
    }


def build(task: Digits, structure: Callable[[int, int], km.Structure] | None, seed: int) -> nn.Module:
    """A fresh model, its large matrices replaced if a structure is given."""
    torch.manual_seed(seed)
    model = MLP(task.width)
    if structure is not None:
        for name in ("first", "second"):
            dense = model.get_submodule(name)
            assert isinstance(dense, nn.Linear)
            n, m = dense.in_features, dense.out_features
            setattr(model, name, km.nn.Linear(n, m, structure=structure(m, n)))
    return model


def flops(model: nn.Module) -> int:
    """FLOPs of the matrices for one image."""
    return sum(
        module.matrix.flops if isinstance(module, km.nn.Linear) else 2 * module.weight.numel()
        for module in (model.get_submodule(name) for name in ("first", "second"))
    )


def accuracy(
    task: Digits,
    structure: Callable[[int, int], km.Structure] | None,
    rules: bool,
    lr: float,
    seed: int,
    title: str,
) -> dict[str, Any]:
    """Train once; accuracies, or 0 where the loss left the numbers."""
    model = build(task, structure, seed)
    plan = task.schedule
    schedule = Schedule(plan.steps, plan.batch, lr, plan.warmup, plan.weight_decay)
    if rules:
        groups = km.nn.param_groups(model, lr=lr, weight_decay=plan.weight_decay)
    else:
        groups = parameter_groups(model, plan.weight_decay)
    losses = train(model, task, schedule, title, groups=groups, first_batch=1_000_000 * seed)
    found = {part: task.quality(model, part) for part in ("validation", "test")}
    return {"lr": lr, "seed": seed, "last_loss": statistics.mean(losses[-20:]), **found}


def study(
    task: Digits, name: str, rules: bool, share: float, rates: list[float], seeds: list[int]
) -> dict[str, Any]:
    """All runs of one row of the table: the learning rates with seed 0, then the seeds at the best one."""
    structure = families(share).get(name)
    title = f"{name}{', rules' if rules else ''}"
    tried = [accuracy(task, structure, rules, lr, 0, f"{title}, {lr:g}") for lr in rates]
    best = min(
        tried,
        key=lambda run: float(run["validation"]["loss"]) if run["last_loss"] == run["last_loss"] else 1e9,
    )
    runs = [accuracy(task, structure, rules, best["lr"], seed, f"{title}, seed {seed}") for seed in seeds]
    model = build(task, structure, 0)
    return {
        "name": name,
        "rules": rules,
        "structures": [str(getattr(m, "structure", "dense")) for m in (model.first, model.second)],
        "flops": flops(model),
        "flops_share": flops(model) / flops(build(task, None, 0)),
        "tried": tried,
        "lr": best["lr"],
        "runs": runs,
    }


def at_rate(
    task: Digits, row: dict[str, Any], share: float, lr: float, seeds: list[int]
) -> list[dict[str, Any]]:
    """The seeds of a row at a given learning rate."""
    if row["lr"] == lr:
        runs: list[dict[str, Any]] = row["runs"]
        return runs
    structure = families(share).get(row["name"])
    return [accuracy(task, structure, row["rules"], lr, s, f"{row['name']}, {lr:g}, seed {s}") for s in seeds]


def mean_and_range(runs: list[dict[str, Any]]) -> str:
    values = [run["test"]["accuracy"] for run in runs]
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def show(record: dict[str, Any]) -> Table:
    """The table."""
    table = Table(
        title="Trained from scratch at half the FLOPs: test accuracy, % (mean, lowest and highest seed)"
    )
    for column in ("structure", "rules", "FLOPs", "at dense's rate", "own rate", "at its own rate"):
        table.add_column(column, justify="left" if column == "structure" else "right")
    for row in record["rows"]:
        cells = (f"{row['flops_share']:.0%}", mean_and_range(row["at_dense_rate"]), f"{row['lr']:g}")
        rules = "" if row["name"] == "dense" else ("yes" if row["rules"] else "no")
        table.add_row(row["name"], rules, *cells, mean_and_range(row["runs"]))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the data; else the environment's KMATRIX_DATA")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--preset", choices=("full", "smoke"), default="full")
    options = parser.parse_args()

    task = load_task("mlp", options.preset, options.data)
    assert isinstance(task, Digits)
    smoke = options.preset == "smoke"
    task.width = 64 if smoke else 1024
    task.schedule = Schedule(6, 32, 1e-3, 2, 0.01) if smoke else Schedule(250, 128, 1e-3, 25, 0.01)
    rates = [1e-3] if smoke else [3e-4, 1e-3, 3e-3, 1e-2]
    seeds = [1] if smoke else [1, 2, 3]
    share = 8.0 if smoke else 0.5  # in small, a Kaleidoscope has more FLOPs than dense
    record: dict[str, Any] = {"preset": options.preset, "share": share, "rates": rates, "rows": []}
    if options.out.is_file():
        record = json.loads(options.out.read_text())
    record["versions"], record["schedule"] = made_with(torch.device("cpu")), vars(task.schedule)
    options.out.parent.mkdir(parents=True, exist_ok=True)

    variants = [("dense", False), *((name, rules) for name in families(share) for rules in (False, True))]
    for name, rules in variants:
        if not any(row["name"] == name and row["rules"] == rules for row in record["rows"]):
            row = study(task, name, rules, record["share"], rates, seeds)
            dense_rate = record["rows"][0]["lr"] if record["rows"] else row["lr"]
            row["at_dense_rate"] = at_rate(task, row, record["share"], dense_rate, seeds)
            record["rows"].append(row)
            replace(options.out, lambda path: path.write_text(json.dumps(record, indent=1) + "\n"))
    Console(width=max(110, Console().width)).print(show(record))


if __name__ == "__main__":
    main()
