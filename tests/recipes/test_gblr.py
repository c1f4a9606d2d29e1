"""The recipe gblr: its parts, and all of it on data of its own and in small."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

import kmatrix as km
from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]


def part(name: str) -> Any:
    """A module of the recipe."""
    return importlib.import_module(f"{recipes().__name__}.gblr.{name}")


def test_every_method_keeps_to_the_budget_and_is_in_the_table(kmatrix: Command, tmp_path: Path) -> None:
    patterns = ("vit/*", "characters/scratch/gblr*", "characters/scratch/low-rank*")
    cases = [word for pattern in patterns for word in ("--cases", pattern)]
    done = kmatrix("recipe", "run", "gblr", "--seeds", "1", "--out", str(tmp_path), *cases)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    settings = part("settings")
    assert {row["options"]["method"] for row in rows} == set(settings.METHODS)
    for row in rows:
        assert row["share"] == 1 if row["options"]["method"] == "dense" else 0.2 < row["share"] <= 0.3
    by_case = {row["case"]: row for row in rows}
    learned, spent = by_case["vit/scratch/gblr"], by_case["vit/scratch/low-rank-learned"]["costs"]
    assert all(abs(cost - spent[name]) <= 5 * 32 for name, cost in learned["costs"].items())
    boxes = learned["boxes"]["blocks.0.attention.value"]
    widths = [int(place) for box in boxes for place in box.split()[1::2]]
    assert sum(widths) == learned["costs"]["blocks.0.attention.value"]
    text = (tmp_path / "tables.md").read_text()
    assert all(f"| {name} |" in text for name in settings.METHODS.values())


def test_learned_budgets_are_spent_on_the_same_matrices() -> None:
    methods = part("methods")
    shapes = {"a": (128, 128), "b": (512, 128), "c": (128, 512), "d": (128, 128)}
    spent = {"a": 900, "b": 30_000, "c": 14_000, "d": 60_000}  # the last is more than a full rank costs
    ranks = methods.ranks_of(spent, shapes)
    cost = {name: ranks[name] * sum(shape) for name, shape in shapes.items()}
    assert sum(cost.values()) <= sum(spent.values())
    assert ranks["d"] == 128
    assert all(abs(spent[name] - cost[name]) <= sum(shapes[name]) for name in "abc")
    least = methods.ranks_of({"a": 0, "b": 30_000, "c": 0, "d": 0}, shapes)  # no rank is below one
    assert least == {"a": 1, "b": 45, "c": 1, "d": 1}  # 45 * 640 + 640 + 256 + 256 is the most within 30,000


def test_boxes_start_in_the_trained_weight_and_within_the_budget() -> None:
    weight = torch.zeros(24, 36)
    weight[3:11, 20:32] = torch.outer(torch.randn(8), torch.randn(12))
    weight[15:21, 4:11] = torch.outer(torch.randn(6), torch.randn(7))
    matrix = part("boxes")._from_weight(weight, km.Gaudi(budget=0.3))
    assert matrix.boxes.without_empty().cost <= 0.3 * 24 * 36
    assert (matrix.to_dense() - weight).norm() < 1e-4 * weight.norm()


def test_fresh_structures_have_the_size_of_the_weight_they_replace() -> None:
    methods, vit = part("methods"), part("vit")
    model = vit.ViT(width=32, layers=1, heads=1)
    sizes = {name: layer.weight.norm().item() for name, layer in methods.dense_matrices(model).items()}
    methods.swap(model, methods.rule("monarch", 0.3, {}), fit=False)
    for name, size in sizes.items():
        assert model.get_submodule(name).matrix.to_dense().norm().item() == pytest.approx(size, rel=1e-5)
    assert methods.costs(model).keys() == sizes.keys()


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_the_tiles_of_the_image(channels: int) -> None:
    vit = part("vit").ViT(width=16, layers=1, heads=2, patch=4, channels=channels)
    images = torch.randn(2, 28, 28, channels).squeeze(-1)
    patches = vit.patches(images)
    assert patches.shape == (2, 49, 16 * channels)
    torch.testing.assert_close(patches[1, 9].view(4, -1), images[1, 4:8, 8:12].reshape(4, -1))


def test_the_papers_models_have_its_sizes() -> None:
    settings = part("settings").settings("paper")
    vit = part("vit")
    with torch.device("meta"):
        model = vit.ViT(settings.vit.width, settings.vit.layers, 12, 224, settings.vit.piece, 1000, 3)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(86e6, rel=0.01)


def test_word_pieces_give_the_text_back(tmp_path: Path) -> None:
    wikitext = importlib.import_module(f"{recipes().__name__}.common.data.wikitext").wikitext
    with pytest.raises(km.ArgumentError, match=r"no WikiText there: none of wiki\.train\.tokens"):
        wikitext(tmp_path, 300, tmp_path)
    for name, text in (("train", "the cat sat\n" * 9), ("valid", "the mat\n"), ("test", "cats sat, ü\n")):
        (tmp_path / f"wiki.{name}.tokens").write_text(text, encoding="utf-8")
    found = wikitext(tmp_path, 262, tmp_path)
    assert found.symbols == 262 and len(found.train) < 12 * 9  # pieces longer than a byte were learned
    assert len(found.test) > 0 and int(found.test.max()) < 262
    assert torch.equal(wikitext(tmp_path, 262, tmp_path).test, found.test)  # with the pieces that were kept


def test_photographs_are_shared_and_the_same_each_time(tmp_path: Path) -> None:
    from PIL import Image

    common = importlib.import_module(f"{recipes().__name__}.common")
    settings = part("settings")
    for place in ("train", "val"):
        for name in "ab":
            folder = tmp_path / place / name
            folder.mkdir(parents=True)
            for k in range(6):
                Image.effect_noise((260, 240), 90).convert("RGB").save(folder / f"{k}.JPEG")
    size = settings.Size(32, 1, 56, settings.Schedule(1, 4, 1e-3, 0, 0.0))

    def views(rank: int, world: int) -> Any:
        run = common.Run(1, torch.device("cpu"), tmp_path, rank, world, data_folder=tmp_path)
        return part("photographs").Views(size, 2, run)

    images, labels = views(0, 1).batch(3)
    assert images.shape == (4, 224, 224, 3) and set(labels.tolist()) <= {0, 1}
    second, own = views(1, 2).batch(3)
    assert torch.equal(second, images[1::2]) and torch.equal(own, labels[1::2])
    model = views(0, 1).build()
    assert 0 <= views(0, 1).quality(model, "test")["accuracy"] <= 100
