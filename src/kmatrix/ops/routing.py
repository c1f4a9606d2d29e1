"""How a call reaches the arithmetic: straight, through the registered operator, or by the definition.

The operator costs several microseconds, so a call that nothing watches skips it. The other way round, a
custom operator has no forward-mode derivative and torch returns zeros in silence, so whatever differentiates
in another way than the ordinary backward pass gets the definition, which torch differentiates to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor
from torch.autograd import forward_ad


class Route(Enum):
    """How to run one call, in words for ``explain_dispatch``."""

    DIRECT = "a plain call: the backend runs at once"
    AUTOGRAD = "autograd records gradients: the backend runs as one step of its graph"
    OPERATOR = "under torch.compile, vmap, autocast, a mode or with a subclass: through torch.ops.kmatrix"
    DEFINITION = "torch.func, forward-mode derivatives and tracing need the definition"

    @property
    def obstacle(self) -> str:
        """What is in the way of a call that takes plain tensors only, in words."""
        return _OBSTACLES[self]


_OBSTACLES = {
    Route.DIRECT: "nothing",
    Route.AUTOGRAD: "autograd is recording gradients",
    Route.OPERATOR: "torch.compile, vmap, autocast, a mode or a tensor subclass takes part",
    Route.DEFINITION: "torch.func, forward-mode derivatives or tracing is at work",
}
AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")
_PLAIN = (Tensor, torch.nn.Parameter)

# Looked up once: these are asked before every product.
_transforms_active = torch._C._are_functorch_transforms_active
_tracing = torch._C._is_tracing
_modes_active = torch._C._len_torch_dispatch_stack
_autocast_on = torch._C._is_any_autocast_enabled


def is_plain(x: object) -> bool:
    """Whether something is a tensor or a parameter and no subclass of either."""
    return type(x) in _PLAIN


def is_autocast(x: Tensor) -> bool:
    """Whether autocast is on for the device of a tensor."""
    device = x.device.type
    return device in AUTOCAST_DEVICES and torch.is_autocast_enabled(device)


def route(x: Tensor, weights: Sequence[Tensor]) -> Route:
    """Pick the route of a call.

    ``torch.func.vmap`` alone takes the operator, which has a batching rule; any other transform on the stack,
    forward mode and ``torch.jit.trace`` (which would freeze the schedule of one batch size) get the
    definition.
    """
    if torch._C._are_functorch_transforms_active():
        if torch.compiler.is_compiling():
            return Route.DEFINITION
        stack = torch._C._functorch.get_interpreter_stack()
        only_vmap = all(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)
        return Route.OPERATOR if only_vmap and forward_ad._current_level < 0 else Route.DEFINITION
    if forward_ad._current_level >= 0:
        return Route.DEFINITION
    if torch.compiler.is_compiling():
        return Route.OPERATOR
    if torch._C._get_tracing_state() is not None:
        return Route.DEFINITION
    if torch._C._len_torch_dispatch_stack() or x.device.type == "meta" or is_autocast(x):
        return Route.OPERATOR
    if type(x) not in _PLAIN or torch._C._functorch.is_legacy_batchedtensor(x):
        return Route.OPERATOR
    watched = x.requires_grad
    for w in weights:
        if type(w) not in _PLAIN:
            return Route.OPERATOR
        watched = watched or w.requires_grad
    return Route.AUTOGRAD if watched and torch.is_grad_enabled() else Route.DIRECT


def nothing_watches() -> bool:
    """Whether no transform, trace, mode or autocast is on; what single tensors say is another matter."""
    return not (
        _transforms_active()
        or forward_ad._current_level >= 0
        or _tracing()
        or _modes_active()
        or _autocast_on()
    )


def transforms_active() -> bool:
    """Whether ``torch.func`` is at work."""
    return bool(_transforms_active())


def dispatch_modes() -> list[object]:
    """The modes that watch operators in this thread, such as FLOP counters."""
    return list(torch.utils._python_dispatch._get_current_dispatch_mode_stack())
