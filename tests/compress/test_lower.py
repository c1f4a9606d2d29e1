"""Lowered layers: stock modules alone that compute what the structured ones did."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import kmatrix as km
from kmatrix import ArgumentError, DtypeError
from kmatrix.compress import lower_, stock_layer
from kmatrix.compress.lower import is_lowered
from kmatrix.structures import Structure, StructuredMatrix

f64 = torch.float64
# One member of each family, with sizes that are padded and cropped where the family does that.
MEMBERS: dict[str, tuple[Structure, int, int]] = {
    "ACDC": (km.ACDC(), 30, 40),
    "BLAST": (km.BLAST(4, 8), 50, 62),
    "BPBP": (km.BPBP(), 16, 12),
    "BPPermutation": (km.BPPermutation(), 16, 16),
    "BlockCirculant": (km.BlockCirculant(5), 40, 30),
    "BlockDiagonal": (km.BlockDiagonal(3), 20, 31),
    "BlockLowRank": (km.BlockLowRank((4, 5), rank=2), 43, 61),
    "BlockTensorTrain": (km.BlockTensorTrain(rank=2), 40, 60),
    "Butterfly": (km.Butterfly(), 50, 30),
    "Chain": (
        km.Chain(
            (
                km.Factor(2, 3, 4, 5, "a"),
                km.Permute(30, "reverse"),
                km.Factor(3, 2, 2, 5, "d"),
                km.Factor(5, 3, 2, 3, "ad"),
            )
        ),
        45,
        40,
    ),
    "Circulant": (km.Circulant(), 20, 20),
    "Dense": (km.Dense(), 20, 30),
    "Diagonal": (km.Diagonal(), 40, 60),
    "Fastfood": (km.Fastfood(), 40, 30),
    "FixedBPBP": (km.FixedBPBP(), 32, 30),
    "GBLR": (km.GBLR(12, 0.3), 40, 50),
    "Gaudi": (km.Gaudi(12, 0.3), 40, 50),
    "GroupShuffle": (km.GroupShuffle(4), 50, 60),
    "Hankel": (km.Hankel(), 10, 12),
    "Kaleidoscope": (km.Kaleidoscope(), 30, 20),
    "Kronecker": (km.Kronecker(rank=2), 50, 60),
    "LowRank": (km.LowRank(4), 20, 30),
    "Monarch": (km.Monarch(4), 30, 50),
    "OBB": (km.OBB(), 12, 10),
    "OrthogonalButterfly": (km.OrthogonalButterfly(), 16, 16),
    "Permutation": (km.Permutation(), 16, 16),
    "Sparse": (km.Sparse(20), 10, 20),
    "Toeplitz": (km.Toeplitz(), 30, 40),
}


def member(name: str, dtype: torch.dtype = f64) -> StructuredMatrix:
    structure, m, n = MEMBERS[name]
    return structure.random(m, n, dtype=dtype)


def no_trace_of_kmatrix(model: nn.Module) -> bool:
    return not any(type(module).__module__.startswith("kmatrix") for module in model.modules())


def assert_same(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    got, expected = got.detach(), expected.detach()
    assert float((got - expected).norm()) <= tolerance * float(expected.norm())


def test_every_family_is_tried_here() -> None:
    from kmatrix.structures._schema import FAMILIES

    assert set(MEMBERS) | {"AFDF"} == set(FAMILIES)  # AFDF has complex members alone


@pytest.mark.parametrize("blocks", ["auto", "linear", "conv"])
@pytest.mark.parametrize("form", ["auto", "factors", "dense"])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_family_keeps_its_function(name: str, form: Any, blocks: Any) -> None:
    A = member(name)
    layer = km.nn.Linear.from_matrix(A, torch.randn(A.shape[0], dtype=f64))
    made = stock_layer(layer, form=form, blocks=blocks)
    assert no_trace_of_kmatrix(made)
    convolves = any(isinstance(part, nn.Conv1d) for part in made.modules())
    assert not (convolves and blocks == "linear")
    leads = [(), (5,), (2, 3)] + [(0,)] * (not convolves)  # convolutions of torch take no empty batches
    for lead in leads:
        x = torch.randn(*lead, A.shape[1], dtype=f64)
        assert_same(made(x), layer(x), 1e-13)


@pytest.mark.parametrize(
    "name",
    ["BlockLowRank", "Butterfly", "Chain", "Diagonal", "GroupShuffle", "OBB", "Permutation", "Toeplitz"],
)
@pytest.mark.parametrize(
    "combine",
    [
        lambda A: A.T,
        lambda A: -0.5 * A,
        lambda A: A + km.LowRank(2).random(*A.shape, dtype=f64),
        lambda A: A @ km.Diagonal().random(A.shape[1], A.shape[1] + 3, dtype=f64),
        lambda A: km.Monarch(3).random(25, A.shape[0], dtype=f64) @ A,
        lambda A: (km.Monarch(3).random(25, A.shape[0], dtype=f64) @ A).T,
        lambda A: -(A.T @ km.Butterfly().random(A.shape[0], 13, dtype=f64)),
        lambda A: (
            A
            @ (km.Dense().random(A.shape[1], 9, dtype=f64) + km.Butterfly().random(A.shape[1], 9, dtype=f64))
        ),
    ],
    ids=[
        "transpose",
        "multiple",
        "sum",
        "to the right",
        "to the left",
        "transposed product",
        "cut",
        "of sums",
    ],
)
def test_the_algebra_keeps_its_function(
    name: str, combine: Callable[[StructuredMatrix], StructuredMatrix]
) -> None:
    B = combine(member(name))
    x = torch.randn(4, B.shape[1], dtype=f64)
    for form in ("auto", "factors"):
        made = stock_layer(B, form=form)  # type: ignore[arg-type]
        assert_same(made(x), B(x), 1e-13)


def test_real_parts_are_dense_and_exact() -> None:
    A = km.RealPart(km.Butterfly()).random(16, 16, dtype=f64)
    made = stock_layer(A)
    assert isinstance(made, nn.Linear)
    assert_same(made.weight, A.to_dense(), 1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_number_types_stay(dtype: torch.dtype) -> None:
    A = km.GroupShuffle(4).random(64, 64, dtype=dtype)
    x = torch.randn(8, 64, dtype=dtype)
    made = stock_layer(A)
    assert {p.dtype for p in made.parameters()} == {dtype}
    assert_same(made(x).double(), A(x).double(), 4 * torch.finfo(dtype).eps)


def test_low_rank_is_two_linear_layers() -> None:
    layer = km.nn.Linear(64, 32, structure=km.LowRank(4))
    made = stock_layer(layer)
    assert isinstance(made, nn.Sequential)
    assert [(type(part), part.in_features, part.out_features) for part in made] == [
        (nn.Linear, 64, 4),
        (nn.Linear, 4, 32),
    ]
    assert made[0].bias is None
    assert layer.bias is not None
    assert torch.equal(made[1].bias, layer.bias)
    assert made[1].bias is not layer.bias  # numbers of its own


def test_few_blocks_are_linear_layers_and_many_a_convolution() -> None:
    few, many = (stock_layer(km.BlockDiagonal(k).random(256, 256)) for k in (4, 64))
    assert [type(m) for m in few.modules() if isinstance(m, nn.Linear | nn.Conv1d)] == [nn.Linear] * 4
    assert [type(m) for m in many.modules() if isinstance(m, nn.Linear | nn.Conv1d)] == [nn.Conv1d]


def test_narrow_factors_are_multiplied_out_to_wider_ones() -> None:
    A = km.Kaleidoscope().random(1024, 1024)
    made, factors = stock_layer(A), stock_layer(A, form="factors")
    assert len(list(made.parameters())) < len(list(factors.parameters()))
    assert sum(p.numel() for p in factors.parameters()) == A.num_params
    assert sum(p.numel() for p in made.parameters()) < 1024**2 / 4
    x = torch.randn(2, 1024)
    assert_same(made(x), A(x), 1e-6)


CONVOLUTIONS: dict[str, tuple[Structure, dict[str, Any]]] = {
    "low rank": (km.LowRank(3), {"kernel_size": 3, "padding": 1}),
    "stride": (km.LowRank(3), {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0), "dilation": (1, 2)}),
    "same": (km.GroupShuffle(4), {"kernel_size": (5, 3), "padding": "same"}),
    "reflect": (km.GroupShuffle(4), {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    "blocks": (km.BlockDiagonal(4), {"kernel_size": 3, "padding": 1}),
    "dense": (km.Toeplitz(), {"kernel_size": 3}),
    "groups": (km.LowRank(3), {"kernel_size": 3, "groups": 4}),
    "groups of blocks": (km.GroupShuffle(2), {"kernel_size": (1, 2), "groups": 4}),
    "groups of padded blocks": (km.Butterfly(), {"kernel_size": (1, 3), "groups": 4}),
    "groups of dense blocks": (km.Toeplitz(), {"kernel_size": 3, "groups": 2}),
    "1 x 1": (km.GroupShuffle(4), {"kernel_size": 1}),
    "1 x 1 by 2": (km.GroupShuffle(4), {"kernel_size": 1, "stride": 2}),
    "1 x 1 low rank": (km.LowRank(2), {"kernel_size": 1, "bias": False}),
    "1 x 1 padded": (km.BlockDiagonal(32), {"kernel_size": 1, "padding": 1}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_keep_their_function(name: str) -> None:
    structure, options = CONVOLUTIONS[name]
    model = nn.Sequential(km.nn.Conv2d(32, 16, structure=structure, dtype=f64, **options))
    x = torch.randn(2, 32, 7, 6, dtype=f64)
    before = model(x)
    report = lower_(model)
    assert no_trace_of_kmatrix(model)
    assert_same(model(x), before, 1e-13)
    assert_same(model(x[0]), before[0], 1e-13)
    assert report.layers[0].error < 1e-14


def test_grouped_convolutions_stay_grouped() -> None:
    made = stock_layer(km.nn.Conv2d(16, 8, 3, groups=4, structure=km.LowRank(1)))
    assert isinstance(made, nn.Sequential)
    assert [(type(part), part.groups) for part in made] == [(nn.Conv2d, 4)] * 2


def test_a_convolution_of_blocks_is_a_grouped_convolution() -> None:
    made = stock_layer(km.nn.Conv2d(16, 8, 3, structure=km.BlockDiagonal(4)))
    assert isinstance(made, nn.Conv2d)
    assert (made.groups, made.weight.shape) == (4, (8, 4, 3, 3))


class Block(nn.Module):
    """Attention and a perceptron, with a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = km.nn.Linear(32, 96, structure=km.LowRank(4))
        self.mix = km.Permutation().random(32, 32)
        self.up = km.nn.Linear(32, 64, structure=km.GroupShuffle(4))
        self.down = km.nn.Linear(64, 32, structure=km.BlockDiagonal(32))
        self.again = self.down

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.mix(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.down(torch.relu(self.up(x))) + self.again(self.up(x))


def test_a_model_is_lowered_in_place() -> None:
    model = Block().eval()
    x = torch.randn(2, 5, 32)
    before = model(x)
    report = lower_(model)
    assert no_trace_of_kmatrix(model)
    assert model.down is model.again
    assert [layer.names for layer in report.layers] == [("qkv",), ("mix",), ("up",), ("down", "again")]
    assert max(layer.error for layer in report.layers) < 1e-6
    assert_same(model(x), before, 1e-6)
    first, blank, heads, line, *_ = str(report).splitlines()
    assert (first, blank) == ("4 layers lowered", "")
    assert heads.split()[:4] == ["layer", "numbers", "now", "error"]
    assert line.split()[:3] == ["qkv", "512", "512"]
    assert line.endswith("LowRank(rank=4) -> Linear(32, 4), Linear(4, 96)")
    console = Console(width=200, file=io.StringIO())
    console.print(report)
    assert "LowRank(rank=4) -> Linear(32, 4), Linear(4, 96)" in console.file.getvalue()
    assert lower_(model).layers == ()


def test_the_report_counts_numbers_and_gives_reasons() -> None:
    model = nn.Sequential(
        km.nn.Linear(40, 40, structure=km.Toeplitz()), km.nn.Linear(40, 8, structure=km.Dense())
    )
    toeplitz, dense = lower_(model).layers
    assert (toeplitz.num_params, toeplitz.num_params_after) == (79, 1600)
    assert "no chain" in toeplitz.note
    assert (dense.num_params, dense.num_params_after, dense.note) == (320, 320, "")
    model = nn.Sequential(km.nn.Linear(16, 16, structure=km.LowRank(12)))
    assert "no more products" in lower_(model).layers[0].note
    assert isinstance(model[0], nn.Linear)


def test_some_layers_can_be_left() -> None:
    model = Block()
    lower_(model, lambda module, name: name != "up")
    assert isinstance(model.up, km.nn.Linear)
    assert isinstance(model.qkv, nn.Sequential)


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        (km.nn.Linear(4, 4, structure=km.Dense()), ArgumentError, "holds it"),
        (
            nn.Sequential(km.Dense().random(2, 2), km.AFDF().random(2, 2, dtype=torch.complex64)),
            DtypeError,
            "model=1",
        ),
        (3, DtypeError, "pass the model"),
    ],
    ids=["the layer itself", "complex", "no model"],
)
def test_what_cannot_be_lowered_is_refused(model: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        lower_(model)
    if isinstance(model, nn.Sequential):
        assert isinstance(model[0], StructuredMatrix)  # nothing was changed


@pytest.mark.parametrize("option", ["form", "blocks", "attention"])
def test_unknown_options_are_refused(option: str) -> None:
    with pytest.raises(ArgumentError, match=f"{option}='x'"):
        lower_(nn.Sequential(km.Dense().random(2, 2)), **{option: "x"})  # type: ignore[arg-type]


def test_a_class_with_a_product_of_its_own_is_no_chain() -> None:
    from kmatrix.structures import ChainMatrix

    class Doubled(ChainMatrix):
        def _matmul(self, x: Tensor) -> Tensor:
            return 2 * super()._matmul(x)

    structure = km.LowRank(2)
    A = Doubled(structure, (8, 6), structure.layout(8, 6), dtype=f64)
    A.reset_parameters()
    assert_same(stock_layer(A).weight, A.to_dense(), 1e-15)  # type: ignore[arg-type]


def test_encoder_layers_of_torch_run_without_their_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True).eval()
    layer.linear1 = km.nn.Linear(32, 64, structure=km.GroupShuffle(4))  # type: ignore[assignment]
    layer.linear2 = km.nn.Linear(64, 32, structure=km.LowRank(4))  # type: ignore[assignment]
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        before = model(x)
        lower_(model)
        assert_same(model(x), before, 1e-6)


