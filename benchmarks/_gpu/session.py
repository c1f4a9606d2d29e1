"""One call: checks, times, other tiles if asked for, and files that are whole at any moment."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import torch

from _gpu import cases, results, tiles
from _gpu.cases import OURS, Case, Sweep
from _gpu.measure import Timed, machine
from _gpu.picture import can_draw, picture
from _gpu.problems import KINDS
from _gpu.workers import NO_TIME, Outcome, Pool, Unit
from kmatrix._tables import Sheet
from kmatrix.benchmark.clock import Race

CHECK_SECONDS, TIME_SECONDS, TRY_SECONDS = 240.0, 120.0, 150.0  # that one unit of work may take
CHECK_BYTES = 14 * 2**30  # of the GPU's memory that a check may take
TRIED_AT_ONCE = 6  # plans
SOME = 2  # plans, where only checks are made
GENERATIONS = 4  # of plans, each about the best so far

Checks = dict[str, dict[str, dict[str, Any]]]  # by case and contender


class Session:
    """What one call does, and what it has found.

    Args:
        args: of the command line.
        until: when to stop, as ``time.monotonic`` counts.
    """

    def __init__(self, args: argparse.Namespace, until: float) -> None:
        self.args, self.until, self.began = args, until, time.monotonic()
        self.device, self.backend = ("cpu", "triton") if args.interpret else ("cuda", None)
        if not args.interpret:
            memory = torch.cuda.get_device_properties(0).total_memory
            args.jobs = max(min(args.jobs, memory // CHECK_BYTES), 1)
        # Checks run side by side, times alone.
        self.checkers, self.timer = Pool(args.jobs), Pool(min(args.jobs, 1))
        kept = {key: str(value) for key, value in vars(args).items()}
        self.results = results.Results(machine(), kept)

    @cached_property
    def cases(self) -> list[Case]:
        """Those asked for."""
        found = cases.tiny_cases() if self.args.interpret else cases.cases(self.args.quick)
        return [case for case in found if re.search(self.args.only, case.name)]

    @cached_property
    def sweeps(self) -> list[Sweep]:
        """Those asked for."""
        if self.args.no_sweep:
            return []
        found = cases.tiny_sweeps() if self.args.interpret else cases.sweeps(self.args.quick)
        return [sweep for sweep in found if re.search(self.args.only, sweep.name)]

    def run(self) -> int:
        """All of it; the exit status: 1 if anything is wrong."""
        if not self.cases and not self.sweeps:
            self.fail(f"--only {self.args.only!r}: no case and no check has such a name")
            return 1
        self.tell(", ".join(f"{key} {value}" for key, value in self.results.machine.items()))
        try:
            checks = self.check()
            if not self.args.interpret:
                self.time(checks)
            if self.args.tune:
                (self.try_some if self.args.interpret else self.tune)(checks)
        finally:
            self.checkers.close()
            self.timer.close()
        self.finish()
        return 1 if self.results.failures else 0

    # -- checks ------------------------------------------------------------------------------------

    def check(self) -> Checks:
        """Cases and sweep; what was found of each contender."""
        units = [
            Unit(c.name, "_gpu.checks.check_case", (c, self.device, self.backend), CHECK_SECONDS)
            for c in self.cases
        ]
        units += [
            Unit(s.name, "_gpu.checks.check_sweep", (s, self.device), CHECK_SECONDS) for s in self.sweeps
        ]
        self.tell(f"checking {len(self.cases)} cases and {len(self.sweeps)} sweeps of batch sizes ...")
        found: Checks = {}
        # Times matter more than a whole sweep: a third of what is left is theirs.
        until = time.monotonic() + (self.until - time.monotonic()) * 2 / 3
        for outcome in self.with_memory(units, until):
            name = outcome.unit.name
            if outcome.failed:
                self.stopped(f"check {name}", outcome.failed)
            elif outcome.unit.function.endswith("check_case"):
                found[name] = outcome.value
                rows = [{"check": name, "who": who, **verdict} for who, verdict in outcome.value.items()]
                self.record(name, rows)
            else:
                self.record(name, outcome.value)
        return found

    def with_memory(self, units: Sequence[Unit], until: float) -> Iterator[Outcome]:
        """Outcomes; those that found the memory taken by others are tried again, alone."""
        again = []
        for outcome in self.checkers.work(units, until):
            if "OutOfMemory" in f"{outcome.failed}{outcome.value}":
                again.append(outcome.unit)
            else:
                yield outcome
        yield from self.timer.work(again, until)

    def record(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep what was checked, and say so in a line."""
        self.results.checks += [dict(row) for row in rows]
        wrong = [row for row in rows if row["why"]]
        for row in wrong:
            told = f"check {name}, {row.get('who') or 'batch ' + str(row['batch'])}: {row['why']}"
            (self.fail if _is_ours(row) else self.note)(told)
        ratio = max((row["ratio"] for row in rows if row["ratio"] is not None), default=0.0)
        self.tell(f"  {'WRONG' if wrong else 'right'}  {name}: at most {ratio:.2f} of plain torch's error")
        self.write()

    # -- times -------------------------------------------------------------------------------------

    def time(self, checks: Checks) -> None:
        """All cases that passed, one after the other in a process of their own."""
        units = []
        for case in self.cases:
            right = [name for name, verdict in checks.get(case.name, {}).items() if not verdict["why"]]
            if OURS in right:
                given = (case, right, self.args.seconds, self.device, self.backend)
                units.append(Unit(case.name, "_gpu.measure.time_case", given, TIME_SECONDS))
            else:
                self.note(f"not timed, because its check did not pass: {case.name}")
        named = {case.name: case for case in self.cases}
        self.tell(f"timing {len(units)} cases ...")
        for outcome in self.timer.work(units, self.until):
            if outcome.failed:
                self.stopped(f"timing {outcome.unit.name}", outcome.failed)
            else:
                self.keep(named[outcome.unit.name], outcome.value, checks[outcome.unit.name])

    def keep(self, case: Case, timed: Timed, checks: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the times of a case, and print them."""
        for name, why in timed.failed.items():
            (self.fail if name.startswith("kmatrix") else self.note)(f"timing {case.name}, {name}: {why}")
        found = Race(timed.seconds)
        rows, cols = KINDS[case.kind].shape(case.n)
        self.results.cases.append(results.timed(case, found, checks, (rows, cols)))
        self.results.figures += results.judged(case, found, checks[OURS]["backends"])
        us = ", ".join(f"{name} {1e6 * found.time(name).median:,.1f}" for name in found.seconds)
        self.tell(f"  {case.name}: {us} us")
        self.write()

    # -- other tiles -------------------------------------------------------------------------------

    def tune(self, checks: Checks) -> None:
        """Look for better plans than the rule's, case by case, as long as there is time."""
        found = [case for case in self.cases if case.name in tiles.TUNED and case.name in checks]
        self.tell(f"other tiles for {len(found)} cases ...")
        for i, case in enumerate(found):
            now = time.monotonic()
            if now < self.until:
                self.tune_case(case, now + (self.until - now) / (len(found) - i))

    def try_some(self, checks: Checks) -> None:
        """A few other plans of a case of either direction, checks only: any of them must be right."""
        for graded in (False, True):
            fit = (c for c in self.cases if c.name in tiles.TUNED and c.name in checks and c.graded == graded)
            for case in islice(fit, 1):
                plans = [
                    *tiles.beginnings(case)[1:SOME],
                    *islice(tiles.neighbours(tiles.ruled(case)), SOME),
                ]
                right = list(self.tried(case, plans, self.until))
                self.results.tuned.append({"case": case.name, "tried": len(plans), "right": len(right)})
                if len(right) < len(plans):
                    self.fail(
                        f"plans of {case.name}: {len(plans) - len(right)} of {len(plans)} do not run or are wrong"
                    )

    def tune_case(self, case: Case, until: float) -> None:
        """Some generations of plans, each made of neighbours of the best so far and timed beside the rule's."""
        rule = best = tiles.ruled(case)
        known: set[tiles.Plan] = set()
        found: dict[str, Any] = {"case": case.name, "rule": tiles.in_words(rule)}
        self.results.tuned.append(found)
        for generation in range(GENERATIONS):
            around = tiles.neighbours(best) if generation else tiles.beginnings(case)
            new = [plan for plan in around if plan not in known]
            known.update(new)
            right = list(self.tried(case, new, until))
            before = [rule, best] if generation else []
            us = self.plan_times(case, list(dict.fromkeys([*before, *right])), self.until)
            if not us:
                break
            last, best = best, min(us, key=lambda plan: us[plan])
            found |= {
                "tried": len(known),
                "best": tiles.in_words(best),
                "us": us[best],
                "rule_us": us.get(rule),
            }
            self.tell(
                f"  {case.name}: rule {us.get(rule, 0.0):.1f} us, best of {len(known)} {us[best]:.1f} us"
            )
            self.write()
            if rule not in us or (generation and best == last):
                break
        self.tell(f"    {found.get('best', 'nothing better')}")

    def tried(self, case: Case, plans: Sequence[tiles.Plan], until: float) -> Iterator[tiles.Plan]:
        """Those that compile and are right."""
        groups = [plans[i : i + TRIED_AT_ONCE] for i in range(0, len(plans), TRIED_AT_ONCE)]
        units = [
            Unit(
                f"plans of {case.name}", "_gpu.tiles.try_plans", (case, list(group), self.device), TRY_SECONDS
            )
            for group in groups
        ]
        refused: dict[str, int] = {}
        for outcome in self.checkers.work(units, until):
            reasons = outcome.value or [outcome.failed] * len(outcome.unit.arguments[1])
            for plan, why in zip(outcome.unit.arguments[1], reasons, strict=True):
                if not why:
                    yield plan
                else:
                    refused[why[:80]] = refused.get(why[:80], 0) + 1
        for why, count in refused.items():
            self.note(f"{count} plans of {case.name} left out: {why}")

    def plan_times(self, case: Case, plans: Sequence[tiles.Plan], until: float) -> dict[tiles.Plan, float]:
        """Microseconds by plan; none if something went wrong."""
        if not plans:
            return {}
        given = (case, list(plans), self.args.seconds, self.device)
        unit = Unit(f"times of plans of {case.name}", "_gpu.tiles.time_plans", given, TIME_SECONDS)
        (outcome,) = self.timer.work([unit], until)
        if outcome.failed:
            self.note(f"{unit.name}: {outcome.failed}")
            return {}
        return dict(zip(plans, outcome.value, strict=True))

    # -- what is said and kept ---------------------------------------------------------------------

    def finish(self) -> None:
        """The tables and the picture."""
        found, out = self.results, self.args.out
        self.write()
        if found.cases:
            for sheet in self.sheets():
                print(f"\n{sheet}")
            drawn = picture(found.cases, found.machine) if can_draw() else None
            if drawn is not None:
                (out / "gpu.svg").write_bytes(drawn)
        for failure in found.failures:
            print(f"FAILED  {failure}")
        self.tell(f"{len(found.checks)} checks, {len(found.failures)} failures, results in {out}")

    def tell(self, line: str) -> None:
        """Say how it goes, with the seconds so far."""
        print(f"{time.monotonic() - self.began:5.0f} s  {line}", flush=True)

    def stopped(self, what: str, reason: str) -> None:
        """Something that has no result: wrong, unless there was no time for it."""
        (self.note if reason == NO_TIME else self.fail)(f"{what}: {reason}")
        self.write()

    def note(self, line: str) -> None:
        """Something that belongs to the results."""
        self.results.notes.append(line)
        self.tell(f"note: {line}")

    def fail(self, line: str) -> None:
        """Something wrong."""
        self.results.failures.append(line)
        print(f"FAILED  {line}", file=sys.stderr, flush=True)

    def write(self) -> None:
        """The files, as far as they go."""
        self.results.write(self.args.out / "gpu.json")
        if self.results.cases:
            pages = map(results.markdown, self.sheets())
            (self.args.out / "gpu.md").write_text("\n".join(pages), encoding="utf-8")

    def sheets(self) -> list[Sheet]:
        """The tables: all times, and what they had to be."""
        return [results.everyone(self.results.cases), results.goals(self.results.figures)]


def _is_ours(row: Mapping[str, Any]) -> bool:
    """Whether what was checked is ours: the sweep is, and so are contenders of our name."""
    return str(row.get("who", OURS)).startswith(OURS)
