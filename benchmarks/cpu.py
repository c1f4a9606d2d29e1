"""Speed of products beside dense, FFTs and published code: ``kmatrix bench``, and the tables of the documentation.

    python benchmarks/cpu.py            # everything, a quarter of an hour or so; keep the machine quiet
    python benchmarks/cpu.py --docs     # only write the tables again from the results that are there

Writes ``benchmarks/results/cpu.json``, ``docs/figures/speed.svg`` and the sections between the markers of the pages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kmatrix.benchmark.page import rewritten
from kmatrix.benchmark.picture import speed_picture
from kmatrix.benchmark.results import read_results
from kmatrix.cli.bench import bench

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/speed.md", "docs/benchmarks.md")


def write_pages() -> None:
    """The pages and the picture, as the results have them."""
    file = RESULTS / "cpu.json"
    results = read_results(file) if file.exists() else None
    for page in PAGES:
        path = ROOT / page
        path.write_text(rewritten(path.read_text(encoding="utf-8"), results), encoding="utf-8")
    if results is not None and results.curve:
        (ROOT / "docs" / "figures" / "speed.svg").write_bytes(speed_picture(results))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--docs", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if not args.docs:
        bench(quick=False, only=None, out=RESULTS, threads=1)
    write_pages()


if __name__ == "__main__":
    main()
