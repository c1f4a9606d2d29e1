"""The native backend: right in every number type, layout, size and instruction set; declines with a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kmatrix._errors import BackendUnavailableError
from kmatrix.ops import Pattern, calls, chain_matmul, dispatch, native, native_module, use_backend
from kmatrix.ops.autograd import multiply_watched
from kmatrix.ops.chain import explain_dispatch
from kmatrix.ops.definition import flatten_patterns, reference_chain_matmul
from kmatrix.ops.library import CHAIN_MATMUL, CHAIN_MATMUL_BACKWARD
from kmatrix.ops.native_module import native_part
from kmatrix.testing import assert_matches_reference

needs_native = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
NUMBERS = [
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.bfloat16,
    torch.float16,
]


def name(value: object) -> str:
    return str(value).removeprefix("torch.")


def butterfly(n: int) -> list[Pattern]:
    """A chain of prime radices, smallest stride first."""
    patterns, d, rest = [], 1, n
    while rest > 1:
        radix = next(p for p in range(2, rest + 1) if rest % p == 0)
        rest //= radix
        patterns.append(Pattern(rest, radix, radix, d))
        d *= radix
    return patterns or [Pattern(1, 1, 1, 1)]


def draw(patterns: list[Pattern], dtype: torch.dtype) -> list[Tensor]:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [(torch.randn(p, dtype=wide) / p.c**0.5).to(dtype) for p in patterns]


@pytest.fixture
def natively() -> Iterator[None]:
    """Everything inside runs on the native backend or raises."""
    with use_backend("native"):
        yield


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory is full of NaN, so that an entry nobody writes shows."""

    def empty(*size: object, **options: object) -> Tensor:
        made = real(*size, **options)
        return made.fill_(torch.nan) if made.is_floating_point() or made.is_complex() else made

    real = torch.empty
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(calls, "empty", lambda shape, strides, dtype: empty(shape, dtype=dtype))


def definition(patterns: list[Pattern]) -> Callable[..., Tensor]:
    return lambda x, *weights: reference_chain_matmul(x, weights, patterns)


def product(patterns: list[Pattern]) -> Callable[..., Tensor]:
    return lambda x, *weights: chain_matmul(x, weights, patterns)


