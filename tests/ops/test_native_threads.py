"""Recorded calls and packed weights in several threads, and in a child that a fork left without any."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kmatrix.ops import Pattern, calls, chain_matmul, use_backend
from kmatrix.ops.definition import reference_chain_matmul
from kmatrix.ops.native_module import DONE, native_part

pytestmark = pytest.mark.skipif(native_part().module is None, reason=native_part().reason)
PATTERNS = tuple(Pattern(16 >> k, 2, 2, 1 << k) for k in range(5))
FEW = 1  # a batch for weights that are read where they are


@pytest.fixture(autouse=True)
def _natively() -> Iterator[None]:
    with use_backend("native"):
        yield


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_threads_with_weights_that_differ_in_the_middle() -> None:
    """All of them find the same record, which must keep nothing of one call where another sees it."""
    x, wrong = torch.randn(FEW, 32), []
    ends = [torch.randn(p) for p in PATTERNS]
    start = threading.Barrier(6)

    def work(weights: list[Tensor]) -> None:
        want = reference_chain_matmul(x, weights, PATTERNS)
        start.wait()
        with use_backend("native"):
            for _ in range(2000):
                y = chain_matmul(x, weights, PATTERNS)
                if not torch.allclose(y, want, rtol=1e-3, atol=1e-3):
                    wrong.append(y)

    chains = [[ends[0], *[torch.randn(p) for p in PATTERNS[1:4]], ends[4]] for _ in range(6)]
    threads = [threading.Thread(target=work, args=(weights,)) for weights in chains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_list_of_weights_that_shrinks_while_it_is_read() -> None:
    """Questions to tensors run Python: here the collector, set off by the new object in the middle."""
    weights, x, y = [torch.randn(p) for p in PATTERNS], torch.randn(FEW, 32), torch.empty(FEW, 32)
    want = reference_chain_matmul(x, weights, PATTERNS)
    calls.forget()
    for _ in range(2):
        chain_matmul(x, weights, PATTERNS)
    (run,) = [known.run for known in calls._records.values()]
    weights[1] = weights[1].clone()

    def shrink(phase: str, info: dict[str, int]) -> None:
        del weights[2:]

    threshold = gc.get_threshold()
    gc.callbacks.append(shrink)
    gc.set_threshold(1)
    try:
        found = run(x, weights, (), y, 1, False)
    finally:
        gc.callbacks.remove(shrink)
        gc.set_threshold(*threshold)
    assert found == DONE
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)


FORK = """
import os, signal, torch
from kmatrix.ops import Pattern, chain_matmul, use_backend
from kmatrix.ops.native_module import native_part, threads
torch.set_num_threads(2)
torch.randn(600, 600) @ torch.randn(600, 600)
torch.randn(2**22).exp_()  # the pool of threads is there, no native product has been
x, weight = torch.randn(4000, 64), torch.randn(32, 2, 2, 1)
child = os.fork()
if child == 0:
    signal.alarm(20)
    with use_backend("native"):
        chain_matmul(x, [weight])
    os._exit(0 if threads() == 1 and native_part().module else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_whose_first_native_product_comes_after_the_fork() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FORK], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
