"""Linear arithmetic circuits, and Theorem 1: s gates in d layers as a K-matrix of width 3 d + 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, complaint
from kmatrix._permutations import Index, bit_reversal
from kmatrix.constructions._inputs import Array, like
from kmatrix.constructions.factors import ButterflyFactors
from kmatrix.constructions.kform import KForm, padded_size
from kmatrix.constructions.permutations import permutation_halves
from kmatrix.constructions.sparse import SparseCore, sparse_core
from kmatrix.constructions.steps import Entries
from kmatrix.structures import ChainMatrix


class Gate(NamedTuple):
    """``alpha * z[left] + beta * z[right]``, where z lists the inputs and then all gates in order."""

    alpha: complex
    left: int
    beta: complex
    right: int


@dataclass(frozen=True)
class LinearCircuit:
    """A linear map computed by gates of two inputs each, in layers.

    Values are numbered: ``z[0 .. inputs-1]`` is the input vector, then come the gates, layer by layer. A
    gate reads values of earlier layers or inputs only.

    Args:
        inputs: number of inputs n.
        layers: the gates ``(alpha, left, beta, right)`` of every layer.
        outputs: which values make up the result, m of them.

    Raises:
        ArgumentError: if a layer is empty, a gate reads a value that is not there yet, a coefficient is not
            finite, or an output does not exist.

    Example:
        >>> import kmatrix as km
        >>> c = km.constructions.LinearCircuit(2, layers=[[(1, 0, 1, 1), (1, 0, -1, 1)]], outputs=[2, 3])
        >>> c.size, c.depth, c.evaluate([1.0, 2.0]).tolist()
        (4, 1, [3.0, -1.0])

    Reference: arXiv 2012.14966, Theorem 1.
    """

    inputs: int
    layers: tuple[tuple[Gate, ...], ...]
    outputs: tuple[int, ...]

    def __init__(
        self,
        inputs: int,
        layers: Sequence[Sequence[tuple[complex, int, complex, int]]],
        outputs: Sequence[int],
    ) -> None:
        known = check_size("LinearCircuit", "inputs", inputs)
        object.__setattr__(self, "inputs", known)
        checked: list[tuple[Gate, ...]] = []
        for k, layer in enumerate(layers):
            checked.append(tuple(_gate(f"layers[{k}]", gate, known) for gate in layer))
            if not layer:
                raise ArgumentError(
                    complaint("LinearCircuit", f"layers[{k}]", "()", "it has no gates", "leave it out")
                )
            known += len(layer)
        object.__setattr__(self, "layers", tuple(checked))
        named = tuple(check_size("LinearCircuit", "outputs", value, minimum=0) for value in outputs)
        if not named or max(named) >= known:
            reason = f"must name at least one of the values 0..{known - 1}"
            raise ArgumentError(complaint("LinearCircuit", "outputs", named, reason, "name existing values"))
        object.__setattr__(self, "outputs", named)

    @property
    def size(self) -> int:
        """Number of inputs and gates, s."""
        return self.inputs + sum(len(layer) for layer in self.layers)

    @property
    def depth(self) -> int:
        """Number of layers, d."""
        return len(self.layers)

    @property
    def shape(self) -> tuple[int, int]:
        """``(m, n)``: outputs and inputs."""
        return (len(self.outputs), self.inputs)

    def evaluate(self, x: Any) -> Array:
        """Run the circuit on a vector ``(n,)`` or on the columns of ``(n, k)``."""
        values = list(np.asarray(x))
        if len(values) != self.inputs:
            way_out = f"pass {self.inputs} values"
            raise ArgumentError(complaint("LinearCircuit", "len(x)", len(values), "wrong length", way_out))
        for layer in self.layers:
            values += [alpha * values[left] + beta * values[right] for alpha, left, beta, right in layer]
        return np.stack([values[k] for k in self.outputs])


def _gate(where: str, gate: Sequence[Any], known: int) -> Gate:
    """Check a gate of a layer before which ``known`` values exist."""
    if len(gate) != 4:
        reason, way_out = "not a gate", "pass (alpha, left, beta, right)"
        raise ArgumentError(complaint("LinearCircuit", where, gate, reason, way_out))
    alpha, left, beta, right = gate
    left, right = (check_size("LinearCircuit", where, value, minimum=0) for value in (left, right))
    if max(left, right) >= known:
        reason = f"only values 0..{known - 1} exist before this layer"
        way_out = "read inputs and gates of earlier layers"
        raise ArgumentError(complaint("LinearCircuit", where, gate, reason, way_out))
    if not (np.isfinite(alpha) and np.isfinite(beta)):
        reason, way_out = "a coefficient is not finite", "use finite numbers"
        raise ArgumentError(complaint("LinearCircuit", where, gate, reason, way_out))
    return Gate(alpha, left, beta, right)


def circuit(c: LinearCircuit, *, dtype: torch.dtype | None = None) -> ChainMatrix:
    """Compile a linear circuit of s values (inputs and gates) and depth d to a K-matrix of width 3 d + 1.

    Layer k is a sparse matrix that copies the values still needed and computes the new gates: with at most
    s rows and two nonzeros in a row, it has at most ``N = 2 next_pow2(s)`` nonzeros (if no output is
    repeated), so on N points it is ``P H P_2 V P'`` (see ``sparse``), and the outer permutations of
    neighbouring layers merge into one. The expansion is at most ``N / next_pow2(max(m, n))``; values that
    no later gate reads are dropped, which often makes it less. A circuit without gates counts as depth 1.

    Args:
        c: the circuit.
        dtype: number type; torch's default (or its complex counterpart) if not given.

    Raises:
        DtypeError: if ``dtype`` is real and the circuit complex.

    Example:
        >>> import kmatrix as km
        >>> c = km.constructions.LinearCircuit(2, layers=[[(1, 0, 1, 1), (1, 0, -1, 1)]], outputs=[2, 3])
        >>> K = km.constructions.circuit(c)
        >>> K.structure, K.to_dense().tolist()
        (Kaleidoscope(width=4, expansion=2), [[1.0, 1.0], [1.0, -1.0]])

    Reference: arXiv 2012.14966, Theorem 1, which states width O(d) and expansion O(s/n). Its layers taken
    one by one as sums of sparse matrices (Theorem 3) would give width 8 d + 1 and expansion 4.
    """
    layers = _layer_entries(c)
    kind = like("circuit", dtype, is_complex=any(np.iscomplexobj(layer.values) for layer in layers))
    size = max(padded_size(max(layer.shape), layer.values.size) for layer in layers)
    size = max(size, padded_size(*c.shape))
    cores = [sparse_core(layer, size) for layer in layers]
    return KForm.of(c.shape, _joined(cores, size)).matrix(kind)


def fft_circuit(n: int) -> LinearCircuit:
    """Write the fast Fourier transform as a circuit: n + n log2(n) values, depth log2(n).

    Args:
        n: a power of two.

    Raises:
        ArgumentError: if ``n`` is not a power of two.

    Example:
        >>> import kmatrix as km
        >>> c = km.constructions.fft_circuit(8)
        >>> c.size, c.depth
        (32, 3)

    Reference: arXiv 2012.14966, Theorem 1, applied to the decimation in frequency.
    """
    n = check_size("fft_circuit", "n", n)
    if n & (n - 1):
        way_out = "use 1, 2, 4, 8, ..."
        raise ArgumentError(complaint("fft_circuit", "n", n, "not a power of two", way_out))
    # Decimation in frequency: z[low] + z[high] and w (z[low] - z[high]), the result in bit-reversed order.
    layers: list[list[tuple[complex, int, complex, int]]] = []
    half = n // 2
    while half:
        start = n * len(layers)
        gates: list[tuple[complex, int, complex, int]] = []
        for point in range(n):
            low, w = start + (point & ~half), np.exp(-1j * math.pi * (point % half) / half)
            gates.append((w, low, -w, low + half) if point & half else (1.0, low, 1.0, low + half))
        layers.append(gates)
        half //= 2
    return LinearCircuit(n, layers, (n * len(layers) + bit_reversal(n)).tolist())


def prefix_sum_circuit(n: int) -> LinearCircuit:
    """Write the running sum ``y[t] = y[t-1] + x[t]`` as a circuit of depth ceil(log2(n)).

    Every layer doubles the reach: ``z[t] <- z[t] + z[t - 2^k]``.

    Args:
        n: any length.

    Raises:
        ArgumentError: if ``n`` is not positive.

    Example:
        >>> import kmatrix as km
        >>> km.constructions.prefix_sum_circuit(5).evaluate([1, 2, 3, 4, 5]).tolist()
        [1, 3, 6, 10, 15]

    Reference: arXiv 2012.14966, Theorem 1 (an example beyond the paper's transforms).
    """
    n = check_size("prefix_sum_circuit", "n", n)
    current = list(range(n))
    layers: list[list[tuple[complex, int, complex, int]]] = []
    known, reach = n, 1
    while reach < n:
        layers.append([(1, current[t], 1, current[t - reach]) for t in range(reach, n)])
        current[reach:] = range(known, known + n - reach)
        known, reach = known + n - reach, 2 * reach
    return LinearCircuit(n, layers, current)


def _layer_entries(c: LinearCircuit) -> list[Entries]:
    """One sparse matrix per layer, from the values needed before it to those needed after it."""
    needed = [set(c.outputs)]
    first = [c.inputs, *(c.inputs + n for n in np.cumsum([len(layer) for layer in c.layers]).tolist())]
    for layer, start in zip(reversed(c.layers), reversed(first[:-1]), strict=True):
        later = needed[-1]
        read = {k for j, gate in enumerate(layer) if start + j in later for k in (gate.left, gate.right)}
        needed.append({value for value in later if value < start} | read)
    states = [list(range(c.inputs)), *(sorted(values) for values in reversed(needed[:-1]))]
    states[-1] = list(c.outputs)
    if not c.layers:
        return [_entries([], c.inputs, list(range(c.inputs)), list(c.outputs))]
    return [
        _entries(layer, start, before, after)
        for layer, start, (before, after) in zip(c.layers, first, pairwise(states), strict=False)
    ]


def _entries(layer: Sequence[Gate], start: int, before: list[int], after: list[int]) -> Entries:
    place = {value: k for k, value in enumerate(before)}
    found: dict[tuple[int, int], complex] = {}
    for row, value in enumerate(after):
        terms: list[tuple[complex, int]] = [(1.0, value)]
        if value >= start:
            gate = layer[value - start]
            terms = [(gate.alpha, gate.left), (gate.beta, gate.right)]
        for weight, source in terms:
            key = (row, place[source])
            found[key] = found.get(key, 0.0) + weight
    keys = sorted(key for key, weight in found.items() if weight != 0)
    rows, cols = np.array(keys, dtype=np.int64).reshape(-1, 2).T
    values = np.array([found[key] for key in keys], dtype=np.result_type(np.float64, *found.values()))
    return Entries((len(after), len(before)), rows, cols, values)


def _joined(cores: Sequence[SparseCore], size: int) -> list[ButterflyFactors]:
    """The cores one after the other, the permutations between two of them merged."""
    pieces: list[ButterflyFactors] = []
    waiting: Index = np.arange(size)
    for core in cores:
        pieces += [*permutation_halves(waiting[core.gather], size), *core.middle]
        waiting = core.scatter
    return [*pieces, *permutation_halves(waiting, size)]
