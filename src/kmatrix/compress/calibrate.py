"""What the inputs of layers look like: streaming second moments, taken by hooks while the model runs.

The error of a layer that matters is ``E ||(W - A) x||^2 = tr((W - A) C (W - A)^T)`` with ``C = E x x^T``. Where the
layer has a bias, the mean of the error goes into it, and ``C`` is the covariance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kmatrix._checks import check_size
from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.compress._processes import add_up_, sums, together
from kmatrix.compress._progress import Step
from kmatrix.compress.batches import Forward, default_forward, device_of, moved, tensors_of
from kmatrix.compress.layers import weight_of
from kmatrix.nn.surgery import Site

WIDEST = 4096
"""Outputs up to which the products of their gradients are kept; beyond, only the squares."""
ROWS = 1 << 14
"""Vectors multiplied at once: a copy of a whole activation in a wider type is never made."""


@dataclass
class Moments:
    """Sums over the inputs of one layer, and over the gradients of its outputs.

    Attributes:
        second: sum of ``x x^T``, ``(n, n)``.
        first: sum of ``x``, ``(n,)``.
        rows: outputs of the layer, ``m``.
        count: vectors seen.
        calls: times the layer ran.
        gradient: sum of ``g g^T`` over the gradients of the outputs, ``(m, m)``, or of their squares ``(m,)`` for very
            wide outputs; None if none were taken.
        spatial: height and width of the input of a convolution.
    """

    second: Tensor
    first: Tensor
    rows: int = 0
    count: int = 0
    calls: int = 0
    gradient: Tensor | None = None
    spatial: tuple[int, ...] = ()

    @classmethod
    def empty(cls, m: int, n: int, dtype: torch.dtype, device: torch.device) -> Moments:
        """No vectors seen yet."""
        zeros = torch.zeros
        return cls(zeros(n, n, dtype=dtype, device=device), zeros(n, dtype=dtype, device=device), m)

    def no_gradient(self) -> Tensor:
        """Zeros, to add gradients to."""
        return self.second.new_zeros((self.rows, self.rows) if self.rows <= WIDEST else (self.rows,))

    def add(self, x: Tensor) -> None:
        """Count some vectors, the rows of ``x``."""
        for part in torch.split(x, ROWS):
            wide = part.to(self.second.dtype)
            self.second.addmm_(wide.mT, wide)
            self.first.add_(wide.sum(0))
        self.count += x.shape[0]

    def add_gradient(self, g: Tensor) -> None:
        """Count some gradients, the rows of ``g``."""
        m = self.rows
        if self.gradient is None:
            self.gradient = self.no_gradient()
        for part in torch.split(g, ROWS):
            wide = part.to(self.second.dtype)
            if m <= WIDEST:
                self.gradient.addmm_(wide.mT, wide)
            else:
                self.gradient.add_(wide.square().sum(0))

    def mean(self) -> Tensor:
        """The mean input in double precision."""
        return self.first.double() / max(self.count, 1)

    def covariance(self, *, centred: bool) -> Tensor:
        """``E x x^T`` in double precision, minus the square of the mean if ``centred``."""
        second = self.second.double() / max(self.count, 1)
        if centred:
            mean = self.mean()
            second = second - torch.outer(mean, mean)
        return 0.5 * (second + second.mT)


def vectors_of(site: Site, x: Tensor) -> Tensor:
    """The vectors ``(count, n)`` that the matrix of a layer meets; the patches of a convolution are unfolded."""
    module = site.module
    if isinstance(module, nn.Conv2d):
        if x.ndim == 3:
            x = x.unsqueeze(0)
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            x = nn.functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
            padding: tuple[int, ...] = (0, 0)
        else:
            padding = module.padding
        size, dilation, stride = module.kernel_size, module.dilation, module.stride
        return nn.functional.unfold(x, size, dilation, padding, stride).transpose(1, 2).flatten(0, 1)
    return x.reshape(-1, x.shape[-1])


@dataclass
class Calibration:
    """What one pass over the calibration batches found.

    Attributes:
        moments: by the first name of each layer; layers that never ran have no vectors.
        output: sum of the squares of the model's outputs.
        batches: how many ran.
    """

    moments: dict[str, Moments]
    output: float = 0.0
    batches: int = 0


def calibrate(
    model: nn.Module,
    sites: Sequence[Site],
    calibration: object,
    *,
    forward: Forward | None = None,
    sensitivity: bool = True,
    double: bool = False,
    max_batches: int | None = None,
    step: Step | None = None,
    seed: int = 0,
) -> Calibration:
    """Run the model over the batches and sum the second moments of the inputs of its layers.

    In a process group (``torchrun``) every process runs its own batches, and the sums of all are added. Tensors of a
    batch are taken to the device of the model.

    Args:
        model: run in evaluation mode, and left in the mode it had; parameters get no gradients.
        sites: the layers to watch.
        calibration: batches, or a callable that takes the model and runs it.
        forward: runs the model on a batch; by name, by position or as the one input if not given.
        sensitivity: whether to go backwards from a random direction of the output as well, which tells how much
            an error in each layer changes the output; from a scalar output, a loss, along its gradient.
        double: whether sums are kept in float64; float32 otherwise.
        max_batches: stop after so many.
        step: called after every batch.
        seed: of the random directions.

    Raises:
        DtypeError: if ``calibration`` is neither iterable nor callable.
        ArgumentError: if it has no batches, the model fails on one (whose own error is the cause), or an activation or
            a gradient is not finite.
    """
    dtype = torch.float64 if double else torch.float32
    found = Calibration({s.name: Moments.empty(*s.shape, dtype, weight_of(s).device) for s in sites})
    generator = torch.Generator().manual_seed(check_size("calibrate", "seed", seed, minimum=0))
    with ExitStack() as stack:
        stack.enter_context(_quiet(model))
        stack.enter_context(torch.set_grad_enabled(sensitivity))
        for site in sites:
            stack.callback(_watch(site, found.moments[site.name], sensitivity).remove)
        for output in _outputs(model, calibration, forward, max_batches, step):
            found.output += _backwards(output, sensitivity, generator)
            found.batches += 1
    _add_over_processes(found)
    if found.batches == 0:
        way_out = (
            "pass at least one batch, and a list or a DataLoader rather than an iterator already used up"
        )
        raise ArgumentError(complaint("calibrate", "calibration", "nothing", "it has no batches", way_out))
    for name, moments in found.moments.items():
        if not bool(torch.isfinite(moments.second.sum())):
            reason = "it holds numbers that are not finite, or whose squares are too large"
            way_out = "look for NaNs in the calibration batches, or pass double=True"
            raise ArgumentError(complaint("calibrate", f"input of {name}", "tensor", reason, way_out))
        if moments.gradient is not None and not bool(torch.isfinite(moments.gradient.sum())):
            reason = "its gradients are not finite, or their squares are too large"
            way_out = "pass sensitivity=False, or double=True"
            raise ArgumentError(complaint("calibrate", f"output of {name}", "tensor", reason, way_out))
    return found


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients of its parameters, and afterwards as it was."""
    training = {module: module.training for module in model.modules()}
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # With a padding mask this one packs its input for a fused function, which runs no hooks; its layers cannot unpack.
    packing = [m for m in model.modules() if isinstance(m, nn.TransformerEncoder) and m.use_nested_tensor]
    try:
        model.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        for encoder in packing:
            encoder.use_nested_tensor = False
        yield
    finally:
        for encoder in packing:
            encoder.use_nested_tensor = True
        for module, was in training.items():
            module.training = was
        for parameter in wanted:
            parameter.requires_grad_(True)


