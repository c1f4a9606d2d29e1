"""The report of a fit: one HTML page that holds its own pictures and needs nothing else, no script either."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kmatrix._files import write_atomically
from kmatrix.fit import Attempt, Fit
from kmatrix.report import figures

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.6rem;
     border-top: 2px solid #ddd; padding-top: 1rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .3rem; }
.verdict { font-size: 1.05rem; background: #f4f1ea; border-left: 4px solid #b5651d; padding: .7rem 1rem; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } tr.won { background: #eef6ea; }
img { max-width: 100%; } .quiet { color: #666; font-size: .85rem; } code { background: #f3f3f3; padding: 0 .25em; }
"""


@dataclass(frozen=True)
class Section:
    """One fit on a page.

    Attributes:
        fit: the outcome.
        target: the dense matrix that was fitted.
        title: what the matrix is.
        comparison: attempts of ``compare`` to draw beside those of the search.
    """

    fit: Fit
    target: Tensor
    title: str
    comparison: Sequence[Attempt] = ()


def write_report(path: str | Path, *sections: Section, title: str = "kmatrix fit report") -> None:
    """Write fits as one self-contained HTML page: certificate, pictures of the factors, error against parameters.

    Args:
        path: where the page goes; written under another name first and renamed.
        sections: the fits to show.
        title: heading of the page.

    Raises:
        ArgumentError: if the page cannot be written there.
    """
    write_atomically("write_report", path, page(*sections, title=title).encode("utf-8"))


def page(*sections: Section, title: str) -> str:
    """The HTML of a report."""
    heading = html.escape(title)
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{heading}</h1>\n{body}\n</body></html>\n"
    )


def _section(section: Section) -> str:
    fit, (m, n) = section.fit, section.fit.matrix.shape
    with torch.no_grad():
        dense = fit.matrix.to_dense().cpu()
    wide = torch.complex128 if section.target.is_complex() or dense.is_complex() else torch.float64
    target, dense = section.target.detach().cpu().to(wide), dense.to(wide)
    chosen = next((a for a in fit.history if a.structure == fit.matrix.structure and a.met), None)
    attempts = [*fit.history, *section.comparison]
    curve = figures.error_curve(attempts, torch.linalg.svdvals(target), (m, n), chosen)
    factors = figures.factors(fit.matrix)
    parts = [
        f"<h2>{html.escape(section.title)}</h2>",
        f'<p class="verdict">{html.escape(_verdict(fit))}</p>',
        "<h3>Certificate</h3>",
        _certificate(fit),
        "<h3>Target and result</h3>",
        _picture(
            figures.matrices(target, dense), "target, structured matrix and their difference, magnitudes"
        ),
        "<h3>Factors</h3>" if factors else "",
        _picture(factors, "factors from left to right, with their patterns (a, b, c, d)") if factors else "",
        "<h3>Error against parameters</h3>",
        _picture(curve, "every family tried; the ring marks the chosen one"),
        "<h3>What was tried</h3>",
        _history(fit.history, chosen),
        "<h3>Families at given budgets</h3>" + _history(section.comparison, None)
        if section.comparison
        else "",
        _machine(fit),
    ]
    return "\n".join(part for part in parts if part)


def _verdict(fit: Fit) -> str:
    c = fit.certificate
    name = type(fit.matrix.structure).__name__
    return (
        f"{name}: relative error {c.relative_error:.2e} with {c.num_params:,} of {c.dense_params:,} numbers "
        f"({c.num_params / c.dense_params:.1%}). {fit.reason[:1].upper()}{fit.reason[1:]}."
    )


def _row(*cells: str, css: str = "") -> str:
    attribute = f' class="{css}"' if css else ""
    return f"<tr{attribute}>" + "".join(cells) + "</tr>"


def _cell(text: str, *, number: bool = False) -> str:
    return f"<td{' class=n' if number else ''}>{html.escape(text)}</td>"


def _certificate(fit: Fit) -> str:
    c = fit.certificate
    spectral = c.spectral_error
    rows = [
        ("how it was found", fit.method),
        ("relative error, Frobenius", f"{c.relative_error:.3e}"),
        (
            "relative error, spectral",
            f"between {spectral.lower:.3e} and {spectral.upper:.3e}, with probability {spectral.confidence:.6f}",
        ),
        ("parameters", f"{c.num_params:,} of {c.dense_params:,} ({c.num_params / c.dense_params:.2%})"),
        ("FLOPs for one vector", f"{c.flops:,} of {c.dense_flops:,} ({c.flops / c.dense_flops:.2%})"),
        ("time to fit", f"{fit.seconds:.2f} s"),
    ]
    for t in c.timings:
        verdict = "faster than dense here" if t.speedup > 1 else "not faster than dense here"
        text = f"{t.matrix_seconds * 1e6:.1f} µs against {t.dense_seconds * 1e6:.1f} µs: {t.speedup:.2f}x, {verdict}"
        rows.append((f"measured time, batch {t.batch}", text))
    body = "".join(_row(f"<th>{html.escape(label)}</th>", _cell(text)) for label, text in rows)
    return f"<table>{body}</table>"


def _history(attempts: Sequence[Attempt], chosen: Attempt | None) -> str:
    head = _row(
        *(f"<th>{h}</th>" for h in ("family", "relative error", "parameters", "met", "seconds", "note"))
    )
    rows = [
        _row(
            _cell(a.family),
            _cell("" if a.relative_error is None else f"{a.relative_error:.2e}", number=True),
            _cell("" if a.num_params is None else f"{a.num_params:,}", number=True),
            _cell("yes" if a.met else "no"),
            _cell(f"{a.seconds:.2f}", number=True),
            _cell(a.note),
            css="won" if a is chosen else "",
        )
        for a in attempts
    ]
    return f"<table>{head}{''.join(rows)}</table>"


def _picture(address: str, caption: str) -> str:
    return (
        f'<p><img src="{address}" alt="{html.escape(caption)}"><br><span class="quiet">{caption}</span></p>'
    )


def _machine(fit: Fit) -> str:
    facts = ", ".join(f"{key}: {value}" for key, value in fit.certificate.machine.items())
    return f'<p class="quiet">Measured on: {html.escape(facts)}.</p>'
