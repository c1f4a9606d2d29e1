"""The tables of README.md, in Markdown, and the picture, from the results.

python recipes/gblr/tables.py recipes/gblr/results
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from methods import METHODS

Row = dict[str, Any]
TITLES = {
    ("vit", "scratch"): "ViT on MNIST, from scratch",
    ("vit", "dense"): "ViT on MNIST, from dense",
    ("characters", "scratch"): "characters, from scratch",
    ("characters", "dense"): "characters, from dense",
}
MARKERS = "sovDP^Xd"


def reported(record: Row, start: str, method: str, budget: float) -> list[Row]:
    """The runs of the seeds that count, at the chosen rate; none if they are not all there."""
    rows = [r for r in record["rows"] if (r["start"], r["method"]) == (start, method)]
    rows = [r for r in rows if r["budget"] == (1.0 if method == "dense" else budget)]
    tried = {r["lr"]: r["validation"]["loss"] for r in rows if r["seed"] == 0}
    if set(record["rates"][start]) - set(tried):
        return []
    best = min(tried, key=lambda lr: tried[lr] if math.isfinite(tried[lr]) else math.inf)
    rows = [r for r in rows if r["lr"] == best and r["seed"] in record["seeds"]]
    return rows if len(rows) == len(record["seeds"]) else []


def budgets(record: Row) -> list[float]:
    return sorted({r["budget"] for r in record["rows"] if r["method"] != "dense"}, reverse=True)


def measure(record: Row) -> str:
    return "accuracy" if record["subject"] == "vit" else "loss"


def values(record: Row, rows: list[Row]) -> list[float]:
    return [r["test"][measure(record)] for r in rows]


def cells(record: Row, start: str, method: str, budget: float) -> list[str] | None:
    """One line: name, FLOPs, rate, mean and range over seeds, and the distance to learned boxes, seed by seed."""
    rows = reported(record, start, method, budget)
    if not rows:
        return None
    digits = 2 if measure(record) == "accuracy" else 4
    found = values(record, rows)
    line = [METHODS[method], f"{statistics.mean(r['share'] for r in rows):.1%}", f"{rows[0]['lr']:g}"]
    line.append(f"{statistics.mean(found):.{digits}f} ({min(found):.{digits}f} to {max(found):.{digits}f})")
    learned = {r["seed"]: v for r in reported(record, start, "gblr", budget) for v in values(record, [r])}
    gaps = [v - learned[r["seed"]] for r, v in zip(rows, found, strict=True) if r["seed"] in learned]
    return [*line, ", ".join(f"{gap:+.{digits}f}" for gap in gaps) if gaps and method != "gblr" else ""]


def markdown(record: Row, start: str, budget: float) -> str:
    head = ["method", "FLOPs", "rate", "test, mean (lowest to highest)", "against learned boxes, by seed"]
    lines = [line for method in METHODS if (line := cells(record, start, method, budget))]
    table = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


def spent(record: Row, start: str, budget: float) -> str:
    """What learned boxes spend on each kind of matrix, as a share of its dense cost, mean over seeds."""
    rows = reported(record, start, "gblr", budget)
    dense = reported(record, start, "dense", 1.0)
    if not rows or not dense:
        return ""
    whole = dense[0]["costs"]
    kinds: dict[str, list[float]] = {}
    for name, cost in whole.items():
        kinds.setdefault(name.rpartition(".")[2], []).extend(r["costs"][name] / cost for r in rows)
    shares = [f"{kind} {statistics.mean(found):.0%}" for kind, found in kinds.items()]
    return "Spent by learned boxes: " + ", ".join(shares) + "."


def draw(records: dict[str, Row], path: Path) -> None:
    """A panel for each subject and start: quality against the share of FLOPs, a point for each seed."""
    panels = [(name, start) for name, start in TITLES if name in records]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.6 * len(panels), 3.4), layout="constrained", squeeze=False
    )
    for axis, (name, start) in zip(axes[0], panels, strict=True):
        record = records[name]
        for number, (marker, method) in enumerate(zip(MARKERS, METHODS, strict=True)):
            for budget in budgets(record) or [1.0]:
                rows = reported(record, start, method, budget)
                if rows:
                    shares = [100 * r["share"] for r in rows]
                    axis.plot(
                        shares,
                        values(record, rows),
                        marker,
                        color=f"C{number}",
                        alpha=0.7,
                        label=METHODS[method],
                    )
        axis.set_title(TITLES[name, start], fontsize=10)
        axis.set_xlabel("multiplications of the blocks' matrices, % of dense", fontsize=8)
        axis.set_ylabel(
            "test accuracy, %" if measure(record) == "accuracy" else "test loss, nats", fontsize=8
        )
    handles: dict[str, Any] = {}
    for axis in axes[0]:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="folder with vit.json and characters.json")
    options = parser.parse_args()
    files = {name: options.results / f"{name}.json" for name, _ in TITLES}
    records = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    for (name, start), title in TITLES.items():
        for budget in budgets(records[name]) if name in records else ():
            print(f"\n{title}, {budget:.0%}\n\n{markdown(records[name], start, budget)}")
            print("\n" + spent(records[name], start, budget))
    if records:
        draw(records, options.results / "quality.svg")


if __name__ == "__main__":
    main()
