"""``km.nn.Conv2d`` against ``nn.Conv2d``: every kernel, stride, padding, dilation, grouping and padding mode."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kmatrix as km

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2, "padding": 1},
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1, "stride": (2, 1)},
    {"kernel_size": (2, 3), "padding": (1, 2), "dilation": (2, 1)},
    {"kernel_size": (3, 5), "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": "valid", "stride": 2},
]
STRUCTURES = [km.Dense(), km.LowRank(2), km.Monarch(2), km.Butterfly(), km.Toeplitz()]


def twins(
    structure: km.Structure, channels: tuple[int, int] = (4, 6), **geometry: Any
) -> tuple[nn.Conv2d, km.nn.Conv2d]:
    """A structured convolution and the dense one of the same function."""
    torch.manual_seed(1)
    layer = km.nn.Conv2d(*channels, **geometry, structure=structure, dtype=torch.float64)
    dense = layer.dense_like(dtype=torch.float64)
    dense.weight = nn.Parameter(layer.weight.detach().clone())
    dense.bias = layer.bias
    return dense, layer


def assert_same(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize(
    ("groups", "mode"), [*product([1, 2], ["zeros"]), (1, "reflect"), (2, "replicate"), (1, "circular")]
)
def test_equals_the_dense_convolution(geometry: dict[str, Any], groups: int, mode: str) -> None:
    dense, layer = twins(km.LowRank(2), groups=groups, padding_mode=mode, **geometry)
    for x in (torch.randn(2, 4, 9, 8), torch.randn(4, 9, 8), torch.randn(0, 4, 9, 8)):
        assert_same(layer(x.double()), dense(x.double()))


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_gradients_are_those_of_the_dense_convolution(structure: km.Structure) -> None:
    dense, layer = twins(structure, kernel_size=3, padding=1, dilation=2, groups=2)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    z = torch.randn_like(dense(x))
    (want,) = torch.autograd.grad((dense(x) * z).sum(), x)
    (got,) = torch.autograd.grad((layer(x) * z).sum(), x)
    assert_same(got, want)
    parameters = list(layer.matrix.parameters())
    (of_weight,) = torch.autograd.grad((dense(x) * z).sum(), dense.weight)
    want_all = torch.autograd.grad((layer.weight * of_weight).sum(), parameters)
    got_all = torch.autograd.grad((layer(x) * z).sum(), parameters)
    for got, want in zip(got_all, want_all, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_memory_layout_is_that_of_the_dense_convolution(kernel_size: int) -> None:
    dense, layer = twins(km.LowRank(2), kernel_size=kernel_size, padding=kernel_size // 2)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    for image in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3)):
        assert layer(image).is_contiguous(memory_format=torch.channels_last) == dense(image).is_contiguous(
            memory_format=torch.channels_last
        )
    assert layer(x).view(2, -1).shape == (2, 6 * 72)


@pytest.mark.parametrize("groups", [1, 2])
def test_from_conv2d_finds_what_the_structure_holds(groups: int) -> None:
    dense, _ = twins(km.LowRank(2), kernel_size=(3, 2), padding=1, stride=2, groups=groups)
    dense.eval()
    layer = km.nn.Conv2d.from_conv2d(dense, km.LowRank(2))
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-9, atol=1e-10)
    assert layer.bias is dense.bias and not layer.training


def test_complex_numbers() -> None:
    layer = km.nn.Conv2d(3, 4, 3, padding=1, structure=km.Monarch(2), dtype=torch.complex128)
    x = torch.randn(2, 3, 5, 6, dtype=torch.complex128)
    bias = torch.view_as_complex(layer.bias)
    assert_same(layer(x), torch.conv2d(x, layer.weight, bias, padding=1))


def test_compiles_exports_and_copies() -> None:
    dense, layer = twins(km.Monarch(2), kernel_size=3, padding=1)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    torch.compiler.reset()
    assert_same(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), dense(x))
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    y = torch.randn(5, 4, 6, 5, dtype=torch.float64)
    assert_same(program.module()(y), dense(y))
    other = copy.deepcopy(layer)
    other.reset_parameters()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    meta = km.nn.Conv2d(4, 6, 3, structure=km.Monarch(2), device="meta")
    assert meta(torch.empty(2, 4, 6, 6, device="meta")).shape == (2, 6, 4, 4)


def test_autocast() -> None:
    layer = km.nn.Conv2d(4, 6, 3, structure=km.Monarch(2))
    x = torch.randn(2, 4, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(x), rtol=0.1, atol=0.1)
    # What an earlier layer under autocast has lowered takes the same way.
    layer._patches = None  # type: ignore[assignment,method-assign]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x.bfloat16()), low)
        with pytest.raises(km.DtypeError, match="float64"):
            km.nn.Conv2d(4, 6, 3, structure=km.Monarch(2))(x.double())


def test_biases_start_as_those_of_torch() -> None:
    layer = km.nn.Conv2d(32, 64, 3, groups=16, structure=km.Dense())
    bound = (2 * 9) ** -0.5  # each output sees two channels
    assert 0.7 * bound < float(layer.bias.detach().abs().max()) <= bound


def test_what_is_shown_and_refused() -> None:
    layer = km.nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False, structure=km.LowRank(1))
    assert "4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=2, bias=False" in repr(layer)
    for what, kwargs in {
        "groups": {"groups": 3},
        "padding_mode": {"padding_mode": "mirror"},
        "padding=": {"padding": "full"},
        "stride": {"padding": "same", "stride": 2},
        "kernel_size": {"kernel_size": (3, 3, 3)},
        "dilation": {"dilation": 0},
    }.items():
        with pytest.raises(km.ArgumentError, match=what):
            km.nn.Conv2d(4, 6, **{"kernel_size": 3, **kwargs}, structure=km.LowRank(1))
    with pytest.raises(km.DtypeError, match="x=ndarray: not a tensor"):
        layer(np.ones((1, 4, 8, 8), np.float32))
    with pytest.raises(km.ArgumentError, match="whole channels"):
        km.nn.Conv2d.from_matrix(km.Dense().random(4, 10), 3)
    with pytest.raises(km.ArgumentError, match="GroupedMatrix"):
        km.nn.Conv2d.from_matrix(km.Dense().random(4, 18), 3, groups=2)
    with pytest.raises(km.DtypeError, match="not a StructuredMatrix"):
        km.nn.Conv2d.from_matrix(torch.zeros(4, 9), 3)  # type: ignore[arg-type]
    for shape in ((2, 5, 6, 6), (4, 6), (1, 2, 4, 6, 6)):
        with pytest.raises(km.ArgumentError, match="not an image of 4 channels"):
            layer(torch.randn(shape))
    for kernel_size in (1, 3):
        with pytest.raises(km.DtypeError, match="float64"):
            km.nn.Conv2d(4, 6, kernel_size, structure=km.LowRank(1))(torch.randn(2, 4, 6, 6).double())


LEADING = [
    (km.Dense(), True),
    (km.LowRank(3), True),
    (km.Monarch(2), True),
    (km.BlockTensorTrain((3, 4), rank=2), True),
    (km.BlockLowRank((3, 2)), True),
    (km.BLAST((3, 2), 2), True),
    (km.BlockDiagonal(2), True),
    (km.Monarch(5), False),
    (km.Butterfly(), False),
    (km.Toeplitz(), False),
]


@pytest.mark.parametrize(("structure", "leads"), LEADING, ids=str)
@pytest.mark.parametrize("groups", [1, 3])
def test_patches_are_gathered_only_where_they_must(structure: km.Structure, leads: bool, groups: int) -> None:
    dense, layer = twins(
        structure, (4 * groups, 6 * groups), kernel_size=3, padding=1, stride=2, groups=groups
    )
    x = torch.randn(2, 4 * groups, 6, 5, dtype=torch.float64)
    gathered = []
    patches = layer._patches
    layer._patches = lambda image: (gathered.append(1), patches(image))[1]  # type: ignore[method-assign,func-returns-value]
    for _ in range(3):
        assert_same(layer(x), dense(x))
        with torch.no_grad():
            assert_same(layer(x), dense(x))
    assert bool(gathered) is not leads
    parameters = list(layer.matrix.parameters())
    z = torch.randn_like(dense(x))
    got = torch.autograd.grad((layer(x) * z).sum(), parameters)
    layer.matrix.register_forward_hook(
        lambda module, args, y: None
    )  # whoever waits for the matrix gets patches
    gathered.clear()
    want = torch.autograd.grad((layer(x) * z).sum(), parameters)
    assert gathered
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
