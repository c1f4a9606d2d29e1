"""``km.nn.Linear`` with every structure against ``F.linear`` on the dense weight, and what torch does to layers."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import kmatrix as km
from kmatrix import structures
from kmatrix.structures import Structure
from kmatrix.testing.reference import assert_equal_up_to_rounding

Example = tuple[Structure, int, int]
REAL: list[Example] = [
    (km.Dense(), 7, 13),
    (km.LowRank(3), 11, 12),
    (km.BlockDiagonal(3), 13, 7),
    (km.Diagonal(), 5, 9),
    (km.Monarch(3), 13, 17),
    (km.Monarch(order=3), 8, 12),
    (km.BlockTensorTrain((4, 2), rank=2), 8, 16),
    (km.BlockLowRank((2, 3), rank=2), 14, 15),
    (km.BLAST((2, 3), rank=3), 11, 13),
    (km.GroupShuffle((2, 3), hidden=12, shuffles=("stride", "given", "stride")), 7, 13),
    (km.Butterfly(), 12, 20),
    (km.Butterfly(radices=((2, 3), (4, 2)), ranks=2), 8, 6),
    (km.Kaleidoscope(), 8, 7),
    (km.OrthogonalButterfly(), 12, 12),
    (km.OBB(), 6, 5),
    (km.Chain((km.Permute(12, "stride", 3), km.Factor(3, 2, 4, 1, "a"), km.Factor(1, 3, 2, 3, "d"))), 9, 11),
    (km.Kronecker(left=(3, 4), rank=2), 9, 8),
    (km.Sparse(20), 13, 7),
    (km.GBLR(budget=0.6), 13, 7),
    (km.Gaudi(budget=0.6), 13, 7),
    (km.Toeplitz(), 7, 5),
    (km.Hankel(), 4, 11),
    (km.Circulant(), 13, 13),
    (km.BlockCirculant(3), 7, 11),
    (km.Fastfood(), 13, 5),
    (km.ACDC(depth=2), 9, 5),
    (km.Permutation(), 7, 7),
    (km.BPPermutation(), 8, 8),
    (km.BPBP(depth=1), 5, 7),
    (km.FixedBPBP(), 8, 8),
    (km.RealPart(km.Butterfly()), 8, 6),
    (km.Grouped(km.LowRank(2), 3), 6, 9),
    (km.Sum((km.LowRank(2), km.Sparse(9))), 7, 6),
    (km.Product((km.Butterfly(), km.Permutation(), km.Diagonal()), (6, 6)), 5, 9),
    (km.Scaled(km.Butterfly(), 0.1), 6, 8),
    (km.Transpose(km.Monarch(2)), 7, 4),
]
COMPLEX: list[Example] = [
    (km.LowRank(3), 11, 12),
    (km.GroupShuffle(4), 16, 8),
    (km.GBLR(nblocks=5), 8, 11),
    (km.AFDF(depth=2), 7, 5),
    (km.OrthogonalButterfly(unitary=True), 4, 4),
    (km.Toeplitz(), 5, 7),
]
CASES = [(*e, torch.float64) for e in REAL] + [(*e, torch.complex128) for e in COMPLEX]


def name_of(value: object) -> str:
    return str(value)[:50].removeprefix("torch.")


def layer_of(structure: Structure, m: int, n: int, dtype: torch.dtype = torch.float64) -> km.nn.Linear:
    """A layer with generic numbers."""
    torch.manual_seed(3)
    layer = km.nn.Linear(n, m, structure=structure, dtype=dtype)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return layer


def dense_bias(layer: km.nn.Linear) -> torch.Tensor:
    assert layer.bias is not None
    return torch.view_as_complex(layer.bias) if layer.matrix.dtype.is_complex else layer.bias


def assert_layer(got: torch.Tensor, layer: km.nn.Linear, x: torch.Tensor) -> None:
    want = functional.linear(x, layer.weight, dense_bias(layer))
    scale = torch.linalg.matrix_norm(layer.weight) * torch.linalg.vector_norm(x) + dense_bias(layer).norm()
    assert_equal_up_to_rounding("layer", got.detach(), want.detach(), scale=scale.detach())


def test_every_structure_is_here() -> None:
    exported = {
        value
        for value in vars(structures).values()
        if isinstance(value, type) and issubclass(value, Structure) and not inspect.isabstract(value)
    }
    assert {type(structure) for structure, _, _ in REAL + COMPLEX} == exported


@pytest.mark.parametrize(("structure", "m", "n", "dtype"), CASES, ids=name_of)
def test_equals_the_dense_layer(structure: Structure, m: int, n: int, dtype: torch.dtype) -> None:
    layer = layer_of(structure, m, n, dtype)
    assert (layer.in_features, layer.out_features, layer.structure) == (n, m, layer.matrix.structure)
    for shape in ((n,), (4, n), (2, 3, n), (0, n)):
        x = torch.randn(shape, dtype=dtype)
        for _ in range(3):  # a product that comes again goes a shorter way
            assert_layer(layer(x), layer, x)
            with torch.no_grad():
                assert_layer(layer(x), layer, x)


@pytest.mark.parametrize(("structure", "m", "n", "dtype"), CASES, ids=name_of)
def test_gradients_are_those_of_the_dense_layer(
    structure: Structure, m: int, n: int, dtype: torch.dtype
) -> None:
    layer = layer_of(structure, m, n, dtype)
    x, z = torch.randn(3, n, dtype=dtype, requires_grad=True), torch.randn(3, m, dtype=dtype)
    parameters = list(layer.parameters())
    got = torch.autograd.grad((layer(x) * z).sum().abs(), [x, *parameters])
    dense = functional.linear(x, layer.weight, dense_bias(layer))
    want = torch.autograd.grad((dense * z).sum().abs(), [x, *parameters])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("structure", "m", "n", "dtype"), CASES, ids=name_of)
def test_state_dict_and_copies(structure: Structure, m: int, n: int, dtype: torch.dtype) -> None:
    layer, other = layer_of(structure, m, n, dtype), km.nn.Linear(n, m, structure=structure, dtype=dtype)
    assert "bias" in layer.state_dict()
    other.load_state_dict(layer.state_dict())
    copied = copy.deepcopy(layer)
    x = torch.randn(3, n, dtype=dtype)
    for twin in (other, copied):
        assert torch.equal(twin(x), layer(x))
        with torch.no_grad():
            for tensor in (*twin.parameters(), *twin.buffers()):
                tensor.zero_()
    assert_layer(layer(x), layer, x)


@pytest.mark.parametrize(("structure", "m", "n"), REAL, ids=name_of)
def test_built_on_meta_and_emptied(structure: Structure, m: int, n: int) -> None:
    with torch.device("meta"):
        layer = km.nn.Linear(n, m, structure=structure)
    assert all(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    assert layer(torch.empty(5, n, device="meta")).shape == (5, m)
    real = layer.to_empty(device="cpu")
    real.load_state_dict(layer_of(structure, m, n, torch.float32).state_dict())
    x = torch.randn(3, n)
    torch.testing.assert_close(real(x), functional.linear(x, real.weight, real.bias), rtol=1e-4, atol=1e-4)


def test_reset_after_meta_gives_finite_numbers() -> None:
    for structure in (km.Monarch(4), km.Butterfly(), km.LowRank(2)):
        layer = km.nn.Linear(16, 16, structure=structure, device="meta").to_empty(device="cpu")
        layer.reset_parameters()
        assert all(bool(p.isfinite().all()) and bool((p != 0).any()) for p in layer.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_the_matrix_is_called_where_hooks_wait_for_it(bias: bool) -> None:
    layer = km.nn.Linear(6, 4, bias, structure=km.LowRank(2))
    seen = []
    layer.matrix.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    layer(torch.randn(3, 6))
    assert seen == [(3, 4)]


def test_a_bias_that_changes_is_seen() -> None:
    layer = layer_of(km.Monarch(2), 8, 8)
    x = torch.randn(1, 8, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(4):
            layer(x)
        dense_bias(layer).add_(1)
        assert_layer(layer(x), layer, x)
        layer.bias = nn.Parameter(torch.zeros(8, dtype=torch.float64))
        assert_layer(layer(x), layer, x)
        layer.bias = None
        assert_equal_up_to_rounding("no bias", layer(x)[0], layer.weight @ x[0], scale=8.0)


def test_factors_that_change_are_seen() -> None:
    layer = layer_of(km.BlockLowRank(2, rank=2), 12, 8)
    x = torch.randn(1, 8, dtype=torch.float64)
    for change in range(3):
        with torch.no_grad():
            for _ in range(4):
                assert_layer(layer(x), layer, x)
            if change == 0:
                layer.matrix.factors[0].mul_(2)
            elif change == 1:
                layer.matrix.factors[1] = nn.Parameter(torch.randn_like(layer.matrix.factors[1]))
            else:
                layer.matrix.permutation(0).copy_(torch.arange(12).flip(0))
    assert_layer(layer(x), layer, x)


def test_autocast_lowers_products_and_bias() -> None:
    for structure in (km.Monarch(4), km.BlockLowRank(4), km.Toeplitz()):
        layer = km.nn.Linear(16, 16, structure=structure)
        x = torch.randn(3, 16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    y = layer(x)
                assert y.dtype == layer.matrix(x).dtype
        torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1)
        y = layer(x).sum()
        y.backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lower_precisions(dtype: torch.dtype) -> None:
    layer = layer_of(km.Monarch(4), 16, 16)
    x = torch.randn(3, 16, dtype=torch.float64)
    low = copy.deepcopy(layer).to(dtype)(x.to(dtype))
    assert low.dtype == dtype
    want = layer(x)
    assert (low.double() - want).norm() <= 16 * torch.finfo(dtype).eps * want.norm()


@pytest.mark.parametrize("structure", [km.Monarch(4), km.BlockLowRank(4), km.Toeplitz()], ids=name_of)
def test_compiles_whole_and_exports(structure: Structure) -> None:
    layer = layer_of(structure, 16, 16)
    x = torch.randn(3, 16, dtype=torch.float64)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_layer(compiled(x), layer, x)
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    with torch.no_grad():
        assert_layer(compiled(x), layer, x)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    y = torch.randn(7, 16, dtype=torch.float64)
    assert_layer(program.module()(y), layer, y)


def test_from_linear_fits_and_shares_the_bias() -> None:
    exact = km.LowRank(2).random(6, 8, dtype=torch.float64).to_dense()
    dense = nn.Linear(8, 6, dtype=torch.float64)
    dense.weight.data = exact.detach()
    dense.eval().weight.requires_grad_(False)
    layer = km.nn.Linear.from_linear(dense, km.LowRank(2))
    x = torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-10, atol=1e-12)
    assert layer.bias is dense.bias and not layer.training
    assert not any(p.requires_grad for p in layer.matrix.parameters())
    none = km.nn.Linear.from_linear(nn.Linear(8, 6, bias=False, device="meta"), km.Monarch(2))
    assert none.bias is None and none.matrix.device.type == "meta"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # our checks look at sizes; any check does
@pytest.mark.parametrize("structure", [km.Monarch(2), km.BlockLowRank(2), km.Toeplitz()], ids=name_of)
def test_transforms_of_functions(structure: Structure) -> None:
    layer = layer_of(structure, 8, 8)
    named = dict(layer.named_parameters())
    x = torch.randn(5, 8, dtype=torch.float64)

    def loss(numbers: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, numbers, (row,)).square().sum()

    of_each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(named, x)
    for i in range(5):
        want = torch.autograd.grad(layer(x[i]).square().sum(), list(named.values()))
        torch.testing.assert_close(tuple(g[i] for g in of_each.values()), want)
    _, tangent = torch.func.jvp(layer, (x,), (x,))
    torch.testing.assert_close(tangent, x @ layer.weight.mT)
    traced = torch.jit.trace(layer, (x,))
    torch.testing.assert_close(traced(x[:2]), layer(x[:2]))


def test_two_layers_of_one_matrix_keep_their_biases() -> None:
    A = km.Monarch(2).random(8, 8, dtype=torch.float64)
    layers = [km.nn.Linear.from_matrix(A, torch.randn(8, dtype=torch.float64)) for _ in range(2)]
    x = torch.randn(1, 8, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(5):
            for layer in layers:
                assert_layer(layer(x), layer, x)


def test_tied_layers_share_one_matrix() -> None:
    one = km.nn.Linear(8, 8, structure=km.Monarch(2))
    two = km.nn.Linear.from_matrix(one.matrix)
    model = nn.Sequential(one, two)
    assert len(list(model.parameters())) == len(list(one.parameters()))
    copied = copy.deepcopy(model)
    assert copied[0].matrix is copied[1].matrix is not one.matrix


def test_what_is_refused() -> None:
    with pytest.raises(km.DtypeError, match=r"structure=Monarch: not a Structure; pass an instance"):
        km.nn.Linear(4, 4, structure=km.Monarch)  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="in_features"):
        km.nn.Linear(0, 4, structure=km.Dense())
    with pytest.raises(km.ArgumentError, match=r"\(3,\): the matrix has 4 rows; pass 4 numbers"):
        km.nn.Linear.from_matrix(km.Dense().random(4, 4), torch.zeros(3))
    with pytest.raises(km.DtypeError, match="matrix=Tensor: not a StructuredMatrix; pass a structured"):
        km.nn.Linear.from_matrix(torch.zeros(4, 4))  # type: ignore[arg-type]
    with pytest.raises(km.DtypeError, match=r"bias\.dtype=torch\.float64: the matrix holds torch\.float32"):
        km.nn.Linear.from_matrix(km.Dense().random(4, 4), torch.zeros(4, dtype=torch.float64))
    layer = km.nn.Linear(4, 4, structure=km.Dense())
    for _ in range(2):
        with pytest.raises(km.ArgumentError, match="last dimension must be 4"):
            layer(torch.randn(3, 5))
        with pytest.raises(km.DtypeError, match="float64"):
            layer(torch.randn(3, 4, dtype=torch.float64))
        with torch.no_grad():
            layer(torch.randn(3, 4))


@pytest.mark.parametrize("value", [np.ones((3, 8), np.float32), [[1.0] * 8], None])
@pytest.mark.parametrize("bias", [True, False])
def test_what_is_no_tensor_is_refused(value: object, bias: bool) -> None:
    layer = km.nn.Linear(8, 8, bias, structure=km.Butterfly())
    for call in (layer, layer.matrix, layer.matrix.T, layer.matrix.rforward):
        with pytest.raises(km.DtypeError, match=r"torch.as_tensor\(x\).*numpy"):
            call(value)  # type: ignore[arg-type]


def test_the_weight_is_not_set() -> None:
    layers = (
        km.nn.Linear(8, 8, structure=km.Butterfly()),
        km.nn.Conv2d(2, 3, 3, structure=km.LowRank(1)),
        km.nn.Embedding(9, 8, structure=km.LowRank(2)),
    )
    for layer in layers:
        for value in (nn.Parameter(torch.ones(8, 8)), torch.ones(8, 8)):
            with pytest.raises(km.ArgumentError, match=r"set layer\.matrix = "):
                layer.weight = value


def test_complex_input_of_a_real_layer() -> None:
    layer = layer_of(km.Monarch(2), 8, 8)
    x = torch.randn(3, 8, dtype=torch.complex128)
    want = x @ layer.weight.mT.to(x.dtype) + dense_bias(layer)
    torch.testing.assert_close(layer(x), want)


def test_hooks_of_all_modules_and_compiled_matrices_are_called() -> None:
    layer = layer_of(km.Monarch(2), 8, 8)
    x, seen = torch.randn(3, 8, dtype=torch.float64), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, y: seen.append(module))
    try:
        layer(x)
    finally:
        handle.remove()
    assert seen == [layer.matrix, layer]
    torch.compiler.reset()
    layer.matrix.compile(backend=lambda graph, inputs: seen.append(graph) or graph.forward)
    assert_layer(layer(x), layer, x)
    assert len(seen) > 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("structure", [km.Monarch(4), km.BlockLowRank(4), km.Toeplitz()], ids=name_of)
def test_a_layout_for_images_is_not_for_factors(structure: Structure, dtype: torch.dtype) -> None:
    layer = layer_of(structure, 16, 16, dtype)
    model = nn.Sequential(layer, nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(p.is_contiguous() for p in layer.parameters())
    x = torch.randn(3, 16, dtype=dtype)
    assert_layer(layer(x), layer, x)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_conversions_of_complex_layers() -> None:
    layer = layer_of(km.Monarch(2), 8, 8, torch.complex64)
    x = torch.randn(3, 8, dtype=torch.complex128)
    want = copy.deepcopy(layer).double()(x)
    for model in (layer, nn.Sequential(layer)):
        other = copy.deepcopy(model).to(torch.complex128)
        assert {p.dtype for p in other.parameters()} == {torch.float64}
        torch.testing.assert_close(other(x), want)
    conv = km.nn.Conv2d(2, 4, 3, structure=km.LowRank(2), dtype=torch.complex64).to(torch.complex128)
    assert conv(torch.randn(1, 2, 5, 5, dtype=torch.complex128)).dtype == torch.complex128
    real = layer_of(km.Monarch(2), 8, 8)
    with pytest.raises(km.DtypeError, match="the matrix is real"):
        real.to(torch.complex128)
    assert {p.dtype for p in real.parameters()} == {torch.float64}
