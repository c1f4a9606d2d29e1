"""Pictures of a fit, each a self-contained PNG in base64: matrices, factors, error against parameters."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kmatrix.fit import Attempt
from kmatrix.structures import StructuredMatrix
from kmatrix.structures.chain import AbstractChainMatrix, Factor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIXELS = 256
Image = npt.NDArray[np.float64]


def _figure(width: float, height: float) -> Figure:
    # The object interface draws without pyplot's global state, so a report never disturbs the user's own figures.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def encode(figure: Figure) -> str:
    """A figure as a ``data:`` address that a page can hold."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shrink(magnitudes: Tensor) -> Image:
    """Reduce a matrix of magnitudes to at most 256 x 256 pixels, each the largest entry under it."""
    m, n = magnitudes.shape
    step_m, step_n = math.ceil(m / PIXELS), math.ceil(n / PIXELS)
    padded = torch.nn.functional.pad(magnitudes, (0, -n % step_n, 0, -m % step_m))
    blocks = padded.reshape(padded.shape[0] // step_m, step_m, padded.shape[1] // step_n, step_n)
    image: Image = blocks.amax(dim=(1, 3)).double().numpy()
    return image


def _show(axes: Axes, matrix: Tensor, title: str) -> None:
    image = shrink(matrix.detach().cpu().abs().double())
    axes.imshow(image, cmap="magma_r", interpolation="nearest", aspect="auto", vmin=0.0)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def matrices(target: Tensor, approximation: Tensor) -> str:
    """The target, what stands for it, and their difference, as magnitudes."""
    figure = _figure(9.0, 3.1)
    difference = target - approximation.to(target.dtype)
    largest = float(difference.abs().max())
    panels = (
        ("target", target),
        ("structured", approximation),
        (f"difference, at most {largest:.1e}", difference),
    )
    for axes, (title, matrix) in zip(figure.subplots(1, 3), panels, strict=True):
        _show(axes, matrix, title)
    return encode(figure)


def factors(matrix: StructuredMatrix, *, most: int = 12) -> str | None:
    """The factors of a chain as they stand in the product, left to right; ``None`` if there is no chain inside."""
    chain = next((part for part in matrix.modules() if isinstance(part, AbstractChainMatrix)), None)
    if chain is None or not chain.layout.factors:
        return None
    with torch.no_grad():
        drawn = [(factor, dense_factor(weight, factor)) for weight, factor in _paired(chain)][::-1][:most]
    figure = _figure(min(12.0, 2.1 * min(len(drawn), 6)), 2.3 * math.ceil(len(drawn) / 6))
    grid = np.asarray(figure.subplots(math.ceil(len(drawn) / 6), min(len(drawn), 6), squeeze=False)).reshape(
        -1
    )
    for axes, (factor, dense) in zip(grid, drawn, strict=False):
        _show(axes, dense, f"({factor.a}, {factor.b}, {factor.c}, {factor.d})")
    for axes in grid[len(drawn) :]:
        axes.axis("off")
    return encode(figure)


def _paired(chain: AbstractChainMatrix) -> list[tuple[Tensor, Factor]]:
    return list(zip(chain.weights, chain.layout.factors, strict=True))


def dense_factor(weight: Tensor, factor: Factor) -> Tensor:
    """One Kronecker-sparse factor as an ordinary matrix."""
    full = weight.expand(*factor.pattern)
    a, b, c, d = factor.pattern
    blocks = torch.zeros(a, b, d, a, c, d, dtype=full.dtype)
    i, k = torch.arange(a)[:, None], torch.arange(d)[None, :]
    blocks[i, :, k, i, :, k] = full.permute(0, 3, 1, 2)
    return blocks.reshape(factor.rows, factor.cols)


def error_curve(
    attempts: Sequence[Attempt],
    singular_values: Tensor,
    shape: tuple[int, int],
    chosen: Attempt | None = None,
) -> str:
    """Error against parameters: every family tried as a point, truncated SVD as the line to beat."""
    m, n = shape
    figure = _figure(7.5, 4.2)
    axes = figure.subplots()
    energy = singular_values.double().square()
    tails = torch.flip(torch.cumsum(torch.flip(energy, (0,)), 0), (0,))
    ranks = np.arange(1, len(energy))
    svd = (tails[1:] / tails[0].clamp_min(1e-300)).sqrt().numpy()
    axes.plot(ranks * (m + n), np.maximum(svd, 1e-17), color="0.6", label="truncated SVD")
    families = sorted({a.family for a in attempts if a.relative_error is not None})
    colours = figure_colours(len(families))
    for family, colour in zip(families, colours, strict=True):
        points = [a for a in attempts if a.family == family and a.relative_error is not None]
        sizes = [float(a.num_params or 1) for a in points]
        errors = [max(a.relative_error or 0.0, 1e-17) for a in points]
        axes.plot(sizes, errors, "o-", ms=5, lw=0.8, color=colour, label=family)
    if chosen is not None and chosen.relative_error is not None:
        axes.plot(
            [float(chosen.num_params or 1)],
            [max(chosen.relative_error, 1e-17)],
            "o",
            ms=13,
            mfc="none",
            mec="k",
        )
    axes.axvline(m * n, color="0.8", ls="--", lw=1)
    axes.set(
        xscale="log", yscale="log", xlabel="parameters (dashed: dense)", ylabel="relative Frobenius error"
    )
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    return encode(figure)


def figure_colours(count: int) -> list[tuple[float, float, float, float]]:
    """``count`` colours that can be told apart."""
    from matplotlib import colormaps

    palette = colormaps["tab20"]
    return [palette((i % 20) / 20 + 0.01) for i in range(count)]