def attention() -> nn.Sequential:
    """Structured attention inside a model, with keys and values of other sizes."""
    options: dict[str, Any] = {"kdim": 12, "vdim": 20, "add_bias_kv": True, "batch_first": True}
    return nn.Sequential(km.nn.MultiheadAttention(16, 2, structure=km.LowRank(2), **options)).eval()


def test_attention_keeps_its_factors() -> None:
    model = attention()
    inputs = [torch.randn(2, 5, size) for size in (16, 12, 20)]
    before = model[0](*inputs)[0]
    report = lower_(model)
    assert [layer.names for layer in report.layers] == [(f"0.{x}_proj",) for x in ("q", "k", "v", "out")]
    assert [type(m) for m in model[0].children()] == [nn.Sequential] * 4
    assert_same(model[0](*inputs)[0], before, 1e-6)


@pytest.mark.parametrize("sizes", [{}, {"kdim": 12, "vdim": 20, "add_bias_kv": True}])
def test_attention_becomes_that_of_torch(sizes: dict[str, Any]) -> None:
    model = attention()
    if not sizes:
        model[0] = km.nn.MultiheadAttention(16, 2, batch_first=True, structure=km.LowRank(2)).eval()
    inputs = [torch.randn(2, 5, size) for size in (16, sizes.get("kdim", 16), sizes.get("vdim", 16))]
    before = model[0](*inputs)[0]
    report = lower_(model, attention="dense")
    assert type(model[0]) is nn.MultiheadAttention
    assert no_trace_of_kmatrix(model)
    assert "dense weights" in report.layers[0].note
    assert report.layers[0].num_params < report.layers[0].num_params_after
    assert_same(model[0](*inputs)[0], before, 1e-6)


