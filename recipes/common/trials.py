"""Many trials of one structured matrix side by side: each with numbers and a learning rate of its own.

A trial of a small matrix is too little work for a processor, so a batch of them is one model: the numbers of all trials
are stacked, and one product computes all of them. Successive halving, the heart of Hyperband, drops the worse half of a
batch at a time. What is left has its relaxed permutations rounded and is polished by L-BFGS in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import Optimizer

import kmatrix as km

from .recipe import Run
from .training import train, warmup_cosine

_AT_ONCE = 20  # iterations between two looks at the error
_SETTLED = 0.999  # share of the error left after them at which polishing ends


class Trials(nn.Module):
    """Members of one structure as one module: columns ``(k, n)`` to outputs ``(trials, k, m)``.

    Args:
        members: matrices of one structure and number type; their numbers are copied.
    """

    def __init__(self, members: Sequence[km.StructuredMatrix]) -> None:
        super().__init__()
        numbers, self.fixed = stack_module_state(list(members))
        self.names = list(numbers)
        self.numbers = nn.ParameterList(nn.Parameter(p.detach().clone()) for p in numbers.values())
        # In a list, so that the numbers of the members are no parameters of this module.
        self.members = [list(members)]

    def __len__(self) -> int:
        return len(self.members[0])

    def forward(self, columns: Tensor) -> Tensor:
        member = self.members[0][0]

        def product(numbers: dict[str, Tensor], fixed: dict[str, Tensor]) -> Tensor:
            made: Tensor = functional_call(member, (numbers, fixed), (columns,))
            return made

        outputs: Tensor = vmap(product)(dict(zip(self.names, self.numbers, strict=True)), self.fixed)
        return outputs

    def kept(self, which: Tensor) -> Trials:
        """Only the given trials."""
        few = Trials([self.members[0][i] for i in which.tolist()])
        few.fixed = {name: b[which] for name, b in self.fixed.items()}
        with torch.no_grad():
            for mine, theirs in zip(few.numbers, self.numbers, strict=True):
                mine.copy_(theirs[which])
        return few

    def matrix(self, trial: int) -> km.StructuredMatrix:
        """One trial as a matrix: the member that it began as, with the numbers it has now."""
        member = self.members[0][trial]
        own = dict(member.named_parameters())
        with torch.no_grad():
            for name, stacked in zip(self.names, self.numbers, strict=True):
                own[name].copy_(stacked[trial])
        return member


class RatedAdam(Optimizer):
    """Adam on stacked trials, each with a rate of its own; a schedule scales all rates alike by ``lr``.

    Args:
        parameters: tensors ``(trials, ...)``.
        rates: ``(trials,)`` step sizes.
        betas: decay of the running means of gradients and of their squares.
    """

    def __init__(
        self, parameters: Iterable[Tensor], rates: Tensor, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        super().__init__(list(parameters), {"lr": 1.0, "betas": betas})
        self.rates = rates

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            fast, slow = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"steps": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
                state["steps"] += 1
                state["mean"].lerp_(p.grad, 1 - fast)
                state["square"].mul_(slow).addcmul_(p.grad, p.grad, value=1 - slow)
                unbias = math.sqrt(1 - slow ** state["steps"]) / (1 - fast ** state["steps"])
                rate = (self.rates.to(p) * (group["lr"] * unbias)).view(-1, *[1] * (p.ndim - 1))
                p.sub_(rate * state["mean"] / (state["square"].sqrt() + 1e-12))

    def kept(self, trials: Trials, which: Tensor) -> RatedAdam:
        """The optimiser of ``Trials.kept``: the same memory for the trials that go on."""
        few = RatedAdam(trials.numbers, self.rates[which], self.param_groups[0]["betas"])
        for mine, theirs in zip(trials.numbers, self.param_groups[0]["params"], strict=True):
            old = self.state[theirs]
            few.state[mine] = {
                "steps": old["steps"],
                "mean": old["mean"][which],
                "square": old["square"][which],
            }
        return few


class Gap:
    """How far stacked outputs are from a target: the mean squared difference of entries, one number per trial.

    Args:
        target: ``(m, n)``; where it is real and the outputs are complex, their real part counts.
        dtype: number type of the trials.
    """

    def __init__(self, target: Tensor, dtype: torch.dtype, device: torch.device | str | None = None) -> None:
        self.columns = torch.eye(target.shape[1], dtype=dtype, device=device)
        parts = torch.view_as_real(target.mT.resolve_conj()) if target.is_complex() else target.mT
        self.wanted = parts.to(dtype=dtype.to_real(), device=device)
        self.entries = target.numel()

    def __call__(self, model: nn.Module) -> Tensor:
        outputs: Tensor = model(self.columns)
        if outputs.is_complex():
            parts = torch.view_as_real(outputs)
            outputs = parts if self.wanted.ndim == 3 else parts[..., 0]
        start = outputs.ndim - self.wanted.ndim
        return (outputs - self.wanted).square().flatten(start).sum(-1) / self.entries


def race(
    members: Sequence[km.StructuredMatrix],
    rates: Tensor,
    target: Tensor,
    run: Run,
    steps: int,
    *,
    finalists: int = 3,
    title: str = "race",
) -> list[tuple[int, float, km.StructuredMatrix]]:
    """Adam on all members at once, the worse half dropped after 40, 60 and 80 % of the steps.

    Args:
        members: of one structure, in the number type to compute in.
        rates: of each.
        target: what they should become.
        run: where to keep checkpoints, what to show.
        steps: of Adam, with a short warm-up and then half a cosine.
        finalists: how many go on to the end at least.
        title: of the stages.

    Returns:
        Which members are left, their root of the mean squared error, and the matrices, best first.
    """
    gap = Gap(target, members[0].dtype, run.device)
    trials, left = Trials(members), torch.arange(len(members))
    adam = RatedAdam(trials.numbers, rates.to(run.device))
    schedule = warmup_cosine(steps, min(20, steps // 5))
    marks = [0, *(steps * tenths // 10 for tenths in (4, 6, 8)), steps]
    for stage, (begin, end) in enumerate(pairwise(marks)):
        if stage:
            better = _losses(trials, gap).argsort()[: max(finalists, len(trials) // 2)]
            few = trials.kept(better)
            adam, trials, left = adam.kept(few, better), few, left[better.cpu()]
        train(
            trials,
            adam,
            lambda model, step: gap(model).nan_to_num(1e30, 1e30).sum(),
            run,
            end - begin,
            title=f"{title}, stage {stage + 1}",
            schedule=lambda step, begin=begin: schedule(begin + step),  # type: ignore[misc]
        )
        if run.dry:
            break
    losses = _losses(trials, gap)
    order = losses.argsort()[:finalists].tolist()
    return [(int(left[i]), math.sqrt(float(losses[i])), trials.matrix(i)) for i in order]


def _losses(trials: Trials, gap: Gap) -> Tensor:
    with torch.no_grad():
        return gap(trials).nan_to_num(math.inf, math.inf)


def polish(matrix: km.StructuredMatrix, target: Tensor, steps: int, *, enough: float = 0.0) -> float:
    """L-BFGS in double precision, in place; returns the root of the mean squared error.

    Args:
        matrix: with its permutations fixed, in double precision.
        target: what it should become.
        steps: most iterations.
        enough: error at which to stop.
    """
    gap = Gap(target, matrix.dtype, matrix.device)
    parameters = [p for p in matrix.parameters() if p.requires_grad]
    error = math.sqrt(float(gap(matrix).detach()))
    # The optimiser's tolerances are absolute: a loss of the order one keeps them out of the way.
    scale = gap.entries / (float(gap.wanted.square().sum()) or 1.0)
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=_AT_ONCE,
        history_size=40,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = gap(matrix) * scale
        value.backward()  # type: ignore[no-untyped-call]
        return value

    for _ in range(-(-steps // _AT_ONCE) if parameters else 0):
        if error <= enough:
            break
        before = [p.detach().clone() for p in parameters]
        optimiser.step(loss)  # type: ignore[no-untyped-call]
        new = math.sqrt(float(gap(matrix).detach()))
        if not new < error:
            with torch.no_grad():
                for p, old in zip(parameters, before, strict=True):
                    p.copy_(old)
            break
        settled, error = new > _SETTLED * error, new
        if settled:
            break
    return error
