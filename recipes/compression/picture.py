"""One picture: quality against the share of the parameters, before and after the heal."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MARKERS = "osD^vPX"


def draw(record: dict[str, Any], measure: str, names: dict[str, str], path: Path) -> None:
    """Two panels, before and after the heal, one line for each method."""
    dense = record["dense"]["before"]["test"][measure]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharex=True)
    for panel, stage in zip(panels, ("before", "after"), strict=True):
        for marker, (method, name) in zip(MARKERS, names.items(), strict=False):
            rows = sorted(
                (r for r in record["rows"] if r["method"] == method and stage in r),
                key=lambda r: float(r["share"]),
            )
            if rows:
                shares = [100 * r["share"] for r in rows]
                values = [r[stage]["test"][measure] for r in rows]
                width = 2.2 if method == "ours" else 1.2
                panel.plot(shares, values, marker=marker, linewidth=width, label=name)
        panel.axhline(dense, color="0.5", linestyle=":", label="dense")
        panel.set_xlabel("parameters, % of dense")
        panel.set_title(f"{stage} the heal")
    panels[0].set_ylabel("test accuracy, %" if measure == "accuracy" else "test loss, nats per character")
    panels[1].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
