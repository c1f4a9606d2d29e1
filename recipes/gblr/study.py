"""Quality at a share of the FLOPs: learned boxes against low rank, block low rank, Monarch and dense.

python recipes/gblr/study.py vit --data FOLDER --out recipes/gblr/results/vit.json

All matrices of a small transformer's blocks are replaced, before training (``scratch``) or after it (``dense``, then
trained on). Every method has the same steps, batches and schedule; its learning rate is chosen by validation loss with
a seed of its own, and three other seeds are reported. Interrupted, it goes on where it was: a run is written when it is
done. ``table.py`` makes the tables and the picture.
"""

import argparse
import json
import math
import statistics
import time
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import torch
from learned import STRUCTURE_RATES, train_boxes
from methods import METHODS, costs, dense_matrices, ranks_of, rule, swap
from safetensors.torch import load_file, save_file
from shared import named_tensors, replace, train, versions
from subjects import SUBJECTS, Subject, load_subject
from torch import nn

STARTS = ("scratch", "dense")
BEYOND = {
    "scratch": (3e-4, 3e-2),
    "dense": (1e-4, 1e-2),
}  # rates to try where the first or the last is the best
BATCHES_OF_A_SEED = 1_000_000  # seeds see different batches, methods the same
Row = dict[str, Any]


