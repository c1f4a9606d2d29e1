"""Tables and pictures: the paper's rows beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..common import Row, Sheet
from ..common.sheets import mean_spread, of_case
from .families import DENSE, FAMILIES
from .model import Size
from .settings import EVERYWHERE, IWSLT, PYDOCS, TATOEBA, Corpus, Settings
from .speed import PARTS, REST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER_PARAMETERS = {"dense": "39M", "b": "30M"}
"""arXiv 2012.14966, Table 4."""
PRINTED = "at the paper's dimensions"
REPLACED, ALL = "#parameters of the replaced layers", "#all parameters"
_CORPORA = {
    TATOEBA: "Tatoeba, German to English (stand-in)",
    PYDOCS: "Python documentation, English to French (stand-in)",
    IWSLT: "IWSLT'14, German to English",
}
STAND_IN = (
    "Tatoeba (short sentences, German to English) and the Python documentation (English to French) stand in for "
    "IWSLT'14 German to English"
)


def title(family: str) -> str:
    """Of a family, for tables."""
    if family == EVERYWHERE:
        return "B, also in attention and output"
    return FAMILIES.get(family, DENSE).title


def sheets(settings: Settings, rows: Sequence[Row]) -> list[Sheet]:
    """Quality on each corpus, speed, and where the time goes."""
    made = [_quality(settings, corpus, number, rows) for number, corpus in enumerate(settings.corpora)]
    decoder = "the paper's setting" if _as_printed(settings) else "the decoder's linear layers"
    for group, what in (("decoder", decoder), ("whole", "the rest of a step")):
        found = of_case(rows, f"speed/{group}")
        if found:
            made += [_speed(found, f"Speed {_size(settings)}: {what}", group), _profile(found, what)]
    return made


def _as_printed(settings: Settings) -> bool:
    """Whether speed is measured on a model as large as the paper's."""
    return settings.speed.size == Size()


def _size(settings: Settings) -> str:
    """Of the model whose speed is measured."""
    return PRINTED if _as_printed(settings) else f"at width {settings.speed.size.width}"


def _quality(settings: Settings, corpus: Corpus, number: int, rows: Sequence[Row]) -> Sheet:
    lines = []
    for family in settings.few if number else settings.families:
        found = of_case(rows, f"{corpus.title}/{family}")
        figure = FAMILIES.get(family, DENSE).figure if family != EVERYWHERE else None
        lines.append(
            [
                title(family),
                f"{found[0]['layer_parameters']:,}" if found else "",
                f"{found[0]['parameters'] / 1e6:.2f}M" if found else "",
                f"{found[0]['rate']:g}" if found else "",
                mean_spread((r["bleu"] for r in found if "bleu" in r), 1),
                mean_spread((r["chrf"] for r in found if "chrf" in r), 1),
                mean_spread((r["validation"] for r in found if "validation" in r), 3),
                str(len(found)),
                f"{figure[0]:.2f}" if figure else "",
            ]
        )
    columns = [
        "decoder's linear layers",
        REPLACED,
        ALL,
        "#rate, times",
        "#BLEU",
        "#chrF",
        "#loss",
        "#seeds",
        "#paper BLEU",
    ]
    signature = next((r["signature"] for r in rows if "signature" in r), "")
    notes = [
        f"Trained for {settings.steps:,} steps of at most {settings.words:,} words; width {settings.size.width}, "
        f"{len(settings.size.encoder)} encoder and {len(settings.size.decoder)} decoder layers; beam "
        f"{settings.beam}; the mean of the last {settings.average} states. Paper: IWSLT'14, 50,000 steps, width 512, "
        "7 and 6 layers.",
        "Parameters of the replaced layers: the four linear layers of every decoder layer (in the last row projections "
        "and output layer, too), biases included. Loss: validation, nats a word.",
        f"Rate, times: the rate of the structured matrices, that of the dense model in its row, times {settings.lr:g}. "
        + _searched(settings),
    ]
    if settings.synthetic:
        notes = ["Random sentences and their reversals: these figures mean nothing."]
    elif signature:
        notes.append(f"sacrebleu: {signature}")
    return Sheet(f"Quality: {_CORPORA.get(corpus.title, corpus.title)}", columns, lines, notes)


def _searched(settings: Settings) -> str:
    """How rates are searched."""
    if settings.search_steps is None:
        return "The rate of everything else is that one."
    return (
        f"A search (in a table of its own) looks at the validation loss after {settings.search_steps:,} steps, "
        "with a seed of its own. The rate of everything else is that one."
    )


def _contenders(found: Sequence[Row]) -> list[str]:
    return list(found[0]["contenders"])


def _of(found: Sequence[Row], name: str) -> list[dict[str, Any]]:
    return [row["contenders"][name] for row in found if name in row["contenders"]]


def contender(name: str) -> str:
    """The title of a contender."""
    family, *rest = name.split(", ")
    extra = {"everywhere": "also in attention, B as output layer", "folded": "projections folded"}
    return ", ".join([title(family), *(extra[r] for r in rest)])


