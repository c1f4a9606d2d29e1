"""Which layers can be swapped, the swap by name, fresh structured layers, and the way back to dense."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import kmatrix as km
from kmatrix.nn.surgery import survey


class Own(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Renamed(nn.Linear):
    pass


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.first = nn.Linear(8, 16)
        self.again = self.first
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), Renamed(16, 8))
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, index: Tensor) -> Tensor:
        x = self.norm(self.first(self.embed(index)) + self.again(self.embed(index)))
        return self.head(self.mlp(x))


def test_sites_and_reasons() -> None:
    sites, skipped = survey(Model())
    assert [(s.names, s.kind, s.shape) for s in sites] == [
        (("first", "again"), "linear", (16, 8)),
        (("mlp.0",), "linear", (16, 16)),
        (("mlp.2",), "linear", (8, 16)),
    ]
    assert [(s.names, s.reason) for s in skipped] == [(("head",), "it shares its weight with embed")]


def test_filters_see_module_and_first_name() -> None:
    seen = []

    def inner(module: nn.Module, name: str) -> bool:
        seen.append((type(module).__name__, name))
        return name.startswith("mlp")

    assert [site.name for site in km.nn.linear_like(Model(), inner)] == ["mlp.0", "mlp.2"]
    assert seen == [("Linear", "first"), ("Linear", "mlp.0"), ("Renamed", "mlp.2"), ("Linear", "head")]


def unusual() -> dict[str, tuple[nn.Module, str]]:
    hooked, patched, sparse, whole = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, args, y: None)
    patched.forward = lambda x: x  # type: ignore[method-assign]
    sparse.weight = nn.Parameter(sparse.weight.detach().to_sparse())
    eighth, empty = nn.Linear(4, 4), nn.Linear(4, 4)
    eighth.weight = nn.Parameter(eighth.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    empty.weight = nn.Parameter(torch.zeros(4, 0))
    whole.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    wide, fixed = nn.Linear(4, 4), nn.Linear(4, 4)
    wide.bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    del fixed.bias
    fixed.register_buffer("bias", torch.ones(4))
    return {
        "wide": (wide, "its bias is not a parameter of torch.float32"),
        "fixed": (fixed, "its bias is not a parameter"),
        "own": (Own(4, 4), "forward of its own"),
        "patched": (patched, "forward of its own"),
        "hooked": (hooked, "hooks"),
        "pruned": (prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), "computed from other numbers"),
        "normed": (parametrizations.weight_norm(nn.Linear(4, 4)), "computed from other numbers"),
        "lazy": (nn.LazyLinear(4), "not known before the first call"),
        "sparse": (sparse, "laid out as torch.sparse_coo"),
        "int8": (whole, "holds torch.int8"),
        "float8": (eighth, "holds torch.float8_e4m3fn"),
        "empty": (empty, "is empty"),
        "bilinear": (nn.ConvTranspose2d(4, 4, 1), "neither an nn.Linear nor an nn.Conv2d"),
    }


@pytest.mark.parametrize("case", list(unusual()))
def test_unusual_layers_are_skipped_with_a_reason(case: str) -> None:
    module, reason = unusual()[case]
    model = nn.ModuleDict({"x": module})
    report = km.replace_linear_(model, km.Monarch(2), kinds=("linear", "conv2d"))
    assert model["x"] is module and report.replaced == ()
    assert [s.names for s in report.skipped] == [("x",)]
    assert reason in report.skipped[0].reason and reason in str(report)


def test_quantised_weights_are_skipped() -> None:
    class Quantised(Tensor):
        pass

    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantised))
    _, skipped = survey(nn.Sequential(layer))
    assert "is a Quantised" in skipped[0].reason


def test_replace_keeps_biases_ties_devices_and_modes() -> None:
    model = Model().double().eval()
    bias = model.first.bias
    model.mlp[0].weight.requires_grad_(False)
    report = km.replace_linear_(model, km.LowRank(2))
    assert report.replaced == (("first", "again"), ("mlp.0",), ("mlp.2",))
    assert (report.params_before, report.params_after) == (512, 2 * (24 + 32 + 24))
    assert isinstance(model.first, km.nn.Linear) and model.again is model.first and model.first.bias is bias
    assert model.first.matrix.dtype == torch.float64 and not model.first.training
    assert not any(p.requires_grad for p in model.mlp[0].matrix.parameters())
    assert model(torch.tensor([3, 4])).shape == (2, 20)
    assert "3 layers replaced, 512 -> 160 numbers (31.2%)" in str(report)
    assert "skipped head" in str(report)
    again = km.replace_linear_(model, km.LowRank(2))
    assert again.replaced == () and [s.names for s in again.skipped] == [("head",)]


def test_a_rule_chooses_and_misfits_are_reported() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 6), nn.Conv2d(4, 4, 3, groups=2))
    rules = {"0": km.Circulant(), "1": km.Circulant(), "2": None, "3": km.LowRank(1)}
    report = km.replace_linear_(model, lambda module, name: rules[name], kinds=("linear", "conv2d"))
    assert report.replaced == (("0",), ("3",)) and type(model[2]) is nn.Linear
    assert [s.names for s in report.skipped] == [("1",)] and "square" in report.skipped[0].reason
    assert model[3].matrix.structure == km.Grouped(km.LowRank(1), 2)
    only = nn.Sequential(nn.Conv2d(4, 4, 1))
    assert km.replace_linear_(only, km.LowRank(1)).replaced == ()


def test_densify_gives_the_same_function_and_the_same_classes() -> None:
    model = Model().double()
    conv = nn.Sequential(nn.Conv2d(4, 6, (3, 2), 2, 1, groups=2, padding_mode="reflect"), nn.Conv2d(6, 2, 1))
    km.replace_linear_(model, km.Monarch(2))
    km.replace_linear_(conv, km.LowRank(1), kinds=("conv2d",))
    index, image = torch.tensor([[1, 2, 3]]), torch.randn(2, 4, 8, 8)
    before = model(index), conv(image)
    assert km.densify_(model) == ["first", "mlp.0", "mlp.2"] and km.densify_(conv) == ["0", "1"]
    assert not any(isinstance(m, km.StructuredMatrix) for m in (*model.modules(), *conv.modules()))
    assert model.first is model.again and type(model.first) is nn.Linear and type(conv[0]) is nn.Conv2d
    torch.testing.assert_close(model(index), before[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(conv(image), before[1], rtol=1e-4, atol=1e-5)
    assert km.densify_(model) == []


def test_densify_keeps_tied_matrices_tied() -> None:
    embed = km.nn.Embedding(20, 8, structure=km.LowRank(2))
    model = nn.ModuleDict({"embed": embed, "head": km.nn.Linear.from_matrix(embed.matrix)})
    index, x = torch.tensor([1, 3, 19]), torch.randn(2, 8)
    before = model["embed"](index), model["head"](x)
    km.densify_(model)
    assert type(model["embed"]) is nn.Embedding and model["embed"].weight is model["head"].weight
    torch.testing.assert_close(model["head"](x), before[1])
    torch.testing.assert_close(model["embed"](index), before[0])
    padded = km.nn.Embedding.from_matrix(embed.matrix, padding_idx=3)
    model = nn.ModuleDict({"embed": padded, "head": km.nn.Linear.from_matrix(embed.matrix)})
    before = padded(index), model["head"](x)
    km.densify_(model)
    torch.testing.assert_close((model["embed"](index), model["head"](x)), before)


def test_what_replace_refuses() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    for structure in ("monarch", km.Monarch):
        with pytest.raises(km.DtypeError, match="not a Structure"):
            km.replace_linear_(model, structure)  # type: ignore[arg-type]
    with pytest.raises(km.DtypeError, match="not a Structure"):
        km.replace_linear_(model, lambda module, name: 3)  # type: ignore[arg-type,return-value]
    for kinds in ("linear", ("conv",)):
        with pytest.raises(km.ArgumentError, match="not kinds of layers"):
            km.replace_linear_(model, km.Dense(), kinds=kinds)  # type: ignore[arg-type]


def test_swap_by_name() -> None:
    model = Model()
    new = nn.Identity()
    km.nn.swap_(model, {"again": new})
    assert model.first is new and model.again is new
    with pytest.raises(km.ArgumentError, match="'nowhere': the model has no module of this name"):
        km.nn.swap_(model, {"nowhere": new})
    with pytest.raises(km.ArgumentError, match="the model itself"):
        km.nn.swap_(model, {"": new})
    with pytest.raises(km.ArgumentError, match="tied to another name"):
        km.nn.swap_(model, {"first": nn.Identity(), "again": nn.Identity()})


def test_a_layer_alone_has_no_place_to_put_another() -> None:
    _, skipped = survey(nn.Linear(4, 4))
    assert skipped[0].names == ("",) and "the model itself" in skipped[0].reason
    with pytest.raises(km.ArgumentError, match="dense_layer"):
        km.densify_(km.nn.Linear(4, 4, structure=km.Dense()))
    hooked = nn.Sequential(*(km.nn.Linear(4, 4, structure=km.Dense()) for _ in range(2)))
    handle = hooked[1].register_forward_hook(lambda module, args, y: None)
    with pytest.raises(km.ArgumentError, match="model=1: hooks are attached to it"):
        km.densify_(hooked)
    assert isinstance(hooked[0], km.nn.Linear)
    handle.remove()
    assert km.densify_(hooked) == ["0", "1"]
    with pytest.raises(km.DtypeError, match=r"not an nn\.Module"):
        survey([nn.Linear(4, 4)])  # type: ignore[arg-type]


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Model()
    km.replace_linear_(model, km.Monarch(2))
    assert all(p.is_meta for p in model.parameters())
    twin = Model()
    km.replace_linear_(twin, km.Monarch(2))
    model = model.to_empty(device="cpu")
    model.load_state_dict(twin.state_dict())
    assert torch.equal(model(torch.tensor([5])), twin(torch.tensor([5])))


def test_a_copy_stays_a_copy() -> None:
    model = Model()
    km.replace_linear_(model, km.Monarch(2))
    copied = copy.deepcopy(model)
    assert copied.first is copied.again is not model.first
    index = torch.tensor([1, 2])
    assert torch.equal(copied(index), model(index))


def test_layers_are_chosen_by_patterns_too() -> None:
    def replaced(filter_fn: object) -> tuple[tuple[str, ...], ...]:
        return km.replace_linear_(Model(), km.LowRank(2), filter_fn).replaced  # type: ignore[arg-type]

    assert replaced("mlp.*") == (("mlp.0",), ("mlp.2",))
    assert replaced(["*", "!mlp.2"]) == (("first", "again"), ("mlp.0",))
    assert replaced("again") == (("first", "again"),)  # any name of a tied layer
    assert replaced("!again") == (("mlp.0",), ("mlp.2",))
    model = Model()
    with pytest.raises(
        km.ArgumentError, match=r"replace_linear_: filter_fn='zzz\*': matches no module; .*mlp"
    ):
        km.replace_linear_(model, km.LowRank(2), "zzz*")
    for nothing in (3, ["mlp.*", 3]):
        with pytest.raises(km.DtypeError, match="filter_fn=3: not a pattern"):
            km.replace_linear_(model, km.LowRank(2), nothing)  # type: ignore[arg-type]
    assert type(model.first) is nn.Linear
    assert [site.name for site in km.nn.linear_like(model, "!mlp.0")] == ["first", "mlp.2"]


def test_attentions_are_opened_and_layers_lowered_and_guided_by_patterns() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    assert km.nn.open_attention_(model, "layers.1.*") == ["layers.1.self_attn"]
    report = km.replace_linear_(model, km.LowRank(1), "layers.1.*")
    assert len(report.replaced) == 6
    assert [layer.names for layer in km.lower_(model, "*.linear1").layers] == [("layers.1.linear1",)]
    guidance = km.nn.self_guide_(model, 2, "*.linear2")
    assert list(guidance.layers) == ["layers.1.linear2"]


def test_what_is_larger_than_dense_is_marked() -> None:
    model = nn.Sequential(nn.Linear(50, 70), nn.Linear(70, 500))
    report = km.replace_linear_(model, km.LowRank(40))
    assert report.larger == (("0",),)
    assert str(report).splitlines()[1:] == ["  larger than dense: 0"]
    assert "larger than dense: 4,800 numbers for 3,500" in repr(model[0])
    assert "larger" not in repr(model[1])
    assert "larger" not in repr(km.nn.Linear(5, 7, structure=km.Dense()))
    wide = km.nn.Conv2d(4, 6, 1, groups=2, structure=km.LowRank(3))
    assert "larger than dense: 30 numbers for 12" in repr(wide)


def test_boxes_that_learn_are_not_called_too_large() -> None:
    model = nn.Sequential(nn.Linear(50, 70), nn.Linear(70, 20))
    report = km.replace_linear_(model, km.Gaudi(budget=0.2))
    assert report.larger == () and report.learning == ((("0",), 700), (("1",), 280))
    assert str(report).splitlines()[1:] == [
        "  0: 700 numbers once hardened",
        "  1: 280 numbers once hardened",
    ]
    assert "while its boxes learn; 700 once hardened" in repr(model[0]) and "larger" not in repr(model[0])
    assert model[0].matrix.harden().num_params == 700


def test_one_layer_is_in_the_singular() -> None:
    report = km.replace_linear_(nn.Sequential(nn.Linear(8, 8)), km.LowRank(1))
    assert str(report) == "1 layer replaced, 64 -> 16 numbers (25.0%)"


def test_a_bare_layer_is_no_model_to_replace_in() -> None:
    with pytest.raises(km.ArgumentError, match="it is itself the layer"):
        km.replace_linear_(nn.Linear(8, 8), km.LowRank(2))
