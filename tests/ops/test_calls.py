"""What surrounds a product: default devices, records and what they hold, indices that torch alone knows."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

import kmatrix as km
from kmatrix._errors import KMatrixError
from kmatrix.ops import Pattern, calls, chain_matmul, native, prepare, set_cache_limit, tune, use_backend
from kmatrix.ops.apply import chain_apply
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.dispatch import observing
from kmatrix.ops.ends import Ends, cropping, padding
from kmatrix.ops.native_cache import DEFAULT_LIMIT, PACKED
from kmatrix.ops.native_layout import described, lie_in_place, vectors
from kmatrix.ops.native_module import native_part
from kmatrix.ops.native_plan import Schedule, best_passes

needs_native = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
PATTERNS = tuple(Pattern(16 >> k, 2, 2, 1 << k) for k in range(5))
MANY = 24  # a batch for packed weights


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    calls.forget()
    yield
    set_cache_limit(DEFAULT_LIMIT)


def draw(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(p, dtype=dtype) for p in PATTERNS]


# -- default devices -------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False], ids=["recorded", "unrecorded"])
def test_a_default_device_changes_nothing(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_WISDOM", "")
    if not fast:
        monkeypatch.setattr(calls, "recorder", lambda: None)
        monkeypatch.setattr("kmatrix.ops.prepared.recorder", lambda: None)
    padding.cache_clear()
    cropping.cache_clear()
    weights, x = draw(), torch.randn(MANY, 32)
    short, out = torch.randn(MANY, 30), torch.empty(32, MANY).t()
    trained = [w.clone().requires_grad_() for w in weights]
    want = reference_chain_matmul(x, weights, PATTERNS)
    with torch.device("meta"):
        plan = prepare(weights, gather=list(range(32)), tune=2 if native_part().module else None)
        for _ in range(3):
            torch.testing.assert_close(chain_matmul(x, weights).cpu(), want)
            torch.testing.assert_close(plan(x), want)
            torch.testing.assert_close(plan(x, out), want)
            folded = chain_apply(short, weights, PATTERNS, rows=20)
            chain_matmul(x, trained).sum().backward()
        assert trained[0].grad is not None
        assert trained[0].grad.device.type == "cpu"
    padded = torch.nn.functional.pad(short, (0, 2))
    torch.testing.assert_close(folded, reference_chain_matmul(padded, weights, PATTERNS)[:, :20])


def test_the_shortcut_around_torch_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_dynamo", None)
    with torch.device("meta"):
        assert calls._fast_empty()((2, 3), (3, 1), torch.float32).device.type == "cpu"


def test_matrices_and_explanations_under_a_default_device() -> None:
    matrix = km.Chain((km.Permute(8, "bit_reversal"), km.Factor(4, 2, 2, 1))).random(8, 8)
    with torch.device("meta"):
        assert km.explain(matrix, seconds=0.01).products


# -- records and what they hold --------------------------------------------------------------------


@needs_native
def test_records_leave_with_what_they_hold() -> None:
    weights, x = draw(), torch.randn(MANY, 32)
    for _ in range(3):
        chain_matmul(x, weights)
    assert len(calls._records) == 1
    weights[2].mul_(2)  # outdated: the packed weights are dropped, and the record with them
    ready = native.ready_chain(*_ready(weights, x))
    assert not calls._records
    assert PACKED.holds(ready.key, ready.chain)
    for _ in range(3):
        chain_matmul(x, weights)
    assert len(calls._records) == 1
    set_cache_limit(0)
    assert not calls._records
    for _ in range(4):
        chain_matmul(x, weights)
    assert not calls._records
    assert not calls._holders


def _ready(weights, x):
    kept, description = described(weights, PATTERNS)
    return description, native.schedule_of(description, len(x)), [w.data_ptr() for w in kept]


@needs_native
def test_a_write_while_packing_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    part, weights, x = native_part(), draw(), torch.randn(MANY, 32)
    module, seen = part.module, []

    def fingerprint(places, spans) -> int:
        seen.append(None)
        return len(seen)

    monkeypatch.setattr(
        native,
        "native_part",
        lambda: part._replace(module=SimpleNamespace(Chain=module.Chain, fingerprint=fingerprint)),
    )
    ready = native.ready_chain(*_ready(weights, x))
    assert len(seen) == 2
    assert not PACKED.holds(ready.key, ready.chain)


@needs_native
def test_chains_in_rows_are_charged_for_what_they_copy() -> None:
    weights, bias = draw(), torch.randn(32)
    set_cache_limit(0)
    set_cache_limit(DEFAULT_LIMIT)
    kept, description = described(weights, PATTERNS)
    ends = Ends(32, 32, None, None, bias, (bias,))
    schedule = Schedule("rows", best_passes(PATTERNS, torch.float32), 1)
    ready = native.ready_chain(description, schedule, [w.data_ptr() for w in kept], ends)
    assert not ready.packed
    assert PACKED.nbytes == bias.nbytes


def test_vectors_without_numbers() -> None:
    x, w = torch.empty(3, 1, 0), [torch.empty(1, 2, 0, 1)]
    for _ in range(3):
        assert torch.equal(chain_matmul(x, w), torch.zeros(3, 1, 2))
    assert not lie_in_place(x)


@needs_native
def test_scattered_vectors_are_not_copied_to_see_that_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, x = draw(), torch.randn(4, 6, 64)[:, :, ::2]
    copied: list[torch.Tensor] = []
    monkeypatch.setattr(native, "vectors", lambda x: copied.append(x) or vectors(x))
    for _ in range(3):
        chain_matmul(x, weights)
    assert [t is x for t in copied] == [True, False] * 3
    assert not lie_in_place(x)
    for fine in (torch.ones(3, 4, 5), torch.ones(5, 7).t(), torch.ones(3, 8)[:, :4], torch.ones(9, 2)[:, :1]):
        assert lie_in_place(fine)
        assert vectors(fine).tensor.data_ptr() == fine.data_ptr()
    assert not lie_in_place(torch.ones(3, 5, 4).transpose(1, 2)[:, ::2])


@needs_native
@pytest.mark.skipif(calls.recorder() is None, reason="this torch has no way to record")
def test_complex_views_find_the_record_of_their_memory() -> None:
    stored = [torch.randn(*p, 2) for p in PATTERNS]
    x = torch.randn(MANY, 32, dtype=torch.complex64)
    alive = []
    for _ in range(6):
        weights = [torch.view_as_complex(s) for s in stored]
        alive.append(weights)
        y = chain_matmul(x, weights)
    assert len(calls._records) == 1
    assert calls.repeated(x, [torch.view_as_complex(s) for s in stored], None) is not None
    torch.testing.assert_close(y, reference_chain_matmul(x, weights, PATTERNS))


@needs_native
def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    native._plain_chain.cache_clear()
    best_passes.cache_clear()
    monkeypatch.setenv("KMATRIX_ISA", "none such")
    w = [torch.randn(1, 3, 5, 1)]
    with use_backend("native"):
        torch.testing.assert_close(chain_matmul(torch.ones(7, 5), w).sum(), 7 * w[0].sum())


# -- folded ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2000])
def test_indices_of_which_torch_alone_knows_the_meaning(batch: int) -> None:
    p = (Pattern(1, 5, 5, 1),)
    w, x = [torch.randn(1, 5, 5, 1)], torch.randn(batch, 5)
    negative = torch.tensor([-1, 0, 1, 2, -3])
    mask = torch.tensor([True, False, True, True, False])
    for _ in range(3):
        torch.testing.assert_close(chain_apply(x, w, p, gather=negative), chain_matmul(x[:, negative], w))
        torch.testing.assert_close(chain_apply(x, w, p, take=negative), chain_matmul(x, w)[:, negative])
        torch.testing.assert_close(
            chain_apply(x, w, p, take=negative, rows=2), chain_matmul(x, w)[:, negative][:, :2]
        )
        torch.testing.assert_close(chain_apply(x, w, p, take=mask), chain_matmul(x, w)[:, mask])
        with pytest.raises(IndexError):
            chain_apply(x, w, p, gather=negative + 5)
        with pytest.raises(IndexError):
            chain_apply(x, w, p, take=torch.tensor([0, 5]), rows=1)
        with pytest.raises(KMatrixError):
            chain_apply(x, w, p, gather=torch.tensor([0, 1]))


@needs_native
def test_an_index_that_goes_outside_later_is_noticed() -> None:
    p = (Pattern(1, 5, 5, 1),)
    w, x, index = [torch.randn(1, 5, 5, 1)], torch.randn(2, 5), torch.arange(5)
    for _ in range(3):
        chain_apply(x, w, p, gather=index)
    index[0] = -1
    for _ in range(3):
        torch.testing.assert_close(chain_apply(x, w, p, gather=index), chain_matmul(x[:, index], w))


def test_a_product_that_is_not_folded_is_told_once() -> None:
    p = (Pattern(1, 5, 5, 1),)
    w, x, index = [torch.randn(1, 5, 5, 1)], torch.randn(2, 5), torch.arange(5)
    with use_backend("portable"), observing() as products:
        chain_apply(x, w, p, gather=index)
    assert [one.backend for one in products] == ["portable"]
    with observing() as products:
        chain_apply(x, w, p, gather=index)
        chain_apply(x, w, p, gather=index - 1)
    assert len(products) == 2
    assert all(one.ends is None for one in products) == (native_part().module is None)


# -- measured with indices -------------------------------------------------------------------------


@needs_native
def test_chains_with_indices_have_answers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMATRIX_WISDOM", "")
    km.ops.wisdom.forget()
    native.forget_schedules()
    weights = draw()
    _, description = described(weights, PATTERNS)
    index = torch.randperm(32)
    ends = Ends(32, 32, index, None, None, ())
    odd = Schedule("tiles", (1,) * 5, 1)
    monkeypatch.setattr("kmatrix.ops.tuning._candidates", lambda *_: [odd])
    try:
        plain = native.schedule_of(description, 40)
        prepare(weights, gather=index, tune=40)
        assert native.schedule_of(description, 40, ends) == odd
        assert native.schedule_of(description, 40) == plain != odd
        tune(weights, batch=400, seconds=0.01, n=33, gather=index, take=[3])
        assert native.schedule_of(description, 400, ends) == odd
    finally:
        monkeypatch.undo()
        km.ops.wisdom.forget()
        native.forget_schedules()
