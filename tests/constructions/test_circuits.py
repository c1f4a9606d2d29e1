"""Linear circuits, and their compilation: the same map, in the width and expansion that Theorem 1 promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmatrix import ArgumentError, DtypeError
from kmatrix.constructions import LinearCircuit, circuit, fft_circuit, prefix_sum_circuit


def power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def check(c: LinearCircuit, dtype: torch.dtype = torch.float64) -> None:
    matrix = circuit(c, dtype=dtype)
    expected = c.evaluate(np.eye(c.inputs))
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(matrix.to_dense().detach().numpy(), expected, rtol=0, atol=1e-12 * scale)
    assert matrix.shape == c.shape
    assert matrix.structure.width == 3 * max(1, c.depth) + 1
    points = matrix.structure.layout(*matrix.shape).cols
    assert points <= max(2, 2 * power_of_two(max(c.size, len(c.outputs))))


@st.composite
def circuits(draw: st.DrawFn) -> LinearCircuit:
    inputs = draw(st.integers(1, 6))
    known = inputs
    numbers = st.integers(-3, 3)
    layers = []
    for _ in range(draw(st.integers(0, 4))):
        values = st.integers(0, known - 1)
        layer = draw(st.lists(st.tuples(numbers, values, numbers, values), min_size=1, max_size=6))
        layers.append(layer)
        known += len(layer)
    outputs = draw(st.lists(st.integers(0, known - 1), min_size=1, max_size=8))
    return LinearCircuit(inputs, layers, outputs)


@given(circuits())
def test_random_circuits(c: LinearCircuit) -> None:
    check(c)


@pytest.mark.parametrize("n", [1, 2, 4, 16, 32])
def test_fft(n: int) -> None:
    c = fft_circuit(n)
    levels = n.bit_length() - 1
    assert (c.depth, c.size) == (levels, n + n * levels)
    x = np.random.default_rng(0).standard_normal(n)
    np.testing.assert_allclose(c.evaluate(x), np.fft.fft(x), rtol=0, atol=1e-12)
    check(c, torch.complex128)
    # Only one layer of values is alive at a time, so the expansion does not grow with the size of the circuit.
    assert circuit(c, dtype=torch.complex128).structure.expansion <= 2


@pytest.mark.parametrize("n", [1, 2, 3, 7, 13, 32])
def test_prefix_sum(n: int) -> None:
    c = prefix_sum_circuit(n)
    assert c.depth == (n - 1).bit_length()
    matrix = circuit(c, dtype=torch.float64)
    np.testing.assert_array_equal(matrix.to_dense().detach().numpy(), np.tri(n))
    check(c)


def test_first_order_recurrence() -> None:
    # y[t] = a y[t-1] + b x[t], one step per layer: a deep circuit.
    n, a, b = 6, 0.5, 2.0
    layers = [[(b, 0, 0.0, 0)], *([(a, n + t - 1, b, t)] for t in range(1, n))]
    c = LinearCircuit(n, layers, range(n, 2 * n))
    expected = np.tril(b * a ** np.maximum(0, np.subtract.outer(np.arange(n), np.arange(n))))
    np.testing.assert_allclose(c.evaluate(np.eye(n)), expected)
    check(c)


def test_rectangular_and_repeated_outputs() -> None:
    check(LinearCircuit(5, [[(1, 0, 1, 4)]], [5]))
    check(LinearCircuit(1, [[(2, 0, 1, 0)]], [1, 0, 1, 1, 1, 1, 1]))
    check(LinearCircuit(3, [], [2, 0]))
    check(LinearCircuit(2, [[(0, 0, 0, 1)]], [2]))


def test_gates_nobody_reads_are_dropped() -> None:
    idle = LinearCircuit(2, [[(1, 0, 1, 1)] * 20, [(1, 2, 1, 3)]], [22])
    lean = LinearCircuit(2, [[(1, 0, 1, 1)] * 2, [(1, 2, 1, 3)]], [4])
    assert circuit(idle).structure == circuit(lean).structure


@pytest.mark.parametrize(
    ("inputs", "layers", "outputs", "argument"),
    [
        (0, [], [0], "inputs"),
        (2, [[]], [0], r"layers\[0\]"),
        (2, [[(1, 0, 1)]], [0], "not a gate"),
        (2, [[(1, 0, 1, 2)]], [0], r"layers\[0\]"),
        (2, [[(1, 0, 1, 1), (1, 2, 1, 0)]], [0], r"layers\[0\]"),
        (2, [[(1, -1, 1, 1)]], [0], r"layers\[0\]"),
        (2, [[(np.nan, 0, 1, 1)]], [0], "not finite"),
        (2, [], [], "outputs"),
        (2, [], [2], "outputs"),
    ],
)
def test_refuses_what_is_not_a_circuit(
    inputs: int, layers: list[list[tuple[float, int, float, int]]], outputs: list[int], argument: str
) -> None:
    with pytest.raises(ArgumentError, match=argument):
        LinearCircuit(inputs, layers, outputs)


def test_refuses_other_misuse() -> None:
    with pytest.raises(ArgumentError, match="wrong length"):
        fft_circuit(4).evaluate([1.0])
    with pytest.raises(ArgumentError, match="not a power of two"):
        fft_circuit(6)
    with pytest.raises(DtypeError, match="complex"):
        circuit(fft_circuit(4), dtype=torch.float64)
