"""Tables and the picture: the paper's rows beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..common import Row, Sheet
from ..common.sheets import mean_spread, of_case
from .settings import FRONT_ENDS, LEARNED, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER: Mapping[str, tuple[float, float, float]] = {
    # Phone error rate in %, its standard deviation over 5 seeds, millions of parameters: arXiv 2012.14966, Table 5.
    "kaleidoscope": (14.6, 0.3, 15.4),
    "mfsc": (14.2, 0.2, 14.3),
    "fft": (15.7, 0.1, 15.4),
    "dense": (15.4, 0.6, 15.9),
    "low-rank": (23.6, 0.9, 15.5),
    "circulant": (23.9, 0.9, 15.4),
    "identity": (20.7, 0.3, 15.4),
    "hybrid": (14.0, 0.3, 14.4),
}
TITLES = {
    "kaleidoscope": "K, (BB*)^2",
    "mfsc": "MFSC",
    "fft": "fixed FFT",
    "dense": "dense",
    "low-rank": "low rank",
    "circulant": "circulant",
    "identity": "identity",
    "hybrid": "hybrid: MFSC with K",
}
TITLE = {
    "digits": "Digit error rate, %",
    "timit": "Phone error rate, %",
    "synthetic": "Error rate on tones, %",
}
NOTES = {
    "synthetic": "Tones in the place of speech: these figures mean nothing.",
    "digits": (
        "Connected digits made of FSDD, one test speaker who is in no other part, stand in for TIMIT: ours are digit "
        "error rates with CTC, the paper's phone error rates with a hybrid HMM, so only the order of the rows compares."
    ),
    "timit": "TIMIT's core test set in 39 classes. Ours is PER with CTC and greedy decoding instead of a hybrid HMM.",
}


def sheets(settings: Settings, rows: Sequence[Row]) -> list[Sheet]:
    """Error rates with the distance to MFSC, and times."""
    return [_errors(settings, rows), _times(settings, rows)]


def gaps(rows: Sequence[Row], front: str) -> list[float]:
    """Error rate less that of MFSC, for every seed that both have."""
    mfsc = {row["seed"]: row["test"] for row in of_case(rows, "mfsc")}
    return [row["test"] - mfsc[row["seed"]] for row in of_case(rows, front) if row["seed"] in mfsc]


def _signed(values: Sequence[float]) -> str:
    text = mean_spread(values)
    return f"+{text}" if values and statistics.mean(values) >= 0 else text


def _errors(settings: Settings, rows: Sequence[Row]) -> Sheet:
    columns = [
        "front end", "#test", "#less MFSC", "#validation", "#front end's parameters", "#all parameters",
        "#its rate",
        "#paper", "#less MFSC, paper", "#all parameters, paper", "#seeds",
    ]  # fmt: skip
    lines = []
    for name in FRONT_ENDS:
        own = of_case(rows, name)
        error, spread, millions = PAPER[name]
        lines.append([
            TITLES[name],
            mean_spread(row["test"] for row in own),
            "" if name == "mfsc" else _signed(gaps(rows, name)),
            mean_spread(row["validation"] for row in own),
            f"{own[0]['front_params']:,}" if own else "",
            f"{own[0]['params']:,}" if own else "",
            f"{own[0]['front_lr']:g}" if own and name in LEARNED else "",
            f"{error:.1f} ± {spread:.1f}",
            "" if name == "mfsc" else f"{error - PAPER['mfsc'][0]:+.1f}",
            f"{millions:.1f} M",
            f"{len(own)}",
        ])  # fmt: skip
    notes = [
        NOTES[settings.corpus],
        "Mean and standard deviation over seeds; a complex parameter counts as two.",
    ]
    return Sheet(TITLE[settings.corpus], columns, lines, notes)


def _times(settings: Settings, rows: Sequence[Row]) -> Sheet:
    rates = sorted({int(rate) for row in rows for rate in row["times"]})
    columns = ["front end"]
    for rate in rates:
        columns += [f"#real-time factor, {rate // 1000} kHz", f"#times MFSC, {rate // 1000} kHz"]
    columns.append("#seeds")
    lines = []
    for name in FRONT_ENDS:
        line, own = [TITLES[name]], of_case(rows, name)
        for rate in rates:
            found = [row["times"][str(rate)] for row in own if str(rate) in row["times"]]
            line.append(f"{statistics.median(t['own'] for t in found):.2e}" if found else "")
            line.append(f"{statistics.median(t['ratio'] for t in found):.2f}" if found else "")
        lines.append([*line, f"{len(own)}"])
    notes = [
        f"Seconds of work for a second of audio, from waveform to features: one thread, one utterance of 3 s, frames "
        f"of 25 ms every {settings.hop_ms} ms; medians of turns taken with MFSC, and the median of their ratios.",
    ]
    return Sheet("Time of the front end alone", columns, lines, notes)


def pictures(settings: Settings, rows: Sequence[Row]) -> Mapping[str, Figure]:
    """Error rates of all seeds beside the paper's."""
    known = [name for name in FRONT_ENDS if of_case(rows, name)]
    if not known:
        return {}
    from matplotlib import pyplot

    figure, (ours, printed) = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    places = list(range(len(known)))[::-1]
    for place, name in zip(places, known, strict=True):
        tests = [row["test"] for row in of_case(rows, name)]
        ours.barh(place, statistics.mean(tests), color="#4477aa", alpha=0.6)
        ours.plot(tests, [place] * len(tests), "o", color="#223355", markersize=4)
        error, spread, _ = PAPER[name]
        printed.barh(place, error, xerr=spread, color="#bbbbbb")
    ours.set_yticks(places, [TITLES[name] for name in known])
    ours.set_xlabel(TITLE[settings.corpus].lower())
    ours.set_title("here")
    printed.set_xlabel("phone error rate, % (TIMIT)")
    printed.set_title("paper")
    return {"errors": figure}
