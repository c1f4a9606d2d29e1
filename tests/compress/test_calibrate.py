"""Moments are those of the inputs, the model stays as it was, and the gradients are those of its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmatrix as km
from kmatrix.compress import calibrate, select
from kmatrix.compress.batches import device_of, moved
from kmatrix.compress.calibrate import vectors_of


def test_moments_are_those_of_the_inputs(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    found = calibrate(mlp, select(mlp)[0], batches, double=True)
    x = torch.cat(batches).double()
    moments = found.moments["0"]
    assert (moments.count, moments.calls, found.batches) == (240, 6, 6)
    torch.testing.assert_close(moments.covariance(centred=False), x.mT @ x / 240)
    torch.testing.assert_close(moments.covariance(centred=True), x.mT.cov(correction=0))
    torch.testing.assert_close(moments.mean(), x.mean(0))
    hidden = mlp[:2](torch.cat(batches)).detach().double()
    torch.testing.assert_close(found.moments["2"].covariance(centred=False), hidden.mT @ hidden / 240)
    outputs = mlp(torch.cat(batches)).detach().double()
    assert found.output == pytest.approx(float(outputs.square().sum()), rel=1e-5)


def test_gradients_average_to_those_of_all_outputs(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    found = calibrate(mlp, select(mlp)[0], batches * 30)
    head = mlp[4].weight.detach()
    mask = (torch.cat([mlp[:3](x) for x in batches]) > 0).float()
    exact = (mask.mT @ mask) * (head.mT @ head) * 30
    got = found.moments["2"].gradient
    assert got is not None
    assert float((got - exact).norm() / exact.norm()) < 0.1  # 7200 random directions
    last = found.moments["4"].gradient
    assert last is not None
    torch.testing.assert_close(last.diagonal(), torch.full((4,), 7200.0))


def test_the_model_is_left_as_it_was(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    mlp.train()
    mlp[2].eval()
    mlp[0].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in mlp.state_dict().items()}
    calibrate(mlp, select(mlp)[0], batches)
    assert mlp.training and not mlp[2].training
    assert not mlp[0].weight.requires_grad and mlp[0].bias.requires_grad
    assert all(p.grad is None for p in mlp.parameters())
    assert all(torch.equal(value, before[key]) for key, value in mlp.state_dict().items())
    assert all(not module._forward_hooks for module in mlp.modules())


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": "same", "dilation": 2}])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_patches_are_what_a_convolution_multiplies(options: dict[str, Any], mode: str) -> None:
    conv = nn.Conv2d(3, 5, 3, padding_mode=mode, **options)
    (site,), _ = select(nn.Sequential(conv))
    x = torch.randn(2, 3, 8, 9)
    vectors = vectors_of(site, x)
    y = vectors @ conv.weight.detach().flatten(1).mT + conv.bias.detach()
    torch.testing.assert_close(y, conv(x).detach().movedim(1, -1).flatten(0, 2))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, left: Tensor, right: Tensor | None = None) -> dict[str, Tensor]:
        return {"sum": self.a(left) if right is None else self.a(left) + self.b(right)}


@pytest.mark.parametrize(
    "batch", [(torch.ones(2, 4), torch.ones(3, 4)[:2], "label"), {"left": torch.ones(2, 4), "labels": 3}]
)
def test_batches_are_tuples_and_dicts_with_more_than_the_model_takes(batch: Any) -> None:
    model = Pair()
    found = calibrate(model, select(model)[0], [batch])
    assert found.moments["a"].count == 2
    assert found.moments["b"].count == (2 if isinstance(batch, tuple) else 0)


def test_a_function_runs_the_model_itself(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    found = calibrate(mlp, select(mlp)[0], lambda model: [model(x) for x in batches])
    assert found.moments["0"].count == 240
    forward = calibrate(mlp, select(mlp)[0], [3], forward=lambda model, k: model(batches[k]))
    assert forward.moments["0"].count == 40


def test_inputs_written_over_afterwards_are_seen_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))
    found = calibrate(model, select(model)[0], [torch.randn(9, 6)])
    assert found.moments["0"].gradient is not None


def test_what_cannot_be_calibrated_is_refused(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    sites = select(mlp)[0]
    with pytest.raises(km.ArgumentError, match="it has no batches"):
        calibrate(mlp, sites, [])
    with pytest.raises(km.DtypeError, match="calibration=int: not an iterable of batches"):
        calibrate(mlp, sites, 3)
    with pytest.raises(km.ArgumentError, match="input of 0=tensor: it holds numbers that are not finite"):
        calibrate(mlp, sites, [torch.full((2, 24), float("nan"))])
    assert all(p.requires_grad for p in mlp.parameters())


def test_a_function_may_ask_for_no_gradients(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    def run(model: nn.Module) -> None:
        with torch.no_grad():
            for x in batches:
                model(x)

    found = calibrate(mlp, select(mlp)[0], run)
    assert found.moments["0"].count == 240
    assert found.moments["0"].gradient is None
    assert calibrate(mlp, select(mlp)[0], torch.inference_mode()(run)).moments["4"].count == 240


def test_padded_batches_go_through_transformers_of_torch() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    model = nn.TransformerEncoder(layer, 1).eval()
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = True
    batch = {"src": torch.randn(3, 5, 16), "src_key_padding_mask": mask}
    found = calibrate(model, select(model)[0], [batch])
    assert found.moments["layers.0.linear2"].count == 15
    assert model.use_nested_tensor


def test_patches_are_counted_a_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 16, 2))
    x = torch.randn(7, 3, 6, 6)
    whole = calibrate(model, select(model)[0], [x], double=True).moments["0"]
    monkeypatch.setattr(import_module("kmatrix.compress.calibrate"), "ROWS", 32)
    parts = calibrate(model, select(model)[0], [x], double=True).moments["0"]
    assert whole.count == parts.count == 7 * 16
    torch.testing.assert_close(parts.second, whole.second)
    torch.testing.assert_close(parts.gradient, whole.gradient)


def test_a_failure_in_the_middle_leaves_nothing_behind(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    mlp.train()
    with pytest.raises(km.ArgumentError, match=r"batch 2 .*shapes cannot be multiplied"):
        calibrate(mlp, select(mlp)[0], [batches[0], torch.ones(2, 3)])
    assert all(p.requires_grad and p.grad is None for p in mlp.parameters())
    assert all(m.training and not m._forward_hooks for m in mlp.modules())


def test_tensors_of_a_batch_go_to_the_device_of_the_model() -> None:
    batch = {"x": torch.ones(2), "more": [torch.ones(1), "words"]}
    there = moved(batch, torch.device("cpu"))
    assert there["more"][1] == "words" and there["x"].device.type == "cpu"
    assert moved(batch, None) is batch
    assert device_of(nn.Linear(2, 2)) == torch.device("cpu")
    assert device_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))) is None
    # A device that is not this machine's own stands for one.
    assert moved((torch.ones(2, device="meta"),), torch.device("meta"))[0].is_meta


def test_outputs_may_be_dataclasses() -> None:
    @dataclass
    class Output:
        said: Tensor
        words: str = ""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Output:
            return Output(self.inner(x))

    model = Model()
    found = calibrate(model, select(model)[0], [torch.randn(5, 4)])
    assert found.output > 0 and found.moments["inner"].gradient is not None


def test_gradients_that_are_not_finite_are_refused() -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.inner(x) * 0).sqrt()

    model = Steep()
    with pytest.raises(
        km.ArgumentError, match=r"output of inner.* gradients are not finite.*sensitivity=False"
    ):
        calibrate(model, select(model)[0], [torch.randn(5, 4)])
    calibrate(model, select(model)[0], [torch.randn(5, 4)], sensitivity=False)


def test_a_batch_that_the_model_does_not_take_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    batches = [torch.randn(8, 6), {"input": torch.randn(8, 100)}]
    words = r"batch 2 \(shape \(8, 100\)\): the model's forward failed: RuntimeError: mat1"
    with pytest.raises(km.ArgumentError, match=words) as caught:
        calibrate(model, km.nn.linear_like(model), batches)
    assert type(caught.value.__cause__) is RuntimeError
    assert not model[0]._forward_hooks
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(km.ArgumentError, match=r"batch 1 \(a str\): the model's forward failed"):
        calibrate(model, km.nn.linear_like(model), ["words"])
