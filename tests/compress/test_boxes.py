"""Sums of boxes in compressed models: sizes, fits that see the inputs, and stock modules that compute the same."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kmatrix as km
from kmatrix.compress import stock_layer
from kmatrix.compress.box_programs import box_program
from kmatrix.compress.candidates import candidates
from kmatrix.compress.metric import Metric
from kmatrix.compress.programs import program_of
from kmatrix.compress.sizes import members
from kmatrix.structures import Boxes, GBLRMatrix


def _matrix(m: int, n: int, count: int, budget: float, seed: int = 0) -> GBLRMatrix:
    generator = torch.Generator().manual_seed(seed)
    made = km.GBLR(count, budget).random(m, n, dtype=torch.float64, generator=generator)
    assert isinstance(made, GBLRMatrix)
    return made


def _same(layer: nn.Module, matrix: km.StructuredMatrix) -> bool:
    x = torch.randn(7, matrix.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = x @ matrix.to_dense().mT
        return torch.allclose(layer(x), expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("form", ["auto", "factors", "dense"])
@pytest.mark.parametrize(
    ("m", "n", "count", "budget"), [(64, 48, 12, 0.2), (31, 53, 31, 0.5), (1, 9, 1, 0.5)]
)
def test_stock_modules_compute_the_same(m: int, n: int, count: int, budget: float, form: str) -> None:
    matrix = _matrix(m, n, count, budget)
    for one in (matrix, matrix.T, 2 * matrix):
        assert _same(stock_layer(one, form=form), one)  # type: ignore[arg-type]


def test_boxes_inside_products_and_sums_are_lowered() -> None:
    a, b = _matrix(30, 40, 10, 0.3), km.LowRank(3).random(40, 30, dtype=torch.float64)
    for one in (a @ b, (a @ b).T, a + b.T, b @ a):
        assert _same(stock_layer(one, form="factors"), one)


def test_wrapping_empty_and_missing_boxes() -> None:
    boxes = Boxes([28, 3], [6, 4], [35, 2], [10, 1])
    generator = torch.Generator().manual_seed(2)
    numbers = [torch.randn(size, dtype=torch.float64, generator=generator) for size in (10, 11)]
    matrix = GBLRMatrix.from_boxes((30, 40), boxes, *numbers)
    assert _same(stock_layer(matrix, form="factors"), matrix)
    nothing = GBLRMatrix.from_boxes((5, 4), Boxes([], [], [], []), torch.zeros(0), torch.zeros(0))
    assert not stock_layer(nothing, form="factors")(torch.ones(4)).any()


def test_many_boxes_become_few_layers() -> None:
    """A low rank matrix in steps: hundreds of boxes, a handful of layers, and fewer products than dense."""
    left, right = torch.randn(2, 512, 128, generator=torch.Generator().manual_seed(3)).double()
    found = km.fitting.low_rank_boxes(lambda r: (left[:, :r], right[:, :r].mT), (512, 512), 128, 100_000)
    matrix = found.matrix()
    program = box_program(matrix)
    layers = sum(1 for part in stock_layer(matrix, form="factors").modules() if isinstance(part, nn.Linear))
    assert len(matrix.boxes) > 100
    assert layers < 16
    assert matrix.num_params <= program.products < 1.25 * matrix.num_params
    assert program_of(matrix).products < 512 * 512


def test_lowered_models_hold_nothing_of_ours_and_export() -> None:
    torch.manual_seed(0)
    structure = km.GBLR(6, 0.3)
    model = nn.Sequential(
        km.nn.Linear(40, 32, structure=structure), nn.ReLU(), km.nn.Linear(32, 8, structure=structure)
    )
    x = torch.randn(5, 40)
    expected = model(x).detach()
    report = km.lower_(model, form="factors")
    assert all(layer.error < 1e-5 for layer in report.layers)
    assert not any(type(part).__module__.startswith("kmatrix") for part in model.modules())
    assert torch.allclose(model(x), expected, atol=1e-5)
    exported = torch.export.export(model, (x,))
    assert torch.allclose(exported.module()(x), expected, atol=1e-5)
    assert torch.allclose(copy.deepcopy(model)(x), expected, atol=1e-5)


# The exporter warns about itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_runtime_gives_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = nn.Sequential(km.nn.Linear(24, 20, structure=km.GBLR(5, 0.4))).eval()
    inputs = {size: torch.randn(size, 24) for size in (1, 2, 5)}
    with torch.no_grad():
        expected = {size: model(x).numpy() for size, x in inputs.items()}
    km.lower_(model, form="factors")
    path = tmp_path / "boxes.onnx"
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(model, (inputs[2],), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size, x in inputs.items():
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.abs(got - expected[size]).max() <= 1e-5 * np.abs(expected[size]).max()


def _metric(m: int, n: int) -> Metric:
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(m, n, dtype=torch.float64, generator=generator)
    inputs = torch.randn(4 * n, n, dtype=torch.float64, generator=generator) * torch.linspace(0.1, 3.0, n)
    mix = torch.randn(n, n, dtype=torch.float64, generator=generator)
    inputs = inputs + 0.3 * inputs @ mix / n**0.5
    return Metric.of(weight, inputs.mT @ inputs / len(inputs))


def _impact(metric: Metric, approximation: Tensor) -> float:
    return metric.impact(approximation)


def test_boxes_see_the_inputs_and_beat_low_rank_of_their_size() -> None:
    metric = _metric(48, 64)
    structure = km.GBLR(budget=0.5)
    found, failed = candidates(metric, [structure], dtype=torch.float64)
    assert not failed
    (one,) = found
    assert one.num_params <= 0.5 * 48 * 64
    assert one.blind_error is not None and one.error <= one.blind_error
    # The best rank that as many numbers hold in two full factors, in the norm of the inputs.
    left, right = metric.low_rank(one.num_params // (48 + 64), torch.Generator().manual_seed(0))
    assert one.impact < _impact(metric, left @ right)
    assert abs(metric.error(one.make().to_dense().detach()) - one.error) < 1e-12


def test_a_ladder_of_budgets() -> None:
    sizes = [s.num_params(100, 80) / 8000 for s in members([km.GBLR], 100, 80)]
    assert sizes == pytest.approx([0.55, 0.4, 0.28, 0.18, 0.1], abs=1e-3)


def test_compress_may_be_given_boxes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 16))
    data = [torch.randn(48, 16) for _ in range(2)]
    report = km.compress_(model, 0.5, structures=[km.GBLR], calibration=data, verify_speed=False)
    assert report.compressed
    assert all(isinstance(layer.chosen.structure, km.GBLR) for layer in report.compressed if layer.chosen)
    assert isinstance(model[0], km.nn.Linear)
    assert report.params <= 0.5 * report.dense_params
