"""Matrices as small PNG pictures: grey is zero, the hue says sign or phase, the depth says magnitude."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PIXELS = 256
ZERO = (184, 184, 184)
POSITIVE, NEGATIVE = (199, 79, 13), (26, 87, 163)
# Square roots of magnitudes: a matrix with a few large entries still shows the others.
GAMMA = 0.5

Colours = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One matrix to draw.

    Attributes:
        image: its PNG as a ``data:`` address.
        shape: rows and columns of the matrix.
        caption: what it is.
        detail: what it costs, or nothing.
    """

    image: str
    shape: tuple[int, int]
    caption: str
    detail: str = ""


def picture(matrix: Tensor, caption: str, detail: str = "", *, largest: float | None = None) -> Picture:
    """Draw a dense matrix, its magnitudes against ``largest`` or its own largest entry."""
    m, n = matrix.shape
    return Picture(png(colours(_shrink(matrix.detach().cpu()), largest)), (m, n), caption, detail)


def sparse_picture(
    rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int], caption: str, detail: str = ""
) -> Picture:
    """Draw a matrix given by its nonzero entries, without ever laying it out in full."""
    steps = [math.ceil(size / PIXELS) for size in shape]
    high, wide = (math.ceil(size / step) for size, step in zip(shape, steps, strict=True))
    place = (rows // steps[0]) * wide + cols // steps[1]
    values = values.detach().cpu()
    sizes = values.abs().double()
    largest = torch.zeros(high * wide, dtype=torch.float64).scatter_reduce(0, place, sizes, "amax")
    top = sizes == largest[place]
    small = torch.zeros(high * wide, dtype=values.dtype)
    small[place[top]] = values[top]
    return Picture(png(colours(small.reshape(high, wide))), shape, caption, detail)


def _shrink(matrix: Tensor) -> Tensor:
    """Reduce to at most 256 x 256 entries, each the largest of the block it stands for."""
    m, n = matrix.shape
    step_m, step_n = math.ceil(m / PIXELS), math.ceil(n / PIXELS)
    if step_m == step_n == 1:
        return matrix
    padded = torch.nn.functional.pad(matrix, (0, -n % step_n, 0, -m % step_m))
    high, wide = padded.shape[0] // step_m, padded.shape[1] // step_n
    blocks = padded.reshape(high, step_m, wide, step_n).transpose(1, 2).reshape(high, wide, -1)
    return blocks.gather(2, blocks.abs().argmax(dim=2, keepdim=True)).squeeze(2)


def colours(matrix: Tensor, largest: float | None = None) -> Colours:
    """Colours of a small matrix: zero grey, small white, positive orange, negative blue; phases around the circle."""
    wide = torch.complex128 if matrix.is_complex() else torch.float64
    values = np.asarray(matrix.to(wide).resolve_conj().numpy())
    sizes = np.abs(values)
    top = largest or float(sizes.max(initial=0.0)) or 1.0
    depth = np.minimum(sizes / top, 1.0)[..., None] ** GAMMA
    full = _phases(np.angle(values)) if wide.is_complex else _signs(values)
    mixed = 255.0 - depth * (255.0 - full)
    mixed[sizes == 0] = ZERO
    return np.asarray(np.round(mixed), dtype=np.uint8)


def _signs(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(values[..., None] < 0, NEGATIVE, POSITIVE).astype(np.float64)


def _phases(angle: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Orange at phase 0, blue at pi as for real numbers, and two further hues between them."""
    stops = np.array([POSITIVE, (115, 158, 31), NEGATIVE, (140, 51, 140), POSITIVE])
    turn = np.mod(angle, 2 * np.pi) / (2 * np.pi) * 4
    return np.stack([np.interp(turn, np.arange(5), stops[:, k]) for k in range(3)], axis=-1)


def png(image: Colours) -> str:
    """An RGB image as a PNG in a ``data:`` address."""
    high, wide, _ = image.shape
    # Every line of a PNG starts with its filter, 0 for none.
    lines = np.concatenate([np.zeros((high, 1), np.uint8), image.reshape(high, 3 * wide)], axis=1).tobytes()
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
