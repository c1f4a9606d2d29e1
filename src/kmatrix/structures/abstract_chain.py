"""What every chain of factors and permutations shares, however its weights are parametrised: how it multiplies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kmatrix import _permutations
from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops import Pattern
from kmatrix.ops.apply import chain_apply
from kmatrix.ops.routing import is_plain, nothing_watches
from kmatrix.structures.base import Structure, StructuredMatrix, plus
from kmatrix.structures.layout import Layout, Permute


class AbstractChainMatrix(StructuredMatrix):
    """A product of factors and fixed permutations, however its weights are parametrised."""

    layout: Layout

    def __init__(
        self,
        structure: Structure,
        shape: tuple[int, int],
        layout: Layout,
        *,
        device: torch.device | str | None,
    ) -> None:
        super().__init__(structure, shape)
        self.layout = layout
        for k, stage in enumerate(self._permutes):
            index = torch.empty(stage.n, dtype=torch.int64, device=device)
            # Not computed on the meta device, where the size may be whatever a file claims.
            if not index.is_meta:
                index.copy_(torch.as_tensor(stage.index(), device="cpu"))
            self.register_buffer(f"permutation_{k}", index)

    @property
    def _permutes(self) -> list[Permute]:
        return [stage for stage in self.layout.stages if isinstance(stage, Permute)]

    @property
    @abstractmethod
    def weights(self) -> tuple[Tensor, ...]:
        """One weight tensor ``(a, b, c, d)`` per factor (size 1 where tied), in order of application."""

    def permutation(self, k: int) -> Tensor:
        """Index of the ``k``-th permutation of the chain."""
        return self.get_buffer(f"permutation_{k}")

    def check_state(self) -> None:
        for k in range(len(self._permutes)):
            if not _permutations.is_permutation(self.permutation(k).cpu().numpy()):
                n = len(self.permutation(k))
                reason, way_out = f"not a permutation of 0..{n - 1}", "pass each index once"
                raise ArgumentError(
                    complaint("ChainMatrix", f"permutation_{k}", f"array({n},)", reason, way_out)
                )

    def _matmul(self, x: Tensor) -> Tensor:
        layout, (weights, pairs) = self.layout, self._held
        return _through(
            x, layout.runs, weights, layout.patterns, self.permutation, self.shape[0], pairs=pairs
        )

    @property
    def _held(self) -> tuple[tuple[Tensor, ...], bool]:
        """The weights as they are stored, and whether that is as real pairs."""
        return self.weights, False

    def _affine(self, x: Tensor, bias: Tensor) -> Tensor:
        # Where something watches, the product has no bias of its own: the sum goes without trying. Asked of traces,
        # too, because torch checks them without gradients.
        watched = torch.compiler.is_dynamo_compiling() or torch.is_grad_enabled() or not nothing_watches()
        if type(self)._matmul is not AbstractChainMatrix._matmul or watched:
            return super()._affine(x, bias)
        layout, (weights, pairs) = self.layout, self._held
        return _through(
            x, layout.runs, weights, layout.patterns, self.permutation, self.shape[0], bias, pairs=pairs
        )

    def _rmatmul(self, x: Tensor) -> Tensor:
        layout, (weights, pairs) = self.layout, self._held
        runs = layout.runs[::-1]
        return _through(
            x, runs, weights, layout.patterns, self._inverse, self.shape[1], pairs=pairs, transposed=True
        )

    def _inverse(self, k: int) -> Tensor:
        index = self.permutation(k)
        if torch.compiler.is_compiling() or index.device.type != "cpu":
            return torch.argsort(index)
        if not is_plain(index) or not nothing_watches():
            return torch.argsort(index)
        known = _inverses.setdefault(self, {})
        found = known.get(k)
        if found is None or not torch.equal(found[0], index):  # anybody may have written into the buffer
            with torch.inference_mode(False):  # autograd may want to keep it later
                found = known[k] = index.clone(), torch.argsort(index)
        return found[1]


# The permutations of a chain that was transposed, and their inverses: no part of what is copied or saved.
_inverses: WeakKeyDictionary[AbstractChainMatrix, dict[int, tuple[Tensor, Tensor]]] = WeakKeyDictionary()


def _through(
    x: Tensor,
    runs: Sequence[tuple[int, int] | int],
    weights: tuple[Tensor, ...],
    patterns: tuple[Pattern, ...],
    index: Callable[[int], Tensor],
    rows: int,
    bias: Tensor | None = None,
    *,
    pairs: bool = False,
    transposed: bool = False,
) -> Tensor:
    """Send vectors through runs of factors and permutations, padded with zeros before and cropped behind.

    A run takes the permutation before it along, and the last one that behind it and the bias as well: the product
    does them while it reads and writes. Weights are as they are stored, and those of a run that is ``transposed``
    in the order of the run that it is the transpose of: views of them are made only where no record has them.
    """
    gather: Tensor | None = None
    for i, run in enumerate(runs):
        if isinstance(run, int):
            if i and i == len(runs) - 1 and not isinstance(runs[i - 1], int):
                break  # done with the run before
            x = x if gather is None else _selected(x, gather)
            gather = index(run)
            continue
        behind = runs[i + 1] if i == len(runs) - 2 else None
        last = i == len(runs) - 1 or isinstance(behind, int)
        part = slice(*run)
        x = chain_apply(
            x,
            weights[part],
            patterns[part],
            gather=gather,
            take=index(behind) if isinstance(behind, int) else None,
            rows=rows if last else None,
            bias=bias if last else None,
            pairs=pairs,
            transposed=transposed,
        )
        gather = None
        bias = None if last else bias
    x = x if gather is None else _selected(x, gather)
    x = x if x.shape[-1] == rows else x[..., :rows]
    return x if bias is None else plus(x, bias)


def _selected(x: Tensor, index: Tensor) -> Tensor:
    """The permuted vectors, padded with zeros first if they are too short."""
    missing = index.shape[0] - x.shape[-1]
    return (nn.functional.pad(x, (0, missing)) if missing else x)[..., index]
