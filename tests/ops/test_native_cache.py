"""Packed weights and recorded calls: whatever happens to a weight, the next product uses its numbers of now."""

from __future__ import annotations

import contextvars
import copy
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.ops import Pattern, calls, chain_matmul, set_cache_limit, use_backend
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.native_cache import DEFAULT_LIMIT, PACKED, PackedCache
from kmatrix.ops.native_module import native_part

pytestmark = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
PATTERNS = tuple(Pattern(16 >> k, 2, 2, 1 << k) for k in range(5))
FEW, MANY = 1, 24  # a batch for weights read where they are, and one for packed weights


class Layer(nn.Module):
    """Five trainable factors."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(p)) for p in PATTERNS)

    def forward(self, x: Tensor) -> Tensor:
        return chain_matmul(x, list(self.weights), PATTERNS)


@pytest.fixture(autouse=True, params=[True, False], ids=["recorded", "unrecorded"])
def _natively(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With records of calls, and with a torch that has no way to make them."""
    if not request.param:
        calls.forget()
        monkeypatch.setattr(calls, "recorder", lambda: None)
    with use_backend("native"):
        yield


@pytest.fixture
def layer() -> Layer:
    return Layer()


def assert_up_to_date(layer: Layer) -> None:
    """Products of few and of many rows, each often enough to be recorded, against the definition."""
    with torch.no_grad():
        for batch in (FEW, MANY):
            dtype = layer.weights[0].dtype
            x = torch.randn(batch, 32, dtype=dtype)
            want = reference_chain_matmul(x, list(layer.weights), PATTERNS)
            for _ in range(3):
                torch.testing.assert_close(layer(x), want, rtol=1e-4, atol=1e-4)


def in_place(layer: Layer) -> None:
    with torch.no_grad():
        layer.weights[2].mul_(-1.5)


def through_data(layer: Layer) -> None:
    layer.weights[2].data.copy_(torch.randn(PATTERNS[2]))


def through_numpy(layer: Layer) -> None:
    layer.weights[3].detach().numpy()[0, 1, 1, 0] = 17.0


def replaced(layer: Layer) -> None:
    layer.weights[1].data = torch.randn(PATTERNS[1])


def replaced_by_a_transposed_view(layer: Layer) -> None:
    layer.weights[1].data = layer.weights[1].data.transpose(1, 2)


def state_loaded(layer: Layer) -> None:
    layer.load_state_dict(Layer().state_dict())


def state_assigned(layer: Layer) -> None:
    layer.load_state_dict(Layer().state_dict(), assign=True)


def converted(layer: Layer) -> None:
    layer.to(torch.float64)


def optimised(layer: Layer) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(MANY, 32)).square().mean().backward()
        optimizer.step()


def one_bit(layer: Layer) -> None:
    layer.weights[0].detach().view(torch.int32)[7, 1, 0, 0] ^= 1 << 30


def shared_memory(layer: Layer) -> None:
    layer.share_memory()
    layer.weights[0].data.fill_(0.25)


@pytest.mark.parametrize(
    "change",
    [
        in_place,
        through_data,
        through_numpy,
        replaced,
        replaced_by_a_transposed_view,
        state_loaded,
        state_assigned,
        converted,
        optimised,
        one_bit,
        shared_memory,
    ],
    ids=lambda f: f.__name__,
)
def test_changes_are_seen(layer: Layer, change: Callable[[Layer], None]) -> None:
    assert_up_to_date(layer)
    change(layer)
    assert_up_to_date(layer)


def test_conjugated_in_place_of_its_own_data() -> None:
    """The same object, the same memory, the same strides, and other numbers."""
    weights = [torch.randn(p, dtype=torch.complex64) for p in PATTERNS]
    x = torch.randn(MANY, 32, dtype=torch.complex64)
    for _ in range(2):
        for _ in range(3):
            plain = [w.resolve_conj() for w in weights]
            torch.testing.assert_close(
                chain_matmul(x, weights, PATTERNS), reference_chain_matmul(x, plain, PATTERNS)
            )
        weights[0].data = weights[0].data.conj()


def test_copies_and_shared_parameters(layer: Layer) -> None:
    twin = copy.deepcopy(layer)
    alias = Layer()
    alias.weights = layer.weights
    in_place(layer)
    for one in (layer, twin, alias):
        assert_up_to_date(one)
    layer.weights[4] = layer.weights[4]
    twin.weights[1] = layer.weights[1]
    through_data(layer)
    for one in (layer, twin, alias):
        assert_up_to_date(one)


def test_one_list_with_other_weights(layer: Layer) -> None:
    """A recorded call is found by the ends of the list; what lies between counts as much."""
    weights, x = [w.detach() for w in layer.weights], torch.randn(FEW, 32)
    for _ in range(3):
        chain_matmul(x, weights, PATTERNS)
    weights[2] = torch.randn(PATTERNS[2])
    torch.testing.assert_close(
        chain_matmul(x, weights, PATTERNS), reference_chain_matmul(x, weights, PATTERNS)
    )
    weights[2] = torch.randn(PATTERNS[2], dtype=torch.float64)
    with pytest.raises(DtypeError):
        chain_matmul(x, weights, PATTERNS)
    weights[2] = torch.randn(1, 2, 2, 1)
    with pytest.raises(ArgumentError):
        chain_matmul(x, weights)
    with pytest.raises(ArgumentError):
        chain_matmul(x, weights[:4], PATTERNS)


