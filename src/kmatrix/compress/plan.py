"""``compress_``: a whole model made smaller, layer by layer, under one budget, and nowhere slower than it was."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import get_args

from torch import nn

from kmatrix._checks import check_module, check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.compress._layers import unwrapped
from kmatrix.compress._progress import Step, showing
from kmatrix.compress.batches import Forward, device_of
from kmatrix.compress.calibrate import WIDEST, Calibration, calibrate
from kmatrix.compress.choice import Choice
from kmatrix.compress.layers import weight_of
from kmatrix.compress.result import CompressReport, Measure
from kmatrix.compress.select import Filter, select
from kmatrix.compress.sizes import Family, members
from kmatrix.compress.timing import Clock
from kmatrix.compress.trial import Trial, examined
from kmatrix.fitting.certificate import machine
from kmatrix.nn import MultiheadAttention, open_attention_, swap_
from kmatrix.nn.surgery import Site
from kmatrix.structures import Structure

MOMENT_BYTES = 1 << 30
"""Second moments held at once; the calibration runs again for the next layers."""


def compress_(
    model: nn.Module,
    budget: float = 0.5,
    *,
    of: Measure = "params",
    calibration: object = None,
    batch: int = 1,
    structures: Sequence[Family] | None = None,
    filter_fn: Filter | None = None,
    tol: float | None = None,
    forward: Forward | None = None,
    max_batches: int | None = None,
    sensitivity: bool = True,
    double: bool = False,
    ridge: float = 1e-3,
    attention: bool = False,
    verify_speed: bool = True,
    seed: int = 0,
    progress: bool | Step = True,
) -> CompressReport:
    """Replace the layers of a trained model by structured ones: smaller, and measured faster here.

    Every layer is fitted with every structure at several sizes, in the norm of its own inputs,
    ``tr((W - A) C (W - A)^T)`` with ``C`` their second moments over the calibration batches (their covariance where a
    bias takes the mean of the error). One mixed integer programme then chooses for all layers at once. A structure
    that is not measured faster than the dense layer, in the middle half of paired turns at this batch and with the
    threads that are set, is never chosen: then the layer stays dense, and the report says so. Until the choice is made
    the model stays as it is, whatever is raised and whenever Ctrl-C comes. In a process group (``torchrun``) every
    process takes its own batches, the first one measures, and all make the same choice.

    Args:
        model: changed in place; layers, and biases where they take a mean, are new parameters.
        budget: share of dense to keep, of what ``of`` says.
        of: ``"params"``: numbers of the whole model, those of other parts included; ``"flops"``: operations of the
            selected layers in a pass through the model; ``"time"``: their measured time at the batch.
        calibration: batches (tensors, tuples, dicts; what the model has no place for, as labels, is left out), or a
            function that takes the model and runs it. Without, errors are those of the weights.
        batch: vectors that meet a linear layer at once, images that meet a convolution.
        structures: what is tried: structures, and classes (``km.LowRank``) whose sizes are then chosen; by default
            low rank, Monarch and block tensor-trains.
        filter_fn: which layers: a function of the module and its name, or patterns (``"*.mlp.*"``, ``"!head"``).
        tol: largest relative squared error of the outputs of any one layer; no limit if not given.
        forward: runs the model on a batch, ``forward(model, batch)``.
        max_batches: how many batches to take.
        sensitivity: whether to go backwards from the outputs to learn how much each layer matters.
        double: whether moments are summed in float64.
        ridge: what is added to the diagonal of ``C`` in least squares, as a share of its mean.
        attention: whether the projections of every ``nn.MultiheadAttention`` are offered as well. Those of which one is
            compressed become a ``km.nn.MultiheadAttention``, which has no fused function for evaluation.
        verify_speed: whether to measure; without, every structure may be chosen.
        seed: of every random choice.
        progress: whether to show a bar on a terminal, or a function ``(what, done, total)``.

    Returns:
        What was tried, chosen and measured for every layer, and why; the totals, and what other budgets would cost.

    Raises:
        ArgumentError: if an argument is out of range, no layer can be compressed, or the budget is below the least
            that can be reached, which the message names, or the model is wrapped.
        DtypeError: if an argument is of the wrong kind.

    Example:
        >>> import torch, kmatrix as km
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 8))
        >>> batches = [torch.randn(32, 64) for _ in range(4)]
        >>> report = km.compress_(model, budget=0.6, calibration=batches, verify_speed=False)
        >>> report.reached <= 0.6, type(model[0]).__name__
        (True, 'Linear')
    """
    began = time.perf_counter()
    budget = _checked(budget, of, tol, ridge, structures)
    batch = check_size("compress_", "batch", batch)
    seed = check_size("compress_", "seed", seed, minimum=0)
    if max_batches is not None:
        check_size("compress_", "max_batches", max_batches)
    if of == "time" and not verify_speed:
        reason = "there are no measured times with verify_speed=False"
        raise ArgumentError(complaint("compress_", "of", "'time'", reason, "leave verify_speed on"))
    check_module("compress_", model)
    _check_bare(model)
    with _opened(model, attention), showing("compress_", progress) as step:
        sites, skipped = select(model, filter_fn)
        if not sites:
            reason = "no layer of the model can be compressed" + "".join(
                f"; {s.names[0]}: {s.reason}" for s in skipped[:3]
            )
            way_out = "pass a model with nn.Linear or nn.Conv2d layers, or a wider filter_fn"
            raise ArgumentError(complaint("compress_", "model", type(model).__name__, reason, way_out))
        bytes_of_weights = sum(weight_of(s).numel() * weight_of(s).element_size() for s in sites)
        clock = Clock(batch, model_bytes=bytes_of_weights) if verify_speed else None
        groups = _groups(sites, double, sensitivity)
        _check_repeatable(calibration, len(groups))
        layers: list[Trial] = []
        for group in groups:
            statistics: Calibration | None = None
            if calibration is not None:
                statistics = calibrate(
                    model,
                    group,
                    calibration,
                    forward=forward,
                    max_batches=max_batches,
                    sensitivity=sensitivity,
                    double=double,
                    step=step,
                    seed=seed,
                )
            for site in group:
                moments = statistics.moments.pop(site.name) if statistics else None
                layers.append(examined(site, moments, statistics, clock, structures, ridge, seed))
                step("fitting: " + site.name, len(layers), len(sites))
        choice = Choice(model, layers, of, tol, clock, skipped)
        picked = choice.settle(budget, step)
        curve = choice.curve(budget)
        reports = tuple(choice.report(layer, k) for layer, k in zip(layers, picked, strict=True))
        measured_on = machine(device_of(model))
        choice.swap(picked)
    return CompressReport(
        budget=budget,
        of=of,
        reached=choice.cost(picked) / choice.dense_cost if choice.dense_cost else 1.0,
        batch=batch,
        params=sum(p.numel() for p in model.parameters()),
        dense_params=choice.dense_params,
        loss=choice.loss(picked),
        layers=reports,
        skipped=tuple(skipped),
        curve=curve,
        seconds=time.perf_counter() - began,
        machine=measured_on,
    )


@contextmanager
def _opened(model: nn.Module, attention: bool) -> Iterator[None]:
    """Attentions with layers for their projections; at the end those that nothing was done to are as they were."""
    before = dict(model.named_modules()) if attention else {}
    names = open_attention_(model) if attention else []
    try:
        yield
    finally:
        idle = [name for name in names if not _has_structure(model.get_submodule(name))]
        swap_(model, {name: before[name] for name in idle})


def _has_structure(attention: nn.Module) -> bool:
    return isinstance(attention, MultiheadAttention) and any(
        not isinstance(part, nn.Linear) for part in attention.children()
    )


def _check_bare(model: nn.Module) -> None:
    """Raise if the model only runs another one: what wraps it knows the layers that would go."""
    if isinstance(model, nn.Module) and (inner := unwrapped(model)) is not model:
        reason = f"it wraps a {type(inner).__name__}, whose layers it goes on to use"
        way_out = (
            "pass what is inside (model.module, or model._orig_mod of torch.compile) and wrap it afterwards"
        )
        raise ArgumentError(complaint("compress_", "model", type(model).__name__, reason, way_out))


def _check_repeatable(calibration: object, passes: int) -> None:
    if passes > 1 and isinstance(calibration, Iterator):
        reason = f"it ends after one pass, and the moments of so many layers take {passes}"
        way_out = "pass a list or a DataLoader, or a narrower filter_fn"
        raise ArgumentError(
            complaint("compress_", "calibration", type(calibration).__name__, reason, way_out)
        )


def _checked(budget: object, of: str, tol: object, ridge: object, structures: object) -> float:
    def number(name: str, value: object, low: float, high: float, way_out: str) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise DtypeError(complaint("compress_", name, repr(value), "not a number", way_out))
        given = float(value)
        if not low < given <= high:
            reason = f"must be over {low:g} and at most {high:g}"
            raise ArgumentError(complaint("compress_", name, value, reason, way_out))
        return given

    if of not in get_args(Measure):
        way_out = "use 'params', 'flops' or 'time'"
        raise ArgumentError(complaint("compress_", "of", repr(of), "unknown", way_out))
    if tol is not None:
        number("tol", tol, 0, math.inf, "pass for example 0.05")
    number("ridge", ridge, 0, 1, "pass for example 1e-3")
    if structures is not None:
        if isinstance(structures, (str, bytes, Structure)) or not isinstance(structures, Iterable):
            way_out = "pass a list such as [km.LowRank, km.Monarch]"
            got = repr(structures)
            raise DtypeError(complaint("compress_", "structures", got, "not a list of structures", way_out))
        members(structures, 64, 64)  # complains of what is no structure before the work
    return number("budget", budget, 0, 1, "pass a share of dense, for example 0.5")


def _groups(sites: Sequence[Site], double: bool, sensitivity: bool) -> list[list[Site]]:
    """Layers whose second moments are held at once."""
    groups: list[list[Site]] = [[]]
    held = 0
    for site in sites:
        m, n = site.shape
        size = (n**2 + (m**2 if sensitivity and m <= WIDEST else 0)) * (8 if double else 4)
        if groups[-1] and held + size > MOMENT_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(site)
        held += size
    return groups
