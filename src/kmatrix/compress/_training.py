"""One training run over a model: what healing and learning a structure share.

What is minimised, batches without end, gradients in groups of processes, numbers of 16 bits, looks at the score, and
what is left when something is raised or Ctrl-C is pressed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from kmatrix._checks import check_module, check_positive
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.compress._processes import count, sums, together
from kmatrix.compress._progress import Step
from kmatrix.compress.batches import Forward, default_forward, device_of, moved
from kmatrix.compress.losses import Loss, default_loss, divergence

WARM = 0.1
"""Share of the steps in which the learning rate rises; afterwards it falls along a cosine."""
LARGEST_GRADIENT = 1.0
"""Norm to which the gradients of all parameters together are cut."""
LOOKS = 6
"""How often the state is scored."""
PROBES = 16
"""First batches, held out, on which states are scored where nothing else is given."""
SHARE = 8
"""Of few batches, one in this many is held out."""
DIVERGENCE = "divergence from the teacher"


@dataclass(frozen=True)
class Aim:
    """What a training run makes smaller, and by what its states are scored.

    Attributes:
        loss: of an output for a batch; by default of the batch's last item, and none where there is a teacher.
        teacher: whose outputs the model is drawn to.
        mix: weight of the teacher where there is a loss as well.
        temperature: at which probabilities are compared.
        forward: runs a model on a batch.
        validate: gives a score to the model.
    """

    loss: Loss | None = None
    teacher: nn.Module | None = None
    mix: float = 0.5
    temperature: float = 1.0
    forward: Forward | None = None
    validate: Callable[[nn.Module], float] | None = None

    def check(self, where: str) -> None:
        """Raise unless teacher and numbers are what they should be."""
        if self.teacher is not None:
            check_module(where, self.teacher, "teacher", "pass the dense model")
        check_number(where, "temperature", self.temperature)
        check_number(where, "mix", self.mix, 1.0)


class Training:
    """One training run: what is minimised, what was found, and the best state so far.

    Args:
        where: who trains, for complaints.
        doing: what for, for the progress.
        model: trained in place.
        aim: what it is trained for.
        keeps_best: whether the best state is what stays at the end; the last one otherwise.
        later: how many steps another run takes with the same batches afterwards.
        as_scored: what the model is put into while it is scored: as it is if not given.

    Attributes:
        losses: of every step, averaged over processes.
        scores: ``(step, score)`` at every look.
        best_step: after how many steps the best state was.
        interrupted: whether Ctrl-C ended it.
    """

    def __init__(
        self,
        where: str,
        doing: str,
        model: nn.Module,
        aim: Aim,
        *,
        keeps_best: bool = True,
        later: int = 0,
        as_scored: Callable[[nn.Module], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.where, self.doing, self.keeps_best, self.later = where, doing, keeps_best, later
        self.as_scored = as_scored
        self.model, self.forward, self.validate = model, aim.forward or default_forward, aim.validate
        self.teacher, self.temperature = aim.teacher, aim.temperature
        self.loss: Loss | None = aim.loss
        if aim.loss is None and aim.teacher is None:
            self.loss = self._default_loss
        self.loss_name = _name_of(aim.loss)
        self.mix = 0.0 if aim.teacher is None else aim.mix if aim.loss is not None else 1.0
        self.losses: list[float] = []
        self.scores: list[tuple[int, float]] = []
        self.probes: list[Any] = []
        self.held_out = 0
        self.goes_on = False
        self.best: dict[str, Any] | None = None
        self.best_step = 0
        self.interrupted = False
        self.device = device_of(model)
        # In a model that is being trained, parts in eval() were put there on purpose.
        self.frozen = [m for m in model.modules() if not m.training] if model.training else []
        # Parameters whose gradients are of another size than those of weights, and not cut with them.
        self.apart: set[nn.Parameter] = set()

    def hold_out(self, data: Iterable[Any]) -> None:
        """Put the batches aside on which states are compared, unless that was done."""
        if self.validate is None and not self.probes:
            self.probes, self.held_out = _probes(data)

    def compare_as(self, first: Training) -> None:
        """Compare states on the batches that another run has put aside."""
        self.probes, self.held_out = first.probes, first.held_out

    def go_on(self, first: Training) -> None:
        """Take the batches that another run has left, and compare states on those that it held out.

        Of an iterator they are gone for good. Where it ends before the steps do, what was learned is worth more than
        the rest of the steps; but processes have to take the same number.
        """
        self.compare_as(first)
        self.goes_on = True

    def begin(self, data: Iterable[Any]) -> None:
        """Score the state before the first step, unless that was done; after Ctrl-C ``run`` takes no step."""
        if self.scores or self.interrupted:
            return
        if not self.goes_on:
            self.hold_out(data)
        try:
            self._look(0)
        except KeyboardInterrupt:
            self.interrupted = True

    def run(self, data: Iterable[Any], steps: int, optimiser: torch.optim.Optimizer, step: Step) -> None:
        """Take all steps, or as many as Ctrl-C leaves.

        Args:
            data: batches, taken again from the beginning when they end.
            steps: how many.
            optimiser: of the parameters of the model, its learning rates the largest.
            step: is told about the progress.
        """
        trained = self._wrapped()
        self.wide = widened_(optimiser.param_groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: rate(k, steps))
        look = max(1, steps // LOOKS)
        try:
            self.begin(data)
            if self.interrupted:
                return
            for k, batch in enumerate(self._endless(data, steps), 1):
                self._train()
                self._one_step(trained, optimiser, moved(batch, self.device))
                schedule.step()
                step(f"{self.doing}: loss {self.losses[-1]:.4g}", k, steps)
                if k % look == 0 or k == steps:
                    self._look(k)
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            if self.best is not None:
                self.model.load_state_dict(self.best)

    @property
    def minimised(self) -> str:
        """What is made smaller, in words."""
        shares = ((1 - self.mix, self.loss_name), (self.mix, DIVERGENCE))
        terms = [f"{share:g} of the {name}" if share < 1 else name for share, name in shares if share > 0]
        return " and ".join(terms)

    def words(self, data: Iterable[Any]) -> tuple[str, str]:
        """What the scores are, and by what."""
        if self.validate is not None:
            return "score", "by validate"
        number = {0.0: "loss", 1.0: DIVERGENCE}.get(self.mix, f"loss with the {DIVERGENCE}")
        # Of data without a length it only shows on the way whether any batches are left beside the first ones.
        apart = isinstance(data, Iterator) or (self.held_out > 0 and isinstance(data, Sized))
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
                raise ArgumentError(complaint(self.where, "loss", float(value.detach()), reason, way_out))
            value.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(
            [p for p in self.model.parameters() if p not in self.apart], LARGEST_GRADIENT
        )
        others = [p.grad for p in self.apart if p.grad is not None]
        if all(
            bool(torch.isfinite(x).all()) for x in (norm, *others)
        ):  # a batch that overflows is passed over
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

    def _default_loss(self, output: Any, batch: Any) -> Tensor:
        self.loss_name, value = default_loss(output, batch, self.where)
        return value

    def score(self) -> float:
        """Of the state, averaged over processes; the model is in evaluation mode afterwards."""
        self.model.eval()
        if self.validate is not None:
            return _mean_over_processes(float(self.validate(self.model)))
        with torch.no_grad():
            found = [
                float(self._objective(self.forward(self.model, batch), batch))
                for batch in (moved(probe, self.device) for probe in self.probes)
            ]
        if not found:
            way_out = "pass at least one batch"
            raise ArgumentError(complaint(self.where, "data", "nothing", "it has no batches", way_out))
        return _mean_over_processes(sum(found) / len(found))

    def _look(self, done: int) -> None:
        """Score the state, and keep it if it is the best so far."""
        with self.as_scored(self.model):
            score = self.score()
        # A score that is no number is never the better one.
        before = min((s for _, s in self.scores if not math.isnan(s)), default=math.inf)
        if not self.scores or score < before:
            self.best_step = done
            if self.keeps_best:
                self.best = copied(self.model)
        self.scores.append((done, score))

    def _endless(self, data: Iterable[Any], steps: int) -> Iterator[Any]:
        """So many batches, begun again as often as needed, without the first ones that are held out."""
        done, held_out = 0, self.held_out
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
                if self.goes_on and used_up and not together():
                    return
                reason = "it ended and cannot be begun again" if used_up or done else "it has no batches"
                needed = steps + PROBES + self.later
                way_out = f"pass a list or a DataLoader, or an iterator of at least {needed} batches"
                raise ArgumentError(complaint(self.where, "data", type(data).__name__, reason, way_out))


@contextmanager
def in_its_mode(model: nn.Module, teacher: nn.Module | None) -> Iterator[None]:
    """Leave models in the modes that they had, and the one that is trained without gradients; the teacher evaluates."""
    was_training = {
        module: module.training for one in (model, teacher) if one is not None for module in one.modules()
    }
    if teacher is not None:
        teacher.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training
        model.zero_grad(set_to_none=True)


def check_number(where: str, name: str, value: object, most: float = math.inf) -> float:
    """The value as a float, or raise unless it is a finite number over 0 and at most ``most``."""
    if most == math.inf:
        return check_positive(where, name, value)
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not 0 < number <= most:
        reason = f"not a number over 0 and at most {most:g}"
        raise ArgumentError(complaint(where, name, repr(value), reason, "pass for example 0.5"))
    return number


def batches_of(where: str, data: Any) -> Iterable[Any]:
    """The batches that somebody gave; a tensor is one."""
    if isinstance(data, Tensor):
        return [data]
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        way_out = "pass an iterable of batches"
        raise DtypeError(complaint(where, "data", type(data).__name__, "not iterable", way_out))
    return data


def widened_(groups: Sequence[dict[str, Any]]) -> list[tuple[nn.Parameter, nn.Parameter]]:
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


def copied(model: nn.Module) -> dict[str, Any]:
    """A copy of the state of a model."""
    return {
        key: value.detach().clone() if isinstance(value, Tensor) else value
        for key, value in model.state_dict().items()
    }


def _probes(data: Iterable[Any]) -> tuple[list[Any], int]:
    """Batches to compare states on, and how many batches at the beginning of every round are held out for it."""
    size = len(data) if isinstance(data, Sized) else PROBES * SHARE
    probes = list(islice(data, max(1, min(PROBES, size // SHARE))))
    return probes, 0 if iter(data) is data or size < SHARE else len(probes)


def _name_of(loss: Loss | None) -> str:
    """A loss that somebody gave, in words; the default one has its name from the batches."""
    name = getattr(loss, "__name__", type(loss).__name__)
    return "loss that was passed" if name == "<lambda>" or loss is None else f"loss that was passed, {name}"


def _mean_over_processes(value: float) -> float:
    return sums([value])[0] / count()
