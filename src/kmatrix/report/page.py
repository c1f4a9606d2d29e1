"""The report of a fit: one HTML page that holds its own pictures and needs nothing else, no script either."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from kmatrix._errors import BackendUnavailableError, complaint
from kmatrix._files import write_atomically
from kmatrix.fitting import Attempt, Fit
from kmatrix.fitting.comparison import TruncatedSVD
from kmatrix.report.curve import by_budget, error_curve
from kmatrix.report.factors import terms
from kmatrix.report.pixels import Picture, picture
from kmatrix.report.style import STYLE
from kmatrix.report.tables import cards, head, number, row, table, text
from kmatrix.report.words import brief, chosen_attempt, judged

# Widths in pixels: of factors, seven to a row, and of whole matrices.
SIDE, LARGE = 146, 256
MOST_PICTURES = 24


@dataclass(frozen=True)
class Section:
    """One fit on a page.

    Attributes:
        fit: the outcome.
        target: the dense matrix that was fitted.
        title: what the matrix is.
        comparison: attempts of ``compare`` to draw beside those of the search.
        budgets: the budgets that they were made for, as shares of dense.
    """

    fit: Fit
    target: Tensor
    title: str
    comparison: Sequence[Attempt] = ()
    budgets: Sequence[float] = ()


def write_report(path: str | Path, *sections: Section, title: str = "kmatrix fit report") -> None:
    """Write fits as one self-contained HTML page: certificate, pictures of the factors, error against parameters.

    Args:
        path: where the page goes; written under another name first and renamed.
        sections: the fits to show.
        title: heading of the page.

    Raises:
        ArgumentError: if the page cannot be written there.
        BackendUnavailableError: if matplotlib is not installed.

    Example:
        >>> import tempfile, torch, kmatrix as km
        >>> from kmatrix.report import Section, write_report
        >>> W = torch.outer(torch.arange(6.0), torch.arange(5.0))
        >>> f = km.fit(W, tol=1e-3, batches=())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(f"{folder}/W.html", Section(f, W, "an outer product"))
    """
    check_available()
    write_atomically("write_report", path, page(*sections, title=title).encode("utf-8"))


def check_available() -> None:
    """Raise unless pictures can be drawn; asked before long work and not after it."""
    if find_spec("matplotlib") is None:
        way_out = "install it with: pip install 'kmatrix[cli]'"
        raise BackendUnavailableError(
            complaint("write_report", "matplotlib", None, "is not installed", way_out)
        )


def page(*sections: Section, title: str) -> str:
    """The HTML of a report."""
    heading = escape(title)
    body = "\n".join(_section(section, f"fit-{k}") for k, section in enumerate(sections, 1))
    contents = _contents(sections) if len(sections) > 1 else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{STYLE}</style></head>\n"
        f"<body>\n<h1>{heading}</h1>\n{contents}\n{body}\n</body></html>\n"
    )


def _contents(sections: Sequence[Section]) -> str:
    """One line per fit, with links into the page."""
    heading = head("matrix", "#shape", "found", "#error", "#parameters", "#FLOPs", "#seconds")
    rows = []
    for k, section in enumerate(sections, 1):
        c, (m, n) = section.fit.certificate, section.fit.matrix.shape
        cells = [
            f'<td><a href="#fit-{k}">{escape(section.title)}</a></td>',
            number(f"{m} × {n}"),
            text(brief(section.fit.matrix.structure)),
            number(f"{c.relative_error:.1e}"),
            number(f"{c.num_params / c.dense_params:.1%}"),
            number(f"{c.flops / c.dense_flops:.1%}"),
            number(f"{section.fit.seconds:.1f}"),
        ]
        rows.append(row(cells))
    words = "Parameters and FLOPs as shares of dense; seconds are those of the fit."
    return f'<div class="contents">{table(heading, rows)}</div><p class="quiet">{words}</p>'


def _section(section: Section, anchor: str) -> str:
    fit = section.fit
    with torch.no_grad():
        dense = fit.matrix.to_dense().cpu()
    wide = torch.complex128 if section.target.is_complex() or dense.is_complex() else torch.float64
    target, dense = section.target.detach().cpu().to(wide), dense.to(wide)
    svd = TruncatedSVD.of(target)
    chosen = chosen_attempt(fit)
    curve = error_curve([*fit.history, *section.comparison], svd, chosen)
    parts = [
        f'<section id="{anchor}">\n<h2>{escape(section.title)}</h2>',
        f'<p class="verdict">{escape(_verdict(fit))}</p>',
        _cards(fit),
        "<h3>Certificate</h3>" + _certificate(fit),
        "<h3>Target and result</h3>" + _compared(target, dense),
        "<h3>What it is made of</h3>" + _made_of(fit),
        "<h3>Error against parameters</h3>",
        f'<p><img class="wide" src="{curve}" alt="error against parameters of every family tried"></p>',
    ]
    if section.comparison:
        parts.append("<h3>Every family beside truncated SVD</h3>" + _compared_families(section, svd))
    parts += ["<h3>What the search tried</h3>" + _history(fit.history, chosen), _machine(fit), "</section>"]
    return "\n".join(parts)


def _verdict(fit: Fit) -> str:
    return f"{brief(fit.matrix.structure)}. {fit.reason[:1].upper()}{fit.reason[1:]}."


def _cards(fit: Fit) -> str:
    """The four numbers that people look for first."""
    c = fit.certificate
    figures = [
        ("relative error", f"{c.relative_error:.1e}", "Frobenius norm"),
        ("parameters", f"{c.num_params / c.dense_params:.1%}", f"{c.num_params:,} of {c.dense_params:,}"),
        ("FLOPs", f"{c.flops / c.dense_flops:.1%}", f"{c.flops:,} of {c.dense_flops:,}"),
    ]
    if c.timings:
        speeds = " | ".join(f"{t.speedup:.2f}×" for t in c.timings)
        batches = " | ".join(str(t.batch) for t in c.timings)
        figures.append(("measured speed, above 1 is faster", speeds, f"than dense, at batch {batches}"))
    return cards(figures)


def _certificate(fit: Fit) -> str:
    c = fit.certificate
    spectral = c.spectral_error
    rows = [
        ("relative error, Frobenius", f"{c.relative_error:.3e}, exact up to rounding"),
        (
            "relative error, spectral",
            f"at least {spectral.lower:.3e}, at most {spectral.upper:.3e}; "
            f"holds with probability {spectral.confidence:.6f}",
        ),
        ("parameters", f"{c.num_params:,} of {c.dense_params:,} ({c.num_params / c.dense_params:.2%})"),
        ("FLOPs for one vector", f"{c.flops:,} of {c.dense_flops:,} ({c.flops / c.dense_flops:.2%})"),
        ("number type", c.dtype),
        ("how it was found", fit.method),
        ("time to find it", f"{fit.seconds:.2f} s"),
    ]
    for t in c.timings:
        times = f"{t.matrix_seconds * 1e6:,.1f} µs against {t.dense_seconds * 1e6:,.1f} µs of dense"
        rows.append((f"measured, batch {t.batch}", f"{times}: {t.speedup:.2f}×, {judged(t)}"))
    return table("", [row([f"<th>{escape(label)}</th>", text(words)]) for label, words in rows])


def _compared(target: Tensor, dense: Tensor) -> str:
    largest = float(target.abs().max()) or None
    difference = target - dense
    shown = (
        picture(target, "target", f"{target.shape[0]} × {target.shape[1]}", largest=largest),
        picture(dense, "structured matrix", largest=largest),
        picture(difference, "difference, magnified", f"at most {float(difference.abs().max()):.1e}"),
    )
    hue = "the hue is the phase" if target.is_complex() else "orange is positive, blue negative"
    return (
        _gallery(shown, side=LARGE)
        + f'<p class="quiet">Grey is exactly zero, {hue}, deeper colours are larger.</p>'
    )


def _made_of(fit: Fit) -> str:
    rows = terms(fit.matrix)
    words = "Factors as the product is written: the rightmost meets the vector first."
    if len(rows) > 1:
        words = f"The sum of {len(rows)} terms. {words}"
    words += " A caption (a, b, c, d) is the pattern I_a ⊗ ones(b, c) ⊗ I_d."
    shown = "".join(_gallery(row[:MOST_PICTURES]) + _left_out(row[MOST_PICTURES:]) for row in rows)
    return f'<p class="quiet">{words}</p>{shown}'


def _left_out(pictures: Sequence[Picture]) -> str:
    return f'<p class="quiet">and {len(pictures)} more</p>' if pictures else ""


def _gallery(pictures: Iterable[Picture], *, side: int = SIDE) -> str:
    figures = "".join(_figure(p, side) for p in pictures)
    return f'<div class="gallery">{figures}</div>'


def _figure(p: Picture, side: int) -> str:
    longest = max(p.shape)
    # Long and thin matrices are drawn wider than they are, or nothing could be seen of them.
    high, wide = (max(round(0.4 * side), round(side * size / longest)) for size in p.shape)
    crisp = ' class="crisp"' if longest <= side else ""
    image = f'<img{crisp} width="{wide}" height="{high}" src="{p.image}" alt="{escape(p.caption)}">'
    detail = f"<br>{escape(p.detail)}" if p.detail else ""
    caption = f"<figcaption>{escape(p.caption)}{detail}</figcaption>"
    return f'<figure style="width: {max(wide, 112)}px">{image}{caption}</figure>'


def _history(attempts: Sequence[Attempt], chosen: Attempt | None) -> str:
    heading = head("family", "#relative error", "#parameters", "met", "#seconds", "how, or why not")
    rows = [
        row(
            [
                text(a.family),
                number("" if a.relative_error is None else f"{a.relative_error:.2e}"),
                number("" if a.num_params is None else f"{a.num_params:,}"),
                text("" if a.met is None else "yes" if a.met else "no"),
                number(f"{a.seconds:.2f}"),
                text(a.note),
            ],
            css="won" if a is chosen else "",
        )
        for a in attempts
    ]
    return table(heading, rows)


def _compared_families(section: Section, svd: TruncatedSVD) -> str:
    """Error by family and budget; every figure behind it can be unfolded."""
    words = "Relative error by numbers allowed, as a share of dense. "
    words += (
        "Green: closer than truncated SVD with as many numbers; positions of sparse entries are not counted."
    )
    return (
        f'<p class="quiet">{words}</p>'
        + (_budgets(section, svd) if section.budgets else "")
        + f"<details{'' if section.budgets else ' open'}><summary>All figures</summary>"
        + _comparison(section.comparison, svd)
        + "</details>"
    )


def _budgets(section: Section, svd: TruncatedSVD) -> str:
    m, n = svd.shape
    heading = head("family", *(f"#{budget:.0%}" for budget in section.budgets))
    bounds = [number(f"{svd.error(int(budget * m * n)):.1e}") for budget in section.budgets]
    rows = [row([text("truncated SVD"), *bounds], css="line")]
    for family, found in by_budget(section.comparison, section.budgets, m * n).items():
        cells = [
            number("" if a is None else f"{a.relative_error:.1e}", won=a is not None and svd.loses_to(a))
            for a in found
        ]
        rows.append(row([text(family), *cells]))
    return table(heading, rows)


def _comparison(attempts: Sequence[Attempt], svd: TruncatedSVD) -> str:
    m, n = svd.shape
    heading = head("family", "structure", "#parameters", "#of dense", "#relative error", "#SVD of that size")
    rows = [
        row(
            [
                text(a.family),
                text(brief(a.structure)),
                number(f"{a.num_params:,}"),
                number(f"{a.num_params / (m * n):.1%}"),
                number(f"{a.relative_error:.2e}", won=svd.loses_to(a)),
                number(f"{svd.error(a.num_params):.2e}"),
            ]
        )
        for a in attempts
        if a.num_params is not None and a.relative_error is not None
    ]
    return table(heading, rows)


def _machine(fit: Fit) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in fit.certificate.machine.items())
    return f'<p class="quiet">Measured on: {escape(facts)}.</p>'
