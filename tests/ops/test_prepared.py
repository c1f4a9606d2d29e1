"""Prepared chains and products into memory of the caller's: the same numbers, and what is refused."""

from __future__ import annotations

import copy
import io
import os
import pickle
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from kmatrix._errors import ArgumentError, DtypeError
from kmatrix.ops import Pattern, calls, chain_matmul, prepare, use_backend
from kmatrix.ops.apply import chain_apply
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.dispatch import observing
from kmatrix.ops.native_module import native_part
from kmatrix.testing import assert_matches_reference

BACKENDS = ["portable", *(["native"] if native_part().module else [])]
NUMBERS = [torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bfloat16, torch.float16]


@pytest.fixture(params=[True, False], ids=["recorded", "unrecorded"], autouse=True)
def _recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With records of calls, and with a torch that has no way to make them."""
    calls.forget()
    if not request.param:
        monkeypatch.setattr(calls, "recorder", lambda: None)
        monkeypatch.setattr("kmatrix.ops.prepared.recorder", lambda: None)
    yield
    calls.forget()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest):
    """Each backend that can run here."""
    with use_backend(request.param):
        yield request.param


def around(x: Tensor, weights, patterns, gather=None, take=None, bias=None) -> Tensor:
    """The definition of a chain with its ends; -1 is zero."""
    if gather is not None:
        x = torch.nn.functional.pad(x, (0, 1))[..., gather]
    y = reference_chain_matmul(x, weights, patterns)
    y = y if take is None else y[..., take]
    return y if bias is None else y + bias


# -- prepare ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("number", NUMBERS, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("batch", [1, 19])
def test_equals_the_definition(example, number: torch.dtype, batch: int) -> None:
    wide = torch.complex128 if number.is_complex else torch.float64
    weights, x = example.draw(wide), torch.randn(batch, example.cols, dtype=wide)

    def by_plan(x: Tensor, *weights: Tensor) -> Tensor:
        plan = prepare(weights, example.patterns)
        plan(x)
        return plan(x)

    def by_definition(x: Tensor, *weights: Tensor) -> Tensor:
        return reference_chain_matmul(x, weights, example.patterns)

    assert_matches_reference(by_plan, by_definition, [x, *weights], number)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_ends(example, dtype: torch.dtype, batch: int) -> None:
    n = example.cols + 3
    gather = torch.randint(-1, n, (example.cols,))
    take = torch.randint(0, example.rows, (2 * example.rows + 1,))
    bias = torch.randn(len(take), dtype=dtype)
    weights, x = example.draw(dtype), torch.randn(batch, n, dtype=dtype)
    plan = prepare(weights, example.patterns, n=n, gather=gather, take=take, bias=bias)
    want = around(x, weights, example.patterns, gather, take, bias)
    assert (plan.n_in, plan.n_out, plan.dtype) == (n, len(take), dtype)
    for _ in range(2):
        torch.testing.assert_close(plan(x), want)
        torch.testing.assert_close(plan(x[0]), want[0])
        torch.testing.assert_close(plan(x.t().contiguous().t()), want)
        torch.testing.assert_close(plan(x.view(1, batch, n)), want[None])


@pytest.mark.usefixtures("backend")
def test_it_is_a_snapshot(mixed) -> None:
    weights, bias, index = mixed.draw(), torch.randn(mixed.rows).double(), torch.arange(mixed.cols)
    plan = prepare(weights, mixed.patterns, gather=index, bias=bias)
    x = torch.randn(4, mixed.cols, dtype=torch.float64)
    before = plan(x)
    for t in (*weights, bias, index):
        t.zero_()
    assert torch.equal(plan(x), before)


@pytest.mark.usefixtures("backend")
def test_lazy_bits(mixed) -> None:
    z = torch.randn(4, mixed.cols, dtype=torch.complex128)
    weights = mixed.draw(torch.complex128)
    plan = prepare([w.conj() for w in weights], mixed.patterns)
    want = reference_chain_matmul(z, [w.conj().resolve_conj() for w in weights], mixed.patterns)
    for _ in range(2):
        torch.testing.assert_close(plan(z), want)
        torch.testing.assert_close(plan(z.conj().resolve_conj().conj()), want)
    real = mixed.draw()
    plan, x = prepare(real, mixed.patterns), z.real.contiguous()
    for _ in range(2):
        torch.testing.assert_close(plan(torch._neg_view(x)), reference_chain_matmul(-x, real, mixed.patterns))


def test_empty_batches(mixed) -> None:
    plan = prepare(mixed.draw(), mixed.patterns)
    for _ in range(2):
        assert plan(torch.empty(0, mixed.cols, dtype=torch.float64)).shape == (0, mixed.rows)
    assert plan(torch.empty(3, 0, mixed.cols, dtype=torch.float64)).shape == (3, 0, mixed.rows)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("nothing", [[], (), np.array([]), torch.empty(0, dtype=torch.int64)], ids=repr)
def test_taking_nothing_gives_nothing(mixed, nothing) -> None:
    plan = prepare(mixed.draw(), mixed.patterns, take=nothing)
    for _ in range(2):
        assert plan(torch.randn(3, mixed.cols, dtype=torch.float64)).shape == (3, 0)


@pytest.mark.usefixtures("backend")
def test_threads_share_a_plan(mixed) -> None:
    plan = prepare(mixed.draw(), mixed.patterns)
    x = torch.randn(40, mixed.cols, dtype=torch.float64)
    want = plan(x)
    wrong: list[int] = []

    def work(batch: int) -> None:
        wrong.extend(batch for _ in range(30) if not torch.allclose(plan(x[:batch]), want[:batch]))

    threads = [threading.Thread(target=work, args=(batch,)) for batch in (1, 2, 17, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_refusals(mixed) -> None:
    weights, patterns = mixed.draw(), mixed.patterns
    with pytest.raises(ArgumentError, match="no factor"):
        prepare([])
    with pytest.raises(ArgumentError, match=r"weights\[0\]"):
        prepare(weights[::-1], patterns)
    with pytest.raises(ArgumentError, match="order of application"):
        prepare(weights[::-1], patterns[::-1])
    with pytest.raises(DtypeError, match=r"weights\[1\].dtype"):
        prepare([weights[0], *[w.float() for w in weights[1:]]], patterns)
    with pytest.raises(DtypeError, match="not all tensors"):
        prepare([[1.0]])  # type: ignore[list-item]
    beyond = torch.arange(mixed.cols)
    beyond[4] = mixed.cols
    with pytest.raises(ArgumentError, match=rf"gather\[4\]={mixed.cols}: x has {mixed.cols} entries"):
        prepare(weights, patterns, gather=beyond)
    with pytest.raises(ArgumentError, match=r"gather\[0\]=-2: .*-1 for zero"):
        prepare(weights, patterns, gather=[-2, *beyond[1:].tolist()])
    with pytest.raises(ArgumentError, match=r"gather.shape"):
        prepare(weights, patterns, gather=[0])
    with pytest.raises(DtypeError, match=r"take.dtype"):
        prepare(weights, patterns, take=torch.ones(mixed.rows))
    with pytest.raises(ArgumentError, match=rf"take\[1\]=-1: the last factor has {mixed.rows} rows"):
        prepare(weights, patterns, take=[0, -1])
    with pytest.raises(ArgumentError, match=r"bias.shape"):
        prepare(weights, patterns, bias=torch.ones(1, dtype=torch.float64))
    with pytest.raises(DtypeError, match=r"bias.dtype"):
        prepare(weights, patterns, bias=torch.ones(mixed.rows))
    with pytest.raises(DtypeError, match=r"bias=ndarray: not a torch.Tensor.*torch.as_tensor\(bias\)"):
        prepare(weights, patterns, bias=np.ones(mixed.rows))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"gather.shape=\(0,\)"):
        prepare(weights, patterns, gather=[])
    with pytest.raises(ArgumentError, match=r"^prepare: patterns\[0\]"):
        prepare(weights, [(1, 2), *patterns[1:]])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match=r"n="):
        prepare(weights, patterns, n=mixed.cols + 1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_refusals_of_a_plan(mixed) -> None:
    plan = prepare(mixed.draw(), mixed.patterns)
    x = torch.randn(2, mixed.cols, dtype=torch.float64)
    for _ in range(2):  # before and after the shape is known
        with pytest.raises(DtypeError, match=r"x.dtype"):
            plan(x.float())
        with pytest.raises(ArgumentError, match="last dimension"):
            plan(x[:, 1:])
        with pytest.raises(DtypeError, match=r"x=ndarray: not a torch.Tensor"):
            plan(x.numpy())  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="device"):
            plan(x.to("meta"))
        with pytest.raises(ArgumentError, match="gradients"):
            plan(x.clone().requires_grad_())
        with pytest.raises(ArgumentError, match="traced"):
            torch.func.jacrev(plan)(x)
        with pytest.raises(DtypeError, match="x=Labelled: a subclass"):
            plan(x.as_subclass(type("Labelled", (Tensor,), {})))
        with pytest.raises(ArgumentError, match="traced"):
            torch.func.vmap(plan)(x)
        with forward_ad.dual_level(), pytest.raises(ArgumentError, match="traced"):
            plan(forward_ad.make_dual(x, x))
        plan(x)
    with torch.no_grad():
        assert not plan(x.clone().requires_grad_()).requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_who_asks_is_heard_the_second_time_too(mixed) -> None:
    plan = prepare(mixed.draw(), mixed.patterns)
    x = torch.randn(2, mixed.cols, dtype=torch.float64)
    for _ in range(3):
        with observing() as products:
            y = plan(x)
        assert len(products) == 1
        with use_backend("portable"), observing() as products:
            torch.testing.assert_close(plan(x), y)
        assert [one.backend for one in products] == ["portable"]
        with pytest.raises(ArgumentError, match="traced"):
            torch.jit.trace(plan.__call__, (x,), check_trace=False)
        plan(x)


@pytest.mark.skipif(not native_part().module, reason=native_part().reason)
def test_portable_is_what_runs_when_asked_for(mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepare(mixed.draw(), mixed.patterns)
    x = torch.randn(2, mixed.cols, dtype=torch.float64)
    plan(x)
    ran: list[Tensor] = []
    portable = plan._portable
    monkeypatch.setattr(plan, "_portable", lambda x: ran.append(x) or portable(x))
    with use_backend("portable"):
        plan(x)
    plan(x)
    assert len(ran) == 1


def test_copies_of_a_plan(mixed) -> None:
    gather, bias = torch.randperm(mixed.cols), torch.randn(mixed.rows).double()
    plan = prepare(mixed.draw(), mixed.patterns, gather=gather, bias=bias)
    x = torch.randn(3, mixed.cols, dtype=torch.float64)
    want = plan(x)
    saved = io.BytesIO()
    torch.save(plan, saved)
    saved.seek(0)
    for other in (
        copy.copy(plan),
        copy.deepcopy(plan),
        pickle.loads(pickle.dumps(plan)),
        torch.load(saved, weights_only=False),
    ):
        for _ in range(2):
            assert torch.equal(other(x), want)
        assert repr(other) == repr(plan)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_uses_a_plan(mixed) -> None:
    plan = prepare(mixed.draw(), mixed.patterns)
    x = torch.randn(40, mixed.cols, dtype=torch.float64)
    want = plan(x)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if torch.allclose(plan(x[:1]), want[:1]) and torch.allclose(plan(x), want) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- out= ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("batch", [1, 21])
def test_out(example, dtype: torch.dtype, batch: int) -> None:
    weights, x = example.draw(dtype), torch.randn(batch, example.cols, dtype=dtype)
    want = reference_chain_matmul(x, weights, example.patterns)
    plan = prepare(weights, example.patterns)
    rows, wide = example.rows, torch.empty(batch, 2 * example.rows, dtype=dtype)
    places = [
        torch.empty(batch, rows, dtype=dtype),
        torch.empty(rows, batch, dtype=dtype).t(),
        wide[:, :rows],
        wide[:, ::2],
        torch.empty(batch, 2, rows, dtype=dtype).transpose(0, 1)[0],
    ]
    for out in places:
        for multiply in (
            lambda out: chain_matmul(x, weights, example.patterns, out=out),
            lambda out: plan(x, out),
        ):
            out.fill_(torch.nan)
            version = out._version
            assert multiply(out) is out
            assert out._version > version
            torch.testing.assert_close(out, want)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("batch", [1, 21])
def test_out_may_share_memory_with_the_arguments(batch: int) -> None:
    patterns = [Pattern(4, 2, 2, 1), Pattern(2, 2, 2, 2), Pattern(1, 2, 2, 4)]
    weights = [torch.randn(p, dtype=torch.float64) for p in patterns]
    plan = prepare(weights, patterns)
    memory = torch.randn(batch * 8 + 5, dtype=torch.float64)
    for shift in (0, 1, 5):
        x = memory[:-5].view(batch, 8)
        want = reference_chain_matmul(x, weights, patterns)
        x.copy_(torch.linalg.solve(torch.eye(8).double(), x.T).T)
        out = memory[shift : shift + batch * 8].view(batch, 8)
        chain_matmul(x, weights, patterns, out=out)
        torch.testing.assert_close(out, want)
        memory.normal_()
        want = reference_chain_matmul(x, weights, patterns)
        plan(x, out)
        torch.testing.assert_close(out, want)
    want = reference_chain_matmul(torch.ones(2, 8).double(), weights, patterns)
    out = weights[1].view(2, 8)
    chain_matmul(torch.ones(2, 8).double(), weights, patterns, out=out)
    torch.testing.assert_close(out, want)


def test_out_is_refused_where_somebody_watches(mixed) -> None:
    x, weights, patterns = torch.randn(2, mixed.cols).double(), mixed.draw(), mixed.patterns
    out = torch.empty(2, mixed.rows, dtype=torch.float64)
    with pytest.raises(ArgumentError, match=r"out=.*autograd"):
        chain_matmul(x, [w.requires_grad_() for w in mixed.draw()], patterns, out=out)
    with pytest.raises(ArgumentError, match=r"out=.*autograd"):
        chain_matmul(x, weights, patterns, out=out.clone().requires_grad_())
    with pytest.raises(ArgumentError, match=r"out=.*torch.func"):
        torch.func.grad(lambda x: chain_matmul(x, weights, patterns, out=out).sum())(x)
    with FlopCounterMode(display=False), pytest.raises(ArgumentError, match=r"out="):
        chain_matmul(x, weights, patterns, out=out)
    with torch.no_grad():
        chain_matmul(x, [w.requires_grad_() for w in weights], patterns, out=out)


def test_out_must_fit(mixed) -> None:
    x, weights, patterns = torch.randn(2, mixed.cols).double(), mixed.draw(), mixed.patterns
    plan = prepare(weights, patterns)
    out = torch.empty(2, mixed.rows, dtype=torch.float64)
    for multiply in (lambda out: chain_matmul(x, weights, patterns, out=out), lambda out: plan(x, out)):
        with pytest.raises(ArgumentError, match=r"out.shape"):
            multiply(out[:1])
        with pytest.raises(DtypeError, match=r"out.dtype"):
            multiply(out.float())
        with pytest.raises(DtypeError, match=r"out=ndarray: not a torch.Tensor.*torch.as_tensor\(out\)"):
            multiply(out.numpy())
        with pytest.raises(ArgumentError, match=r"out.device"):
            multiply(out.to("meta"))
        with pytest.raises(ArgumentError, match="share one place"):
            multiply(out[:1].expand(2, mixed.rows))
        with pytest.raises(ArgumentError, match="share one place"):
            multiply(torch.empty(100).double().as_strided((2, mixed.rows), (1, 1)))
        with pytest.raises(ArgumentError, match="share one place"):
            multiply(torch.empty(100).double().as_strided((2, mixed.rows), (mixed.rows - 1, 1)))
        with torch.inference_mode():
            inference = out.clone()
        with pytest.raises(ArgumentError, match="inference mode"):
            multiply(inference)


def test_out_in_three_dimensions(mixed) -> None:
    """A place that is neither rows nor columns is written all the same, and one that overlaps itself is not."""
    weights, x = mixed.draw(), torch.randn(2, 3, mixed.cols, dtype=torch.float64)
    want = reference_chain_matmul(x, weights, mixed.patterns)
    plan, rows = prepare(weights, mixed.patterns), mixed.rows
    for _ in range(3):
        for out in (
            torch.empty(3, 2, rows).double().transpose(0, 1),
            torch.empty(2, 3, 2 * rows).double()[..., ::2],
        ):
            out.fill_(torch.nan)
            assert plan(x, out) is out
            torch.testing.assert_close(out, want)
        with pytest.raises(ArgumentError, match="share one place"):
            plan(x, torch.empty(1000).double().as_strided((2, 3, rows), (rows, rows, 1)))


def test_a_saved_tensor_that_is_written_is_noticed(mixed) -> None:
    """Autograd refuses to use what ``out=`` has overwritten."""
    weights, patterns = mixed.draw(), mixed.patterns
    saved = torch.randn(2, mixed.rows, dtype=torch.float64)
    loss = (torch.ones_like(saved).requires_grad_() * saved).sum()
    chain_matmul(torch.randn(2, mixed.cols).double(), weights, patterns, out=saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -- folded ends -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("batch", [1, 18])
@pytest.mark.parametrize("trained", [False, True], ids=["plain", "trained"])
def test_chain_apply(example, dtype: torch.dtype, batch: int, trained: bool) -> None:
    cols, rows, patterns = example.cols, example.rows, tuple(example.patterns)
    weights = example.draw(dtype, requires_grad=trained)
    bias = torch.randn(max(rows - 1, 1), dtype=dtype, requires_grad=trained)
    gather, take = torch.randperm(cols), torch.randperm(rows)
    for ends in (
        {"gather": gather},
        {"take": take},
        {"gather": gather, "take": take, "rows": len(bias), "bias": bias},
        {"rows": len(bias)},
        {"rows": len(bias), "bias": bias},
        {},
    ):
        for short in (cols, max(cols - 2, 1)):
            x = torch.randn(batch, short, dtype=dtype)
            padded = torch.nn.functional.pad(x, (0, cols - short))
            want = reference_chain_matmul(padded[:, ends.get("gather", slice(None))], weights, patterns)
            want = want[:, ends.get("take", slice(None))][:, : ends.get("rows")] + ends.get("bias", 0)
            for _ in range(3):
                got = chain_apply(x, weights, patterns, **ends)
                assert got.requires_grad == trained
                torch.testing.assert_close(got, want)


@pytest.mark.usefixtures("backend")
def test_indices_and_biases_that_change(mixed) -> None:
    weights, patterns, x = mixed.draw(), tuple(mixed.patterns), torch.randn(3, mixed.cols).double()
    gather, bias = torch.randperm(mixed.cols), torch.randn(mixed.rows).double()
    for _ in range(4):
        for _ in range(3):
            want = reference_chain_matmul(x[:, gather], weights, patterns) + bias
            torch.testing.assert_close(chain_apply(x, weights, patterns, gather=gather, bias=bias), want)
        gather.numpy()[:2] = gather.numpy()[1::-1].copy()
        bias.numpy()[0] += 1


@pytest.mark.usefixtures("backend")
def test_the_same_index_at_either_end() -> None:
    """Which end an index belongs to is part of what is remembered."""
    p = (Pattern(1, 5, 5, 1),)
    w, x, index = [torch.randn(1, 5, 5, 1)], torch.randn(2, 5), torch.tensor([4, 0, 1, 2, 3])
    for _ in range(4):
        torch.testing.assert_close(chain_apply(x, w, p, gather=index), chain_matmul(x[:, index], w))
        torch.testing.assert_close(chain_apply(x, w, p, take=index), chain_matmul(x, w)[:, index])


def test_chain_apply_checks_its_weights(mixed) -> None:
    with pytest.raises(ArgumentError):
        chain_apply(torch.ones(2, mixed.cols), [torch.ones(1)] * 3, tuple(mixed.patterns), rows=1)
