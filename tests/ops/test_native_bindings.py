"""The module kmatrix._native: what it refuses, and that it computes what it was given, with every instruction set."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kmatrix.ops.definition import reference_chain_matmul

native = pytest.importorskip("kmatrix._native")

F64 = 1
PATTERNS = [(3, 4, 2, 2), (2, 2, 3, 4)]  # 12 -> 24 -> 16


def here() -> list[str]:
    """The instruction sets that this processor runs."""
    compiled = list(native.compiled())
    return compiled[compiled.index(native.default_isa()) :]


def flat(rows: Sequence[Sequence[int]]) -> list[int]:
    return [number for row in rows for number in row]


def strides(patterns: Sequence[Sequence[int]]) -> list[int]:
    return flat([(b * c * d, c * d, d, 1) for _, b, c, d in patterns])


def chain(**changes: Any) -> Any:
    """A chain of two factors, or what becomes of it when some arguments are others."""
    arguments: dict[str, Any] = {
        "dtype": F64,
        "patterns": flat(PATTERNS),
        "strides": strides(PATTERNS),
        "passes": [1, 1],
        "tile_vectors": 1,
        "n_in": 12,
        "n_out": 16,
        "gather": None,
        "take": None,
    }
    return native.Chain(**{**arguments, **changes})


def weights() -> list[Tensor]:
    return [torch.randn(*pattern, dtype=torch.float64) for pattern in PATTERNS]


def forward(described: Any, x: Tensor, n_out: int = 16, threads: int = 1) -> Tensor:
    y = torch.full((len(x), n_out), torch.nan, dtype=x.dtype)
    described.forward(x.data_ptr(), x.stride(0), 1, y.data_ptr(), n_out, 1, len(x), threads)
    return y


def expected(x: Tensor, w: Sequence[Tensor]) -> Tensor:
    return reference_chain_matmul(x, w, PATTERNS)


def test_the_build_under_test_is_the_one_asked_for() -> None:
    """`make sanitize` would prove nothing with the ordinary build."""
    folder = os.environ.get("KMATRIX_NATIVE_FOLDER")
    if folder is None:
        pytest.skip("no other build is asked for")
    assert native.__file__.startswith(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": 6}, "dtype=6"),
        ({"patterns": []}, "not four sizes"),
        ({"patterns": [1, 2, 3]}, "not four sizes"),
        ({"strides": [1] * 7}, "strides"),
        ({"patterns": flat([(3, 4, 2, 2), (2, 2, 3, 5)])}, "does not take"),
        ({"patterns": flat([(3, 4, 2, 2), (0, 2, 3, 4)])}, "a size below 1"),
        ({"patterns": flat([(3, 4, 2, 2), (2**40, 2, 3, 4)])}, "more than"),
        ({"patterns": flat([(3, 4, 2, 2), (2**62, 2**62, 3, 4)])}, "more than"),
        ({"passes": [1]}, "add up"),
        ({"passes": [1, 1, 1]}, "add up"),
        ({"passes": [3]}, "add up"),
        ({"passes": [1, 2**31 - 1]}, "add up"),
        ({"passes": [2, 0]}, "passes"),
        ({"passes": [2]}, "cannot be one pass"),
        ({"tile_vectors": 0}, "tile_vectors=0"),
        ({"n_in": 13}, "n_in=13"),
        ({"n_out": 17}, "n_out=17"),
        ({"n_in": 0}, "n_in"),
        ({"gather": [0] * 11}, "11 indices"),
        ({"gather": [0] * 11 + [12]}, "index 12"),
        ({"gather": [0] * 11 + [-2]}, "index -2"),
        ({"take": [0] * 15}, "15 indices"),
        ({"take": [0] * 15 + [16]}, "index 16"),
        ({"take": [0] * 15 + [-1]}, "index -1"),
        ({"isa": "mmx"}, "isa='mmx'"),
    ],
)
def test_refuses_a_description_that_does_not_fit(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        chain(**changes)


def test_refuses_calls_that_do_not_fit() -> None:
    described, x = chain(), torch.zeros(1, 12, dtype=torch.float64)
    at = x.data_ptr()
    with pytest.raises(RuntimeError, match="pack first"):
        forward(described, x)
    with pytest.raises(ValueError, match="not one address"):
        described.pack([at])
    with pytest.raises(ValueError, match="address 0"):
        described.pack([at, 0])
    w = weights()
    described.pack([each.data_ptr() for each in w])
    with pytest.raises(ValueError, match="batch"):
        described.forward(at, 12, 1, at, 16, 1, -1, 1)
    with pytest.raises(ValueError, match="threads"):
        described.forward(at, 12, 1, at, 16, 1, 1, 0)
    with pytest.raises(ValueError, match="address 0"):
        described.forward(0, 12, 1, at, 16, 1, 1, 1)
    with pytest.raises(ValueError, match="strides"):
        described.forward(at, 12, 2, at, 16, 1, 1, 1)
    with pytest.raises(ValueError, match="not one address"):
        described.backward(at, 16, 1, at, 12, 1, 0, 1, 1, [0], 1, 1)
    described.forward(0, 12, 1, 0, 16, 1, 0, 1)  # no rows, no memory


def test_can_fuse_refuses_factors_that_are_not_there() -> None:
    for first, count in ((-1, 1), (0, 0), (0, 3), (2, 1), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(ValueError, match="no such factors"):
            native.Chain.can_fuse(F64, flat(PATTERNS), first, count)
    assert native.Chain.can_fuse(F64, flat(PATTERNS), 1, 1)
    assert not native.Chain.can_fuse(F64, flat(PATTERNS), 0, 2)


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
@pytest.mark.parametrize("isa", here())
def test_computes_the_product(isa: str, batch: int) -> None:
    described, w, x = chain(isa=isa), weights(), torch.randn(batch, 12, dtype=torch.float64)
    described.pack(tuple(each.data_ptr() for each in w))
    assert torch.allclose(forward(described, x), expected(x, w), rtol=0, atol=1e-13)


def test_gathers_takes_and_adds_a_bias() -> None:
    gather, take = [5, -1, *range(10)], [3, 3, 0]
    described, w = chain(n_in=10, n_out=3, gather=gather, take=take), weights()
    bias, x = torch.randn(3, dtype=torch.float64), torch.randn(5, 10, dtype=torch.float64)
    described.set_bias(bias.data_ptr())
    described.pack([each.data_ptr() for each in w])
    fed = torch.nn.functional.pad(x, (0, 1))[:, gather]
    product = expected(fed, w)[:, take]
    kept = bias.clone()
    bias.zero_()  # the chain has its own copy
    assert torch.allclose(forward(described, x, 3), product + kept, rtol=0, atol=1e-13)
    described.set_bias(0)
    with pytest.raises(RuntimeError, match="pack first"):
        forward(described, x, 3)
    described.pack([each.data_ptr() for each in w])
    assert torch.allclose(forward(described, x, 3), product, rtol=0, atol=1e-13)


def test_threads_share_a_chain_whose_weights_change() -> None:
    """Every product belongs to one of the two sets of weights, never to a mixture."""
    described, x = chain(), torch.randn(4096, 12, dtype=torch.float64)
    choices = [weights(), weights()]
    pointers = [[each.data_ptr() for each in w] for w in choices]
    described.pack(pointers[0])
    answers = [forward(described, x)]
    described.pack(pointers[1])
    answers.append(forward(described, x))
    strange: list[Tensor] = []
    done = threading.Event()

    def multiply() -> None:
        for _ in range(50):
            y = forward(described, x)
            if not any(torch.equal(y, answer) for answer in answers):
                strange.append(y)

    def pack() -> None:
        while not done.is_set():
            for each in pointers:
                described.pack(each)

    packer, readers = threading.Thread(target=pack), [threading.Thread(target=multiply) for _ in range(2)]
    for thread in (packer, *readers):
        thread.start()
    for reader in readers:
        reader.join()
    done.set()
    packer.join()
    assert not strange


def test_weights_are_seen_when_all_of_them_are_packed() -> None:
    """While two megabytes are packed, other threads run: they find the old weights, or none before the first."""
    size, strange = 512, []
    square = {"patterns": [1, size, size, 1], "strides": strides([(1, size, size, 1)]), "passes": [1]}
    x = torch.ones(1, size, dtype=torch.float64)

    def multiply(described: Any, want: int, done: threading.Event) -> None:
        while not done.is_set():
            try:
                y = forward(described, x, size)
            except RuntimeError:  # nothing packed so far
                continue
            if not (y == want).all():
                strange.append(y)

    for number in range(1, 31):
        # Other numbers each time: freed memory may still hold the old ones.
        w = torch.full((size, size), float(number), dtype=torch.float64)
        described, done = chain(**square, n_in=size, n_out=size), threading.Event()
        reader = threading.Thread(target=multiply, args=(described, number * size, done))
        reader.start()
        for _ in range(5):
            described.pack([w.data_ptr()])
        done.set()
        reader.join()
    assert not strange


def test_long_vectors() -> None:
    """Inputs times outputs may be more than memory holds: no such matrix is ever made."""
    n = 2**21
    described = chain(patterns=[n // 2, 2, 2, 1], strides=[0, 2, 1, 0], passes=[1], n_in=n, n_out=n, dtype=0)
    w, x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.randn(1, n)
    y = torch.full((1, n), torch.nan)
    described.rows([w.data_ptr()], x.data_ptr(), n, 1, y.data_ptr(), n, 1, 1, 1)
    want = (x.view(-1, 2) @ w.T).view(1, n)
    torch.testing.assert_close(y, want)
    described.pack([w.data_ptr()])
    torch.testing.assert_close(forward(described, x, n), want)