def test_one_list_of_weights_as_other_chains() -> None:
    square = [torch.randn(1, 2, 2, 1) for _ in range(3)]
    x = torch.randn(FEW, 8)
    up = [Pattern(4, 2, 2, 1), Pattern(2, 2, 2, 2), Pattern(1, 2, 2, 4)]
    for _ in range(3):
        for patterns in (up, up[::-1], tuple(up)):
            torch.testing.assert_close(
                chain_matmul(x, square, patterns), reference_chain_matmul(x, square, patterns)
            )
    small = torch.randn(FEW, 2)
    torch.testing.assert_close(chain_matmul(small, square), reference_chain_matmul(small, square))


def test_recorded_calls_notice_autograd(layer: Layer) -> None:
    x = torch.randn(FEW, 32)
    with torch.no_grad():
        for _ in range(3):
            assert not layer(x).requires_grad
    assert layer(x).requires_grad
    layer.requires_grad_(False)
    for _ in range(3):
        assert not layer(x).requires_grad
    layer.weights[3].requires_grad_()
    assert layer(x).requires_grad
    layer.requires_grad_(False)
    assert layer(x.requires_grad_()).requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_recorded_calls_notice_who_watches(layer: Layer) -> None:
    contextvars.Context().run(watch, layer)  # without the request for one backend


def watch(layer: Layer) -> None:
    layer.requires_grad_(False)
    x = torch.randn(3, 32)
    for _ in range(3):
        layer(x)
    jacobian = torch.func.jacrev(layer)(x[0])
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
    torch.testing.assert_close(jacobian @ x[0], layer(x[0]))
    assert torch.func.jvp(layer, (x,), (x,))[1].abs().sum() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 3 * sum(p.numel for p in PATTERNS)
    with use_backend("portable"):
        assert calls.repeated(x, list(layer.weights), PATTERNS) is None


def test_inference_tensors() -> None:
    with torch.inference_mode():
        layer = Layer()
        x = torch.randn(MANY, 32)
        for _ in range(3):
            y = layer(x)
            assert y.is_inference()
            torch.testing.assert_close(y, reference_chain_matmul(x, list(layer.weights), PATTERNS))
            layer.weights[0].mul_(0.5)


def test_results_are_new_each_time(layer: Layer) -> None:
    layer.requires_grad_(False)
    x = torch.randn(FEW, 32)
    results = [layer(x) for _ in range(5)]
    assert len({y.data_ptr() for y in results}) == 5
    assert all(y.is_contiguous() and y.shape == (FEW, 32) for y in results)


def test_nothing_is_kept_alive() -> None:
    layer, x = Layer(), torch.randn(MANY, 32)
    with torch.no_grad():
        for _ in range(3):
            layer(x)
            layer(x[:FEW])
    tensors = [weakref.ref(t) for t in (x, *layer.weights)]
    del layer, x
    gc.collect()
    assert all(ref() is None for ref in tensors)


def test_new_weights_in_old_memory() -> None:
    """Freed memory is used again: the addresses and the layout are those of before, the numbers are not."""
    x = torch.randn(MANY, 32)
    for _ in range(20):
        weights = [torch.randn(p) for p in PATTERNS]
        torch.testing.assert_close(
            chain_matmul(x, weights, PATTERNS), reference_chain_matmul(x, weights, PATTERNS)
        )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_multiplies(layer: Layer) -> None:
    assert_up_to_date(layer)
    held = PACKED._lock
    with held:  # as if another thread held it at that moment
        child = os.fork()
        if child == 0:
            code = 1
            try:
                in_place(layer)
                assert_up_to_date(layer)
                code = 0
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_many_threads(layer: Layer) -> None:
    layer.requires_grad_(False)
    x = torch.randn(MANY, 32)
    want = reference_chain_matmul(x, list(layer.weights), PATTERNS)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with use_backend("native"):
                for _ in range(50):
                    torch.testing.assert_close(layer(x), want)
                    own = [torch.randn(p) for p in PATTERNS]
                    torch.testing.assert_close(
                        chain_matmul(x, own, PATTERNS), reference_chain_matmul(x, own, PATTERNS)
                    )
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_least_recently_used_go_first() -> None:
    cache: PackedCache[str] = PackedCache(limit=10)
    full: list[object] = []
    cache.when_dropped = full.append
    for key in "ab":
        cache.get(key, 0, lambda key=key: (key.upper(), 4))
    assert cache.get("a", 0, lambda: ("new", 4)) == "A"
    cache.get("c", 0, lambda: ("C", 4))
    assert full == ["b"]
    assert (len(cache), cache.nbytes) == (2, 8)
    assert cache.get("a", 0, lambda: ("new", 4)) == "A"
    assert cache.get("a", 1, lambda: ("newer", 6)) == "newer"
    assert cache.get("huge", 0, lambda: ("huge", 11)) == "huge"
    assert (len(cache), cache.nbytes) == (2, 10)
    cache.resize(0)
    assert (len(cache), cache.nbytes) == (0, 0)


def test_the_limit_can_be_set(layer: Layer) -> None:
    try:
        set_cache_limit(0)
        assert len(PACKED) == 0
        assert_up_to_date(layer)
        assert len(PACKED) == 0
    finally:
        set_cache_limit(DEFAULT_LIMIT)
    assert_up_to_date(layer)
    with pytest.raises(ArgumentError):
        set_cache_limit(-1)
    with pytest.raises(DtypeError):
        set_cache_limit(1.5)  # type: ignore[arg-type]


def test_numpy_writes_into_weights_it_shares() -> None:
    arrays = [np.random.default_rng(i).standard_normal(p).astype(np.float32) for i, p in enumerate(PATTERNS)]
    weights = [torch.from_numpy(array) for array in arrays]
    x = torch.randn(MANY, 32)
    for _ in range(4):
        torch.testing.assert_close(
            chain_matmul(x, weights, PATTERNS), reference_chain_matmul(x, weights, PATTERNS)
        )
        arrays[1] *= np.float32(-1)