@pytest.mark.parametrize(
    ("structure", "kinds"),
    [
        (km.LowRank(4), [nn.Embedding, nn.Linear]),
        (km.Product((km.Dense(), km.GroupShuffle(4)), (8,)), [nn.Embedding] + [nn.Linear] * 4),
        (km.BlockDiagonal(4), [nn.Embedding]),
        (km.Toeplitz(), [nn.Embedding]),
    ],
    ids=["low rank", "product", "blocks", "dense"],
)
def test_tables_keep_their_rows(structure: Structure, kinds: list[type]) -> None:
    model = nn.Sequential(km.nn.Embedding(40, 32, padding_idx=3, structure=structure, dtype=f64))
    index = torch.tensor([[0, 3, 39], [7, 7, 1]])
    before = model(index)
    report = lower_(model)
    assert [type(m) for m in model.modules() if list(m.parameters(recurse=False))] == kinds
    assert no_trace_of_kmatrix(model)
    assert_same(model(index), before, 1e-14)
    assert report.layers[0].error < 1e-14


def test_a_layer_with_a_guide_is_refused() -> None:
    model = nn.Sequential(km.nn.Linear(8, 8, structure=km.LowRank(2)))
    km.nn.self_guide_(model, 10)
    with pytest.raises(ArgumentError, match="SelfGuidedLinear has no stock form"):
        lower_(model)


