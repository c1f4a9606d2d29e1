"""``fit``: any matrix in, a certified fast operator out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy.typing as npt
import torch
from torch import Tensor

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, FitError, complaint
from kmatrix.fitting.certificate import Certificate, certify, check_batches, scale_of
from kmatrix.fitting.named import fit_into
from kmatrix.fitting.problem import Measure, Problem
from kmatrix.fitting.result import Fit, Progress, check_progress
from kmatrix.fitting.search.loop import Search, dense_matrix, in_dtype, why_dense
from kmatrix.fitting.targets import Target, as_target
from kmatrix.structures import Structure, StructuredMatrix

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    Fittable = Tensor | npt.NDArray[Any] | str | Path | LinearOperator | StructuredMatrix


def fit(
    target: Fittable,
    structure: Structure | None = None,
    *,
    tol: float | None = None,
    of: Measure = "params",
    name: str | None = None,
    seed: int = 0,
    max_seconds: float | None = None,
    batches: Sequence[int] = (1, 64),
    progress: Progress | None = None,
) -> Fit:
    """Find a fast structured matrix for a dense target, with a certificate.

    With a structure, the closest member that its method finds: the exact minimiser of ``||W - A||_F`` where a
    closed form exists, a hierarchical factorisation for chains, alternation or gradient learning otherwise. Without
    one, the families of the search are tried from cheap to dear, under a search over row and column orders, and the
    cheapest whose relative error is at most ``tol``, and which takes no more operations than dense, is returned; if
    there is none, the answer is ``Dense`` with the reason.

    Args:
        target: an ``(m, n)`` tensor or numpy array (float or complex), a ``.npy``, ``.npz`` or ``.safetensors``
            file, or a ``scipy.sparse.linalg.LinearOperator`` (its entries are learnt with ``n`` products).
        structure: the family to fit; leave it out to have one chosen.
        tol: relative Frobenius error to reach, between the rounding of the target's dtype and 1. Required
            without a structure; with one, only judged.
        of: what cheap means: ``"params"``, numbers held (and positions of sparse entries), or ``"flops"``.
        name: which array of a file with several.
        seed: of every random choice; the same seed gives the same result.
        max_seconds: stop after this time and return the best so far; a decomposition under way is finished.
        batches: batch sizes at which the certificate times the result against dense; ``()`` to skip.
        progress: called with the family being tried, and again with its ``Attempt`` when it ends.

    Returns:
        The matrix in the target's dtype, its certificate, and the history of everything tried. Ctrl-C during the
        search returns the best so far, marked ``interrupted``.

    Raises:
        ArgumentError: if the target is not a finite non-empty matrix, or the tolerance is out of range.
        DtypeError: if its numbers are not floating or complex, or ``batches`` or ``progress`` are of the wrong kind.
        FileFormatError: if a file cannot be read.
        FitError: if the closest member of a named structure has entries beyond the number range of the target's dtype.

    Example:
        >>> import torch, kmatrix as km
        >>> W = torch.fft.fft(torch.eye(64, dtype=torch.complex128))
        >>> f = km.fit(W, tol=1e-10)
        >>> f.relative_error < 1e-12, f.certificate.num_params < 64 * 64 / 4
        (True, True)
    """
    start = time.perf_counter()
    read = as_target(target, name=name)
    if structure is None and tol is None:
        way_out = "pass tol= to have a structure chosen, or a structure such as km.Monarch(4)"
        raise ArgumentError(
            complaint("fit", "tol", None, "neither a tolerance nor a structure was given", way_out)
        )
    if structure is not None and not isinstance(structure, Structure):
        way_out = "pass an instance such as km.Butterfly()"
        got = getattr(structure, "__name__", repr(structure))
        raise DtypeError(complaint("fit", "structure", got, "not a Structure", way_out))
    if tol is not None:
        tol = _check_tol(tol, read.dtype)
    if max_seconds is not None and not (isinstance(max_seconds, Real) and max_seconds > 0):
        raise ArgumentError(
            complaint(
                "fit", "max_seconds", repr(max_seconds), "not a positive number", "leave it out for no limit"
            )
        )
    if of not in get_args(Measure):
        raise ArgumentError(complaint("fit", "of", repr(of), "unknown", "use 'params' or 'flops'"))
    seed = check_size("fit", "seed", seed, minimum=0)
    batches = check_batches("fit", batches)
    progress = check_progress("fit", progress)
    deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
    scale = scale_of(read.dense)
    eps = torch.finfo(read.dtype).eps
    problem = Problem(read.dense / scale, tol or eps, of=of, seed=seed, deadline=deadline)
    search = Search(problem, read.dtype, progress, scale)
    if structure is None:
        search.run()
        return _conclude(search, read, start, batches)
    return _named(search, structure, read, tol, start, batches)


def _check_tol(tol: float, dtype: torch.dtype) -> float:
    if isinstance(tol, bool) or not isinstance(tol, Real) or not math.isfinite(tol):
        raise ArgumentError(complaint("fit", "tol", tol, "not a finite number", "pass for example 1e-6"))
    eps = torch.finfo(dtype).eps
    if tol <= 0:
        raise ArgumentError(complaint("fit", "tol", tol, "must be positive", f"pass at least {eps:.1e}"))
    if tol >= 1:
        raise ArgumentError(
            complaint("fit", "tol", tol, "the zero matrix already has error 1", "pass less than 1")
        )
    if tol < eps:
        way_out = f"pass at least {eps:.1e}" + ("" if eps < 1e-15 else ", or a float64 target")
        raise ArgumentError(
            complaint("fit", "tol", tol, f"below the rounding of {dtype}, {eps:.1e}", way_out)
        )
    return float(tol)


def _conclude(search: Search, read: Target, start: float, batches: Sequence[int]) -> Fit:
    if search.winner is None or search.winning is None:
        matrix, method, reason = (
            in_dtype(dense_matrix(read.dense), read.dtype),
            "dense",
            why_dense(search),
        )
    else:
        matrix, method = search.winner, f"{search.winning.family}: {search.winning.note}"
        reached = f"{search.problem.tol:g} of the {len(search.history)} families searched"
        reason = f"the cheapest to reach {reached}"
        if search.interrupted:
            reason += ", among those tried before it was cut short"
    return Fit(
        matrix=matrix,
        certificate=_certified(read.dense, matrix, batches, search),
        method=method,
        history=tuple(search.history),
        seconds=time.perf_counter() - start,
        reason=reason,
        interrupted=search.interrupted,
    )


def _named(
    search: Search,
    structure: Structure,
    read: Target,
    tol: float | None,
    start: float,
    batches: Sequence[int],
) -> Fit:
    """Fit one named structure; errors reach the caller instead of being noted."""
    structure.check(*read.shape)
    name = type(structure).__name__
    search.progress(name, None)
    began = time.perf_counter()
    proposal = fit_into(structure, search.problem)
    search.interrupted = proposal.interrupted
    attempt, matrix = search.judge(name, proposal, began)
    if not math.isfinite(attempt.relative_error or 0.0):
        # Rounded to their type, the entries of a member near the largest numbers can lie beyond them.
        reason, way_out = f"entries of the closest {name} exceed the range of {read.dtype}", "fit W / 2"
        raise FitError(complaint("fit", "target", read.source, reason, way_out))
    if tol is None:
        attempt = replace(attempt, met=None)
    search.progress(name, attempt)
    reason = "the structure was given"
    if proposal.interrupted:
        reason += ", and the search for its best member was cut short"
    if tol is not None:
        reason += f" and reaches {tol:g}" if attempt.met else f", but does not reach {tol:g}"
    return Fit(
        matrix=matrix,
        certificate=_certified(read.dense, matrix, batches, search),
        method=attempt.note,
        history=(attempt,),
        seconds=time.perf_counter() - start,
        reason=reason,
        interrupted=proposal.interrupted,
    )


def _certified(
    target: Tensor, matrix: StructuredMatrix, batches: Sequence[int], search: Search
) -> Certificate:
    """The certificate; Ctrl-C while the clock runs leaves the times out instead of losing the matrix."""
    seed = search.problem.seed
    try:
        found = certify(target, matrix, batches=batches, seed=seed)
    except KeyboardInterrupt:
        found = certify(target, matrix, batches=(), seed=seed)
    return replace(found, interrupted=search.interrupted)