def gradients_of(multiply: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """All gradients of a product, given the upstream gradient first."""

    def gradients(upstream: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in inputs]
            return torch.autograd.grad(multiply(*leaves), leaves, upstream)

    return gradients


def reference_gradients(patterns: list[Pattern]) -> Callable[..., tuple[Tensor, ...]]:
    return gradients_of(definition(patterns))


@needs_native
@pytest.mark.usefixtures("natively", "poisoned")
@pytest.mark.parametrize("number", NUMBERS, ids=name)
@pytest.mark.parametrize("batch", [1, 3, 17, 200])
def test_error_is_at_most_twice_that_of_plain_torch(example, number: torch.dtype, batch: int) -> None:
    weights = example.draw(torch.complex128 if number.is_complex else torch.float64)
    x = torch.randn(batch, example.cols, dtype=weights[0].dtype)
    for _ in range(3):  # the long way, the recording, the recorded call
        assert_matches_reference(
            product(example.patterns), definition(example.patterns), [x, *weights], number
        )


@needs_native
@pytest.mark.usefixtures("natively", "poisoned")
@pytest.mark.parametrize("number", NUMBERS, ids=name)
@pytest.mark.parametrize("batch", [1, 5, 70])
def test_gradients_are_at_most_twice_as_wrong(example, number: torch.dtype, batch: int) -> None:
    weights = example.draw(torch.complex128 if number.is_complex else torch.float64)
    x = torch.randn(batch, example.cols, dtype=weights[0].dtype)
    upstream = torch.randn(batch, example.rows, dtype=weights[0].dtype)
    assert_matches_reference(
        gradients_of(product(example.patterns)),
        reference_gradients(example.patterns),
        [upstream, x, *weights],
        number,
    )


@needs_native
@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize("batch", [1, 2, 9, 33])
def test_sizes_are_swept(batch: int) -> None:
    sizes = [
        *range(1, 40),
        60,
        63,
        64,
        77,
        81,
        96,
        100,
        127,
        128,
        255,
        256,
        360,
        512,
        720,
        1000,
        1024,
        2048,
        4096,
    ]
    for n in sizes:
        patterns = butterfly(n)
        inputs = [torch.randn(batch, n, dtype=torch.float64), *draw(patterns, torch.float64)]
        assert_matches_reference(product(patterns), definition(patterns), inputs, torch.float32)


@needs_native
@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize("number", [torch.float32, torch.complex64], ids=name)
@pytest.mark.parametrize("n", [16, 128, 1024])
def test_turn_arounds(n: int, number: torch.dtype) -> None:
    """A K-matrix: a butterfly up and one down, of 2x2 blocks throughout."""
    patterns = [*butterfly(n), *reversed(butterfly(n))]
    for batch in (1, 19):
        wide = torch.complex128 if number.is_complex else torch.float64
        inputs = [torch.randn(batch, n, dtype=wide), *draw(patterns, wide)]
        assert_matches_reference(product(patterns), definition(patterns), inputs, number)


@needs_native
@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize("shape", [(7, 1), (64, 64), (5, 300), (300, 5)], ids=str)
def test_low_rank_and_dense(shape: tuple[int, int]) -> None:
    m, n = shape
    for patterns in ([Pattern(1, m, n, 1)], [Pattern(1, 3, n, 1), Pattern(1, m, 3, 1)]):
        inputs = [torch.randn(21, n, dtype=torch.float64), *draw(patterns, torch.float64)]
        assert_matches_reference(product(patterns), definition(patterns), inputs, torch.float32)


@needs_native
@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize("batch", [1, 4, 37])
def test_layouts_of_the_vectors(example, batch: int, dtype: torch.dtype) -> None:
    weights, n = example.draw(dtype), example.cols
    x = torch.randn(batch, n, dtype=dtype)
    want = reference_chain_matmul(x, weights, example.patterns)
    every_other = torch.randn(batch, 2 * n, dtype=dtype)
    every_other[:, ::2] = x
    offset = torch.cat([torch.zeros(batch, 1, dtype=dtype), x], 1)[:, 1:]
    features_first = x.t().contiguous().mT
    blocks = x.reshape(batch, 1, n).expand(batch, 3, n)
    misaligned = torch.empty(1 + x.numel(), dtype=dtype)[1:].view(batch, n).copy_(x)
    for _ in range(3):
        for same in (x, every_other[:, ::2], offset, features_first, misaligned):
            torch.testing.assert_close(chain_matmul(same, weights, example.patterns), want)
        torch.testing.assert_close(chain_matmul(blocks, weights, example.patterns)[:, 1], want)
        torch.testing.assert_close(chain_matmul(x[0], weights, example.patterns), want[0])


@needs_native
@pytest.mark.usefixtures("natively")
def test_vectors_in_columns_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(64, 32).mT  # features first, seen as rows
    assert native.vectors(x).tensor is x
    three = torch.randn(4, 64, 8).transpose(1, 2)
    assert native.vectors(three).tensor.shape == (32, 64)
    assert native.vectors(three).row == 64


@needs_native
@pytest.mark.usefixtures("natively")
def test_lazy_bits(example) -> None:
    """Conjugated and negated views, one after the other over the same memory, each as often as makes a habit."""
    z = torch.randn(6, example.cols, dtype=torch.complex128)
    weights = example.draw(torch.complex128)
    real, r = example.draw(torch.float64), torch.randn(6, example.cols, dtype=torch.float64)
    for _ in range(3):
        for lazy in (False, True):
            x = z.conj() if lazy else z
            ws = [w.conj() if lazy else w for w in weights]
            plain = [w.resolve_conj() for w in ws]
            want = reference_chain_matmul(x.resolve_conj(), plain, example.patterns)
            torch.testing.assert_close(chain_matmul(x, ws, example.patterns), want)
            ns = [torch._neg_view(w) if lazy else w for w in real]
            n = torch._neg_view(r) if lazy else r
            want = reference_chain_matmul(n.resolve_neg(), [w.resolve_neg() for w in ns], example.patterns)
            torch.testing.assert_close(chain_matmul(n, ns, example.patterns), want)


@needs_native
@pytest.mark.usefixtures("natively")
def test_layouts_of_the_weights(example, dtype: torch.dtype) -> None:
    weights = example.draw(dtype)
    x = torch.randn(12, example.cols, dtype=dtype)
    want = reference_chain_matmul(x, weights, example.patterns)
    transposed = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in weights]
    scattered = [torch.zeros(*w.shape, 7, dtype=dtype) for w in weights]
    for place, w in zip(scattered, weights, strict=True):
        place[..., 3] = w
    full = [w.expand(p) for w, p in zip(weights, example.patterns, strict=True)]
    for same in (transposed, [s[..., 3] for s in scattered], full):
        torch.testing.assert_close(chain_matmul(x, same, example.patterns), want)
        torch.testing.assert_close(chain_matmul(x[:1], same, example.patterns), want[:1])


