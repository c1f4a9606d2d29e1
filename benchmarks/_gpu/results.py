"""What came back, as plain values for a file, and as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _gpu.cases import COPY, DENSE, OURS, PORTABLE, Case, Goal
from _gpu.problems import DTYPES
from kmatrix._tables import Sheet
from kmatrix.benchmark.clock import Race, Spread
from kmatrix.benchmark.results import Figure

FORMAT = 1


@dataclass(frozen=True)
class Time:
    """One contender of a case: microseconds with quartiles, and its speed as a multiple of a copy's and of dense.

    ``bandwidth`` is in terabytes a second, of vectors read and written. ``error``, ``plain`` and ``backends`` are what
    the check before found: the relative error, that of plain torch in the same number type, and who multiplied.
    """

    name: str
    us: float
    us_low: float
    us_high: float
    bandwidth: float
    of_copy: float | None
    of_dense: float | None
    error: float
    plain: float | None
    backends: Sequence[str]


@dataclass
class Results:
    """Everything so far; ``write`` may be called at any time."""

    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    checks: list[dict[str, Any]] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tuned: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """As text, a line for each finding."""
        figures = [{**asdict(f), "verdict": f.verdict, "on_aim": f.on_aim} for f in self.figures]
        heads = {"format": FORMAT, "machine": self.machine, "settings": self.settings}
        lists: dict[str, Sequence[Any]] = {
            "failures": self.failures, "notes": self.notes, "figures": figures, "cases": self.cases,
            "tuned": self.tuned, "checks": self.checks,
        }  # fmt: skip
        parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in heads.items()]
        for key, rows in lists.items():
            lines = ",".join("\n " + json.dumps(_plain(row)) for row in rows)
            parts.append(f"{json.dumps(key)}: [{lines}]")
        return "{" + ",\n".join(parts) + "}\n"

    def write(self, path: Path) -> None:
        """Into a file that is whole at any moment."""
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        half.write_text(self.to_json(), encoding="utf-8")
        half.replace(path)


def _plain(value: Any) -> Any:
    """With four digits, and infinity, which JSON does not know, as a word."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < float("inf") else str(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def judged(case: Case, found: Race, backends: Sequence[str]) -> list[Figure]:
    """The goals of a case, each with its verdict; ``backends`` are those that ours ran on."""
    figures = []
    for goal in case.judged:
        what = f"{goal.of} / {goal.over}" if goal.of != OURS else goal.over
        unit = "% of speed" if goal.over == COPY else "x the time" if goal.less else "x faster"
        marks = {"must": goal.must, "aim": goal.aim, "less": goal.less}
        absent = [name for name in (goal.of, goal.over) if name not in found.seconds]
        if absent:
            why = f"no time of {', '.join(absent)}"
            figures.append(Figure(case.name, what, None, unit, why=why, **marks))
        elif goal.over == PORTABLE and tuple(backends) == ("portable",):
            figures.append(
                Figure(case.name, what, None, unit, why="ours is the portable backend here", void=True)
            )
        else:
            ratio = _ratio(found, goal)
            figures.append(
                Figure(case.name, what, ratio.median, unit, low=ratio.low, high=ratio.high, **marks)
            )
    return figures


def _ratio(found: Race, goal: Goal) -> Spread:
    return found.ratio(goal.of, goal.over) if goal.less else found.ratio(goal.over, goal.of)


def timed(
    case: Case, found: Race, checks: Mapping[str, Mapping[str, Any]], shape: tuple[int, int]
) -> dict[str, Any]:
    """A case as a row of the results."""
    moved = case.batch * sum(shape) * DTYPES[case.dtype].itemsize
    times = []
    for name in found.seconds:
        spread, check = found.time(name), checks[name]
        against = [
            found.ratio(other, name).median if other in found.seconds else None for other in (COPY, DENSE)
        ]
        us = [1e6 * seconds for seconds in spread]
        times.append(
            Time(
                *(name, *us, moved / spread.median / 1e12, *against),
                *(check["error"], check["plain"], check["backends"]),
            )
        )
    kept = {key: value for key, value in asdict(case).items() if key not in ("goals", "contenders")}
    return {**kept, "shape": shape, "rounds": found.rounds, "times": [asdict(time) for time in times]}


def everyone(cases: Sequence[Mapping[str, Any]]) -> Sheet:
    """All times."""
    rows = []
    for case in cases:
        for i, time in enumerate(case["times"]):
            others = [b for b in time["backends"] if b != "triton" and b not in time["name"]]
            name = time["name"] + (f" ({', '.join(others)})" if others else "")
            rows.append(
                (
                    case["name"] if i == 0 else "", name, f"{time['us']:,.1f}",
                    f"{time['us_low']:,.1f} to {time['us_high']:,.1f}", f"{time['bandwidth']:.2f}",
                    "" if time["of_copy"] is None else f"{100 * time['of_copy']:.0f} %",
                    "" if time["of_dense"] is None else f"{time['of_dense']:.2f}",
                    f"{time['error']:.1e}", "" if time["plain"] is None else f"{time['plain']:.1e}",
                )
            )  # fmt: skip
    heads = ("case", "who", "#us", "#quartiles", "#TB/s", "#of copy", "#x dense", "#error", "#plain torch")
    return Sheet(heads, rows)


def goals(figures: Sequence[Figure]) -> Sheet:
    """What must be reached, and whether it is."""
    rows = []
    for f in figures:
        verdict = f.verdict + (", aim too" if f.on_aim else "")
        cells = [_say(value, f.unit) for value in (f.value, f.must, f.aim)]
        bound = "at most " if f.less else ""
        rows.append(
            (f.case, f.what, cells[0], bound + cells[1], bound * bool(cells[2]) + cells[2], verdict or f.why)
        )
    return Sheet(("case", "against", "#measured", "#must", "#aim", "verdict"), rows)


def _say(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{100 * value:.0f} %" if unit.startswith("%") else f"{value:.2f}x"


def markdown(sheet: Sheet) -> str:
    """A table for a page."""
    heads = [heading.removeprefix("#") for heading in sheet.headings]
    lines = [heads, ["---"] * len(heads), *sheet.rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
