"""What was measured, as plain values that go into a file and come back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 2  # 1 had no cores, verdicts and reasons


@dataclass(frozen=True)
class Time:
    """One contender of a case: microseconds with quartiles, and its speed as a multiple of the baseline's.

    ``cores`` is how many it kept busy, ``mark`` what makes its time another than it should be (too many of them).
    """

    name: str
    us: float
    us_low: float
    us_high: float
    speed: float
    speed_low: float
    speed_high: float
    error: float | None
    cores: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class CaseResult:
    """A product of one shape, by everyone who can."""

    case: str
    group: str
    m: int
    n: int
    batch: int
    baseline: str
    rounds: int
    times: tuple[Time, ...]


@dataclass(frozen=True)
class Figure:
    """One number to be judged: it must reach ``must`` and aims at ``aim`` (or stay under, where less is better).

    Attributes:
        value: None if it could not be measured.
        why: what the machine or the run has to do with the number: why there is none, why it cannot be judged, or
            what this machine lacks of the one that the mark was set for.
        void: it was measured in a way that allows no verdict.
    """

    case: str
    what: str
    value: float | None
    unit: str
    must: float | None = None
    aim: float | None = None
    less: bool = False
    low: float | None = None
    high: float | None = None
    why: str = ""
    void: bool = False

    @property
    def verdict(self) -> str:
        """In a word or two; empty if nothing is demanded."""
        if self.must is None:
            return ""
        if self.value is None:
            return "not measured"
        return "not judged" if self.met is None else "met" if self.met else "missed"

    @property
    def met(self) -> bool | None:
        """Whether it is as it must be; None if nothing is demanded or nothing can be said."""
        return self._reaches(self.must)

    @property
    def on_aim(self) -> bool | None:
        """Whether it is as it should be at best."""
        return self._reaches(self.aim)

    def _reaches(self, mark: float | None) -> bool | None:
        if mark is None or self.value is None or self.void:
            return None
        return self.value <= mark if self.less else self.value >= mark


@dataclass(frozen=True)
class Point:
    """A place on the break-even map: how many times less time than dense of the same number type."""

    dtype: str
    n: int
    batch: int
    speed: float
    low: float
    high: float


@dataclass(frozen=True)
class CurvePoint:
    """Microseconds of one contender at one size, batch 256, float32."""

    name: str
    n: int
    us: float


@dataclass
class Results:
    """Everything one run has found."""

    machine: dict[str, str]
    cases: list[CaseResult] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    map: list[Point] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """As text, a line for each finding, so that two runs can be compared by eye."""
        values = {"format": FORMAT, "machine": self.machine, "notes": self.notes}
        lists: dict[str, list[Any]] = {
            "cases": [_rounded(asdict(case)) for case in self.cases],
            "figures": [{**_rounded(asdict(f)), "met": f.met, "verdict": f.verdict} for f in self.figures],
            "map": [_rounded(asdict(point)) for point in self.map],
            "curve": [_rounded(asdict(point)) for point in self.curve],
        }
        head = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
        body = [
            f"{json.dumps(key)}: [" + ",".join("\n " + json.dumps(row) for row in rows) + "]"
            for key, rows in lists.items()
        ]
        return "{" + ",\n".join([*head, *body]) + "}\n"


def read_results(path: str | Path) -> Results:
    """The results that ``to_json`` wrote."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    cases = [
        CaseResult(**{**case, "times": tuple([Time(**t) for t in case["times"]])}) for case in values["cases"]
    ]
    figures = [
        Figure(**{key: v for key, v in f.items() if key not in ("met", "verdict")}) for f in values["figures"]
    ]
    points = [Point(**point) for point in values["map"]]
    curve = [CurvePoint(**point) for point in values["curve"]]
    return Results(values["machine"], cases, figures, points, curve, values["notes"])


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Four digits are more than a clock gives."""
    return {key: _four_digits(value) for key, value in values.items()}


def _four_digits(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return _rounded(value)
    if isinstance(value, list | tuple):
        return [_four_digits(one) for one in value]
    return value