def _outputs(
    model: nn.Module, calibration: object, forward: Forward | None, max_batches: int | None, step: Step | None
) -> Iterator[Any]:
    """Run the model on every batch."""
    if callable(calibration) and not isinstance(calibration, Iterable):
        yield calibration(model)
        return
    if isinstance(calibration, Tensor):
        calibration = [calibration]
    if not isinstance(calibration, Iterable) or isinstance(calibration, (str, bytes, Mapping)):
        way_out = "pass an iterable of batches, or a function that takes the model and runs it"
        got = type(calibration).__name__
        raise DtypeError(complaint("calibrate", "calibration", got, "not an iterable of batches", way_out))
    run, device = forward or default_forward, device_of(model)
    total = len(calibration) if isinstance(calibration, Sized) else 0
    for done, batch in enumerate(islice(calibration, max_batches), 1):
        yield _ran(run, model, moved(batch, device), done)
        if step is not None:
            step("calibrating", done, min(total, max_batches or total))


def _ran(run: Forward, model: nn.Module, batch: Any, number: int) -> Any:
    """The output for a batch; where the model does not take it, which batch it was, and what it looked like."""
    try:
        return run(model, batch)
    except Exception as error:
        shapes = [str(tuple(t.shape)) for t in tensors_of(batch)]
        shown = f" (shape {', '.join(shapes[:4])})" if shapes else f" (a {type(batch).__name__})"
        reason = f"the model's forward failed: {type(error).__name__}: {error}"
        way_out = "pass batches that the model takes, or a forward that runs it on one"
        raise ArgumentError(f"calibrate: batch {number}{shown}: {reason}; {way_out}") from error


