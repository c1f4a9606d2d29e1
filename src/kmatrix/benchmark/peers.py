"""Fast products of others: scipy, and lazylinop and pyfaust where they are installed. None of them is a dependency."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kmatrix.benchmark.clock import allowed_threads, using_threads
from kmatrix.benchmark.contenders import Contender, Problem, chain_truth, rounding
from kmatrix.ops.definition import Pattern


def scipy_transform(problem: Problem, apply: Callable[[Any], Any], dtype: torch.dtype) -> Contender:
    """A fast Fourier transform of scipy along the rows."""
    inputs = [x.numpy() for x in problem.inputs(dtype)]
    tolerance = rounding(dtype, 4 * problem.matrix.shape[1].bit_length())
    expected = [torch.from_numpy(apply(inputs[0].astype("complex128" if dtype.is_complex else "float64")))]
    return Contender(apply, inputs, None, lambda: expected, tolerance)


def scipy_transforms(problem: Problem) -> dict[str, Contender]:
    """The real and the complex transform of scipy."""
    import scipy.fft

    if problem.dtype.is_complex:
        return {"scipy fft": scipy_transform(problem, scipy.fft.fft, problem.dtype)}
    return {"scipy rfft": scipy_transform(problem, scipy.fft.rfft, problem.dtype)}


def import_peers() -> None:
    """Load those that are installed. lazylinop sets torch's number of threads here; call it before setting them."""
    with _quietly():
        for module in ("lazylinop.butterfly", "pyfaust"):
            if find_spec(module.partition(".")[0]) is not None:
                importlib.import_module(module)


def peers(problem: Problem) -> dict[str, Contender]:
    """The same chain by those that are installed; features first, as they want it."""
    found: dict[str, Contender] = {}
    with using_threads(allowed_threads()), _quietly():
        if find_spec("lazylinop") is not None:
            found |= _lazylinop(problem)
        if find_spec("pyfaust") is not None:
            found |= _pyfaust(problem)
    return found


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the remarks that these packages make about what else could be installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _columns(problem: Problem) -> tuple[list[Tensor], Callable[[], list[Tensor]], float]:
    _, patterns = problem.chain(problem.dtype)

    def expected() -> list[Tensor]:
        return [chain_truth(problem, problem.dtype).mT]

    tolerance = rounding(problem.dtype, 4 * sum(p.c for p in patterns))
    return [x.mT.contiguous() for x in problem.inputs()], expected, tolerance


def _lazylinop(problem: Problem) -> dict[str, Contender]:
    """Factor by factor, and multiplied into two, its best way at most sizes."""
    from lazylinop.butterfly import fuse, ksm  # type: ignore[import-not-found,unused-ignore]

    weights, _ = problem.chain(problem.dtype)
    inputs, expected, tolerance = _columns(problem)
    product = weights[::-1]  # written from left to right
    half = math.ceil(len(product) / 2)
    two = fuse(product, [list(range(half)), list(range(half, len(product)))]) if len(product) > 2 else product
    made = {"lazylinop": ksm(product), "lazylinop, fused to 2": ksm(two)}
    return {
        name: Contender(operator.__matmul__, inputs, None, expected, tolerance)
        for name, operator in made.items()
    }


def _pyfaust(problem: Problem) -> dict[str, Contender]:
    """A product of sparse matrices in its form for butterflies, where the factors are some."""
    from pyfaust import Faust, opt_butterfly_faust  # type: ignore[import-not-found,unused-ignore]

    weights, patterns = problem.chain(problem.dtype)
    inputs, expected, tolerance = _columns(problem)
    factors = [_sparse(w, p) for w, p in zip(weights, patterns, strict=True)]
    faust = Faust(factors[::-1])
    if all(p[1:3] == (2, 2) for p in patterns):
        faust = opt_butterfly_faust(faust)
    columns = [x.t().contiguous().numpy().T for x in inputs]  # in the order of Fortran
    return {"pyfaust": Contender(faust.__matmul__, columns, None, expected, tolerance)}


def _sparse(weight: Tensor, pattern: Pattern) -> Any:
    """A factor in rows of nonzero entries."""
    import scipy.sparse

    a, b, c, d = (torch.arange(size) for size in pattern)
    group, row, col, place = torch.meshgrid(a, b, c, d, indexing="ij")
    rows = ((group * pattern.b + row) * pattern.d + place).flatten()
    cols = ((group * pattern.c + col) * pattern.d + place).flatten()
    values = weight.expand(*pattern).flatten().numpy()
    return scipy.sparse.csr_matrix((values, (rows, cols)), shape=(pattern.rows, pattern.cols))
