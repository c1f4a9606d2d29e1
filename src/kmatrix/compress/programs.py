"""Structured matrices as programs of stock operations: chains where a chain is exact, the dense matrix elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.compress.box_programs import box_program
from kmatrix.compress.export import Blockwise, Branches, Pieces, Program, Select, Step, stock_module
from kmatrix.ops.definition import Pattern
from kmatrix.ops.merging import merge_group
from kmatrix.ops.schedule import plan
from kmatrix.structures.base import StructuredMatrix
from kmatrix.structures.blocks import DiagonalMatrix
from kmatrix.structures.chain import AbstractChainMatrix
from kmatrix.structures.compose import ProductMatrix, ScaledMatrix, SumMatrix, TransposedMatrix
from kmatrix.structures.gblr import GBLRMatrix
from kmatrix.structures.grouped import GroupedMatrix
from kmatrix.structures.layout import Factor, Tie

Form = Literal["auto", "factors", "dense"]
Blocks = Literal["auto", "linear", "conv"]
# Blocks of one factor that become a linear layer each; more of them run faster as one grouped convolution, as measured
# with ONNX Runtime and torch at 1024 x 1024 (docs/deploy.md).
MOST_LINEAR = 16
# Factors are multiplied out where that is faster for many vectors, as then it costs nothing to have done so once.
_MANY = 4096


def program_of(matrix: StructuredMatrix, form: Form = "auto", blocks: Blocks = "auto") -> Program:
    """How stock operations multiply by a matrix, exact up to rounding.

    Args:
        matrix: the matrix, real.
        form: ``"factors"`` takes the chain of the matrix as it is where there is one; ``"dense"`` multiplies everything
            out; ``"auto"`` multiplies narrow factors out to wider ones, and everything where the factors would take
            no fewer products than the dense matrix.
        blocks: what the blocks of a factor become: a linear layer each, one grouped convolution, or linear layers
            up to 16 blocks.

    Raises:
        ArgumentError: if ``form`` or ``blocks`` is none of these.
        DtypeError: if the matrix is complex.

    Example:
        >>> import kmatrix as km
        >>> program_of(km.LowRank(4).random(64, 32)).num_params
        384
    """
    check_choice("form", form, get_args(Form))
    check_choice("blocks", blocks, get_args(Blocks))
    if matrix.dtype.is_complex:
        reason, way_out = "stock layers are real", "lower RealPart(...) of it, or keep the layer as it is"
        raise DtypeError(complaint("lower_", "dtype", matrix.dtype, reason, way_out))
    m, n = matrix.shape
    with torch.no_grad():
        program = _dense(matrix, "as asked") if form == "dense" else _program(matrix)
        if form == "auto":
            before, program = program, _merged(program)
            if len(program.steps) == 1 and program.products == m * n:
                note = "dense is faster than its factors" if len(before.steps) > 1 else program.note
                program = replace(program, note=note)
            elif program.products >= m * n:
                program = _dense(matrix, "dense takes no more products than its factors")
        return settled(_trimmed(program), blocks, matrix.dtype)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless an option is one of its choices."""
    if value not in choices:
        way_out = f"use one of {', '.join(map(repr, choices))}"
        raise ArgumentError(complaint("lower_", name, repr(value), "unknown", way_out))


def _program(matrix: StructuredMatrix) -> Program:
    """The matrix as its own factors in double precision, dense where it has none."""
    m, n = matrix.shape
    if isinstance(matrix, AbstractChainMatrix) and type(matrix)._matmul in _KNOWN:
        return _chain(matrix)
    if isinstance(matrix, GBLRMatrix):
        return box_program(matrix)
    if isinstance(matrix, TransposedMatrix):
        if isinstance(matrix.base, GBLRMatrix):
            return box_program(matrix.base, transposed=True)
        return transposed(_program(matrix.base))
    if isinstance(matrix, ScaledMatrix):
        return _scaled(_program(matrix.base), float(complex(matrix.structure.scalar).real), matrix.device)
    if isinstance(matrix, ProductMatrix):
        steps: list[Step] = []
        for part in reversed(matrix.members):
            steps += _walled(_program(part), matrix.device)
        return Program(n, m, tuple(steps))
    if isinstance(matrix, SumMatrix):
        return Program(n, m, (Branches(tuple(_program(part) for part in matrix.members)),))
    if isinstance(matrix, GroupedMatrix):
        return _side_by_side([_program(part) for part in matrix.members])
    return _dense(matrix, "no chain of stock operations is exact")


