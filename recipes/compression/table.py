"""Print the tables of README.md, in Markdown, from the results.

python -m recipes.compression.table recipes/compression/results
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from .compare import METHODS
from .speed import name_of


def rows_of(cells: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def quality(record: dict[str, Any], measure: str) -> str:
    """Before and after the heal on the test part."""
    dense = record["dense"]["before"]["test"][measure]
    cells = [["budget", "method", "parameters", "before the heal", "after", "after, against dense"]]
    rows = sorted(record["rows"], key=lambda r: (-r["budget"], list(METHODS).index(r["method"])))
    for row in (*rows, {"method": "dense", "budget": 1.0, "share": 1.0, **record["dense"]}):
        values = [row[stage]["test"][measure] if stage in row else None for stage in ("before", "after")]
        change = ""
        if values[1] is not None:
            points = measure == "accuracy"
            change = f"{values[1] - dense:+.2f} points" if points else f"{values[1] / dense - 1:+.2%}"
        shown = ["" if v is None else f"{v:.2f} %" if measure == "accuracy" else f"{v:.4f}" for v in values]
        name = METHODS.get(row["method"], "dense, with the same heal")
        cells.append([f"{row['budget']:.0%}", name, f"{row['share']:.1%}", *shown, change])
    return rows_of(cells)


def times(record: dict[str, Any]) -> str:
    """The models and the decoding step."""
    head = [
        "model",
        "batch",
        "budget",
        "dense, ms",
        "ours, ms",
        "faster",
        "swapped share",
        "layers",
        "allowed",
    ]
    cells = [[*head, "reached"]]
    for r in (*record.get("models", ()), *record.get("decoding", ())):
        sizes = [
            name_of(r),
            str(r["batch"]),
            f"{r['budget']:.0%}",
            f"{r['dense_ms']:.3f}",
            f"{r['small_ms']:.3f}",
        ]
        ratios = [f"{r['speedup']:.2f}×", f"{r['share']:.0%}", f"{r['speedup_of_layers']:.2f}×"]
        cells.append([*sizes, *ratios, f"{r['amdahl']:.2f}×", f"{r['of_amdahl']:.0%}"])
    return rows_of(cells)


def scratch(record: dict[str, Any]) -> str:
    """Trained from scratch."""

    def accuracies(runs: list[dict[str, Any]]) -> str:
        values = [run["test"]["accuracy"] for run in runs]
        return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    cells = [["structure", "scaling rules", "FLOPs", "at dense's rate", "own best rate", "at that rate"]]
    for row in record["rows"]:
        rules = "" if row["name"] == "dense" else "with" if row["rules"] else "without"
        sizes = [row["name"], rules, f"{row['flops_share']:.0%}"]
        cells.append([*sizes, accuracies(row["at_dense_rate"]), f"{row['lr']:g}", accuracies(row["runs"])])
    return rows_of(cells)


def main() -> None:
    folder = Path(sys.argv[1])
    for name, measure in (("mlp", "accuracy"), ("transformer", "loss")):
        if (path := folder / f"{name}.json").is_file():
            print(f"\n{name}\n\n{quality(json.loads(path.read_text()), measure)}")
    for name, table in (("speed", times), ("scratch", scratch)):
        if (path := folder / f"{name}.json").is_file():
            print(f"\n{name}\n\n{table(json.loads(path.read_text()))}")


if __name__ == "__main__":
    main()
