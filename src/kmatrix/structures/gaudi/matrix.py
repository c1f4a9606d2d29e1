"""``Gaudi``: sums of rank-one boxes whose positions and widths are learned by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kmatrix._checks import HALF_DTYPES, REAL_OF
from kmatrix._errors import ArgumentError, complaint
from kmatrix.structures.base import (
    Structure,
    StructuredMatrix,
    empty_parameter,
    fill_normal,
    plus,
    stored_dtype,
    to_pairs,
)
from kmatrix.structures.boxes import Boxes
from kmatrix.structures.gaudi.budget import rounded_within
from kmatrix.structures.gaudi.mask import checked_sigma, tables, whole_starts, whole_widths
from kmatrix.structures.gaudi.product import Side, product
from kmatrix.structures.gblr import GBLR, GBLRMatrix, box_scales

_STRUCTURAL = ("widths", "starts")


@dataclass(frozen=True)
class Gaudi(Structure):
    """Sums of ``nblocks`` rank-one boxes whose positions and widths are parameters: what a ``GBLR`` is learned as.

    ``A = sum_k (mask(row box k) * u_k) (mask(column box k) * v_k)^T`` with Gaudi masks, boxcars with gradients for
    their widths and starts. All of ``u_k`` and ``v_k`` is stored, so that boxes can move and grow: a member has
    ``nblocks (m + n)`` numbers and the boxes, and costs more to train than a dense matrix of the same size. At sizes
    1024 and 3072 on a processor, a step (forward, backward, AdamW) took 2.3 to 2.4 times as long with 256 vectors, 2.1
    to 2.2 times if AdamW is fused; 1.6 and 2.1 times with 2048; and up to 3.1 times with 16. Once learned, ``harden``
    crops it to a ``GBLRMatrix`` within the budget.

    Args:
        nblocks: how many boxes; ``min(m, n)`` if not given.
        budget: the sum of all widths, as a fraction of ``m * n``: of a fresh member, and after hardening. While it
            learns, the boxes may cost more.

    Raises:
        ArgumentError: if ``nblocks`` is not positive, or ``budget`` is not a finite number of at least 0.

    Example:
        >>> import torch, kmatrix as km
        >>> layer = km.nn.Linear(32, 48, structure=km.Gaudi(budget=0.25))
        >>> layer(torch.randn(4, 32)).shape, layer.matrix.harden().num_params  # 0.25 * 32 * 48
        (torch.Size([4, 48]), 384)

    Reference: Lee and Kim, arXiv 2310.18882 (ICLR 2024), Gaudi-GBLR.
    """

    nblocks: int | None = None
    budget: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "budget", self.hardened.budget)

    @property
    def hardened(self) -> GBLR:
        """What its members are cropped to."""
        return GBLR(self.nblocks, self.budget)

    def count(self, m: int, n: int) -> int:
        """How many boxes an ``m x n`` member has."""
        return self.hardened.count(m, n)

    def check(self, m: int, n: int) -> None:
        self.hardened.check(m, n)

    def num_params(self, m: int, n: int) -> int:
        return self.count(m, n) * (m + n + 4)

    def flops(self, m: int, n: int) -> int:
        return 2 * self.count(m, n) * (m + n)

    def empty(
        self, m: int, n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> GaudiMatrix:
        dtype = self._admit(m, n, dtype)
        return GaudiMatrix(self, (m, n), dtype=dtype, device=device)


class GaudiMatrix(StructuredMatrix):
    """A sum of rank-one boxes that learn where they stand and how wide they are.

    A product is the same in training and evaluation: boxes are rounded to whole positions (gradients go straight
    through), so that without a Gaussian it is exactly that of the hardened matrix with the same boxes.

    Attributes:
        left: ``u_k`` as rows, ``(K, m)``, real pairs if complex.
        right: ``v_k`` as rows, ``(K, n)``, likewise.
        widths: of the boxes in rows and in columns, ``(2, K)``, as shares of ``m`` and of ``n``; at least float32.
        starts: where they begin, likewise.
    """

    structure: Gaudi
    width_of_gaussian: Tensor
    row_table: Tensor
    col_table: Tensor

    def __init__(
        self,
        structure: Gaudi,
        shape: tuple[int, int],
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(structure, shape)
        count = structure.count(*shape)
        real = REAL_OF.get(dtype, dtype)
        wide = torch.float32 if real in HALF_DTYPES else real
        self._is_complex, self._sigma = dtype.is_complex, math.inf
        self.left = empty_parameter((count, shape[0]), dtype, device)
        self.right = empty_parameter((count, shape[1]), dtype, device)
        # What `empty` makes must be multiplied by, too.
        self.widths = nn.Parameter(torch.ones(2, count, dtype=wide, device=device))
        self.starts = nn.Parameter(torch.zeros(2, count, dtype=wide, device=device))
        self.register_buffer("width_of_gaussian", torch.tensor(math.inf, dtype=wide, device=device))
        for name, size in zip(("row_table", "col_table"), shape, strict=True):
            empty = torch.empty(2, 3 * size, dtype=wide, device=device)
            self.register_buffer(name, empty, persistent=False)
        self._tabulate()

    @classmethod
    def from_boxes(
        cls,
        shape: tuple[int, int],
        boxes: Boxes,
        left: Tensor,
        right: Tensor,
        structure: Gaudi | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> GaudiMatrix:
        """The matrix of given boxes, to be learned on.

        Args:
            shape: ``(m, n)``.
            boxes: where the boxes lie.
            left: for each box a number for every row, ``(K, m)``, also outside of the box: what it would have there.
            right: for each box a number for every column, ``(K, n)``.
            structure: names the number of boxes, at least those given, and the budget; what the boxes cost if not
                given. Boxes that are not given are empty, on different sides, and can grow.
            generator: for the places and numbers of those; nothing else is drawn.

        Raises:
            ArgumentError: if boxes, numbers and shape do not fit each other.
        """
        (m, n), count = shape, len(boxes)
        boxes.check(m, n, "from_boxes")
        for name, numbers, size in (("left", left, m), ("right", right, n)):
            if tuple(numbers.shape) != (count, size):
                reason = f"{count} boxes in a {m} x {n} matrix"
                way_out = f"pass a number for each of {size} places of every box"
                raise ArgumentError(
                    complaint("from_boxes", f"{name}.shape", tuple(numbers.shape), reason, way_out)
                )
        structure = structure or Gaudi(count, boxes.cost / (m * n))
        if structure.count(m, n) < count:
            reason = f"{structure} has {structure.count(m, n)}"
            way_out = "pass a structure of more blocks"
            raise ArgumentError(complaint("from_boxes", "boxes", f"{count} boxes", reason, way_out))
        matrix = structure.empty(m, n, dtype=left.dtype, device=left.device)
        if len(matrix.left) > count:
            matrix.reset_parameters(generator)
        with torch.no_grad():
            matrix.left[:count] = to_pairs(left)
            matrix.right[:count] = to_pairs(right)
        matrix._place_(boxes)
        matrix.revive_(generator)
        return matrix

    @torch.no_grad()
    def _place_(self, boxes: Boxes) -> None:
        """Take the places of boxes; those that are not given are empty."""
        sizes = torch.tensor([[side] for side in self.shape], dtype=torch.float64, device=self.device)
        places = boxes.places.to(self.device)
        self.widths.zero_()
        self.widths[:, : len(boxes)] = (places[1::2] / sizes).to(self.widths.dtype)
        self.starts[:, : len(boxes)] = (places[::2] / sizes).to(self.starts.dtype)

    @property
    def sigma(self) -> float:
        """Standard deviation of the Gaussian over frequencies; ``inf``, without one, gives exact boxes."""
        return self._sigma

    @sigma.setter
    def sigma(self, value: float) -> None:
        self._sigma = checked_sigma("GaudiMatrix", value)
        self._tabulate()

    @torch.no_grad()
    def _tabulate(self) -> None:
        if self.left.is_meta:
            return
        self.width_of_gaussian.fill_(self._sigma)
        for table, size in ((self.row_table, self.shape[0]), (self.col_table, self.shape[1])):
            table.copy_(tables(size, self._sigma, dtype=table.dtype))

    @property
    def dtype(self) -> torch.dtype:
        return stored_dtype("Gaudi", self.left, self._is_complex)

    @property
    def device(self) -> torch.device:
        return self.left.device

    @property
    def boxes(self) -> Boxes:
        """The boxes as they are multiplied, rounded to whole positions, empty ones included."""
        (m, n), w, s = self.shape, self.widths, self.starts
        places = (whole_starts(s[0], m), whole_widths(w[0], m), whole_starts(s[1], n), whole_widths(w[1], n))
        return Boxes(*places)

    @property
    def dead(self) -> Tensor:
        """Which boxes are empty on both sides, ``(K,)``: all their gradients vanish, so they stay so for good."""
        boxes = self.boxes
        return (boxes.row_width == 0) & (boxes.col_width == 0)

    @property
    def sides(self) -> tuple[Side, Side]:
        """The boxes on the side of the rows and on that of the columns."""
        rows, cols = (
            Side(content, self.widths[k], self.starts[k], table)
            for k, (content, table) in enumerate(((self.left, self.row_table), (self.right, self.col_table)))
        )
        return rows, cols

    def factors(self) -> tuple[Tensor, Tensor]:
        """``U`` ``(m, K)`` and ``V`` ``(K, n)`` with ``A = U V``, the content under its masks; differentiable."""
        rows, cols = self.sides
        return rows.factor.mT, cols.factor

    def to_dense(self) -> Tensor:
        left, right = self.factors()
        return left @ right

    def _matmul(self, x: Tensor) -> Tensor:
        return product(x, *self.sides)

    def _affine(self, x: Tensor, bias: Tensor) -> Tensor:
        if bias.is_complex() != x.is_complex():
            return plus(self._matmul(x), bias)
        return product(x, *self.sides, bias)

    def _rmatmul(self, x: Tensor) -> Tensor:
        return product(x, *self.sides[::-1])

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw boxes anywhere within the budget, as a fresh ``GBLR`` has them, and numbers at its scale.

        Boxes that begin like this learned better than those that begin with the cost of a dense matrix (``spread_``)
        and are cut while the numbers learn (the recipe ``gblr``). Where the budget is too small for all boxes, some are
        empty on both sides until ``revive_`` gives them a place.
        """
        (m, n), target = self.shape, self.structure.hardened
        count, totals = target.count(m, n), target.totals(m, n)
        scales = box_scales(self.shape, totals, min(count, *totals))
        for stored, scale in zip((self.left, self.right), scales, strict=True):
            fill_normal(stored, scale, self._is_complex, generator)
        if self.device.type != "meta":
            drawn = target.empty(m, n, dtype=torch.float32)
            drawn.reset_parameters(generator)
            self._place_(drawn.boxes)
        self._tabulate()

    @torch.no_grad()
    def spread_(self, generator: torch.Generator | None = None) -> None:
        """Draw the start of the paper: some boxes are the whole matrix, the others equal parts of it, spread evenly.

        All widths together are what a dense matrix costs, or all that the boxes can have; a part of ``mean / 2`` of
        the boxes is full, where ``mean`` is their mean width. Numbers are normal, at the scale of ``LowRank``. It goes
        with a schedule that brings them to the budget, ``km.nn.Schedule(steps, sigma=(2.0, 100.0))``.

        Reference: arXiv 2310.18882, the initialisation from scratch (structured plus low rank).
        """
        (m, n), count = self.shape, self.widths.shape[1]
        mean = min(1.0, m * n / (count * (m + n)))
        full = int(count * mean / 2)
        rest = (mean * count - full) / max(1, count - full)
        for k, size in enumerate((m, n)):
            self.widths[k] = max(rest, 1 / size)
        self.widths[:, :full] = 1.0
        self._scatter_(torch.arange(count, device=self.device), generator)
        terms = max(1.0, full + (count - full) * rest**2)  # that meet in an entry
        scale = (min(1.0, m / n) / n) ** 0.25 / terms**0.25
        for stored in (self.left, self.right):
            fill_normal(stored, scale, self._is_complex, generator)
        self._tabulate()

    def _scatter_(self, which: Tensor, generator: torch.Generator | None) -> None:
        """Spread the starts of some boxes evenly over both sides, in an order of rows that is drawn."""
        if self.device.type == "meta" or not len(which):
            return
        device = torch.device("cpu") if generator is None else generator.device
        even = torch.arange(len(which), dtype=self.starts.dtype) / len(which)
        drawn = torch.randperm(len(which), generator=generator, device=device).cpu()
        self.starts[:, which] = torch.stack([even[drawn], even]).to(self.device)

    @torch.no_grad()
    def revive_(self, generator: torch.Generator | None = None) -> int:
        """Give every box that is dead a width of 1 on one side and a new place; the function stays the same.

        An empty side learns its width again as long as the other side is not empty.

        Returns:
            How many boxes were dead.
        """
        which = torch.nonzero(self.dead).squeeze(-1)
        if len(which):
            sizes = torch.tensor(self.shape, dtype=self.widths.dtype, device=self.device)
            side = torch.arange(len(which), device=self.device) % 2
            self.widths[:, which] = 0.0
            self.widths[side, which] = 1 / sizes[side]
            self._scatter_(which, generator)
        return len(which)

    def harden(self, budget: float | None = None) -> GBLRMatrix:
        """The matrix with its boxes as they are now, cropped and within the budget: a ``GBLRMatrix``.

        The widths are rounded with the one threshold at which all together use up the budget and do not exceed it.
        Where boxes are made longer for that, the numbers are those of the mask there: zeros, without a Gaussian.

        Args:
            budget: the sum of all widths as a fraction of ``m * n``; that of the structure if not given.
        """
        m, n = self.shape
        target = (
            self.structure.hardened if budget is None else replace(self.structure.hardened, budget=budget)
        )
        target.check(m, n)
        return self.cropped(*rounded_within([self.units], [self.shape], target.num_params(m, n)))

    @property
    def units(self) -> Tensor:
        """The widths in rows and columns, ``(2, K)``, not rounded."""
        m, n = self.shape
        return self.widths.detach() * torch.tensor([[m], [n]], device=self.device)

    @torch.no_grad()
    def cropped(self, widths: Tensor) -> GBLRMatrix:
        """The matrix cropped to boxes of given widths, ``(2, K)`` whole numbers, which begin where they begin now."""
        (m, n), boxes = self.shape, self.boxes
        boxes = Boxes(boxes.row_start, widths[0], boxes.col_start, widths[1])
        chosen = torch.nonzero(boxes.occupied).squeeze(-1)
        boxes = boxes.select(chosen)
        left, right = self.factors()
        rows, cols = boxes.on_rows(m), boxes.on_cols(n)
        return GBLRMatrix.from_boxes(
            (m, n), boxes, left[rows.position, chosen[rows.owner]], right[chosen[cols.owner], cols.position]
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GaudiMatrix:
        own = [getattr(self, name) for name in _STRUCTURAL]
        own += [p.grad for p in own if p.grad is not None] + list(self.buffers())

        def apply(stored: Tensor) -> Tensor:
            changed = fn(stored)
            # A width in 16 bits would resolve no more than 256 positions.
            if changed.dtype in HALF_DTYPES and any(stored is t for t in own):
                return stored.to(changed.device, torch.float32)
            return changed

        applied = super()._apply(apply, recurse)
        self._tabulate()
        return applied

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if not self.width_of_gaussian.is_meta:
            self.check_state()

    def check_state(self) -> None:
        """Take over the Gaussian that a file or state dict brought, or raise ``ArgumentError`` if it is none."""
        sigma = self.width_of_gaussian
        self._sigma = checked_sigma("GaudiMatrix", float(sigma))
        for name in ("row_table", "col_table"):
            table = getattr(self, name)
            if table.device != sigma.device or table.dtype != self.widths.dtype:  # loaded with assign=True
                setattr(self, name, torch.empty_like(table, dtype=self.widths.dtype, device=sigma.device))
        self._tabulate()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma={self._sigma:g}"