# A class that multiplies in a way of its own is no chain to us, whatever its weights are.
_KNOWN = (AbstractChainMatrix._matmul, DiagonalMatrix._matmul)


def _walled(program: Program, device: torch.device) -> tuple[Step, ...]:
    """The steps of a part of a product: what its last one gives beyond its own rows must not reach the next part."""
    given = program.steps[-1].rows
    if given <= program.rows:
        return program.steps
    return (*program.steps, Select(given, torch.arange(program.rows, device=device)))


def _dense(matrix: StructuredMatrix, note: str) -> Program:
    m, n = matrix.shape
    dense = matrix.to_dense().to(torch.float64)
    return Program(n, m, (Blockwise(Factor(1, m, n, 1), True, dense.reshape(1, m, n, 1)),), note)


def _side_by_side(programs: Sequence[Program]) -> Program:
    """Equal programs on equal parts of the vectors: one with more groups in each factor."""
    count, first = len(programs), programs[0]
    stacked: list[Step] = []
    for steps in zip(*(program.steps for program in programs), strict=True):
        blocks = [step for step in steps if isinstance(step, Blockwise)]
        selections = [step for step in steps if isinstance(step, Select)]
        if len(blocks) == count:
            a, b, c, d = blocks[0].factor.pattern
            weight = torch.cat([step.weight.expand(a, -1, -1, -1) for step in blocks])
            stacked.append(Blockwise(_factor(Pattern(count * a, b, c, d), weight), True, weight))
        elif len(selections) == count:
            index = torch.cat([step.index + k * step.cols for k, step in enumerate(selections)])
            stacked.append(Select(count * selections[0].cols, index))
    if len(stacked) < len(first.steps) or not first.fits:
        weight = torch.stack([_multiplied(program) for program in programs]).unsqueeze(-1)
        stacked = [Blockwise(Factor(count, first.rows, first.cols, 1), True, weight)]
    return Program(count * first.cols, count * first.rows, tuple(stacked), first.note)


def _multiplied(program: Program) -> Tensor:
    """The dense matrix of a program."""
    eye = torch.eye(program.cols, dtype=torch.float64)
    module = stock_module(program)
    device = next((t.device for t in [*module.parameters(), *module.buffers()]), eye.device)
    dense: Tensor = module(eye.to(device))
    return dense.mT


def _chain(matrix: AbstractChainMatrix) -> Program:
    steps: list[Step] = []
    weights = iter(matrix.weights)
    count = 0
    for stage in matrix.layout.stages:
        if isinstance(stage, Factor):
            steps.append(Blockwise(stage, True, next(weights).detach().to(torch.float64)))
        else:
            steps.append(Select(stage.n, matrix.permutation(count)))
            count += 1
    return Program(matrix.shape[1], matrix.shape[0], tuple(steps))


def transposed(program: Program) -> Program:
    """The program of the plain transpose."""
    steps = tuple(map(_step_transposed, reversed(program.steps)))
    return Program(program.rows, program.cols, steps, program.note)


def _step_transposed(step: Step) -> Step:
    if isinstance(step, Blockwise):
        f = step.factor
        return Blockwise(Factor(f.a, f.c, f.b, f.d, f.tie), step.linear, step.weight.transpose(1, 2))
    if isinstance(step, Branches):
        return Branches(tuple(map(transposed, step.programs)))
    if isinstance(step, Pieces):
        return _pieces_transposed(step)
    # Of a cut the inverse is short; whoever reads beyond it reads zeros, as it must be.
    return Select(step.rows, torch.argsort(step.index))


def _pieces_transposed(step: Pieces) -> Branches:
    """One program for each layer: its part of the vector, the transposed numbers, and zeros around the result."""
    programs, start = [], 0
    for index, weight in zip(step.indices, step.weights, strict=True):
        b, c = weight.shape
        own = torch.arange(start, start + b, device=index.device)
        # Whoever reads beyond the end reads zeros.
        spread = index.new_full((step.cols,), c)
        spread[index] = torch.arange(c, device=index.device)
        numbers = Blockwise(Factor(1, c, b, 1), True, weight.mT.reshape(1, c, b, 1))
        steps = (Select(step.rows, own), numbers, Select(c + 1, spread))
        programs.append(Program(step.rows, step.cols, steps))
        start += b
    return Branches(tuple(programs))