@needs_native
@pytest.mark.usefixtures("natively")
def test_gradients_of_expanded_weights(example) -> None:
    """A weight that is expanded, not tied, has a gradient for each of its numbers."""
    x = torch.randn(5, example.cols, dtype=torch.float64)
    full = [
        w.expand(p).detach().requires_grad_() for w, p in zip(example.draw(), example.patterns, strict=True)
    ]
    upstream = torch.randn(5, example.rows, dtype=torch.float64)
    got = torch.autograd.grad(chain_matmul(x, full), full, upstream)
    want = torch.autograd.grad(reference_chain_matmul(x, full), full, upstream)
    torch.testing.assert_close(got, want)


@needs_native
@pytest.mark.usefixtures("natively")
def test_gradcheck(example, dtype: torch.dtype) -> None:
    x = torch.randn(3, example.cols, dtype=dtype, requires_grad=True)
    inputs = x, *[w.requires_grad_() for w in example.draw(dtype)]
    assert gradcheck(product(example.patterns), inputs, fast_mode=True)
    assert gradgradcheck(product(example.patterns), inputs, fast_mode=True)


@needs_native
@pytest.mark.usefixtures("natively")
def test_opcheck(mixed, dtype: torch.dtype) -> None:
    real = not dtype.is_complex
    x = torch.randn(3, mixed.cols, dtype=dtype, requires_grad=real)
    weights, flat = mixed.draw(dtype, requires_grad=real), flatten_patterns(mixed.patterns)
    torch.library.opcheck(CHAIN_MATMUL, (x, weights, flat))
    grad = torch.randn(3, mixed.rows, dtype=dtype, requires_grad=real)
    torch.library.opcheck(CHAIN_MATMUL_BACKWARD, (grad, x, weights, flat, real))