def _speed(found: Sequence[Row], heading: str, group: str) -> Sheet:
    folded = (
        statistics.median(c["milliseconds_per_sentence"] for c in _of(found, "dense, folded"))
        if ("dense, folded" in _contenders(found))
        else None
    )
    lines = []
    for name in _contenders(found):
        ours = _of(found, name)
        ratio, low, high = (statistics.median(c["ratio"][k] for c in ours) for k in range(3))
        figure = FAMILIES.get(name, DENSE).figure if group == "decoder" else None
        spent = statistics.median(c["milliseconds_per_sentence"] for c in ours)
        line = [
            contender(name),
            f"{ours[0]['layer_parameters']:,}",
            f"{ours[0]['parameters'] / 1e6:.1f}M",
            f"{statistics.median(c['sentences_per_second'] for c in ours):.1f}",
            f"{statistics.median(c['words_per_second'] for c in ours):.0f}",
            f"{ratio:.2f} ({low:.2f} to {high:.2f})",
        ]
        if folded is not None:
            line.append(f"{folded / spent:.2f}")
        else:
            line.append(PAPER_PARAMETERS.get(name, ""))
            line += [f"{figure[1]:.2f}", f"{figure[1] / 3.60:.2f}"] if figure else ["", ""]
        lines.append(line)
    columns = [
        "decoder's linear layers",
        REPLACED,
        ALL,
        "#sentences/s",
        "#words/s",
        "#times dense",
    ]
    columns += (
        ["#times dense, folded"]
        if folded is not None
        else ["#paper, all parameters", "#paper, sentences/s", "#paper, times dense"]
    )
    first = found[0]
    notes = [
        f"One thread, batch 1, beam 1, encoder and search included; {first['sentences']} sentences of "
        f"{first['source']}, {first['words'] / first['sentences']:.1f} words each; {first['rounds']} rounds, all in "
        "turn in one process; ratios by round, with quartiles. Random weights, lengths of the references.",
        f"{first['made_with']['processor']}; the paper's sentences per second are of a Xeon E5-2690 v4, PyTorch "
        "1.2 and fairseq (Figure 5).",
    ]
    if folded is not None:
        notes.append(
            "Folded: the projections of queries and of the result are multiplied into the keys and values of each "
            "sentence, the same function. It helps dense, too, which has a column of its own."
        )
    return Sheet(heading, columns, lines, notes)


def _profile(found: Sequence[Row], what: str) -> Sheet:
    parts = [*dict.fromkeys(PARTS.values()), REST]
    lines = []
    for name in _contenders(found):
        ours = _of(found, name)
        spent = {part: statistics.median(c["milliseconds"].get(part, 0.0) for c in ours) for part in parts}
        total = sum(spent.values())
        shares = [f"{spent[part]:.1f} ({100 * spent[part] / total:.0f} %)" for part in parts]
        lines.append([contender(name), *shares])
    floor = statistics.median(row["floor"] for row in found)
    notes = [
        "Milliseconds a sentence; every part is called through a clock, whose time is taken off.",
        f"As many operations on 8 numbers instead of 512 take {floor:.1f} ms a sentence: what torch and Python need to "
        "begin them, a part of every column.",
    ]
    return Sheet(
        f"Where the time goes: {what}", ["decoder's linear layers", *(f"#{p}" for p in parts)], lines, notes
    )


def pictures(settings: Settings, rows: Sequence[Row]) -> dict[str, Figure]:
    """BLEU against speed, as in the paper's Figure 5, and where the time goes."""
    from matplotlib.figure import Figure

    found = of_case(rows, "speed/decoder")
    if not found:
        return {}
    names = _contenders(found)
    parts = [*dict.fromkeys(PARTS.values()), REST]
    profile = Figure(figsize=(8, 0.42 * len(names) + 1.6), layout="constrained")
    ax = profile.subplots()
    left = [0.0] * len(names)
    for part in parts:
        spent = [statistics.median(c["milliseconds"].get(part, 0.0) for c in _of(found, n)) for n in names]
        ax.barh(range(len(names)), spent, left=left, label=part)
        left = [a + b for a, b in zip(left, spent, strict=True)]
    ax.set_yticks(range(len(names)), [contender(n) for n in names])
    ax.invert_yaxis()
    ax.set_xlabel("ms a sentence")
    ax.legend(frameon=False, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return {"profile": profile, **_tradeoff(settings, rows, found)}


def _tradeoff(settings: Settings, rows: Sequence[Row], found: Sequence[Row]) -> dict[str, Figure]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    ours, paper = figure.subplots(1, 2)
    for k, family in enumerate(["dense", *FAMILIES]):
        scores = [r["bleu"] for r in of_case(rows, f"{settings.corpora[0].title}/{family}") if "bleu" in r]
        speeds = [c["sentences_per_second"] for c in _of(found, family)]
        printed = FAMILIES.get(family, DENSE).figure
        points = [(paper, printed[1], printed[0], 0.0)] if printed else []
        if scores and speeds:
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            points.append((ours, statistics.median(speeds), statistics.mean(scores), spread))
        for ax, x, y, spread in points:
            ax.errorbar(x, y, spread, fmt="o", color=f"C{k}")
            ax.annotate(family, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
    ours.set_title(f"ours: BLEU on {settings.corpora[0].title}, small model", fontsize=9)
    paper.set_title("paper: IWSLT'14", fontsize=9)
    for ax in (ours, paper):
        ax.set_xlabel(f"sentences/s {_size(settings) if ax is ours else PRINTED}")
    ours.set_ylabel("BLEU")
    return {"tradeoff": figure}