class NothingOfOurs(pickle.Unpickler):
    """Reads as a machine does that kmatrix is not installed on."""

    def find_class(self, module: str, name: str) -> Any:
        assert not module.startswith("kmatrix")
        return super().find_class(module, name)


def test_lowered_models_are_copied_and_pickled_without_kmatrix() -> None:
    model = Block().eval()
    lower_(model)
    layers = nn.Sequential(model.qkv, model.up, model.down, model.mix)
    copied, loaded = copy.deepcopy(layers), NothingOfOurs(io.BytesIO(pickle.dumps(layers))).load()
    for layer, *others in zip(layers, copied, loaded, strict=True):
        x = torch.randn(3, 64 if layer is model.down else 32)
        assert all(torch.equal(layer(x), other(x)) for other in others)
    assert all(map(is_lowered, [*copied, *loaded]))


def test_lowered_models_train() -> None:
    model = Block()
    model.qkv.requires_grad_(False)
    lower_(model)
    model(torch.randn(2, 5, 32)).square().mean().backward()
    assert all((p.grad is None) == name.startswith("qkv") for name, p in model.named_parameters())


def test_lowered_models_are_exported_without_operators_of_ours() -> None:
    model = Block().eval()
    lower_(model)
    x = torch.randn(3, 5, 32)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert called
    assert not [name for name in called if "kmatrix" in name]
    for size in (2, 3, 7):
        x = torch.randn(size, 5, 32)
        assert_same(exported.module()(x), model(x), 1e-6)


def test_lowered_models_compile_whole() -> None:
    model = Block().eval()
    lower_(model)
    x = torch.randn(3, 5, 32)
    assert_same(torch.compile(model, fullgraph=True, backend="eager")(x), model(x), 1e-6)


def test_the_meta_device_is_enough() -> None:
    turned = 2.0 * km.Permutation().random(64, 64, device="meta")
    cut = km.Butterfly().random(64, 50, device="meta") @ km.Monarch(7).random(50, 64, device="meta")
    model = nn.Sequential(km.nn.Linear(64, 64, structure=km.GroupShuffle(4), device="meta"), turned @ cut.T)
    report = lower_(model)
    assert report.layers[0].error != report.layers[0].error  # NaN: there is nothing to measure
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}
    assert model(torch.empty(3, 64, device="meta")).shape == (3, 64)