@needs_native
def test_only_gradients_that_are_needed(mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    real = native.gradients

    def gradients(grad, x, weights, patterns, need_x):
        asked.append(need_x)
        return real(grad, x, weights, patterns, need_x)

    monkeypatch.setattr(native, "gradients", gradients)
    weights = mixed.draw(requires_grad=True)
    for needed in (False, True):
        x = torch.randn(3, mixed.cols, dtype=torch.float64, requires_grad=needed)
        multiply_watched(x, weights, tuple(mixed.patterns)).sum().backward()
        assert (x.grad is not None) == needed
    assert asked == [False, True]


@needs_native
@pytest.mark.usefixtures("natively")
def test_two_threads_give_the_same(example) -> None:
    x, weights = torch.randn(300, example.cols), example.draw(torch.float32, requires_grad=True)
    results = []
    for count in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            y = chain_matmul(x, weights, example.patterns)
            results.append([y, *torch.autograd.grad(y.square().sum(), weights)])
        finally:
            torch.set_num_threads(before)
    torch.testing.assert_close(results[1], results[0])


SWEEP = """
import json, sys, torch
from kmatrix.ops import Pattern, chain_matmul, use_backend
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.native_module import native_part
torch.manual_seed(0)
worst = 0.0

def exactly(x, weights, g, patterns, dtype):
    weights = [w.detach().to(dtype).requires_grad_() for w in weights]
    z = reference_chain_matmul(x, weights, patterns)
    return [z.detach(), *torch.autograd.grad(z, weights, g.detach())]

for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bfloat16, torch.float16):
    for patterns in json.loads(sys.argv[1]):
        patterns = [Pattern(*p) for p in patterns]
        weights = [(torch.randn(p) / p.c**0.5).to(dtype).requires_grad_() for p in patterns]
        for batch in (1, 2, 5, 40):
            x = torch.randn(batch, patterns[0].cols).to(dtype)
            with use_backend("native"):
                y = chain_matmul(x, weights, patterns)
                got = [y, *torch.autograd.grad(y, weights, y.detach())]
            wide = torch.complex128 if dtype.is_complex else torch.float64
            want = exactly(x.to(wide), weights, y.to(wide), patterns, wide)
            # A sum that cancels has any relative error; beside the sum of the magnitudes, rounding is bounded.
            scale = exactly(x.to(wide).abs(), [w.abs() for w in weights], y.to(wide).abs(), patterns, torch.float64)
            for a, b, s in zip(got, want, scale, strict=True):
                worst = max(worst, float(((a.detach() - b).abs() / (1e-30 + s)).max()) / torch.finfo(dtype).eps)
print(json.dumps([native_part().isa, worst]))
"""


@needs_native
@pytest.mark.parametrize("isa", native_part().module.compiled() if native_part().module else [])
def test_every_instruction_set(isa: str) -> None:
    """Each set that was compiled, forced in a process of its own: within a few roundings of each sum's magnitude."""
    chains = [butterfly(64), butterfly(36), [(4, 5, 6, 1), (1, 7, 4, 5)], [(3, 2, 2, 4), (1, 1, 24, 1)]]
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, json.dumps(chains)],
        env={**os.environ, "KMATRIX_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    if "not on this processor" in done.stderr:
        pytest.skip(f"this processor does not run {isa}")
    assert done.returncode == 0, done.stderr
    ran, worst = json.loads(done.stdout)
    assert ran == isa
    assert worst < 8


@needs_native
def test_an_unknown_instruction_set_leaves_the_portable_path() -> None:
    script = (
        "import torch; from kmatrix.ops.chain import explain_dispatch;"
        "print(explain_dispatch(torch.ones(2), [torch.ones(1, 1, 2, 1)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "KMATRIX_ISA": "mmx"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("portable (")
    assert "KMATRIX_ISA=mmx" in done.stdout
    (line,) = done.stderr.splitlines()
    assert "portable path" in line


@needs_native
@pytest.mark.usefixtures("natively")
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("batch", [1, 40])
def test_differences_that_overflow_before_they_are_scaled(batch: int, dtype: torch.dtype) -> None:
    """[[1, 1], [w, -w]] is w*x - w*y: the difference of x and y alone need not be a number."""
    w = torch.tensor([[1.0, 1.0], [0.1, -0.1]], dtype=dtype).view(1, 2, 2, 1)
    x = torch.tensor([3e38, -3e38]).to(dtype).expand(batch, 2)
    want = torch.tensor([0.0, 6e37], dtype=dtype).expand(batch, 2)
    torch.testing.assert_close(chain_matmul(x, [w]), want)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"native": True}, "cannot be loaded (no such library)"),
        ({"native": False, "reason": "no compiler"}, "are not built (no compiler)"),
        ({}, "are not built (no such library)"),
    ],
)
def test_what_is_built_and_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, object], reason: str
) -> None:
    def fail(name: str) -> None:
        raise ImportError("no such library")

    monkeypatch.setattr(native_module.importlib, "import_module", fail)
    monkeypatch.setattr(native_module, "build_info", lambda: info)
    part = native_part.__wrapped__()
    assert part.module is None
    assert part.reason == f"the native kernels {reason}"


def test_refusals_have_reasons(mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, weights, patterns = dispatch.NATIVE, mixed.draw(), tuple(mixed.patterns)
    x = torch.randn(2, mixed.cols, dtype=torch.float64)
    if native_part().module is not None:
        assert backend.can_run(x, weights, patterns).ok
        assert "empty" in backend.can_run(x[:0], weights, patterns).reason
        assert "meta" in backend.can_run(x.to("meta"), weights, patterns).reason
        assert "int32" in backend.can_run(x.int(), weights, patterns).reason
    absent = native_part()._replace(module=None, reason="the native kernels are not built (no compiler)")
    monkeypatch.setattr(native, "native_part", lambda: absent)
    assert backend.can_run(x, weights, patterns) == (False, absent.reason)
    with use_backend("native"), pytest.raises(BackendUnavailableError, match="no compiler"):
        chain_matmul(x[:1].clone(), weights, mixed.patterns)


@needs_native
def test_explanation_names_the_instruction_set() -> None:
    told = explain_dispatch(torch.ones(3, 4), [torch.ones(2, 1, 2, 1)])
    assert told.backend == "native"
    assert native_part().isa in told.reasons["native"]
