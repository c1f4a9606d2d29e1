"""Chains whose numbers are settled: copied once, checked once, and multiplied with nothing in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, get_num_threads

from kmatrix._errors import ArgumentError, DtypeError, complaint
from kmatrix.ops import dispatch
from kmatrix.ops.calls import empty, recorder
from kmatrix.ops.chain import chain_matmul, check_chain
from kmatrix.ops.definition import Patterns
from kmatrix.ops.ends import Ends, HasSingleChain, check_ends, check_plain, given_chain
from kmatrix.ops.native import new_chain, schedule_of
from kmatrix.ops.native_layout import Description, described, lie_in_place, overlap, vectors
from kmatrix.ops.native_module import NativeChain, native_part, threads
from kmatrix.ops.native_plan import Schedule
from kmatrix.ops.output import check_out, is_writable, lies_apart, mark_written
from kmatrix.ops.routing import Route, is_plain, nothing_watches, route, transforms_active
from kmatrix.ops.settling import settled_for_one
from kmatrix.ops.tuning import tune_chain

_WHERE = "prepare"
_CALL = "PreparedChain"
_GRADIENTS = Route.AUTOGRAD.obstacle
_NO_GRADIENTS = "call it under torch.no_grad(), pass x.detach(), or use chain_matmul"
_compiling = torch.compiler.is_dynamo_compiling
_Kernel = Callable[[Tensor, Tensor, int], bool]  # (x, y, threads): False if one of them is not what it takes


def prepare(
    weights: Sequence[Tensor] | HasSingleChain,
    patterns: Sequence[tuple[int, int, int, int]] | None = None,
    *,
    n: int | None = None,
    gather: Sequence[int] | Tensor | None = None,
    take: Sequence[int] | Tensor | None = None,
    bias: Tensor | None = None,
    tune: int | None = None,
) -> PreparedChain:
    """Copy a chain into the form that multiplies fastest.

    ``plan(x) = A x + bias`` for a structured matrix ``A`` that is one chain, permuted, padded and cropped before and
    behind at most, and ``(F_k ... F_1 x[gather])[take] + bias`` for given weights. The plan is a snapshot: later
    changes of the weights, the indices or the bias do not reach it. The first product of a single vector copies the
    weights once more, in the order in which one vector reads them.

    Args:
        weights: a structured matrix, which needs nothing else; or weights as for ``chain_matmul``, at least one.
        patterns: as for ``chain_matmul``.
        n: length of the vectors that the plan takes; that of the first factor if neither this nor ``gather``
            says otherwise.
        gather: which entry of ``x`` each column of the first factor takes, -1 for zero; all in order if not
            given.
        take: which rows of the last factor make up the result; all in order if not given.
        bias: one number for each entry of the result.
        tune: a batch size for which to measure the fastest schedule first, as ``tune`` does with the same
            indices; None to follow the rule and what was learned before.

    Raises:
        ArgumentError: if shapes, patterns, indices or devices do not fit, there is no factor, or the matrix is not one
            chain.
        BackendUnavailableError: if ``tune`` is given and the native kernels cannot run the chain.
        DtypeError: if number types are unusable or differ, or ``weights`` is neither.

    Example:
        >>> import kmatrix as km
        >>> F = km.transforms.dft(8)
        >>> prepare(F)
        PreparedChain(8 -> 8, 3 factors, complex64)
        >>> half = torch.tensor([[0.5, 0.5], [0.5, -0.5]]).view(1, 2, 2, 1)
        >>> plan = prepare([half], gather=[1, 0])
        >>> plan(torch.tensor([[1.0, 3.0]]))
        tensor([[2., 1.]])
    """
    with torch.no_grad():
        weights, patterns, n, gather, take = given_chain(_WHERE, weights, patterns, n, gather, take)
    chain = check_chain(_WHERE, weights, patterns)
    kept = [w.detach().resolve_conj().resolve_neg().clone() for w in weights]
    ends = check_ends(_WHERE, chain, n, gather, take, bias, kept[0])
    if bias is not None:
        ends.bias = bias.detach().resolve_conj().resolve_neg().clone()
    if tune is not None:
        tune_chain(kept, chain, tune, 1.0, ends)
    return PreparedChain(kept, chain, ends)


class PreparedChain:
    """A chain with its numbers, ready to multiply: what ``prepare`` returns.

    Autograd and transforms do not see through it: the result is a plain new tensor, and tensors with gradients are
    refused. Under ``torch.compile`` it is traced as ``torch.ops.kmatrix.chain_matmul`` with stock torch for the
    selections and the bias, so it joins the graph whole, without the head start that it has elsewhere. It may be called
    from several threads at once.

    Attributes:
        n_in: length of the vectors it takes.
        n_out: length of the vectors it returns.
        dtype: number type of both.
    """

    def __init__(self, weights: list[Tensor], patterns: Patterns, ends: Ends) -> None:
        self.n_in, self.n_out, self.dtype = ends.n_in, ends.n_out, weights[0].dtype
        self._weights, self._patterns, self._ends = weights, patterns, ends
        self._calls: dict[torch.Size, tuple[_Kernel, tuple[int, ...], tuple[int, ...]]] = {}
        self._kernels: dict[tuple[Schedule, bool], _Kernel] = {}
        self._held: list[list[Tensor]] = []  # what kernels read beside the weights
        self._settled: Callable[[Tensor], Tensor] | None = None
        if weights[0].is_cuda:  # now, because indices cannot be brought there while a graph is recorded
            self._settled = dispatch.TRITON.settled(weights, patterns, ends)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Multiply ``(*, n_in) -> (*, n_out)``.

        Args:
            x: the vectors, of the dtype and on the device of the weights.
            out: where to put the products; may share memory with ``x``.

        Raises:
            ArgumentError: if a shape or device does not fit, a transform is active, or ``out`` is given where the
                compiler traces.
            DtypeError: if a number type does not fit.
        """
        if _compiling():
            return self._traced(x, out)
        try:
            run, shape, strides = self._calls[x.shape]
            watched = x.requires_grad
        except (KeyError, AttributeError, TypeError):
            return self._first(x, out)
        if watched or not nothing_watches() or not dispatch.native_is_next():
            return self._slow(x, out)
        if out is None:
            y = empty(shape, strides, self.dtype)
            return y if run(x, y, get_num_threads()) else self._slow(x, None)
        if is_plain(out) and is_writable(out, shape) and run(x, out, get_num_threads()):
            mark_written(out)
            return out
        return self._slow(x, out)

    def __reduce__(self) -> tuple[object, ...]:
        return PreparedChain, (self._weights, self._patterns, self._ends)

    def __repr__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"PreparedChain({self.n_in} -> {self.n_out}, {len(self._patterns)} factors, {name})"

    def _traced(self, x: Tensor, out: Tensor | None) -> Tensor:
        """What the compiler puts into its graph."""
        if out is not None:
            way_out = "leave out= away, the compiler plans memory itself"
            raise ArgumentError(complaint(_CALL, "out", "a tensor", "traced by torch.compile", way_out))
        self._check(x)
        if x.requires_grad and torch.is_grad_enabled():
            raise ArgumentError(complaint(_CALL, "x", "a tensor with gradients", _GRADIENTS, _NO_GRADIENTS))
        return self._portable(x)

    def _first(self, x: Tensor, out: Tensor | None) -> Tensor:
        """The way of a shape that is new: check it and find its kernel."""
        self._check(x)
        if self._is_native and x.numel():
            if len(self._calls) >= 64:
                self._calls.clear()
            shape = (*x.shape[:-1], self.n_out)
            run = self._kernel(x.shape[:-1].numel())
            self._calls[x.shape] = run, shape, torch.empty(shape, device="meta").stride()
        return self._slow(x, out)

    def _slow(self, x: Tensor, out: Tensor | None) -> Tensor:
        self._check(x)
        shape = (*x.shape[:-1], self.n_out)
        if out is not None:
            check_out(_CALL, out, shape, x)
            mark_written(out)
        with torch.no_grad():
            x = x.resolve_conj().resolve_neg()
            if not (self._is_native and x.numel()):
                y = self._portable(x)
                return y if out is None else out.copy_(y)
            direct = out is not None and not (out.is_conj() or out.is_neg() or overlap(out, x))
            y = out if out is not None and direct else torch.empty(shape, dtype=self.dtype, device="cpu")
            source, target = vectors(x), vectors(y)
            if not self._kernel(source.batch)(source.tensor, target.tensor, threads()):
                raise RuntimeError(f"{_CALL}: a bug of kmatrix, please report it: {source}, {target}")
            if target.tensor.data_ptr() != y.data_ptr():
                y.copy_(target.tensor.view(shape))
            return y if out is None or direct else out.copy_(y)

    def _check(self, x: Tensor) -> None:
        check_plain(_CALL, "x", x)
        how = route(x, ())
        if how is Route.DEFINITION or transforms_active():  # first: tracing minds being asked for sizes
            raise ArgumentError(complaint(_CALL, "x", "a traced tensor", how.obstacle, "use chain_matmul"))
        if x.dtype != self.dtype:
            reason = f"the plan holds {self.dtype}"
            raise DtypeError(complaint(_CALL, "x.dtype", x.dtype, reason, f"pass x.to({self.dtype})"))
        if x.ndim == 0 or x.shape[-1] != self.n_in:
            reason, way_out = f"the last dimension must be {self.n_in}", f"pass x of shape (*, {self.n_in})"
            raise ArgumentError(complaint(_CALL, "x.shape", tuple(x.shape), reason, way_out))
        if x.device != self._weights[0].device:
            reason = f"the plan is on {self._weights[0].device}"
            raise ArgumentError(complaint(_CALL, "x.device", x.device, reason, "prepare it again there"))
        if how is Route.AUTOGRAD:
            raise ArgumentError(complaint(_CALL, "x", "a tensor with gradients", how.obstacle, _NO_GRADIENTS))

    @property
    def _is_native(self) -> bool:
        return (
            dispatch.native_is_next()
            and self.n_out > 0
            and self._weights[0].device.type == "cpu"
            and native_part().module is not None
        )

    def _kernel(self, batch: int) -> _Kernel:
        """What runs a batch of this size: made once for each schedule, and for one vector alone."""
        _, description = described(self._weights, self._patterns)
        schedule = schedule_of(description, batch, self._ends)
        alone = batch == 1 and schedule.kernel == "rows"
        known = self._kernels.get((schedule, alone))
        if known is None:
            # Two threads may make it at once: no harm, and no lock that a fork could leave held.
            made = self._kernel_for_one() if alone else self._kernel_for_batches(description, schedule)
            known = self._kernels.setdefault((schedule, alone), made)
        return known

    def _kernel_for_batches(self, description: Description, schedule: Schedule) -> _Kernel:
        chain = self._new_chain(description, schedule, self._ends)
        packed = schedule.kernel == "tiles"
        if packed:
            chain.pack([w.data_ptr() for w in self._weights])
        return self._recorded(chain, self._weights, packed)

    def _kernel_for_one(self) -> _Kernel:
        """What runs one vector, whose weights are often far from the core: fewer of them, in the order of use."""
        weights, patterns, ends = settled_for_one(self._weights, self._patterns, self._ends)
        self._held.append(weights)
        _, description = described(weights, patterns)
        schedule = schedule_of(description, 1, ends)._replace(kernel="rows")
        chain = self._new_chain(description, schedule, ends)
        chain.order([w.data_ptr() for w in weights])
        return self._recorded(chain, weights, False)

    @staticmethod
    def _new_chain(description: Description, schedule: Schedule, ends: Ends) -> NativeChain:
        chain = new_chain(description, schedule, ends)
        if ends.bias is not None:
            chain.set_bias(ends.bias.data_ptr())
        return chain

    def _recorded(self, chain: NativeChain, weights: list[Tensor], packed: bool) -> _Kernel:
        """The fastest way to call a chain that reads these weights, or has packed them."""
        pointers = [w.data_ptr() for w in weights]
        record = recorder()
        if record is not None:
            call = record(chain, weights, len(pointers), packed, 0)
            call.fix(pointers)
            return call.run_fixed

        def run(x: Tensor, y: Tensor, workers: int) -> bool:
            for t in (x, y):
                if not is_plain(t) or t.dtype != self.dtype or t.device.type != "cpu":
                    return False
                if t.is_neg() or t.is_conj() or not lie_in_place(t):
                    return False
            if overlap(x, y) or not lies_apart(y):
                return False
            source, target = vectors(x), vectors(y)
            places = *source.place, *target.place, source.batch, workers
            if packed:
                chain.forward(*places)
            else:
                chain.rows(pointers, *places)
            return True

        return run

    def _portable(self, x: Tensor) -> Tensor:
        """The same where the native kernels do not compute: by those for the GPU, else in stock torch."""
        ends = self._ends
        if not _compiling() and x.numel() and self.n_out:
            probe = x.new_empty(1).expand(*x.shape[:-1], self._patterns[0].cols)
            backend = dispatch.choose(probe, self._weights, self._patterns)
            if backend is dispatch.TRITON:
                if self._settled is None:
                    self._settled = dispatch.TRITON.settled(self._weights, self._patterns, ends)
                return self._settled(x)
        if ends.gather is not None:
            # -1 is the last column, that of the zero that is appended.
            x = torch.nn.functional.pad(x, (0, 1))[..., ends.gather.to(x.device)]
        y = chain_matmul(x, self._weights, self._patterns)
        y = y if ends.take is None else y[..., ends.take.to(x.device)]
        return (y if ends.bias is None else y + ends.bias).contiguous()
