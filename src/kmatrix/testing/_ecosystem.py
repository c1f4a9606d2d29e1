"""Conformance tests of what torch does to modules: compile, export, autocast, copies, devices, counts."""

from __future__ import annotations

import copy
import pickle

import torch
from torch.utils.flop_counter import FlopCounterMode

from kmatrix.structures import StructuredMatrix
from kmatrix.testing._examples import Example, Examples, assert_product, vectors
from kmatrix.testing.reference import assert_equal_up_to_rounding


class Ecosystem(Examples):
    """Does it behave as modules of torch do, and cost what it says?"""

    def test_compiles_whole(self, first: Example, dtype: torch.dtype) -> None:
        A = self.member(first, dtype)
        torch.compiler.reset()
        compiled = torch.compile(A, fullgraph=True, backend="aot_eager")
        x = vectors(A, 3).requires_grad_()
        assert_product("compiled", compiled(x).detach(), A.to_dense(), x.detach())
        z = vectors(A, 3, rows=True)
        (got,) = torch.autograd.grad(compiled(x), x, z)
        assert_product("gradient of compiled", got, A.to_dense().mH.resolve_conj(), z)

    def test_the_adjoint_compiles_whole(self, first: Example) -> None:
        A = self.member(first, self.dtypes[-1])
        torch.compiler.reset()
        compiled = torch.compile(A.H, fullgraph=True, backend="aot_eager")
        y = vectors(A, rows=True)
        assert_product("compiled adjoint", compiled(y), A.to_dense().mH.resolve_conj(), y)

    def test_exports_with_any_batch(self, first: Example, dtype: torch.dtype) -> None:
        A = self.member(first, dtype)
        batch = torch.export.Dim("batch")
        program = torch.export.export(A, (vectors(A, 3),), dynamic_shapes=({0: batch},))
        x = vectors(A, 7)
        assert_product("exported, another batch", program.module()(x), A.to_dense(), x)

    def test_autocast_to_bfloat16(self, example: Example) -> None:
        for dtype in [d for d in self.lower_precisions() if d in (torch.float32, torch.complex64)]:
            exact = self.member(example, torch.complex128 if dtype.is_complex else torch.float64)
            A = exact.to(dtype)
            dense = A.to_dense().detach()
            x = vectors(A, 3).requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = A(x)
                lower = A(vectors(A, 3, dtype=torch.bfloat16))
                mixed = A(x.detach().to(torch.complex64))
            _assert_low(f"{dtype} under autocast", y, dense, x)
            _assert_low(f"{dtype}, bfloat16 vectors", lower, dense, vectors(A, 3, dtype=torch.bfloat16))
            _assert_low(f"{dtype}, complex vectors", mixed, dense, x.to(torch.complex64))
            torch.autograd.backward(y.abs().sum())
            assert x.grad is not None and x.grad.dtype == dtype, f"the gradient is not in {dtype}"
            gradients = [stored.grad for stored in A.parameters() if stored.numel()]
            assert all(g is not None and g.dtype == torch.float32 for g in gradients), "parameter gradients"

    def test_copies_are_independent_and_equal(self, example: Example, dtype: torch.dtype) -> None:
        A = self.member(example, dtype)
        dense = A.to_dense().detach()
        for what, B in {"deepcopy": copy.deepcopy(A), "pickle": pickle.loads(pickle.dumps(A))}.items():
            assert isinstance(B, StructuredMatrix) and B.structure == A.structure, f"{what}: other structure"
            assert torch.equal(B.to_dense(), dense), f"{what}: other numbers"
            with torch.no_grad():
                for stored in (*B.parameters(), *B.buffers()):
                    stored.zero_()
            assert torch.equal(A.to_dense(), dense), f"{what}: shares memory with the original"

    def test_meta_device(self, example: Example, dtype: torch.dtype) -> None:
        structure, m, n = example
        A = structure.empty(m, n, dtype=dtype, device="meta")
        tensors = [*A.parameters(), *A.buffers()]
        assert A.device.type == "meta" and all(t.is_meta for t in tensors), "numbers off the meta device"
        assert (A.dtype, A.shape, A.num_params) == (dtype, (m, n), structure.num_params(m, n))
        y = A(torch.empty(5, n, dtype=dtype, device="meta"))
        assert y.is_meta and y.shape == (5, m), "no product on the meta device"
        with torch.device("meta"):
            assert structure.random(m, n, dtype=dtype).device.type == "meta", (
                "torch.device('meta') is ignored"
            )
        real = A.to_empty(device="cpu")
        real.load_state_dict(self.member(example, dtype).state_dict())
        assert torch.equal(real.to_dense(), self.member(example, dtype).to_dense()), "to_empty, then loaded"

    def test_counts_its_numbers(self, example: Example, dtype: torch.dtype) -> None:
        structure, m, n = example
        A = self.member(example, dtype)
        count = A.num_params
        assert type(count) is int and count == structure.num_params(m, n)
        held = self.trainable_numbers(A)
        assert held <= count < held + 1, f"num_params is {count}, the parameters hold {held:g}"
        for stored in A.parameters():
            assert not stored.is_complex(), "complex parameters: .double() would skip them"

    def test_counts_its_operations(self, example: Example, dtype: torch.dtype) -> None:
        structure, m, n = example
        A = self.member(example, dtype)
        count = A.flops
        assert type(count) is int and count == structure.flops(m, n)
        with FlopCounterMode(display=False) as counter:
            A(vectors(A))
        counted = counter.get_total_flops()
        if self.counted_by_torch:
            assert counted == count, f"flops is {count}, torch counts {counted}"
        else:
            assert counted <= count, f"flops is {count}, torch alone counts {counted}"
        with FlopCounterMode(display=False) as counter:
            A(vectors(A, 5))
        assert counter.get_total_flops() == 5 * counted, "a batch of 5 costs more or less than 5 vectors"

    def test_random_members(self, example: Example, dtype: torch.dtype) -> None:
        structure, m, n = example
        draw = [
            structure.random(m, n, dtype=dtype, generator=torch.Generator().manual_seed(k)) for k in (3, 3, 4)
        ]
        one, same, other = (A.to_dense().detach() for A in draw)
        assert bool(torch.isfinite(torch.view_as_real(one) if one.is_complex() else one).all()), "not finite"
        assert torch.equal(one, same), "the same generator gives another member"
        # One point has one permutation, and signs may agree.
        if draw[0].num_params and min(m, n) > 1:
            assert not torch.equal(one, other), "another generator gives the same member"
        before = torch.get_rng_state()
        structure.random(m, n, dtype=dtype, generator=torch.Generator().manual_seed(3))
        assert torch.equal(torch.get_rng_state(), before), "a generator was given and the global one was used"
        torch.manual_seed(3)
        one = structure.random(m, n, dtype=dtype).to_dense()
        torch.manual_seed(3)
        assert torch.equal(structure.random(m, n, dtype=dtype).to_dense(), one), "manual_seed has no effect"

    def test_default_dtype(self, example: Example) -> None:
        if torch.float64 in self.dtypes:
            structure, m, n = example
            assert structure.random(m, n).dtype == torch.get_default_dtype()

    def test_representations(self, example: Example, dtype: torch.dtype) -> None:
        structure, m, n = example
        A = self.member(example, dtype)
        for part in (str(structure), f"({m}, {n})", str(dtype), str(A.num_params)):
            assert part in repr(A), f"{part} is missing in {A!r}"
        assert hash(structure) == hash(copy.deepcopy(structure)), "equal structures with different hashes"
        assert A.structure == structure, f"a member of {structure} calls itself {A.structure}"


def _assert_low(what: str, got: torch.Tensor, dense: torch.Tensor, x: torch.Tensor) -> None:
    """Raise unless the product is right to the precision of bfloat16, whatever type it is in."""
    wide = torch.complex128 if got.is_complex() else torch.float64
    want = x.detach().to(wide) @ dense.to(wide).mT
    low = torch.finfo(torch.bfloat16).eps
    scale = low / torch.finfo(torch.float64).eps * dense.norm() * x.detach().to(wide).norm()
    assert_equal_up_to_rounding(what, got.detach().to(wide), want, scale=scale, roundings=8)
