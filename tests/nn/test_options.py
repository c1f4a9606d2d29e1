"""Starts, caps and guides: what they do to the function of a layer, and that they leave without a trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import kmatrix as km
from kmatrix.nn._layer import MatrixLayer
from kmatrix.structures.chain import spectral_scales

ZERO = [
    (km.Dense(), 6, 6),
    (km.LowRank(2), 6, 9),
    (km.Butterfly(), 8, 8),
    (km.BlockLowRank(2), 6, 8),
    (km.Toeplitz(), 6, 9),
    (km.BlockCirculant(2), 6, 9),
    (km.Sparse(9), 6, 9),
    (km.Sum((km.LowRank(2), km.Sparse(3))), 6, 9),
    (km.Grouped(km.LowRank(1), 3), 6, 9),
    (km.Product((km.LowRank(2), km.OrthogonalButterfly()), (6,)), 6, 6),
    (km.Scaled(km.Monarch(2), 2.0), 6, 6),
    (km.Transpose(km.LowRank(2)), 6, 9),
    (km.Transpose(km.Toeplitz()), 6, 9),
]


@pytest.mark.parametrize(("structure", "m", "n"), ZERO, ids=str)
def test_zero_start_is_zero_and_learns(structure: km.Structure, m: int, n: int) -> None:
    layer = km.nn.Linear(n, m, structure=structure)
    km.nn.zero_start_(layer)
    x = torch.randn(3, n)
    y = layer(x)
    assert not y.any()
    (y - 1).square().sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in layer.matrix.parameters())


def test_zero_start_of_convolutions_and_of_what_cannot() -> None:
    conv = km.nn.Conv2d(4, 4, 3, groups=2, structure=km.LowRank(1))
    km.nn.zero_start_(conv)
    assert not conv(torch.randn(1, 4, 5, 5)).any()
    for structure in (km.OrthogonalButterfly(), km.Permutation()):
        with pytest.raises(km.ArgumentError, match="no factor that may be zero"):
            km.nn.zero_start_(km.nn.Linear(8, 8, structure=structure))


@pytest.mark.parametrize(
    "structure",
    [km.Butterfly(), km.Dense(), km.Kaleidoscope(), km.Toeplitz(), km.LowRank(8), km.Monarch(2)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_identity_start(structure: km.Structure, dtype: torch.dtype) -> None:
    layer = km.nn.Linear(8, 8, structure=structure, dtype=dtype)
    km.nn.identity_start_(layer)
    torch.testing.assert_close(layer.weight, torch.eye(8, dtype=dtype), rtol=1e-5, atol=1e-5)
    assert layer.bias is not None and not layer.bias.any()


def test_identity_start_of_what_cannot() -> None:
    with pytest.raises(km.ArgumentError, match="not square"):
        km.nn.identity_start_(km.nn.Linear(8, 4, structure=km.LowRank(2)))
    with pytest.raises(km.FitError, match="was not reached"):
        km.nn.identity_start_(km.nn.Linear(8, 8, structure=km.LowRank(2)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_projected_start_is_the_truncated_svd_of_the_draw(dtype: torch.dtype) -> None:
    layer = km.nn.Linear(12, 9, structure=km.LowRank(3), dtype=dtype)
    full = km.nn.Linear(12, 9, structure=km.Dense(), dtype=dtype)
    for one in (layer, full):
        km.nn.projected_start_(one, torch.Generator().manual_seed(5))
    u, s, vh = torch.linalg.svd(full.weight.detach())
    torch.testing.assert_close(layer.weight, (u[:, :3] * s[:3]) @ vh[:3], rtol=1e-6, atol=1e-7)
    assert 0.5 < full.weight.norm() / 9**0.5 / (9 / 12) ** 0.5 < 2


def test_frobenius_penalty() -> None:
    shared = km.nn.Linear(6, 8, structure=km.LowRank(2), dtype=torch.float64)
    wave = km.nn.Linear(6, 8, structure=km.LowRank(2), dtype=torch.complex128)
    other = km.nn.Linear(8, 6, structure=km.Butterfly(), dtype=torch.float64)
    model = nn.ModuleList([shared, km.nn.Linear.from_matrix(shared.matrix), other, nn.Linear(3, 3), wave])
    want = sum(m.weight.abs().square().sum() for m in (shared, other, wave))
    torch.testing.assert_close(km.nn.frobenius_penalty(model), want)
    got = torch.autograd.grad(km.nn.frobenius_penalty(shared), list(shared.matrix.parameters()))
    want = torch.autograd.grad(shared.weight.square().sum(), list(shared.matrix.parameters()))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_caps_hold_and_leave(dtype: torch.dtype) -> None:
    layer = km.nn.Linear(16, 16, structure=km.BlockLowRank(4, rank=2), dtype=dtype)
    plain = copy.deepcopy(layer)
    assert km.nn.rms_cap_(layer) == 1 and km.nn.rms_cap_(layer) == 0
    with torch.no_grad():
        for p in layer.matrix.parameters():
            p.mul_(100 if p.ndim > 1 else 1)
    for weight, std in zip(layer.matrix.weights, spectral_scales(layer.matrix.layout), strict=True):
        torch.testing.assert_close(weight.abs().square().mean().sqrt().item(), std)
    x = torch.randn(3, 16, dtype=dtype)
    y = layer(x)
    y.abs().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    copied = copy.deepcopy(layer)
    for one in (layer, copied):
        assert km.nn.remove_rms_caps_(one) == 1
        torch.testing.assert_close(one(x), y)
        assert one.state_dict().keys() == plain.state_dict().keys()


def test_caps_do_nothing_to_small_factors_but_scale_them() -> None:
    layer = km.nn.Linear(16, 16, structure=km.Monarch(4), dtype=torch.float64)
    with torch.no_grad():
        for p in layer.matrix.parameters():
            p.mul_(0.1)
    x = torch.randn(3, 16, dtype=torch.float64)
    want = layer(x).detach()
    km.nn.rms_cap_(layer, gain=False)
    assert not any("gain" in name for name, _ in layer.named_parameters())
    torch.testing.assert_close(layer(x), want)


def test_guides_start_equal_hand_over_and_leave() -> None:
    model = nn.Sequential(
        km.nn.Linear(8, 8, structure=km.LowRank(2)),
        nn.ReLU(),
        km.nn.Linear(8, 4, False, structure=km.Monarch(2)),
        nn.Linear(4, 2),
    )
    keys, x = list(model.state_dict()), torch.randn(5, 8)
    before = model(x)
    guidance = km.nn.self_guide_(model, steps=4)
    torch.testing.assert_close(model(x), before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    shares = []
    for _ in range(4):
        with pytest.raises(km.ArgumentError, match="still have a share"):
            guidance.finish()
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        shares.append(guidance.step())
    assert shares == pytest.approx([(2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0.0])
    last = model(x)
    guidance.finish()
    assert list(model.state_dict()) == keys and isinstance(model[0], MatrixLayer)
    torch.testing.assert_close(model(x), last)


def test_guides_learn_in_the_place_of_the_factors_at_first() -> None:
    model = nn.Sequential(km.nn.Linear(8, 8, structure=km.LowRank(2)))
    km.nn.self_guide_(model, steps=10)
    model(torch.randn(5, 8)).sum().backward()
    assert bool(model[0].guide.grad.any()) and not any(
        p.grad.any() for p in model[0].layer.matrix.parameters()
    )


def test_guides_of_some_layers_and_of_none() -> None:
    model = nn.Sequential(*(km.nn.Linear(8, 8, structure=km.LowRank(2)) for _ in range(2)))
    km.nn.self_guide_(model, 3, lambda module, name: name == "1")
    assert isinstance(model[0], km.nn.Linear) and isinstance(model[1], km.nn.SelfGuidedLinear)
    with pytest.raises(km.ArgumentError, match="no layer to guide"):
        km.nn.self_guide_(nn.Linear(4, 4), 3)
    with pytest.raises(km.ArgumentError, match="steps=0"):
        km.nn.self_guide_(model, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_caps_around_a_factor_of_zeros_have_gradients(dtype: torch.dtype) -> None:
    layer = km.nn.Linear(8, 8, structure=km.LowRank(2), dtype=dtype)
    km.nn.zero_start_(layer)
    km.nn.rms_cap_(layer)
    layer(torch.randn(3, 8, dtype=dtype)).abs().square().sum().backward()
    layer(torch.randn(3, 8, dtype=dtype)).real.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())


def test_gradients_of_caps() -> None:
    layer = km.nn.Linear(6, 5, structure=km.LowRank(2), dtype=torch.float64)
    km.nn.rms_cap_(layer)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(3, 6, dtype=torch.float64)

    def function(*numbers: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, numbers, strict=True)), (x,))

    scaled = [(p * 3).detach().requires_grad_() for p in layer.parameters()]  # so that the caps take part
    assert torch.autograd.gradcheck(function, scaled)


def test_guidance_goes_on_from_a_checkpoint() -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(km.nn.Linear(8, 8, structure=km.LowRank(2)))

    first = km.nn.self_guide_(build(), steps=4)
    first.step()
    second = km.nn.self_guide_(build(), steps=4)
    second.load_state_dict(first.state_dict())
    assert second.alpha == first.alpha == pytest.approx(float(second.layers["0"].alpha))
    assert second.step() == first.step() == pytest.approx(0.5)
    for state in ({}, {"done": -1}):
        with pytest.raises(km.ArgumentError, match="done"):
            second.load_state_dict(state)


def test_projected_start_of_groups_is_one_of_each_block() -> None:
    conv = km.nn.Conv2d(64, 64, 1, groups=4, structure=km.Dense())
    km.nn.projected_start_(conv, torch.Generator().manual_seed(2))
    other = km.nn.Linear(16, 16, structure=km.Dense())
    km.nn.projected_start_(other, torch.Generator().manual_seed(2))
    assert torch.equal(conv.matrix.members[0].to_dense(), other.weight)
