"""The recipe of the compressed hidden layer: the matrices, the variations of MNIST, the race of rates, the command."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from click.testing import Result

import kmatrix as km
from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
package = recipes()


def part(name: str) -> Any:
    """A module of the recipes."""
    return importlib.import_module(f"{package.__name__}.{name}")


models, settings, sets, running = (part(f"hidden_layer.{n}") for n in ("models", "settings", "sets", "run"))
variations, tables, common = part("hidden_layer.variations"), part("hidden_layer.tables"), part("common")
SMOKE = settings.settings("smoke")


# The methods


def test_parameters_and_compression_are_as_printed() -> None:
    """arXiv 1903.05895, Table 1: every row of the compression column, to the digit printed."""
    own = {name: f"{method.compression(1024):.1f}" for name, method in models.METHODS.items()}
    for name, (*_, printed) in tables.PAPER.items():
        if name in own and name != "dense":
            assert own[name] == str(printed)
    counts = {name: method.num_params(1024) for name, method in models.METHODS.items()}
    assert counts == {
        "dense": 1_048_576, "bpbp-complex": 16_368, "bpbp-real": 8_184, "k": 40_960, "ldr-sd": 8_192,
        "toeplitz-like": 8_192, "fastfood": 3_072, "circulant": 1_024, "low-rank": 8_192,
    }  # fmt: skip


@pytest.mark.parametrize("method", models.METHODS)
def test_a_network_holds_what_is_counted(method: str) -> None:
    net = models.Net(method, 16)
    biases_and_softmax = 16 + 10 * 16 + 10
    trained = sum(p.numel() for p in net.parameters())
    assert trained == models.METHODS[method].num_params(16) + biases_and_softmax
    net(torch.randn(3, 16)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("method", ["bpbp-real", "k"])
def test_butterflies_begin_orthogonal(method: str) -> None:
    matrix = models.Net(method, 32).hidden.matrix.to_dense().detach().double()
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(32).double(), rtol=0, atol=1e-5)
    assert (matrix.abs() > 1e-6).sum() > 500  # not a permutation


def test_complex_bpbp_begins_unitary() -> None:
    matrix = models.Net("bpbp-complex", 32).hidden.matrix.of.to_dense().detach()
    torch.testing.assert_close(matrix.mH @ matrix, torch.eye(32).to(matrix.dtype), rtol=0, atol=1e-5)


def test_ldr_begins_as_toeplitz_like() -> None:
    matrix = models.Net("ldr-sd", 8).hidden.matrix
    torch.testing.assert_close(matrix.to_dense(), matrix.parts[1].to_dense())
    assert [name for name, p in matrix.named_parameters() if (p == 1).all()] == [
        "parts.0.factors.0",
        "parts.2.factors.0",
    ]


# The variations of MNIST


def test_quarter_turns_are_exact() -> None:
    images = torch.rand(3, 28, 28)
    turned = variations.rotated(images, torch.tensor([0.0, math.pi / 2, math.pi]))
    expected = torch.stack([torch.rot90(image, k) for k, image in enumerate(images)])
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-4)


def test_noise_is_uniform_and_correlated_as_asked() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, bandwidth, count = 0.7, 6.0, 4_000
    noise = variations.correlated_noise(count, weight, bandwidth, generator)
    edges = torch.linspace(0, 1, 11)
    shares = torch.histogram(noise[:, 5, 7], edges).hist / count
    assert (shares - 0.1).abs().max() < 5 * math.sqrt(0.09 / count)
    normal = torch.special.ndtri(noise.double())
    for (row, column), distance in (((5, 8), 1), ((8, 11), 5)):  # from (5, 7): (0, 1) and (3, 4) away
        expected = weight * math.exp(-(distance**2) / bandwidth**2)
        found = (normal[:, 5, 7] * normal[:, row, column]).mean().item()
        assert abs(found - expected) < 5 * math.sqrt(2 / count)


def test_patches_come_from_the_photographs_and_have_texture() -> None:
    photographs = torch.rand(3, 40, 50)
    photographs[1] = 0.5  # no texture
    found = variations.patches(photographs, 50, 0.1, torch.Generator().manual_seed(2))
    assert found.shape == (50, 28, 28)
    assert found.amin((1, 2)).unique().tolist() == [0] and found.amax((1, 2)).unique().tolist() == [1]
    # Stretched linearly: one of the windows of a photograph is a multiple of it plus a constant.
    windows = photographs[[0, 2]].unfold(1, 28, 1).unfold(2, 28, 1).reshape(-1, 28 * 28)
    centred = torch.nn.functional.normalize(windows - windows.mean(1, keepdim=True))
    own = torch.nn.functional.normalize(found.flatten(1) - found.flatten(1).mean(1, keepdim=True))
    assert ((own @ centred.T).amax(1) > 0.9999).all()


def test_digits_cover_their_background() -> None:
    digits, background = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.2, 0.2, 0.2])
    torch.testing.assert_close(variations.over(digits, background), torch.tensor([0.2, 0.6, 1.0]))


def test_training_and_test_share_no_digit() -> None:
    chosen = dataclasses.replace(SMOKE, train=60, test=30)
    digits = torch.arange(100).byte().reshape(100, 1, 1).expand(100, 28, 28)
    raw = sets.vary(
        "mnist-noise", dataclasses.replace(chosen, noise=0.0), digits, torch.arange(100), None, "rebuilt"
    )
    assert len(raw.train) == 60 and len(raw.test) == 30
    assert not set(raw.labels.tolist()) & set(raw.test_labels.tolist())
    # The darkest pixel of an image is its digit's grey on a background that is nearly black somewhere.
    torch.testing.assert_close(raw.train.amin((1, 2)), raw.labels / 255, rtol=0, atol=0.02)


def test_images_are_normalised_and_padded() -> None:
    task = sets.load("mnist-bg-rot", SMOKE, None)
    images = task.train.reshape(-1, 32, 32)
    inner = images[:, 2:-2, 2:-2]
    torch.testing.assert_close(inner.mean(0), torch.zeros(28, 28), rtol=0, atol=1e-5)
    torch.testing.assert_close(inner.std(0), torch.ones(28, 28), rtol=0, atol=1e-5)
    images[:, 2:-2, 2:-2] = 0
    assert not images.any()


def amat(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random((count, 784)).round(2), rng.integers(10, size=(count, 1))], 1)


def test_original_files_are_read_whatever_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "_TEST_OF_NOISE", 3)
    swapped = dict(zip(sets.ORIGINAL["mnist-bg-rot"], (amat(8, 0), amat(5, 1)), strict=True))
    for name, table in (swapped | {sets.ORIGINAL["mnist-noise"][0]: amat(9, 2)}).items():
        np.savetxt(tmp_path / name, table, fmt="%.2f")
    rotated = sets.load("mnist-bg-rot", SMOKE, tmp_path)
    assert (len(rotated.train), len(rotated.test), rotated.source) == (5, 8, "original")
    noise = sets.load("mnist-noise", SMOKE, tmp_path)
    assert (len(noise.train), noise.test_labels.tolist()) == (6, amat(9, 2)[6:, -1].tolist())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: t[:, 1:], "9 lines of 784 numbers and not 785"),
        (lambda t: t + 10, "pixels are not between 0 and 1"),
        (lambda t: t.astype(str) + "x", "unreadable"),
    ],
)
def test_files_of_something_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], Any], reason: str
) -> None:
    monkeypatch.setattr(sets, "_TEST_OF_NOISE", 3)
    np.savetxt(tmp_path / sets.ORIGINAL["mnist-noise"][0], spoil(amat(9, 2)), fmt="%s")
    with pytest.raises(km.ArgumentError, match=reason):
        sets.load("mnist-noise", SMOKE, tmp_path)


def test_grey_is_luminance() -> None:
    Images, Split = part("common.data").Images, part("common.data").Split
    pixels = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]).byte()
    images = Images(*(Split(pixels.reshape(1, 2, 2, 3), torch.zeros(1).long()) for _ in range(3)))
    whole = sets._grey(images, halved=False).train
    torch.testing.assert_close(whole[0].flatten(), torch.tensor([0.299, 0.587, 0.114, 1.0]))
    torch.testing.assert_close(sets._grey(images, halved=True).train[0, 0, 0].item(), 0.5)


# The race of rates


def test_rates_are_dropped_and_the_best_is_kept(tmp_path: Path) -> None:
    """A rate that learns wins against others that do not, and no image of the validation is trained on."""
    chosen = dataclasses.replace(
        SMOKE,
        low_rates=(1e-6, 0.05, 1e-5),
        rounds=((4, 2), (8, 1)),
        every=4,
        data=(("mnist-noise", 40),),
        batch=20,
    )
    labels = torch.arange(120) % 10
    centres = torch.randn(10, sets.SIZE, generator=torch.Generator().manual_seed(3))
    images = centres[labels] + 0.1 * torch.randn(120, sets.SIZE, generator=torch.Generator().manual_seed(4))
    task = sets.Task(images, labels, images, labels, "synthetic")
    run = common.Run(1, torch.device("cpu"), tmp_path)
    racer = running._Racer(chosen, task, "circulant", 40, run)
    rate, model, history = racer.race()
    assert rate == 0.05 and set(racer.seen) == {"1e-06", "0.05", "1e-05"}
    assert len(history.losses) == 40 - 8 and history.best == racer.seen["0.05"] > 90
    assert running.accuracy(model, images, labels) > 90
    assert len(racer.held) == 18 and not set(racer.held.tolist()) & set(racer.fit.tolist())
    seen = torch.cat([racer._batch(step) for step in range(5)])
    assert sorted(seen.tolist()) == sorted(set(seen.tolist())) and set(seen.tolist()) <= set(
        racer.fit.tolist()
    )


# The command and the tables


def test_the_command_on_synthetic_images(kmatrix: Command, tmp_path: Path) -> None:
    done = kmatrix("recipe", "run", "hidden-layer", "--seeds", "1", "--out", str(tmp_path))
    assert done.exit_code == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    first, *rest = rows
    assert first["case"] == "time" and set(first["step_seconds"]) == set(models.METHODS)
    assert {row["case"] for row in rest} == {
        f"{method}/{name}" for method in models.METHODS for name in ("mnist-bg-rot", "mnist-noise")
    }
    assert all(row["source"] == "synthetic" for row in rest)
    assert "56.9" in (tmp_path / "tables.md").read_text() and (tmp_path / "accuracy.svg").is_file()


def test_rates_beyond_the_grid_belong_to_their_method_and_to_its_cases() -> None:
    small = settings.settings("small")
    assert settings.rates(small, "fastfood") == (*small.rates, 0.5, 1.0)
    assert settings.rates(small, "circulant") == small.low_rates and settings.rates(small, "k") == small.rates
    options = {case.name: case.options for case in settings.cases(small)}
    assert options["fastfood/mnist-noise"]["more"] == (0.5, 1.0) and "more" not in options["k/mnist-noise"]
    trial = optuna.trial.FixedTrial({"rate": 0.5})
    found = settings.search(
        trial, small, common.Case("fastfood/mnist-noise", options["fastfood/mnist-noise"])
    )
    assert settings.rates(found, "fastfood") == (0.5,)


def test_a_search_leaves_out_what_is_timed() -> None:
    trial = optuna.trial.FixedTrial({"rate": 0.02})
    found = settings.search(trial, SMOKE, common.Case("dense/mnist-noise", {"method": "dense"}))
    assert found.rates == (0.02,) and found.rounds == ()
    assert settings.search(optuna.trial.FixedTrial({}), SMOKE, common.Case("time", {"method": None})) is SMOKE


def test_the_setting_of_the_paper_goes_through_a_step(kmatrix: Command) -> None:
    names = ["time", *(f"bpbp-real/{name}" for name, _ in settings.settings("paper").data)]
    arguments = [x for name in names for x in ("--cases", name)]
    done = kmatrix("recipe", "run", "hidden-layer", "--preset", "paper", "--dry-run", *arguments)
    assert done.exit_code == 0, done.stderr
    assert all(name in done.stdout for name in names)


def test_small_needs_its_data(kmatrix: Command, tmp_path: Path) -> None:
    arguments = ("--preset", "small", "--cases", "k/mnist-noise", "--out", str(tmp_path / "out"))
    done = kmatrix("recipe", "run", "hidden-layer", *arguments, "--data", str(tmp_path))
    assert done.exit_code == 2 and "no MNIST there" in done.stderr


def test_the_paper_stands_beside_what_was_found() -> None:
    chosen = settings.settings("small")
    rows: list[dict[str, Any]] = [
        {"case": f"bpbp-real/{name}", "method": "bpbp-real", "data": name, "seed": seed, "test": test, "rate": 0.02,
         "source": "rebuilt"}
        for name in ("mnist-noise", "signs-grey") for seed, test in enumerate((70.0, 74.0), 1)
    ]  # fmt: skip
    seconds = dict.fromkeys(models.METHODS, 0.004) | {"dense": 0.008}
    made_with = {"processor": "a processor"}
    rows += [{"case": "time", "step_seconds": seconds, "rounds": 3, "threads": 1, "made_with": made_with}]
    accuracy, cost, rates = tables.sheets(chosen, rows)
    found = {row[0]: row[1:] for row in accuracy.rows}
    assert found["BPBP real, fixed P"] == [
        "",
        "46.16",
        "72.00 ± 2.83",
        "75.00",
        "72.00 ± 2.83",
        "48.69",
        "0 to 2",
    ]
    assert found["K, one BB*"] == [""] * 6 + ["0"]
    assert accuracy.columns[-2] == "#grey CIFAR-10, paper" and any(
        "stand-in" in note for note in accuracy.notes
    )
    assert {row[0]: row[1:] for row in cost.rows}["BPBP real, fixed P"] == [
        "8,184",
        "56.9",
        "56.9",
        "4.00",
        "0.50",
        "1",
    ]
    assert {row[0]: row[1:] for row in rates.rows}["BPBP real, fixed P"] == ["", "0.02 0.02", "0.02 0.02"]
