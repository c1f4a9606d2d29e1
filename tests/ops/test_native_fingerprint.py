"""The fingerprint of memory: it is what its description says, and every kind of change shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

native = pytest.importorskip("kmatrix._native")

Parts = Sequence[NDArray[np.uint8]]
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def fingerprint(*parts: NDArray[np.uint8]) -> int:
    assert all(part.flags.c_contiguous for part in parts)
    return int(native.fingerprint([p.ctypes.data for p in parts], [p.nbytes for p in parts]))


def described(*parts: NDArray[np.uint8]) -> int:
    """The same in the words of the comment in fingerprint.cpp, a word at a time."""

    def step(h: int, word: int) -> int:
        h ^= word
        return (0xDF7BD629 * (h & 0xFFFFFFFF) + 0xB7E15163 * (h >> 32)) & MASK

    state = [(i + 1) * GOLDEN & MASK for i in range(16)]
    for part in parts:
        data = part.tobytes()
        padded = data + bytes(-len(data) % 8)
        for i in range(0, len(padded), 8):
            lane = i // 8 % 16
            state[lane] = step(state[lane], int.from_bytes(padded[i : i + 8], "little"))
        state[:2] = [step(h, len(data) + 1) for h in state[:2]]
    result = len(parts) * GOLDEN & MASK
    for h in state:
        result = (((result << 23 | result >> 41) & MASK) ^ h) * GOLDEN & MASK
    result = (result ^ result >> 32) * GOLDEN & MASK
    result = (result ^ result >> 29) * 0xB7E151628AED2A6B & MASK
    return result ^ result >> 32


@pytest.fixture
def draw() -> Callable[[int], NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return lambda size: generator.integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (7, 8, 9), (127, 128, 129), (1000, 0, 3), (4096,)])
def test_is_what_the_comment_says(draw: Callable[[int], NDArray[np.uint8]], sizes: tuple[int, ...]) -> None:
    parts = [draw(size) for size in sizes]
    assert fingerprint(*parts) == described(*parts)


def test_does_not_depend_on_the_address(draw: Callable[[int], NDArray[np.uint8]]) -> None:
    data = draw(1003)
    shifted = np.zeros(1100, dtype=np.uint8)
    for start in range(70):
        shifted[start : start + 1003] = data
        assert fingerprint(shifted[start : start + 1003]) == fingerprint(data)


def test_sees_every_single_bit(draw: Callable[[int], NDArray[np.uint8]]) -> None:
    data = draw(300)
    seen = {fingerprint(data)}
    for byte in range(300):
        for bit in range(8):
            data[byte] ^= 1 << bit
            seen.add(fingerprint(data))
            data[byte] ^= 1 << bit
    assert len(seen) == 1 + 300 * 8


def test_no_two_pairs_of_bits_of_a_lane_look_alike(draw: Callable[[int], NDArray[np.uint8]]) -> None:
    """So no change of up to four bits goes unseen, however they lie: a change must not wait to be undone."""
    data = draw(3 * 128)
    bits = [(128 * word + bit // 8, 1 << bit % 8) for word in range(3) for bit in range(64)]
    seen = {fingerprint(data)}
    for (i, flip), (j, other) in combinations(bits, 2):
        data[i] ^= flip
        data[j] ^= other
        seen.add(fingerprint(data))
        data[i] ^= flip
        data[j] ^= other
    assert len(seen) == 1 + len(bits) * (len(bits) - 1) // 2


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_sees_every_pair_of_signs(dtype: str) -> None:
    """Two top bits that flip cancel in a sum that is only multiplied: weights that change sign must not."""
    values = np.linspace(1, 2, 130, dtype=dtype)
    seen = {fingerprint(values.view(np.uint8))}
    for i, j in combinations(range(130), 2):
        values[[i, j]] *= -1
        seen.add(fingerprint(values.view(np.uint8)))
        values[[i, j]] *= -1
    assert len(seen) == 1 + 130 * 129 // 2


def test_sees_all_signs(draw: Callable[[int], NDArray[np.uint8]]) -> None:
    values = np.linspace(1, 2, 512, dtype=np.float32)
    assert fingerprint(values.view(np.uint8)) != fingerprint((-values).view(np.uint8))


@pytest.mark.parametrize("width", [1, 4, 8, 16, 128])
def test_sees_every_swap(draw: Callable[[int], NDArray[np.uint8]], width: int) -> None:
    data = np.arange(width * 24, dtype=np.uint32).view(np.uint8)[: width * 24].copy()
    data ^= draw(width * 24)
    blocks = data.reshape(24, width)
    blocks[:, 0] = np.arange(24)  # so that all blocks differ
    seen = {fingerprint(blocks)}
    for i, j in combinations(range(24), 2):
        blocks[[i, j]] = blocks[[j, i]]
        seen.add(fingerprint(blocks))
        blocks[[i, j]] = blocks[[j, i]]
    assert len(seen) == 1 + 24 * 23 // 2


@pytest.mark.parametrize("value", [0, 255])
def test_sees_the_length(value: int) -> None:
    data = np.full(600, value, dtype=np.uint8)
    assert len({fingerprint(data[:size]) for size in range(601)}) == 601


def test_sees_where_parts_end(draw: Callable[[int], NDArray[np.uint8]]) -> None:
    data = draw(260)
    cuts = [(data[:i], data[i:j], data[j:]) for i in range(0, 261, 13) for j in range(i, 261, 13)]
    seen = {fingerprint(*cut) for cut in cuts} | {fingerprint(data), fingerprint(data, data[:0])}
    assert len(seen) == len(cuts) + 2


def test_sees_the_order_of_parts(draw: Callable[[int], NDArray[np.uint8]]) -> None:
    a, b = draw(128), draw(128)
    assert fingerprint(a, b) != fingerprint(b, a)


def test_a_flipped_bit_changes_half_of_the_result(draw: Callable[[int], NDArray[np.uint8]]) -> None:
    """Binomial: over 2048 flips the mean of 64 bits lies within 32 +- 0.5 but for a chance of 1e-8."""
    data = draw(256)
    before = fingerprint(data)
    changed = 0
    for bit in range(256 * 8):
        data[bit // 8] ^= 1 << bit % 8
        changed += (fingerprint(data) ^ before).bit_count()
        data[bit // 8] ^= 1 << bit % 8
    assert abs(changed / (256 * 8) - 32) < 0.5


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="not one for each"):
        native.fingerprint([1], [])
    with pytest.raises(ValueError, match="address 0"):
        native.fingerprint([0], [8])
    with pytest.raises(ValueError, match="below 0"):
        native.fingerprint([64], [-1])