def _scaled(program: Program, scalar: float, device: torch.device) -> Program:
    """The multiple of a program: in its last factor, or in one more where there is none."""
    steps = list(program.steps)
    for k in reversed(range(len(steps))):
        step = steps[k]
        if isinstance(step, Blockwise):
            steps[k] = replace(step, weight=step.weight * scalar)
            return replace(program, steps=tuple(steps))
        if isinstance(step, Pieces):
            steps[k] = replace(step, weights=tuple(weight * scalar for weight in step.weights))
            return replace(program, steps=tuple(steps))
        if isinstance(step, Branches):
            steps[k] = Branches(tuple(_scaled(p, scalar, device) for p in step.programs))
            return replace(program, steps=tuple(steps))
    number = torch.full((1, 1, 1, 1), scalar, dtype=torch.float64, device=device)
    one = Blockwise(Factor(1, 1, 1, program.rows, "d"), True, number)
    return replace(program, steps=(*steps, one))


def _merged(program: Program) -> Program:
    """The program with neighbouring factors multiplied out where that is faster."""
    steps: list[Step] = []
    run: list[Blockwise] = []
    for step in program.steps:
        if isinstance(step, Blockwise) and (not run or run[-1].rows == step.cols):
            run.append(step)
            continue
        steps += _run_merged(run)
        run = [step] if isinstance(step, Blockwise) else []
        if isinstance(step, Branches):
            steps.append(Branches(tuple(map(_merged, step.programs))))
        elif isinstance(step, Select | Pieces):
            steps.append(step)
    return replace(program, steps=(*steps, *_run_merged(run)))


def _run_merged(run: Sequence[Blockwise]) -> list[Blockwise]:
    if len(run) < 2:
        return list(run)
    patterns = tuple(step.factor.pattern for step in run)
    weights = [step.weight for step in run]
    passes = plan(patterns, tuple(tuple(w.shape) for w in weights), _MANY).passes
    made = []
    for p in passes:
        if p.stop == p.start + 1:
            made.append(run[p.start])
            continue
        part = slice(p.start, p.stop)
        weight = merge_group(weights[part], patterns[part])
        made.append(Blockwise(_factor(p.pattern, weight), True, weight))
    return made


def _factor(pattern: Pattern, weight: Tensor) -> Factor:
    a, b, c, d = pattern
    tie: Tie = "ad" if weight.shape[0] < a and weight.shape[3] < d else ""
    tie = tie or ("a" if weight.shape[0] < a else "d" if weight.shape[3] < d else "")
    return Factor(a, b, c, d, tie)


def _trimmed(program: Program) -> Program:
    """The program without what is filled up or cut off anyway, where that is as simple without."""
    steps = list(program.steps)
    into = [program.cols, *(step.rows for step in steps[:-1])]
    out_of = [*(step.cols for step in steps[1:]), program.rows]
    for k, (before, after) in enumerate(zip(into, out_of, strict=True)):
        step = steps[k]
        if isinstance(step, Blockwise) and step.factor.a == step.factor.d == 1:
            cols, rows = min(step.cols, before), min(step.rows, after)
            steps[k] = Blockwise(Factor(1, rows, cols, 1), step.linear, step.weight[:, :rows, :cols])
        elif isinstance(step, Select):
            steps[k] = replace(step, index=step.index[: min(step.rows, after)])
        elif isinstance(step, Branches):
            steps[k] = Branches(tuple(map(_trimmed, step.programs)))
    return replace(program, steps=tuple(steps))


def settled(program: Program, blocks: Blocks, dtype: torch.dtype) -> Program:
    """The program with its numbers in their final type, and linear layers or convolutions chosen."""

    def settle(step: Step) -> Step:
        if isinstance(step, Branches):
            return Branches(tuple(settled(p, blocks, dtype) for p in step.programs))
        if isinstance(step, Select):
            return replace(step, index=step.index.clone())
        if isinstance(step, Pieces):
            indices = tuple(index.clone() for index in step.indices)
            return replace(step, indices=indices, weights=tuple(_own(w, dtype) for w in step.weights))
        few = step.blocks <= (1 if blocks == "conv" else MOST_LINEAR)
        return replace(step, linear=blocks == "linear" or few, weight=_own(step.weight, dtype))

    return replace(program, steps=tuple(map(settle, program.steps)))


def _own(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy in a number type."""
    return weight.to(dtype, copy=True, memory_format=torch.contiguous_format)
