"""The recipe of the extra layer in a ResNet18: the network, the images, the schedule, the command."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
package = recipes()


def part(name: str) -> Any:
    """A module of the recipes."""
    return importlib.import_module(f"{package.__name__}.{name}")


models, settings, running = (part(f"resnet_layer.{name}") for name in ("models", "settings", "run"))
tables, data = part("resnet_layer.tables"), part("common.data")


@pytest.mark.parametrize(
    ("extra", "own"), [("none", 0), ("dense", 512 * 512), ("bpbp", 8_176), ("k", 18_432)]
)
def test_parameters_are_those_of_a_resnet18(extra: str, own: int) -> None:
    """11,173,962 in the variant for 32 x 32; BPBP adds 0.07 %, as arXiv 1903.05895 says."""
    with torch.device("meta"):
        count = sum(p.numel() for p in models.ResNet18("none").parameters())
    assert count == 11_173_962
    assert models.EXTRAS[extra].num_params(512) == own
    net = models.ResNet18(extra, 2)
    bias = 0 if extra == "none" else 16
    base = sum(p.numel() for p in models.ResNet18("none", 2).parameters())
    assert sum(p.numel() for p in net.parameters()) == base + models.EXTRAS[extra].num_params(16) + bias
    if extra == "bpbp":
        assert f"{100 * own / count:.2f}" == "0.07"


def test_stages_have_their_sizes() -> None:
    net, sizes = models.ResNet18("k", 4).eval(), []
    for block in net.blocks:
        block.register_forward_hook(lambda block, given, out: sizes.append(tuple(out.shape[1:])))
    with torch.inference_mode():
        assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert sizes == [(4, 32, 32)] * 2 + [(8, 16, 16)] * 2 + [(16, 8, 8)] * 2 + [(32, 4, 4)] * 2


@pytest.mark.parametrize("extra", models.EXTRAS)
def test_every_parameter_gets_a_gradient(extra: str) -> None:
    net = models.ResNet18(extra, 2)
    net(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_butterflies_do_not_decay() -> None:
    import kmatrix as km

    net = models.ResNet18("bpbp", 2)
    groups = km.nn.param_groups(net, 0.1, 2e-4, optimizer="sgd")
    own = {id(p) for p in net.extra.matrix.parameters()}
    for group in groups:
        assert group["lr"] == 0.1
        for p in group["params"]:
            decays = p.ndim > 1 and id(p) not in own
            assert group["weight_decay"] == (2e-4 if decays else 0.0)


def test_halved_images_are_means() -> None:
    pixels = torch.tensor([0, 10, 20, 30, 100, 100, 100, 102]).byte().reshape(1, 2, 4, 1).expand(1, 2, 4, 3)
    small = running.halved(data.Split(pixels, torch.zeros(1).long())).images
    assert small[0, 0, :, 0].tolist() == [52, 63]


def test_a_pass_has_every_image_once() -> None:
    seen = torch.cat([running.batch(20, 5, 1, step) for step in range(4)])
    assert sorted(seen.tolist()) == list(range(20))
    assert not torch.equal(running.batch(20, 5, 1, 0), running.batch(20, 5, 1, 4))
    assert not torch.equal(running.batch(20, 5, 1, 0), running.batch(20, 5, 2, 0))


def test_normalised_channels() -> None:
    images = torch.randint(256, (10, 4, 4, 3)).byte()
    inputs = running.pixels(images, *running._statistics(images))
    assert inputs.shape == (10, 3, 4, 4)
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(inputs.std((0, 2, 3)), torch.ones(3), rtol=1e-5, atol=0)


# The command and the table


def test_the_command_on_synthetic_images(kmatrix: Command, tmp_path: Path) -> None:
    done = kmatrix("recipe", "run", "resnet-layer", "--seeds", "1", "--out", str(tmp_path))
    assert done.exit_code == 0, done.stderr
    rows = {row["case"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert set(rows) == set(models.EXTRAS)
    assert rows["dense"]["extra_parameters"] == 256 and rows["none"]["steps"] == 2
    assert "94.01 ± 0.09" in (tmp_path / "tables.md").read_text() and (tmp_path / "accuracy.svg").is_file()


def test_the_setting_of_the_paper_goes_through_a_step(kmatrix: Command) -> None:
    done = kmatrix("recipe", "run", "resnet-layer", "--preset", "paper", "--dry-run", "--cases", "bpbp")
    assert done.exit_code == 0, done.stderr
    assert "bpbp" in done.stdout


@pytest.mark.parametrize(
    ("preset", "missing"), [("small", "no sign digits there"), ("paper", "no binary CIFAR-10")]
)
def test_data_are_needed(kmatrix: Command, tmp_path: Path, preset: str, missing: str) -> None:
    arguments = ("--preset", preset, "--cases", "none", "--out", str(tmp_path / "out"))
    done = kmatrix("recipe", "run", "resnet-layer", *arguments, "--data", str(tmp_path))
    assert done.exit_code == 2 and missing in done.stderr.replace("\n", " ")


def test_the_paper_stands_beside_what_was_found() -> None:
    rows = [
        {"case": "bpbp", "seed": seed, "test": test, "validation": 90.0, "parameters": 20_000,
         "images": [10, 10, 200]}
        for seed, test in enumerate((91.0, 93.0), 1)
    ]  # fmt: skip
    (sheet,) = tables.sheets(settings.settings("small"), rows)
    found = {row[0]: row[1:] for row in sheet.rows}
    assert found["BPBP complex, fixed P"] == [
        "1,008", "5.04 %", "92.00 ± 1.41", "90.00 ± 0.00", "94.01 ± 0.09", "2",
    ]  # fmt: skip
    assert found["K, one BB*"][2:] == ["", "", "", "0"] and any("stand-in" in note for note in sheet.notes)