def _watch(site: Site, moments: Moments, sensitivity: bool) -> RemovableHandle:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        x = args[0] if args else kwargs["input"]
        with torch.no_grad():
            for part in _parts(site, x.detach(), output):
                moments.add(vectors_of(site, part))
        moments.calls += 1
        if site.kind == "conv2d":
            moments.spatial = tuple(x.shape[-2:])
        # Where the model, or a function that runs it, asks for no gradients, there are none to take.
        if not sensitivity or not torch.is_grad_enabled() or not output.is_floating_point():
            return output
        if not output.requires_grad:
            # The graph begins here, as no parameter asks for one; a copy, because what follows may write into it.
            output = output.detach().requires_grad_().clone()
        output.register_hook(note)  # type: ignore[no-untyped-call]
        return output

    def note(gradient: Tensor) -> None:
        g = gradient.detach()
        moments.add_gradient(g.movedim(-3, -1).flatten(0, -2) if site.kind == "conv2d" else g.flatten(0, -2))

    return site.module.register_forward_hook(hook, with_kwargs=True)


def _parts(site: Site, x: Tensor, output: Tensor) -> Sequence[Tensor]:
    """An input in parts of a bounded number of vectors: the patches of images are many times the images."""
    if site.kind == "linear" or x.ndim == 3:
        return (x,)
    return torch.split(x, max(1, ROWS // max(1, output.shape[-1] * output.shape[-2])))


def _backwards(output: Any, sensitivity: bool, generator: torch.Generator) -> float:
    """Send a random direction of the output backwards; returns the squares of the output.

    On average over directions, the squared gradients of a value are the squared derivatives of all outputs.
    """
    tensors = [t for t in tensors_of(output) if t.is_floating_point()]
    energy = sum(
        float(part.double().square().sum())
        for t in tensors
        for part in torch.split(t.detach().flatten(), 1 << 20)
    )
    reached = [t for t in tensors if t.requires_grad]
    if sensitivity and reached:
        torch.autograd.backward(reached, [_signs(t, generator) for t in reached])
    return energy


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    if like.ndim == 0:  # a loss: its gradient has one direction
        return torch.ones_like(like)
    drawn = torch.randint(0, 2, like.shape, generator=generator)
    return drawn.to(like.device, like.dtype) * 2 - 1


def _add_over_processes(found: Calibration) -> None:
    if not together():
        return
    for moments in found.moments.values():
        # A layer may have run, or got gradients, in some of the processes alone.
        taken = sums([0 if moments.gradient is None else 1])[0]
        count, calls = sums([moments.count, moments.calls])
        moments.count, moments.calls = int(count), int(calls)
        add_up_(moments.second)
        add_up_(moments.first)
        if taken:
            if moments.gradient is None:
                moments.gradient = moments.no_gradient()
            add_up_(moments.gradient)
    found.output, batches = sums([found.output, found.batches])
    found.batches = int(batches)
