"""Results as sections of the documentation, between markers, so that no figure is typed by hand.

A section stands between ``<!-- bench: NAME -->`` and ``<!-- bench: end -->``; ``rewritten`` puts there what the
results say.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kmatrix.benchmark.results import Figure, Point, Results, Time

SECTION = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- bench: end -->)", re.DOTALL)
UNMEASURED = (
    "No table is published yet: the figures must come from a quiet machine. `kmatrix bench` measures yours.\n"
)


def rewritten(text: str, results: Results | None) -> str:
    """A page with its generated sections as the results have them; without results they say that there are none."""

    def section(match: re.Match[str]) -> str:
        body = UNMEASURED if results is None else SECTIONS[match[2]](results)
        return f"{match[1]}\n{body}\n{match[3]}"

    return SECTION.sub(section, text)


def where(results: Results) -> str:
    """One line on the machine."""
    m = results.machine
    many = "thread" if m["threads"] == "1" else "threads"
    busy = f" The machine was not quiet: contenders got {m['busy']} of a core." if "busy" in m else ""
    return f"{m['processor']} ({m['instructions']}), {m['threads']} {many}, PyTorch {m['torch']}.{busy}"


def times(ratio: float) -> str:
    """A ratio with two digits: 0.85x, 4.2x, 37x."""
    digits = 2 if ratio < 0.995 else 1 if ratio < 9.95 else 0
    return f"{ratio:.{digits}f}x"


def break_even_map(results: Results) -> str:
    """A table for each number type: times dense by size and batch."""
    parts = [f"How many times less time than dense of the same number type. {where(results)}\n"]
    if results.curve:
        parts.insert(0, "![Time against n, with the bounds of this processor](figures/speed.svg)\n")
    for dtype in dict.fromkeys(p.dtype for p in results.map):
        cells = {(p.n, p.batch): times(p.speed) for p in results.map if p.dtype == dtype}
        sizes, batches = (sorted({key[k] for key in cells}) for k in (0, 1))
        head = [dtype, *[f"batch {batch}" for batch in batches]]
        rows = [[f"n = {n}", *[cells.get((n, batch), "") for batch in batches]] for n in sizes]
        parts.append(_table(head, rows))
    if results.map:
        head, *rows = break_even_cells(results)
        parts.insert(-len({p.dtype for p in results.map}), _table(head, rows))
    return "\n".join(parts)


def break_even(results: Results) -> dict[tuple[str, int], int | None]:
    """By number type and batch, the size from which on all measured are faster than dense; None if none is."""
    columns: dict[tuple[str, int], list[Point]] = {}
    for point in results.map:
        columns.setdefault((point.dtype, point.batch), []).append(point)
    found: dict[tuple[str, int], int | None] = {}
    for key, points in columns.items():
        found[key] = None
        for point in sorted(points, key=lambda p: -p.n):
            if point.speed <= 1:
                break
            found[key] = point.n
    return found


def break_even_cells(results: Results) -> list[list[str]]:
    """Where it starts to pay as a table: the head, and a row for each number type."""
    found = break_even(results)
    dtypes, batches = dict.fromkeys(d for d, _ in found), sorted({b for _, b in found})
    head = ["faster than dense from n =", *[f"batch {batch}" for batch in batches]]
    return [head, *[[d, *[_size(found, (d, b)) for b in batches]] for d in dtypes]]


def _size(found: dict[tuple[str, int], int | None], key: tuple[str, int]) -> str:
    return "" if key not in found else str(found[key] or "none")


def goals(results: Results) -> str:
    """Every figure that was aimed at."""
    head = ["case", "against", "measured", "must", "aim", ""]
    rows = [[f.case, f.what, *figure_cells(f), _verdict(f)] for f in results.figures]
    return f"{where(results)}\n\n" + _table(head, rows)


def _verdict(figure: Figure) -> str:
    verdict = "**missed**" if figure.verdict == "missed" else figure.verdict
    return ": ".join(filter(None, [verdict, figure.why]))


def figure_cells(figure: Figure) -> list[str]:
    """Measured, must and aim in words."""

    def say(value: float | None) -> str:
        if value is None:
            return ""
        bound = f"{value:.2g} us" if figure.unit == "us" else f"{value:.3g}x"
        return f"at most {bound}" if figure.less else bound

    measured = "not measured"
    if figure.value is not None:
        digits = 2 if figure.unit == "us" or figure.value < 9.95 else 0
        measured = f"{figure.value:.{digits}f}" + (" us" if figure.unit == "us" else "x")
    return [measured, say(figure.must), say(figure.aim)]


def everyone(results: Results) -> str:
    """Each case: how fast everyone is, as a multiple of its baseline."""
    head = ["case", "baseline", "times its speed"]
    rows = []
    for case in results.cases:
        others = sorted((t for t in case.times if t.name != case.baseline), key=lambda t: -t.speed)
        told = ", ".join(f"{_strong(t.name)} {times(t.speed)}{_marked(t)}" for t in others)
        base = next(t for t in case.times if t.name == case.baseline)
        rows.append([case.case, f"{case.baseline}, {base.us:,.0f} us{_marked(base)}", told])
    return f"{where(results)}\n\n" + _table(head, rows)


def _marked(time: Time) -> str:
    return f" ({time.mark})" if time.mark else ""


def _strong(name: str) -> str:
    return f"**{name}**" if name.startswith("kmatrix") else name


def summary(results: Results) -> str:
    """A few lines for people in a hurry."""
    wanted = (
        "butterfly 1024, batch 1",
        "butterfly 1024, batch 256",
        "butterfly 4096, batch 256",
        "Monarch 32 x 32 1024, batch 256",
        "forward + backward 1024, batch 256",
    )
    head = ["`km.ops.chain_matmul` of", "times dense float32", "times `torch.fft.rfft`", "times `torch.bmm`"]
    rows = []
    for case in results.cases:
        if case.case not in wanted:
            continue
        speed = {t.name: t.speed for t in case.times}
        own = speed["kmatrix"]
        others = [times(own / speed[name]) if name in speed else "" for name in ("torch rfft", "torch.bmm")]
        rows.append([case.case, times(own), *others])
    timed = "Timed is the bare product of vectors with weights, without a layer or matrix around it, "
    timed += "under `torch.inference_mode()` but for the backward pass."
    return f"{where(results)} {timed}\n\n" + _table(head, rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


SECTIONS: dict[str, Callable[[Results], str]] = {
    "map": break_even_map,
    "goals": goals,
    "everyone": everyone,
    "summary": summary,
}
