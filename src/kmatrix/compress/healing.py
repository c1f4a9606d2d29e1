"""``heal``: a short fine-tuning of a compressed model, from data, from what the dense model says, or from both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from kmatrix._checks import check_module, check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix._tables import counted
from kmatrix.compress._processes import count, sums, together
from kmatrix.compress._progress import Step, showing
from kmatrix.compress.batches import Forward, default_forward, device_of, moved
from kmatrix.compress.losses import Loss, default_loss, divergence
from kmatrix.nn import param_groups

WARM = 0.1
"""Share of the steps in which the learning rate rises; afterwards it falls along a cosine."""
LARGEST_GRADIENT = 1.0
"""Norm to which the gradients of all parameters together are cut."""
LOOKS = 6
"""How often the state is compared with the best one."""
PROBES = 16
"""First batches, held out, on which states are compared where nothing else is given."""
SHARE = 8
"""Of few batches, one in this many is held out."""


@dataclass(frozen=True)
class HealReport:
    """What ``heal`` did.

    Attributes:
        losses: of every step, averaged over processes.
        scores: ``(step, score)`` at every look, the first before any step: what ``validate`` gave, or else the loss of
            the first batches, which are held out (unless there are few), in evaluation mode. Lower is better.
        best_step: after how many steps the state was that was kept.
        seconds: spent.
        interrupted: whether Ctrl-C ended it; the best state is kept all the same.
        number: what the scores are, such as ``"loss"``.
        judged: by what, such as ``"on the held-out batches"``.
    """

    losses: tuple[float, ...]
    scores: tuple[tuple[int, float], ...]
    best_step: int
    seconds: float
    interrupted: bool = False
    number: str = "score"
    judged: str = "on the first batches"

    def __str__(self) -> str:
        if not self.scores:
            return "no steps"
        scores = dict(self.scores)
        ended = ", ended by Ctrl-C" if self.interrupted else ""
        spent = f"{counted(len(self.losses), 'step')} in {self.seconds:.1f} s"
        before, best = self.scores[0][1], scores[self.best_step]
        if self.best_step == 0:
            unchanged = (
                f"no step was better {self.judged}; the model is unchanged ({self.number} {before:.4g})"
            )
            return f"{spent}: {unchanged}{ended}"
        after = f"after {counted(self.best_step, 'step')}"
        return f"{spent}: {self.number} {self.judged} from {before:.4g} to {best:.4g} {after}{ended}"


def heal(
    model: nn.Module,
    data: Iterable[Any],
    loss: Loss | None = None,
    *,
    teacher: nn.Module | None = None,
    steps: int = 200,
    lr: float = 3e-5,
    mix: float = 0.5,
    temperature: float = 1.0,
    weight_decay: float = 0.0,
    forward: Forward | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    progress: bool | Step = True,
) -> HealReport:
    """Train a compressed model for a few steps, and keep its best state.

    AdamW with the parameter groups of ``km.nn.param_groups``, a warm-up and a cosine. Numbers of 16 bits are trained as
    copies of 32. Tensors of a batch are taken to the device of the model. Whatever is raised, and after Ctrl-C, the
    model has its best state. In a process group (``torchrun``) every process takes its own batches, and gradients are
    averaged (``DistributedDataParallel``).

    Args:
        model: trained in place; left in the mode it had, without gradients. Where it is in ``train()`` but for parts of
            it, those (frozen norms) stay in ``eval()``.
        data: batches, taken again from the beginning when they end. A loader that shuffles gives the batches that are
            held out again, in another order: pass ``validate`` there.
        loss: ``loss(output, batch)``. By default the last item of a batch (``labels`` or ``targets`` of a dict) is the
            target: cross-entropy for whole numbers, mean squares for others; with a teacher, none.
        teacher: the dense model, left in the mode it had, whose outputs the model is drawn to: as probabilities, by the
            Kullback-Leibler divergence.
        steps: how many.
        lr: largest learning rate; low, because a short fine-tuning with that of the training first harms what is left.
        mix: weight of the teacher where there is a loss as well; the loss has the rest.
        temperature: at which probabilities are compared.
        weight_decay: of AdamW.
        forward: runs a model on a batch, ``forward(model, batch)``.
        validate: gives a score to the model, lower being better; the loss of the first batches if not given.
        progress: whether to show a bar on a terminal, or a function ``(what, done, total)``.

    Raises:
        ArgumentError: if a number is out of range, ``data`` is empty or cannot be begun again, there is nothing to
            learn from, or the loss is not finite in the first step.
        DtypeError: if ``data`` is not iterable.

    Example:
        >>> import copy, torch, kmatrix as km
        >>> dense = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> x = [torch.randn(16, 32) for _ in range(4)]
        >>> model = copy.deepcopy(dense)
        >>> _ = km.compress_(model, 0.5, calibration=x, verify_speed=False)
        >>> report = km.heal(model, x, teacher=dense, steps=20)
        >>> report.scores[-1][1] <= report.scores[0][1]
        True
    """
    began = time.perf_counter()
    check_module("heal", model)
    if teacher is not None:
        check_module("heal", teacher, "teacher", "pass the dense model")
    check_size("heal", "steps", steps)
    _check_number("lr", lr, math.inf)
    _check_number("temperature", temperature, math.inf)
    _check_number("mix", mix, 1.0)
    if isinstance(data, Tensor):
        data = [data]
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        way_out = "pass an iterable of batches"
        raise DtypeError(complaint("heal", "data", type(data).__name__, "not iterable", way_out))
    healer = _Healer(model, loss, teacher, mix, temperature, forward or default_forward, validate)
    was_training = {
        module: module.training for one in (model, teacher) if one is not None for module in one.modules()
    }
    if teacher is not None:
        teacher.eval()
    try:
        with showing("heal", progress) as step:
            return healer.run(data, steps, lr, weight_decay, step, began)
    finally:
        for module, training in was_training.items():
            module.training = training
        model.zero_grad(set_to_none=True)


def _check_number(name: str, value: object, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= most:
        reason = f"not a number over 0 and at most {most:g}" if most < math.inf else "not a positive number"
        raise ArgumentError(complaint("heal", name, value, reason, "pass for example 0.5"))


class _Healer:
    """One training run: what is minimised, and the best state so far."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | None,
        teacher: nn.Module | None,
        mix: float,
        temperature: float,
        forward: Forward,
        validate: Callable[[nn.Module], float] | None,
    ) -> None:
        self.model, self.forward, self.validate = model, forward, validate
        self.teacher, self.temperature = teacher, temperature
        self.loss = loss if loss is not None or teacher is not None else default_loss
        self.mix = 0.0 if teacher is None else mix if loss is not None else 1.0
        self.losses: list[float] = []
        self.scores: list[tuple[int, float]] = []
        self.probes: list[Any] = []
        self.best: dict[str, Any] | None = None
        self.best_step = 0
        self.device = device_of(model)
        # In a model that is being trained, parts in eval() were put there on purpose.
        self.frozen = [m for m in model.modules() if not m.training] if model.training else []

    def run(
        self, data: Iterable[Any], steps: int, lr: float, weight_decay: float, step: Step, began: float
    ) -> HealReport:
        trained = self._wrapped()
        groups = param_groups(self.model, lr=lr, weight_decay=weight_decay)
        self.wide = _widened_(groups)
        optimiser = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: rate(k, steps))
        interrupted, held_out = False, 0
        look = max(1, steps // LOOKS)
        try:
            if self.validate is None:
                self.probes, held_out = _probes(data)
            self._look(0)
            for k, batch in enumerate(_endless(data, steps, held_out), 1):
                self._train()
                self._one_step(trained, optimiser, moved(batch, self.device))
                schedule.step()
                step(f"healing: loss {self.losses[-1]:.4g}", k, steps)
                if k % look == 0 or k == steps:
                    self._look(k)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if self.best is not None:
                self.model.load_state_dict(self.best)
        seconds = time.perf_counter() - began
        losses, scores = tuple(self.losses), tuple(self.scores)
        words = self._words(data, held_out)
        return HealReport(losses, scores, self.best_step, seconds, interrupted, *words)

    def _words(self, data: Iterable[Any], held_out: int) -> tuple[str, str]:
        """What the scores are, and by what."""
        if self.validate is not None:
            return "score", "by validate"
        divergent = "divergence from the teacher"
        number = {0.0: "loss", 1.0: divergent}.get(self.mix, f"loss with the {divergent}")
        # Of data without a length it only shows on the way whether any batches are left beside the first ones.
        apart = isinstance(data, Iterator) or (held_out > 0 and isinstance(data, Sized))
        return number, "on the held-out batches" if apart else "on the first batches"

    def _train(self) -> None:
        self.model.train()
        for module in self.frozen:
            module.training = False

    def _wrapped(self) -> nn.Module:
        if not together():
            return self.model
        from torch.nn.parallel import DistributedDataParallel

        # Layers that never run stay dense and may stay in the model.
        return DistributedDataParallel(self.model, find_unused_parameters=True)

    def _one_step(self, trained: nn.Module, optimiser: torch.optim.Optimizer, batch: Any) -> None:
        self.model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            value = self._objective(self.forward(trained, batch), batch)
            if not self.losses and not math.isfinite(float(value.detach())):
                reason = "it is not finite in the first step"
                way_out = "look at the batches and at the outputs of the model"
                raise ArgumentError(complaint("heal", "loss", float(value.detach()), reason, way_out))
            value.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        if bool(torch.isfinite(norm)):  # a batch that overflows is passed over
            for narrow, wide in self.wide:
                wide.grad = None if narrow.grad is None else narrow.grad.to(wide.dtype)
            optimiser.step()
            with torch.no_grad():
                for narrow, wide in self.wide:
                    narrow.copy_(wide)
        self.losses.append(_mean_over_processes(float(value.detach())))

    def _objective(self, output: Any, batch: Any) -> Tensor:
        terms = []
        if self.loss is not None and self.mix < 1:
            terms.append((1 - self.mix) * self.loss(output, batch))
        if self.teacher is not None:
            with torch.no_grad():
                said = self.forward(self.teacher, batch)
            terms.append(self.mix * divergence(output, said, self.temperature))
        return torch.stack(terms).sum()

    def _look(self, done: int) -> None:
        """Score the state, and keep it if it is the best so far."""
        self.model.eval()
        if self.validate is not None:
            score = float(self.validate(self.model))
        else:
            with torch.no_grad():
                found = [
                    float(self._objective(self.forward(self.model, batch), batch))
                    for batch in (moved(probe, self.device) for probe in self.probes)
                ]
            if not found:
                way_out = "pass at least one batch"
                raise ArgumentError(complaint("heal", "data", "nothing", "it has no batches", way_out))
            score = sum(found) / len(found)
        score = _mean_over_processes(score)
        # A score that is no number is never the better one.
        if self.best is None or score < min(
            (s for _, s in self.scores if not math.isnan(s)), default=math.inf
        ):
            self.best, self.best_step = _copied(self.model), done
        self.scores.append((done, score))


def _widened_(groups: Sequence[dict[str, Any]]) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Put copies in float32 in the place of parameters of 16 bits: their steps are smaller than what those resolve."""
    pairs = []
    for group in groups:
        given = list(group["params"])
        for k, parameter in enumerate(given):
            if parameter.dtype in (torch.float16, torch.bfloat16):
                given[k] = nn.Parameter(parameter.detach().float())
                pairs.append((parameter, given[k]))
        group["params"] = given
    return pairs


def rate(k: int, steps: int) -> float:
    """The learning rate at step ``k`` as a share of the largest: a warm-up, then a cosine towards zero."""
    warm = max(1, round(WARM * steps))
    if k < warm:
        return (k + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (k - warm) / max(1, steps - warm)))


def _probes(data: Iterable[Any]) -> tuple[list[Any], int]:
    """Batches to compare states on, and how many batches at the beginning of every round are held out for it."""
    size = len(data) if isinstance(data, Sized) else PROBES * SHARE
    probes = list(islice(data, max(1, min(PROBES, size // SHARE))))
    return probes, 0 if iter(data) is data or size < SHARE else len(probes)


def _endless(data: Iterable[Any], steps: int, held_out: int) -> Iterator[Any]:
    """So many batches, begun again as often as needed, without the first ones that are held out."""
    done = 0
    while done < steps:
        before = done
        for batch in islice(data, held_out, None):
            yield batch
            done += 1
            if done == steps:
                return
        if done == before and held_out:
            held_out = 0  # fewer than it seemed
        elif done == before:
            used_up = iter(data) is data
            reason = "it ended and cannot be begun again" if used_up or done else "it has no batches"
            way_out = f"pass a list or a DataLoader, or an iterator of at least {steps + PROBES} batches"
            raise ArgumentError(complaint("heal", "data", type(data).__name__, reason, way_out))


def _copied(model: nn.Module) -> dict[str, Any]:
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else value
        for key, value in model.state_dict().items()
    }


def _mean_over_processes(value: float) -> float:
    return sums([value])[0] / count()
