"""Whole models: budgets are kept, slow structures never chosen, and what comes out is what the report says."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import kmatrix as km
from kmatrix.compress import plan as module
from kmatrix.compress.layers import Place
from kmatrix.compress.metric import Metric
from kmatrix.fitting import Timing


class FakeClock:
    """A clock that finds what it is told: LowRank of an even rank is faster, nothing else."""

    def __init__(self, batch: int, *, model_bytes: int = 0) -> None:
        self.batch = batch

    def timing(self, place: Place, structure: km.Structure) -> Timing:
        fast = isinstance(structure, km.LowRank) and structure.rank % 2 == 0
        dense = self.dense_seconds(place)
        share = structure.num_params(*place.shape) / (place.shape[0] * place.shape[1]) if fast else 2.0
        return Timing(self.batch, dense, dense * share, ratios=(1 / share,) * 3)

    def dense_seconds(self, place: Place) -> float:
        return 1e-9 * place.shape[0] * place.shape[1]

    def against_dense(self, place: Place, structures: Iterable[km.Structure]) -> dict[km.Structure, Timing]:
        return {s: self.timing(place, s) for s in structures}

    def again(self, place: Place, structure: km.Structure) -> Timing:
        return self.timing(place, structure)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Clock", FakeClock)


def output_error(dense: nn.Module, small: nn.Module, batches: list[Tensor]) -> float:
    x = torch.cat(batches)
    with torch.no_grad():
        return float((dense(x) - small(x)).square().sum() / dense(x).square().sum())


@pytest.mark.parametrize("of", ["params", "flops", "time"])
@pytest.mark.parametrize("budget", [0.8, 0.5, 0.35])
def test_budgets_are_kept_and_the_report_says_what_is_there(
    mlp: nn.Sequential, batches: list[Tensor], clock: None, of: Any, budget: float
) -> None:
    report = km.compress_(mlp, budget, of=of, calibration=batches)
    assert report.reached <= budget
    assert report.params == sum(p.numel() for p in mlp.parameters())
    assert report.dense_params == 24 * 32 + 32 * 32 + 32 * 4 + 68
    if of == "params":
        assert report.reached == report.params / report.dense_params
    elif of == "flops":
        assert report.reached == pytest.approx(report.flops[0] / report.flops[1])
    elif report.layer_seconds is not None:
        assert report.reached == pytest.approx(report.layer_seconds[0] / report.layer_seconds[1])
    for layer in report.layers:
        there = mlp.get_submodule(layer.name)
        if layer.chosen is None:
            assert type(there) is nn.Linear
        else:
            assert isinstance(there, km.nn.Linear)
            assert there.structure == layer.chosen.structure
            assert there.matrix.num_params == layer.num_params
    again = json.loads(json.dumps(report.to_json()))
    assert again["params"] == report.params
    assert [p["budget"] for p in again["curve"]] == sorted(
        (p["budget"] for p in again["curve"]), reverse=True
    )


def test_ranks_between_those_of_the_clock_use_a_budget_up(batches: list[Tensor]) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(3)))
    report = km.compress_(model, budget=0.47, structures=[km.LowRank], verify_speed=False, progress=False)
    step = 8 * 512 / report.dense_params  # eight more rows and columns of one layer
    assert 0.47 - step < report.reached <= 0.47
    assert all(layer.chosen in layer.tried for layer in report.layers if layer.chosen)
    ranks = {
        t.structure.rank
        for layer in report.layers
        for t in layer.tried
        if isinstance(t.structure, km.LowRank)
    }
    assert len(ranks) <= 16 + 3  # the ladder, and what was chosen


def test_a_rank_that_was_measured_slower_is_not_taken_for_one_between(
    batches: list[Tensor], clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timing(self: FakeClock, place: Place, structure: km.Structure) -> Timing:
        fast = isinstance(structure, km.LowRank) and structure.rank in (48, 8)  # slower ones between
        return Timing(1, 1.0, 1.0, ratios=(2.0,) * 3 if fast else (0.5,) * 3)

    monkeypatch.setattr(FakeClock, "timing", timing)
    monkeypatch.setattr(FakeClock, "again", lambda self, place, s: Timing(1, 1.0, 0.5, ratios=(2.0,) * 3))
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128))
    report = km.compress_(model, budget=0.6, structures=[km.LowRank], progress=False)
    assert report.reached <= 0.6
    for layer in report.layers:
        slower = {t.structure for t in layer.tried if t.ratios is not None and t.ratios[1] < 1}
        assert layer.chosen is None or layer.chosen.structure not in slower
        assert layer.chosen is None or layer.chosen.error is not None


def test_a_rank_between_is_measured_before_it_is_chosen(
    mlp: nn.Sequential, batches: list[Tensor], clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[km.Structure] = []

    def again(self: FakeClock, place: Place, structure: km.Structure) -> Timing:
        measured.append(structure)
        return self.timing(place, structure)

    monkeypatch.setattr(FakeClock, "again", again)
    report = km.compress_(mlp, budget=0.5, calibration=batches, progress=False)
    chosen = [layer.chosen.structure for layer in report.layers if layer.chosen]
    assert chosen and all(structure in measured for structure in chosen)
    assert all(s.rank % 2 == 0 for s in chosen if isinstance(s, km.LowRank))  # odd ones were refused


def test_only_what_is_measured_faster_is_chosen(
    mlp: nn.Sequential, batches: list[Tensor], clock: None
) -> None:
    report = km.compress_(mlp, 0.5, calibration=batches)
    for layer in report.compressed:
        assert layer.chosen is not None
        assert isinstance(layer.chosen.structure, km.LowRank)
        assert layer.chosen.structure.rank % 2 == 0
    refused = [t for layer in report.layers for t in layer.tried if isinstance(t.structure, km.Monarch)]
    assert refused
    assert all(t.refused == "NOT faster than dense here, so not fitted" and t.error is None for t in refused)


def test_a_budget_that_skipped_layers_put_out_of_reach_names_them(mlp: nn.Sequential) -> None:
    linear = [name for name, part in mlp.named_modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        mlp.get_submodule(linear[0]).get_parameter("weight")[0, 0] = torch.nan
    said = rf"skipped: {linear[0]} \(its weight holds numbers that are not finite\); pass budget="
    with pytest.raises(km.ArgumentError, match=said):
        km.compress_(mlp, 0.05, verify_speed=False)


def test_where_nothing_is_faster_all_stays_dense(
    mlp: nn.Sequential, batches: list[Tensor], clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeClock, "timing", lambda self, place, s: Timing(1, 1.0, 2.0, ratios=(0.5,) * 3))
    before = copy.deepcopy(mlp)
    with pytest.raises(
        km.ArgumentError, match=r"smallest that can be reached is 1.0000 .* nothing was measured"
    ):
        km.compress_(mlp, 0.5, calibration=batches)
    assert output_error(before, mlp, batches) == 0
    report = km.compress_(mlp, 1.0, calibration=batches)
    assert report.compressed == ()
    assert all("nothing was measured faster; the best" in layer.reason for layer in report.layers)


def test_what_the_second_measurement_does_not_confirm_is_given_up(
    mlp: nn.Sequential, batches: list[Tensor], clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[km.Structure] = []

    def again(self: FakeClock, place: Place, structure: km.Structure) -> Timing:
        asked.append(structure)
        found = self.timing(place, structure)
        return Timing(1, 1.0, 1.2, ratios=(0.8,) * 3) if len(asked) == 1 else found

    monkeypatch.setattr(FakeClock, "again", again)
    report = km.compress_(mlp, 0.5, calibration=batches)
    words = [t.refused for layer in report.layers for t in layer.tried if t.structure == asked[0]]
    assert "measured again it was NOT faster than dense, 0.80x" in words
    assert len(asked) > 1


def test_the_programme_beats_one_share_for_all(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    ours, plain = copy.deepcopy(mlp), copy.deepcopy(mlp)
    report = km.compress_(ours, 0.5, calibration=batches, structures=[km.LowRank], verify_speed=False)
    uniform = {"0": 7, "2": 9, "4": 2}
    km.nn.swap_(
        plain,
        {k: km.nn.Linear.from_linear(mlp.get_submodule(k), km.LowRank(r)) for k, r in uniform.items()},
    )
    assert sum(p.numel() for p in plain.parameters()) >= report.params
    assert output_error(mlp, ours, batches) < 0.5 * output_error(mlp, plain, batches)


def test_the_prediction_is_of_the_size_of_the_change(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    small = copy.deepcopy(mlp)
    report = km.compress_(small, 0.7, calibration=batches, verify_speed=False)
    assert 0.3 < report.loss / output_error(mlp, small, batches) < 3


def test_the_mean_of_the_error_goes_into_the_bias(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    small = copy.deepcopy(mlp)
    km.compress_(
        small, 0.7, calibration=batches, filter_fn="0", structures=[km.LowRank(1)], verify_speed=False, tol=9
    )
    x = torch.cat(batches)
    torch.testing.assert_close(small[0](x).mean(0), mlp[0](x).mean(0), rtol=1e-4, atol=1e-4)


def test_convolutions_are_compressed() -> None:
    model = nn.Sequential(nn.Conv2d(8, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 1))
    x = [torch.randn(2, 8, 6, 6) for _ in range(3)]
    dense = copy.deepcopy(model)
    report = km.compress_(model, 0.6, calibration=x, verify_speed=False)
    assert report.reached <= 0.6
    assert report.layers[0].vectors == 72
    assert model(x[0]).shape == dense(x[0]).shape
    assert output_error(dense, model, x) < 0.5


def test_tied_layers_are_compressed_once_and_stay_tied() -> None:
    shared = nn.Linear(32, 32)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    report = km.compress_(model, 0.5, calibration=[torch.randn(64, 32)], verify_speed=False)
    assert model[0] is model[2]
    assert (report.layers[0].names, report.layers[0].calls) == (("0", "2"), 2)


def test_layers_that_never_ran_stay_dense(batches: list[Tensor]) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(24, 48), nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    report = km.compress_(Half(), 0.8, calibration=batches, verify_speed=False)
    assert [layer.reason for layer in report.layers][1] == "stays dense: it never ran during the calibration"


def test_without_a_calibration_errors_are_those_of_the_weights(mlp: nn.Sequential) -> None:
    dense = mlp[2].weight.detach().double()
    report = km.compress_(mlp, 0.6, structures=[km.LowRank], verify_speed=False)
    chosen = report.layers[1].chosen
    assert (
        chosen is not None
        and chosen.method == "activation-blind"
        and isinstance(chosen.structure, km.LowRank)
    )
    tail = torch.linalg.svdvals(dense)[chosen.structure.rank :].square().sum() / dense.square().sum()
    assert chosen.error == pytest.approx(float(tail), rel=1e-9)


def test_no_layer_loses_more_than_asked(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    report = km.compress_(copy.deepcopy(mlp), 0.9, calibration=batches, verify_speed=False, tol=0.01)
    assert all(layer.chosen is None or (layer.chosen.error or 0) <= 0.01 for layer in report.layers)
    with pytest.raises(
        km.ArgumentError, match=r"budget=0.05: the smallest that can be reached is 0\.\d+ of dense"
    ):
        km.compress_(mlp, 0.05, calibration=batches, verify_speed=False, tol=0.01)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_number_types_stay_what_they_are(
    mlp: nn.Sequential, batches: list[Tensor], dtype: torch.dtype
) -> None:
    km.compress_(mlp.to(dtype), 0.5, calibration=[x.to(dtype) for x in batches], verify_speed=False)
    assert {p.dtype for p in mlp.parameters()} == {dtype}
    assert mlp(batches[0].to(dtype)).dtype == dtype


def test_what_makes_no_sense_is_refused(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    def refused(error: type[Exception], words: str, model: nn.Module = mlp, **options: Any) -> None:
        with pytest.raises(error, match=words):
            km.compress_(model, **options)

    refused(km.ArgumentError, "budget=1.5: must be over 0 and at most 1", budget=1.5)
    refused(km.DtypeError, "budget='half': not a number", budget="half")
    refused(km.ArgumentError, "of='memory': unknown", of="memory")
    refused(km.ArgumentError, "of='time': there are no measured times", of="time", verify_speed=False)
    refused(km.DtypeError, "structures=3: not a structure", structures=[3])
    refused(km.ArgumentError, "structures=Toeplitz: its sizes are not known", structures=[km.Toeplitz])
    refused(km.DtypeError, "structures=LowRank.*not a list", structures=km.LowRank(2))
    refused(km.DtypeError, "progress=3: cannot be called", progress=3)
    refused(km.ArgumentError, "batch=0", batch=0)
    refused(km.ArgumentError, "no layer of the model can be compressed", nn.Sequential(nn.ReLU()))
    assert all(type(mlp[k]) is nn.Linear for k in (0, 2, 4))


def test_steps_are_told(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    told: list[tuple[str, int, int]] = []
    km.compress_(mlp, 0.5, calibration=batches, verify_speed=False, progress=lambda *step: told.append(step))
    assert ("calibrating", 6, 6) in told
    assert ("fitting: 4", 3, 3) in told


def test_moments_are_held_for_a_few_layers_at_a_time(
    mlp: nn.Sequential, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = km.compress_(copy.deepcopy(mlp), 0.5, calibration=batches, verify_speed=False)
    monkeypatch.setattr(module, "MOMENT_BYTES", 1)
    parts = km.compress_(mlp, 0.5, calibration=batches, verify_speed=False)
    assert [layer.chosen.structure for layer in parts.compressed if layer.chosen] == [
        layer.chosen.structure for layer in whole.compressed if layer.chosen
    ]


def test_nothing_of_the_user_is_disturbed(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    mlp.train()
    mlp[1].eval()
    state, before = torch.get_rng_state(), copy.deepcopy(mlp.state_dict())
    km.compress_(mlp, 1.0, calibration=batches, structures=[km.LowRank(2), km.Butterfly()])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in mlp.state_dict().items())
    assert mlp.training and not mlp[1].training
    assert all(p.requires_grad and p.grad is None for p in mlp.parameters())


def test_the_same_seed_gives_the_same_model(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    again = copy.deepcopy(mlp)
    km.compress_(mlp, 0.5, calibration=batches, verify_speed=False)
    torch.randn(9)
    km.compress_(again, 0.5, calibration=batches, verify_speed=False)
    assert all(torch.equal(value, mlp.state_dict()[key]) for key, value in again.state_dict().items())


def test_the_model_is_changed_as_a_whole_or_not_at_all(batches: list[Tensor]) -> None:
    class Stubborn(nn.Sequential):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "2" and isinstance(value, km.nn.Linear):
                raise RuntimeError("not here")
            super().__setattr__(name, value)

    model = Stubborn(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 24))
    with pytest.raises(RuntimeError, match="not here"):
        km.compress_(model, 0.4, calibration=batches, verify_speed=False)
    assert all(type(model[k]) is nn.Linear for k in (0, 2))


def test_convolutions_whose_images_are_not_known_are_not_timed() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv2d(4, 16, 3), nn.Conv2d(4, 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    report = km.compress_(Half(), 1.0, calibration=[torch.randn(2, 4, 6, 6)], structures=[km.LowRank(2)])
    assert report.layers[1].reason == "stays dense: it never ran during the calibration"
    assert report.layer_seconds is not None
    report = km.compress_(Half(), 1.0, structures=[km.LowRank(2)])
    assert all("without a calibration the size of its images" in layer.reason for layer in report.layers)
    assert km.compress_(Half(), 0.6, verify_speed=False).reached <= 0.6


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_budgets_of_measured_time_on_this_machine(kind: str) -> None:
    model: nn.Module
    if kind == "linear":
        model, x = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 8)), torch.randn(32, 64)
    else:
        model = nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1))
        x = torch.randn(2, 4, 8, 8)
    report = km.compress_(model, 1.0, of="time", calibration=[x], structures=[km.LowRank(2), km.LowRank(4)])
    assert report.reached <= 1.0
    assert report.layer_seconds is not None
    now, dense = report.layer_seconds
    assert report.reached == pytest.approx(now / dense)
    for layer in report.layers:
        assert layer.dense_seconds is not None and layer.dense_seconds > 0
        for tried in layer.tried:
            assert tried.seconds is not None and tried.speedup is not None
            assert tried.seconds == pytest.approx(layer.dense_seconds / tried.speedup)
        assert layer.chosen is None or (layer.chosen.verdict == "faster than" and not layer.chosen.refused)
    try:  # whatever this machine finds, a budget is kept or refused
        assert km.compress_(model, 0.5, of="time", calibration=[x]).reached <= 0.5
    except km.ArgumentError as error:
        assert "can be reached" in str(error) or "no layer of the model" in str(error)


def test_the_second_measurement_is_what_counts(
    mlp: nn.Sequential, batches: list[Tensor], clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(self: FakeClock, place: Place, structure: km.Structure) -> Timing:
        return Timing(1, 1.0, 1 / 1.5, ratios=(1.5,) * 3)  # less than it seemed

    monkeypatch.setattr(FakeClock, "again", again)
    report = km.compress_(mlp, 0.8, of="time", calibration=batches)
    assert report.reached <= 0.8
    assert report.compressed
    for layer in report.compressed:
        assert layer.chosen is not None and layer.chosen.speedup == 1.5


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(24, 2, batch_first=True)
        self.second = nn.MultiheadAttention(24, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x, x, x, need_weights=False)[0]
        y: Tensor = x + self.second(x, x, x, need_weights=False)[0]
        return y


def test_projections_of_attention_are_offered_if_asked_for(batches: list[Tensor]) -> None:
    model = Attending().eval()
    dense, numbers = copy.deepcopy(model), sum(p.numel() for p in model.parameters())
    with pytest.raises(km.ArgumentError, match="open_attention_"):
        km.compress_(model, 0.5, calibration=batches, verify_speed=False)
    options: dict[str, Any] = {"calibration": batches, "verify_speed": False, "attention": True}
    report = km.compress_(model, 0.8, filter_fn="second.*", **options)
    assert type(model.first) is nn.MultiheadAttention  # nothing was done to it
    assert isinstance(model.second, km.nn.MultiheadAttention)
    assert {layer.name for layer in report.layers} == {f"second.{p}_proj" for p in ("q", "k", "v", "out")}
    assert report.dense_params == numbers
    assert report.params == sum(p.numel() for p in model.parameters()) <= 0.8 * numbers
    assert output_error(dense, model, batches) < 0.2
    again = copy.deepcopy(dense)
    with pytest.raises(km.ArgumentError, match="smallest that can be reached"):
        km.compress_(again, 0.01, **options)
    assert again.state_dict().keys() == dense.state_dict().keys()


def test_what_wraps_the_model_is_refused(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    with pytest.raises(
        km.ArgumentError, match=r"model=OptimizedModule: it wraps a Sequential.*wrap it after"
    ):
        km.compress_(torch.compile(mlp, backend="eager"), 0.5, calibration=batches, verify_speed=False)  # type: ignore[arg-type]


def test_batches_that_end_must_do_for_all_layers(
    mlp: nn.Sequential, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOMENT_BYTES", 1)
    with pytest.raises(km.ArgumentError, match=r"it ends after one pass, and the moments .* take 3"):
        km.compress_(mlp, 0.5, calibration=iter(batches), verify_speed=False)


def test_reports_of_layers_that_give_zeros_are_json() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    nn.init.zeros_(model[0].weight)
    report = km.compress_(model, 0.9, verify_speed=False)
    read = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {(tried["error"], tried["loss"]) for tried in read["layers"][0]["tried"]} == {(0.0, 0.0)}


def test_reports_print_as_tables(mlp: nn.Sequential, batches: list[Tensor], clock: None) -> None:
    model = nn.Sequential(mlp, nn.Sequential(nn.Conv1d(4, 4, 1)))
    report = km.compress_(model, 0.5, calibration=batches, forward=lambda m, x: m[0](x))
    headline, speed, blank, heads, *lines = str(report).splitlines()
    assert headline == report.headline and "of dense params for a budget of 50.0%" in headline
    assert speed.startswith("these layers, batch 1: ") and blank == ""
    assert heads.split() == ["layer", "shape", "of", "dense", "error", "speed", "what,", "and", "why"]
    assert [line.split()[0] for line in lines] == ["0.0", "0.2", "0.4", "error:", "skipped"]
    console = Console(width=160, file=io.StringIO(), force_terminal=False)
    console.print(report)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for words in (
        headline,
        "what, and why",
        "LowRank(rank=",
        "skipped 1.0: a Conv1d is neither",
        "error: relative squared",
    ):
        assert words in printed


def test_a_decomposition_that_fails_is_a_reason_and_no_end(
    mlp: nn.Sequential, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.linalg.LinAlgError("linalg.eigh: did not converge")

    monkeypatch.setattr(Metric, "low_rank", fail)
    report = km.compress_(mlp, 0.6, calibration=batches, verify_speed=False)
    refused = [t for layer in report.layers for t in layer.tried if isinstance(t.structure, km.LowRank)]
    assert refused and all(t.refused.startswith("could not be fitted: linalg.eigh") for t in refused)
    assert report.compressed


def test_what_fits_the_budget_says_so(mlp: nn.Sequential, batches: list[Tensor]) -> None:
    report = km.compress_(mlp, 1.0, calibration=batches, verify_speed=False)
    assert {layer.reason for layer in report.layers} == {
        "stays dense: it fits the budget as it is, and loses nothing"
    }
    assert report.headline.startswith("0 of 3 layers compressed; ")
    with pytest.raises(km.ArgumentError, match="and 2 layers stay dense: 0, 2; pass budget="):
        km.compress_(mlp, 0.01, calibration=batches, verify_speed=False, tol=1e-9, filter_fn="!4")
    with pytest.raises(km.ArgumentError, match="and 1 layer stays dense: 0; pass budget="):
        km.compress_(mlp, 0.01, calibration=batches, verify_speed=False, tol=1e-9, filter_fn="0")
