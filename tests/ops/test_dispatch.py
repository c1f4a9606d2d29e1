"""Which backend runs: preference, requests, refusals and explanations."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from kmatrix._errors import ArgumentError, BackendUnavailableError
from kmatrix.ops import chain_matmul, dispatch, use_backend
from kmatrix.ops.chain import explain_dispatch
from kmatrix.ops.dispatch import BACKENDS, Verdict


class Counting:
    """A backend that counts its runs and may decline."""

    name = "counting"

    def __init__(self, ok: bool = True) -> None:
        self.ok = ok
        self.runs: list[str] = []

    def can_run(self, x, weights, patterns) -> Verdict:
        return Verdict(self.ok, "counts" if self.ok else "will not count today")

    def run(self, x, weights, patterns):
        self.runs.append("forward")
        return dispatch.Reference().run(x, weights, patterns)

    def run_backward(self, grad, x, weights, patterns, need_x):
        self.runs.append("backward")
        return dispatch.Reference().run_backward(grad, x, weights, patterns, need_x)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Put a backend in front of the others."""

    def put(backend: Counting) -> Counting:
        monkeypatch.setattr(dispatch, "BACKENDS", (backend, *BACKENDS))
        return backend

    return put


def arguments(example, requires_grad: bool = False):
    x = torch.randn(3, example.cols, dtype=torch.float64)
    return x, example.draw(requires_grad=requires_grad), example.patterns


def test_backends_see_memory_that_means_what_it_says(mixed, install) -> None:
    """No lazy conjugation or negation reaches a kernel, which would read past it."""

    class Looking(Counting):
        def run(self, x, weights, patterns):
            assert not any(t.is_conj() or t.is_neg() for t in (x, *weights))
            return super().run(x, weights, patterns)

        def run_backward(self, grad, x, weights, patterns, need_x):
            assert not any(t.is_conj() or t.is_neg() for t in (grad, x, *weights))
            return super().run_backward(grad, x, weights, patterns, need_x)

    looking = install(Looking())
    z = torch.randn(3, mixed.cols, dtype=torch.complex128)
    for x, number in ((z.conj(), torch.complex128), (z.conj().imag, torch.float64)):
        weights = mixed.draw(number, requires_grad=True)
        lazy = [w.conj() if number.is_complex else torch.complex(w, w).conj().imag for w in weights]
        chain_matmul(x, [w.detach() for w in lazy], mixed.patterns)
        y = chain_matmul(x, lazy, mixed.patterns)
        y.backward(y.detach().conj())
    dispatch.run_backward(y.detach(), x, lazy, mixed.patterns, True)
    assert looking.runs == ["forward", "forward", "backward"] * 2 + ["backward"]


def test_the_first_that_can_is_used(mixed, install) -> None:
    counting = install(Counting())
    chain_matmul(*arguments(mixed))
    assert counting.runs == ["forward"]
    chain_matmul(*arguments(mixed, requires_grad=True)).sum().backward()
    assert counting.runs == ["forward", "forward", "backward"]


def test_one_that_cannot_is_passed_over_with_a_reason(mixed, install, caplog) -> None:
    counting = install(Counting(ok=False))
    with caplog.at_level(logging.DEBUG, logger="kmatrix"):
        chain_matmul(*arguments(mixed))
    assert counting.runs == []
    assert caplog.messages[0] == "backend counting passed over: will not count today"


def test_a_request_is_honoured(mixed, install) -> None:
    counting = install(Counting())
    with use_backend("portable"):
        chain_matmul(*arguments(mixed, requires_grad=True)).sum().backward()
        with use_backend("counting"):
            chain_matmul(*arguments(mixed))
        assert counting.runs == ["forward"]
        chain_matmul(*arguments(mixed))
    assert counting.runs == ["forward"]


def test_a_request_that_cannot_be_honoured_raises(mixed, install) -> None:
    install(Counting(ok=False))
    with use_backend("counting"):
        for requires_grad in (False, True):
            with pytest.raises(BackendUnavailableError, match="'counting': will not count today"):
                chain_matmul(*arguments(mixed, requires_grad))
    chain_matmul(*arguments(mixed))


@pytest.mark.parametrize("name", ["native", "triton", "portable", "reference"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_empty_batches_run_whoever_is_asked_for(mixed, name: str, requires_grad: bool) -> None:
    x, weights, patterns = arguments(mixed, requires_grad)
    with use_backend(name):
        y = chain_matmul(x[:0], weights, patterns)
        assert y.shape == (0, mixed.rows)
        assert explain_dispatch(x[:0], weights, patterns).backend == "reference"
        if requires_grad:
            y.sum().backward()
    assert all(w.grad is None or not w.grad.any() for w in weights)


def test_a_request_ends_with_its_block(mixed) -> None:
    best = explain_dispatch(*arguments(mixed)).backend
    with pytest.raises(RuntimeError, match="on purpose"), use_backend("reference"):
        raise RuntimeError("on purpose")
    assert explain_dispatch(*arguments(mixed)).backend == best != "reference"


def test_a_request_stays_in_its_thread(mixed) -> None:
    seen: list[str | None] = []
    best = explain_dispatch(*arguments(mixed)).backend
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(explain_dispatch(*arguments(mixed)).backend))
        thread.start()
        thread.join()
    assert seen == [best] != ["reference"]


def test_unknown_names_are_refused_at_once() -> None:
    with (
        pytest.raises(ArgumentError, match="use one of native, triton, portable, reference"),
        use_backend("fastest"),
    ):
        pass


def test_results_do_not_depend_on_the_backend(example, dtype) -> None:
    x, weights = torch.randn(50, example.cols, dtype=dtype), example.draw(dtype)
    results = []
    for backend in BACKENDS:
        if backend.can_run(x, weights, tuple(example.patterns)).ok:
            with use_backend(backend.name):
                results.append(chain_matmul(x, weights, example.patterns))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-12, atol=1e-12)


def test_explanation(mixed, install) -> None:
    best = explain_dispatch(*arguments(mixed)).backend
    install(Counting(ok=False))
    told = explain_dispatch(*arguments(mixed))
    assert told.backend == best
    assert told.reasons["counting"] == "will not count today"
    assert list(told.reasons) == ["counting", "native", "triton", "portable", "reference"]
    assert str(told).splitlines()[0].startswith(f"{best} (")
    with use_backend("counting"):
        told = explain_dispatch(*arguments(mixed))
        assert told.backend is None
        assert str(told).startswith("unavailable (")


def test_explanation_under_a_transform(mixed) -> None:
    x, weights, patterns = arguments(mixed)
    told = []

    def loss(x):
        told.append(explain_dispatch(x, weights, patterns))
        return chain_matmul(x, weights, patterns).sum()

    torch.func.grad(loss)(x)
    assert told[0].backend == "reference"
    assert "torch.func" in told[0].reasons["portable"]
