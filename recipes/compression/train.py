"""Train one of the two models that the other recipes compress.

python -m recipes.compression.train mlp --data DATA --out runs/mlp
"""

import argparse
import json
import time
from pathlib import Path

import torch

from ..common.files import replace
from ..common.versions import made_with
from .tasks import load_task
from .training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("mlp", "transformer"))
    parser.add_argument("--data", type=Path, help="folder with the data; else the environment's KMATRIX_DATA")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the trained model; goes on if it is there"
    )
    parser.add_argument("--preset", choices=("full", "smoke"), default="full")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    task = load_task(options.model, options.preset, options.data)
    torch.manual_seed(options.seed)
    model = task.build()
    began = time.perf_counter()

    def validate(step: int, loss: float) -> None:
        seen = "  ".join(f"{name} {value:.4f}" for name, value in task.quality(model, "validation").items())
        print(f"step {step}: training loss {loss:.4f}, validation {seen}", flush=True)

    train(model, task, task.schedule, task.name, folder=options.out, report=validate)
    record = {
        "task": task.name,
        "preset": options.preset,
        "seed": options.seed,
        "steps": task.schedule.steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": task.quality(model, "validation"),
        "test": task.quality(model, "test"),
        "seconds_of_the_last_start": round(time.perf_counter() - began, 1),
        "versions": made_with(torch.device("cpu")),
    }
    replace(options.out / "trained.json", lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