class Study:
    """The runs of one subject, in a file."""

    def __init__(self, subject: Subject, preset: str, out: Path) -> None:
        self.subject, self.out = subject, out
        smoke = preset == "smoke"
        self.tune_steps = subject.schedule.steps // 3
        self.rates = {"scratch": [1e-3, 3e-3, 1e-2], "dense": [3e-4, 1e-3, 3e-3]}
        self.seeds = [1] if smoke else [1, 2, 3]
        if smoke:
            self.rates = {"scratch": [3e-3], "dense": [1e-3]}
        self.record: dict[str, Any] = {"subject": subject.name, "preset": preset, "rows": []}
        if out.is_file():
            self.record = json.loads(out.read_text())
        if self.record["preset"] != preset or self.record["subject"] != subject.name:
            raise SystemExit(
                f"{out} is of {self.record['subject']}, {self.record['preset']}; give another --out"
            )
        self.record |= {"versions": versions(), "schedule": vars(subject.schedule)}
        self.record |= {"steps_from_dense": self.tune_steps, "rates": self.rates, "seeds": self.seeds}
        out.parent.mkdir(parents=True, exist_ok=True)

    def study(self, start: str, method: str, budget: float) -> None:
        """All runs of one row of the table."""
        best = self.best_rate(start, method, budget)
        for seed in self.seeds:
            self.row(start, method, budget, best, seed)

    def row(self, start: str, method: str, budget: float, lr: float, seed: int) -> Row:
        """A run: from the file if it is there, else done now and written."""
        budget = 1.0 if method == "dense" else budget
        found = self.find(start, method, budget, lr, seed)
        if found is None:
            found = self.run(start, method, budget, lr, seed)
            self.record["rows"].append(found)
            text = json.dumps(self.record, indent=1) + "\n"
            replace(self.out, lambda path: path.write_text(text))
        return found

    def find(self, start: str, method: str, budget: float, lr: float, seed: int) -> Row | None:
        wanted = {"start": start, "method": method, "budget": budget, "lr": lr, "seed": seed}
        rows = (row for row in self.record["rows"] if wanted.items() <= row.items())
        return next(rows, None)

    def best_rate(self, start: str, method: str, budget: float) -> float:
        """The rate with the least validation loss at seed 0; its runs are made if they are not there.

        Where the first or the last rate is the best, the one beyond it is tried as well.
        """

        def loss(lr: float) -> float:
            value = float(self.row(start, method, budget, lr, 0)["validation"]["loss"])
            return value if math.isfinite(value) else math.inf

        rates, beyond = self.rates[start], BEYOND[start]
        best = min(rates, key=loss)
        if len(rates) > 1 and best in (rates[0], rates[-1]):
            best = min(best, beyond[best == rates[-1]], key=loss)
        return best

    def run(self, start: str, method: str, budget: float, lr: float, seed: int) -> Row:
        """Train once, and look at the validation part; with a seed that is reported, at the test part."""
        began = time.perf_counter()
        title = f"{self.subject.name}, {start}, {method}, {budget:.0%}, {lr:g}, seed {seed}"
        model = self.fresh(seed) if start == "scratch" else self.trained(seed)
        whole = costs(model)
        schedule = changed(self.subject.schedule, lr=lr)
        first = BATCHES_OF_A_SEED * seed
        if start == "dense":
            schedule = changed(schedule, steps=self.tune_steps, warmup=self.tune_steps // 10)
            first += self.subject.schedule.steps
        extra: Row = {}
        if method in STRUCTURE_RATES:
            losses, extra = train_boxes(
                model, self.subject, schedule, title, method, start, budget, first, seed
            )
        else:
            if method != "dense":
                choose = rule(method, budget, self.ranks(start, method, budget, seed, model))
                torch.manual_seed(seed)
                swap(model, choose, fit=start == "dense")
            losses = train(model, self.subject, schedule, title, first_batch=first)
        if (start, method) == ("scratch", "dense"):
            save_file(named_tensors(model), self.dense_file(lr, seed))
        if (start, method, seed) == ("scratch", "gblr", self.seeds[0]):
            self.write_boxes(model)
        spent = costs(model)
        return {
            "start": start,
            "method": method,
            "budget": budget,
            "lr": lr,
            "seed": seed,
            "share": sum(spent.values()) / sum(whole.values()),
            "costs": spent,
            "last_loss": statistics.mean(losses[-20:]),
            **{part: self.quality(model, part) for part in ("validation", "test")[: 1 + (seed > 0)]},
            "seconds": round(time.perf_counter() - began, 1),
            **extra,
        }

    def quality(self, model: nn.Module, part: str) -> dict[str, float]:
        """Of the whole test part, or of the first 2,000 images of the validation part."""
        return self.subject.quality(
            model, part, 2000 if (self.subject.name, part) == ("vit", "validation") else None
        )

    def fresh(self, seed: int) -> nn.Module:
        """The dense model before training."""
        torch.manual_seed(seed)
        return self.subject.build()

    def trained(self, seed: int) -> nn.Module:
        """The dense model after training at its best rate."""
        lr = self.best_rate("scratch", "dense", 1.0)
        if not self.dense_file(lr, seed).is_file():  # results were copied without the models
            self.record["rows"] = [
                row for row in self.record["rows"]
                if (row["start"], row["method"], row["lr"], row["seed"]) != ("scratch", "dense", lr, seed)
            ]  # fmt: skip
        self.row("scratch", "dense", 1.0, lr, seed)
        model = self.fresh(seed)
        model.load_state_dict(load_file(self.dense_file(lr, seed)))
        return model

    def write_boxes(self, model: nn.Module) -> None:
        """Where learned boxes are, for benchmarks/gblr.py and for who wants to look at them."""
        found = {name: model.get_submodule(name).matrix for name in costs(model)}
        layers = {name: {"shape": a.shape, "boxes": a.boxes.to_lists()} for name, a in found.items()}
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(layer)}" for name, layer in layers.items())
        replace(self.out.with_suffix(".boxes.json"), lambda path: path.write_text(f"{{\n{lines}\n}}\n"))

    def dense_file(self, lr: float, seed: int) -> Path:
        folder = self.out.with_suffix(".models")
        folder.mkdir(exist_ok=True)
        return folder / f"dense-{lr:g}-{seed}.safetensors"

    def ranks(self, start: str, method: str, budget: float, seed: int, model: nn.Module) -> dict[str, int]:
        """Ranks by one share for all, or by what learned boxes spent on each matrix with the same seed."""
        shapes = {name: tuple(layer.weight.shape) for name, layer in dense_matrices(model).items()}
        if method == "low-rank-learned":
            lr = self.best_rate(start, "gblr", budget)
            spent = self.row(start, "gblr", budget, lr, seed)["costs"]
        else:
            spent = {name: int(budget * m * n) for name, (m, n) in shapes.items()}
        return ranks_of(spent, shapes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--data", type=Path, help="folder with the data; else the environment's KMATRIX_DATA")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON file of the results; goes on if it is there"
    )
    parser.add_argument("--preset", choices=("full", "smoke"), default="full")
    parser.add_argument(
        "--budgets", type=float, nargs="+", default=[0.3], help="shares of dense's multiplications"
    )
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()

    study = Study(load_subject(options.subject, options.preset, options.data), options.preset, options.out)
    for budget in options.budgets:
        for start in options.starts:
            for method in options.methods:
                if start == "scratch" or method not in ("gblr-random", "gblr-begun"):
                    study.study(
                        start, method, budget
                    )  # boxes at random places know nothing of a trained weight
    rows = study.record["rows"]
    print(f"{len(rows)} runs in {sum(row['seconds'] for row in rows) / 60:.1f} minutes in {options.out}")


if __name__ == "__main__":
    main()
