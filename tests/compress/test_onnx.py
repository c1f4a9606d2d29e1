"""Lowered models in other hands: ONNX Runtime gives the same numbers, torchao quantises what is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kmatrix as km

# The exporter and torchao warn about themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Net(nn.Module):
    """A layer of every lowered form: rows of layers, blocks, convolutions, selections, sums, images."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = km.nn.Conv2d(3, 8, 3, stride=2, padding=1, structure=km.LowRank(4))
        self.image = km.nn.Conv2d(8, 16, 3, padding=1, structure=km.GroupShuffle(4))
        self.point = km.nn.Conv2d(16, 8, 1, structure=km.BlockDiagonal(2))
        self.few = km.nn.Linear(128, 64, structure=km.GroupShuffle(4))
        self.many = km.nn.Linear(64, 64, structure=km.GroupShuffle(32))
        self.order = km.Permutation("reverse").random(64, 64)
        self.sum = km.nn.Linear(64, 60, structure=km.Sum((km.BlockDiagonal(20), km.LowRank(2))))
        self.head = km.nn.Linear(60, 10, structure=km.Toeplitz())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.point(torch.relu(self.image(torch.relu(self.patches(x))))))
        x = nn.functional.gelu(self.many(self.few(x.flatten(1))))
        return self.head(self.sum(self.order(x)))


def test_onnx_runtime_gives_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = Net().eval()
    inputs = {size: torch.randn(size, 3, 8, 8) for size in (1, 2, 5)}
    with torch.no_grad():
        expected = {size: model(x).numpy() for size, x in inputs.items()}
    km.lower_(model)
    path = tmp_path / "model.onnx"
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (inputs[2],), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    nodes = onnx.load(path).graph.node
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size, x in inputs.items():
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.abs(got - expected[size]).max() <= 1e-5 * np.abs(expected[size]).max()


def test_int8_quantisation_applies_on_top() -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model = nn.Sequential(
        km.nn.Linear(256, 128, structure=km.LowRank(32)),
        nn.ReLU(),
        km.nn.Linear(128, 128, structure=km.GroupShuffle(4)),
    ).eval()
    x = torch.randn(16, 256)
    with torch.no_grad():
        before = model(x)
        km.lower_(model)
        layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
        assert len(layers) == 2 + 8
        quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
        assert all(type(layer.weight.data).__name__ != "Tensor" for layer in layers)
        after = model(x)
    # Four roundings to 8 bits in a row, of 2**-8 of the largest number each, and numbers are a third of the largest.
    assert 0 < float((after - before).norm() / before.norm()) < 4 * 3 * 2**-8
