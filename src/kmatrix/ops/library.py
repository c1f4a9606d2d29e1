"""The registered operators ``kmatrix::chain_matmul`` and ``kmatrix::chain_matmul_backward``.

The schema gives the chain product a name that the compiler, the exporter, autocast, vmap and the FLOP counter
know. The backward pass is an operator too, so that a backend can fuse it; its own gradient is written in
plain torch, which makes every further order differentiable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kmatrix._errors import ArgumentError, complaint
from kmatrix.ops import autograd, dispatch
from kmatrix.ops.definition import (
    Patterns,
    check_alike,
    check_numbers,
    check_sizes,
    check_weights,
    flatten_patterns,
    reference_chain_matmul,
    unflatten_patterns,
)
from kmatrix.ops.elementwise import elementwise_chain_gradients, elementwise_chain_matmul
from kmatrix.ops.flops import announce_formulas
from kmatrix.ops.routing import AUTOCAST_DEVICES

_new_library: Callable[[str, str], Any] = torch.library.Library  # untyped in torch
_LIBRARY = _new_library("kmatrix", "FRAGMENT")
_CHAIN = "Tensor x, Tensor[] weights, SymInt[] patterns"
_SCHEMAS = (
    f"chain_matmul({_CHAIN}) -> Tensor",
    f"chain_matmul_backward(Tensor grad, {_CHAIN}, bool need_x) -> Tensor[]",
)
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def decomposition(x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int]) -> Tensor:
    """The forward operator in stock torch functions, for ``ExportedProgram.run_decompositions``.

    ``program.run_decompositions({torch.ops.kmatrix.chain_matmul.default: decomposition})`` leaves no trace of
    kmatrix.
    """
    return reference_chain_matmul(x, weights, unflatten_patterns(patterns)).contiguous()


def lower_precision(device: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """What autocast makes of the arguments of a matrix product: doubles are left alone."""
    dtype = torch.get_autocast_dtype(device)
    return [t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]


# -- kernels ---------------------------------------------------------------------------------------
# Whoever calls an operator by its name has checked nothing, and the backends read memory by these sizes.


def _checked(where: str, x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int]) -> Patterns:
    """The patterns of a chain that fits together and fits ``x``; raises if it does not."""
    if len(patterns) % 4 or any(size < 0 for size in patterns):
        way_out = "pass a, b, c, d of each factor, none below 0"
        raise ArgumentError(complaint(where, "patterns", list(patterns), "not four sizes for each", way_out))
    if x.ndim == 0:
        raise ArgumentError(
            complaint(where, "x.shape", (), "there is no last dimension", "pass x of shape (*, n)")
        )
    chain = unflatten_patterns(patterns)
    check_weights(where, weights, chain)
    check_sizes(where, x, chain)
    check_numbers(where, x, weights)
    return chain


def _check_grad(where: str, grad: Tensor, x: Tensor, chain: Patterns) -> None:
    shape = (*x.shape[:-1], chain[-1].rows if chain else x.shape[-1])
    if tuple(grad.shape) != shape:
        reason, way_out = f"the products have {shape}", "pass the gradient of the products"
        raise ArgumentError(complaint(where, "grad.shape", tuple(grad.shape), reason, way_out))
    check_alike(where, "grad", grad, x)


def _kernel(x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int]) -> Tensor:
    return dispatch.run(x, weights, _checked("kmatrix::chain_matmul", x, weights, patterns))


def _backward_kernel(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int], need_x: bool
) -> list[Tensor]:
    where = "kmatrix::chain_matmul_backward"
    chain = _checked(where, x, weights, patterns)
    _check_grad(where, grad, x, chain)
    grad_x, grad_weights = dispatch.run_backward(grad, x, weights, chain, need_x)
    return [x.new_empty(0) if grad_x is None else grad_x, *grad_weights]


def _batched_kernel(x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int]) -> Tensor:
    return elementwise_chain_matmul(x, weights, unflatten_patterns(patterns))


def _batched_backward_kernel(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int], need_x: bool
) -> list[Tensor]:
    return elementwise_chain_gradients(grad, x, weights, unflatten_patterns(patterns))


CHAIN_MATMUL: Callable[[Tensor, Sequence[Tensor], Sequence[int]], Tensor]
CHAIN_MATMUL = torch.ops.kmatrix.chain_matmul.default
CHAIN_MATMUL_BACKWARD: Callable[[Tensor, Tensor, Sequence[Tensor], Sequence[int], bool], list[Tensor]]
CHAIN_MATMUL_BACKWARD = torch.ops.kmatrix.chain_matmul_backward.default


def _fake(x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int]) -> Tensor:
    rows = unflatten_patterns(patterns)[-1].rows if patterns else x.shape[-1]
    return x.new_empty((*x.shape[:-1], rows))


def _backward_fake(
    grad: Tensor, x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int], need_x: bool
) -> list[Tensor]:
    return [x.new_empty(x.shape if need_x else 0), *[w.new_empty(w.shape) for w in weights]]


# -- vmap ------------------------------------------------------------------------------------------
# Copies of a chain, one for each entry of the mapped axis, are one chain on the concatenated vectors: the
# copies are further groups along a.


def _join_vectors(x: Tensor, dim: int | None, copies: int) -> Tensor:
    """(copies, *, n) to (*, copies * n), repeating what is not mapped."""
    x = x.expand(copies, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.movedim(0, -2).flatten(-2)


def _split_vectors(y: Tensor, copies: int) -> Tensor:
    """(*, copies * n) to (*, copies, n)."""
    return y.reshape(*y.shape[:-1], copies, y.shape[-1] // copies)


def _join_weights(
    weights: Sequence[Tensor], dims: Sequence[int | None], patterns: Patterns, copies: int
) -> tuple[list[Tensor], list[int]]:
    """Weights (copies, a, b, c, d) as (copies * a, b, c, d), no longer tied along a, and their patterns."""
    joined = []
    for w, dim, pattern in zip(weights, dims, patterns, strict=True):
        mapped = w.expand(copies, *w.shape) if dim is None else w.movedim(dim, 0)
        joined.append(mapped.expand(copies, pattern.a, *mapped.shape[2:]).flatten(0, 1))
    return joined, flatten_patterns([pattern._replace(a=copies * pattern.a) for pattern in patterns])


def _vmap(
    info: Any, in_dims: tuple[Any, ...], x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int]
) -> tuple[Tensor, int]:
    x_dim, weight_dims, _ = in_dims
    if all(dim is None for dim in weight_dims):
        return CHAIN_MATMUL(x.movedim(x_dim, 0), weights, patterns), 0
    joined, flat = _join_weights(weights, weight_dims, unflatten_patterns(patterns), info.batch_size)
    y = CHAIN_MATMUL(_join_vectors(x, x_dim, info.batch_size), joined, flat)
    return _split_vectors(y, info.batch_size), y.ndim - 1


def _backward_vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    patterns: Sequence[int],
    need_x: bool,
) -> tuple[list[Tensor], list[int]]:
    copies, (grad_dim, x_dim, weight_dims, *_) = info.batch_size, in_dims
    joined, flat = _join_weights(weights, weight_dims, unflatten_patterns(patterns), copies)
    vectors = _join_vectors(grad, grad_dim, copies), _join_vectors(x, x_dim, copies)
    grad_x, *grad_weights = CHAIN_MATMUL_BACKWARD(*vectors, joined, flat, need_x)
    separate = [g.reshape(copies, g.shape[0] // copies, *g.shape[1:]) for g in grad_weights]
    tied = [w.shape[0 if dim is None else int(dim == 0)] for w, dim in zip(weights, weight_dims, strict=True)]
    summed = [g.sum(1, keepdim=True) if a == 1 else g for g, a in zip(separate, tied, strict=True)]
    grad_x = _split_vectors(grad_x, copies) if need_x else grad_x.expand(copies, 0)
    return [grad_x, *summed], [grad_x.ndim - 2, *[0] * len(summed)]


# -- autocast --------------------------------------------------------------------------------------


def _autocast_kernel(device: str) -> Callable[[Tensor, Sequence[Tensor], Sequence[int]], Tensor]:
    def kernel(x: Tensor, weights: Sequence[Tensor], patterns: Sequence[int]) -> Tensor:
        x, *weights = lower_precision(device, [x, *weights])
        with torch.autocast(device, enabled=False):
            return CHAIN_MATMUL(x, weights, patterns)

    return kernel


# -- registration ----------------------------------------------------------------------------------


def _register() -> None:
    forward, backward = "kmatrix::chain_matmul", "kmatrix::chain_matmul_backward"
    _LIBRARY.impl("chain_matmul", _kernel, "CompositeExplicitAutograd")
    _LIBRARY.impl("chain_matmul_backward", _backward_kernel, "CompositeExplicitAutograd")
    _LIBRARY.impl("chain_matmul", _batched_kernel, "Batched")
    _LIBRARY.impl("chain_matmul_backward", _batched_backward_kernel, "Batched")
    for device in AUTOCAST_DEVICES:
        _LIBRARY.impl("chain_matmul", _autocast_kernel(device), f"Autocast{device.upper()}")
    torch.library.register_fake(forward, _fake, lib=_LIBRARY)
    torch.library.register_fake(backward, _backward_fake, lib=_LIBRARY)
    torch.library.register_autograd(
        forward, autograd.backward, setup_context=autograd.setup_context, lib=_LIBRARY
    )
    torch.library.register_autograd(
        backward, autograd.double_backward, setup_context=autograd.setup_backward_context, lib=_LIBRARY
    )
    torch.library.register_vmap(forward, _vmap, lib=_LIBRARY)
    torch.library.register_vmap(backward, _backward_vmap, lib=_LIBRARY)
    announce_formulas()


_register()
