"""The recipe of the channel shuffles: the network, the maps between its groups, images, and the command."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from click.testing import Result
from torch import nn

import kmatrix as km
from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
package = recipes()


def part(name: str) -> Any:
    """A module of the recipes."""
    return importlib.import_module(f"{package.__name__}.{name}")


mixing, models, settings = (part(f"shufflenet.{name}") for name in ("mixing", "models", "settings"))
batches, clock, running = (part(f"shufflenet.{name}") for name in ("batches", "clock", "run"))
common, imagenet = part("common"), part("common.data.imagenet")


def made_run(folder: Path, **changes: Any) -> Any:
    return common.Run(1, torch.device("cpu"), folder, data_folder=folder, **changes)


# The network


@pytest.mark.parametrize(
    ("width", "shuffle", "kaleidoscope"),
    [(0.25, "0.46M", "0.51M"), (0.5, "1.0M", "1.1M"), (1.0, "2.5M", "2.8M")],
)
def test_parameters_are_as_printed(width: float, shuffle: str, kaleidoscope: str) -> None:
    """arXiv 2012.14966, Table 2."""
    for name, printed in (("shuffle", shuffle), ("hadamard", shuffle), ("k", kaleidoscope)):
        digits = len(printed.split(".")[1]) - 1
        count = models.parameters(models.ShuffleNet(width, 1000, name))
        assert f"{count / 1e6:.{digits}f}M" == printed


def test_units_of_the_original_have_their_groups() -> None:
    """The ShuffleNet paper leaves the groups out in one unit alone; g = 8, 24-384-768-1536 channels."""
    net = models.ShuffleNet(1.0, 1000, "shuffle", "unit")
    assert [unit.reduce.groups for unit in net.units] == [1] + [8] * 15
    assert [unit.reduce.groups for unit in models.ShuffleNet(1.0, 10).units] == [1] * 4 + [8] * 12
    assert models.parameters(net) == 2_434_768
    assert [unit.stride for unit in net.units] == [2, 1, 1, 1] + [2] + [1] * 7 + [2, 1, 1, 1]
    assert [unit.expand.in_channels for unit in net.units] == [96] * 4 + [192] * 8 + [384] * 4


def test_stages_have_their_sizes() -> None:
    net, sizes = models.ShuffleNet(0.25, 7).eval(), []
    for k in (0, 4, 12, 15):
        net.units[k].register_forward_hook(lambda unit, given, out: sizes.append(tuple(out.shape[1:])))
    with torch.inference_mode():
        assert net(torch.randn(1, 3, 224, 224)).shape == (1, 7)
    assert sizes == [(96, 28, 28), (192, 14, 14), (384, 7, 7), (384, 7, 7)]


def test_a_unit_is_what_its_definition_says() -> None:
    """Stride 1, no mixing, float64, in evaluation mode with fresh norms, which only divide by sqrt(1 + eps)."""
    unit = models.Unit(16, 16, 1, 8, mixing.MIXINGS["identity"]).double().eval()
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    scale = (1 + 1e-5) ** -0.5
    first = torch.block_diag(*unit.reduce.weight.detach()[..., 0, 0].split(1))
    y = torch.einsum("oi,nihw->nohw", first, x).mul(scale).relu()
    y = nn.functional.conv2d(y, unit.depthwise.weight, padding=1, groups=8) * scale
    last = torch.block_diag(*unit.expand.weight.detach()[..., 0, 0].split(2))
    y = torch.einsum("oi,nihw->nohw", last, y) * scale
    torch.testing.assert_close(unit(x), (x + y).relu(), rtol=1e-12, atol=1e-12)


def test_stride_appends_the_average_of_the_input() -> None:
    unit = models.Unit(8, 24, 2, 1, mixing.MIXINGS["shuffle"]).eval()
    x = torch.rand(2, 8, 6, 6)
    y = unit(x)
    assert y.shape == (2, 24, 3, 3)
    torch.testing.assert_close(y[:, 16:], nn.functional.avg_pool2d(x, 3, 2, 1))


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("k", ["mix_in", "reduce", "norm_in", "mix", "depthwise"]),
        ("hadamard", ["mix_in", "reduce", "mix", "norm_in", "depthwise"]),
        ("shuffle", ["reduce", "norm_in", "mix", "depthwise"]),
    ],
)
def test_maps_stand_where_the_paper_puts_them(name: str, order: list[str]) -> None:
    unit, seen = models.Unit(16, 16, 1, 8, mixing.MIXINGS[name]), []
    for part_name, module in unit.named_children():
        if not isinstance(module, nn.Identity):
            module.register_forward_hook(lambda m, x, y, part_name=part_name: seen.append(part_name))
    unit(torch.randn(2, 16, 4, 4))
    assert seen[: len(order)] == order


# The maps


def dense_of(module: nn.Module, channels: int) -> torch.Tensor:
    """The matrix of a map of channels, from what it does to unit vectors."""
    return module(torch.eye(channels, dtype=torch.float64)[:, :, None, None])[..., 0, 0].T


def test_every_group_gets_channels_of_every_group_from_the_shuffle() -> None:
    """Written as (groups, n), read as (n, groups)."""
    moved = dense_of(mixing.MIXINGS["shuffle"].make(96, 8), 96).argmax(0)
    assert moved.tolist() == [i % 12 * 8 + i // 12 for i in range(96)]
    for group in range(8):
        assert {i // 12 for i in range(96) if moved[i] // 12 == group} == set(range(8))


@pytest.mark.parametrize("channels", [8, 24, 96])
def test_hadamard_is_the_corner_of_the_orthogonal_one(channels: int) -> None:
    size = mixing.padded(channels)
    known = torch.from_numpy(scipy.linalg.hadamard(size) / np.sqrt(size))[:channels, :channels]
    torch.set_default_dtype(torch.float64)  # its entries are irrational
    try:
        module = mixing.Hadamard(channels)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(dense_of(module, channels), known, rtol=1e-12, atol=1e-12)
    assert models.parameters(module) == 0


@pytest.mark.parametrize("channels", [8, 24, 96])
def test_kaleidoscope_is_the_corner_of_an_orthogonal_one(channels: int) -> None:
    """Against the definition: rotations by angles of growing stride, the diagonal, rotations of shrinking stride."""
    module = mixing.Kaleidoscope(channels).double()
    matrix, size = module.map.matrix, mixing.padded(channels)
    assert models.parameters(module) == size * int(np.log2(size)) + size
    full = torch.eye(size, dtype=torch.float64)
    levels = int(np.log2(size))
    for k, angles in enumerate(matrix.angles):
        if k == levels:
            full = matrix.diagonals[0].diag() @ full
        full = rotation(angles.detach()) @ full
    assert torch.allclose(full @ full.T, torch.eye(size, dtype=torch.float64))  # as it starts
    known = full[:channels, :channels]
    torch.testing.assert_close(dense_of(module, channels), known, rtol=1e-12, atol=1e-12)


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """A factor: in each of ``a`` groups, the positions j and j + d rotated by the angle (group, j)."""
    groups, stride, _ = angles.shape
    dense = torch.zeros(2 * groups * stride, 2 * groups * stride, dtype=torch.float64)
    for group in range(groups):
        for j in range(stride):
            at = [2 * group * stride + j, 2 * group * stride + stride + j]
            c, s = torch.cos(angles[group, j, 0]), torch.sin(angles[group, j, 0])
            dense[np.ix_(at, at)] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return dense


def test_prepared_maps_give_what_the_network_gives() -> None:
    net = models.ShuffleNet(0.125, 5, "k").double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        before = net(x)
        after = mixing.prepare_(net)(x)
    assert not any(isinstance(module, mixing.Kaleidoscope) for module in net.modules())
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


# Training


def test_structured_maps_do_not_decay() -> None:
    net = models.ShuffleNet(0.125, 5, "k")
    chosen = dataclasses.replace(settings.settings("paper"), structured_rate=0.5)
    decays = {
        id(p): group for group in running.optimizer(net, chosen, 0.8).param_groups for p in group["params"]
    }
    for name, parameter in net.named_parameters():
        group = decays[id(parameter)]
        structured = ".matrix." in name
        assert group["lr"] == (0.4 if structured else 0.8)
        assert group["weight_decay"] == (4e-5 if parameter.ndim > 1 and not structured else 0)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("linear", {0: 0.1, 9: 1.0, 10: 1.0, 95: 0.5, 180: 0.0}),
        ("cosine", {10: 1.0, 95: 0.5, 180: 0.0}),
        ("step", {10: 1.0, 59: 1.0, 60: 0.1, 120: 0.01, 160: 0.001}),
    ],
)
def test_schedules(kind: str, values: dict[int, float]) -> None:
    chosen = dataclasses.replace(settings.settings("paper"), schedule=kind)
    factor = running.schedule(chosen, 2)  # 90 epochs of 2 steps, 5 of warm-up
    for step, value in values.items():
        assert factor(step) == pytest.approx(value)


def test_accuracy_counts_the_first_and_the_first_five() -> None:
    logits = torch.eye(8).flip(1) + torch.arange(8) / 100  # first choice 7 - i, then 7, 6, 5, 4 for others
    images = [(logits, torch.tensor([7, 7, 0, 4, 3, 2, 1, 0]))]
    assert running.accuracy(nn.Identity(), images) == (0.75, 7 / 8)


def test_crops_stay_inside_and_keep_their_share() -> None:
    chosen = dataclasses.replace(settings.settings("small"), smallest=0.25)
    maps = batches.crops(500, chosen, torch.Generator().manual_seed(0))
    half, middle = maps[:, (0, 1), (0, 1)].abs(), maps[:, :, 2]
    assert (half + middle.abs() <= 1 + 1e-6).all()
    assert 0.2 < half.prod(1).min() and half.prod(1).max() <= 1
    assert 0.4 < (maps[:, 0, 0] < 0).float().mean() < 0.6
    straight = batches.crops(50, dataclasses.replace(chosen, flips=False), torch.Generator())
    assert (straight[:, 0, 0] > 0).all()


def test_processes_share_what_one_alone_would_see(tmp_path: Path) -> None:
    chosen = settings.settings("smoke")
    alone = batches.batches(chosen, chosen.widths[0], made_run(tmp_path)).train(1)
    both = [
        batches.batches(chosen, chosen.widths[0], made_run(tmp_path, rank=rank, world=2)).train(1)
        for rank in (0, 1)
    ]
    for k in range(2):
        torch.testing.assert_close(torch.stack([pair[k] for pair in both], 1).flatten(0, 1), alone[k])


def test_every_class_of_sign_digits_is_learned_and_validated(tmp_path: Path) -> None:
    """The file has them sorted by class."""
    y = np.arange(10).repeat(50)
    x = np.zeros((500, 64, 64, 3), dtype=np.uint8) + y[:, None, None, None].astype(np.uint8)
    np.savez(tmp_path / "signdigits64.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    images = part("common.data").sign_digits(tmp_path)
    for split in (images.train, images.validation):
        assert split.labels.unique().tolist() == list(range(10))
        assert torch.equal(split.images[:, 0, 0, 0].long(), split.labels)


def test_ratios_are_taken_round_by_round() -> None:
    found = clock.summary(clock.Race({"shuffle": [1.0, 2.0, 4.0], "k": [2.0, 6.0, 8.0]}))
    assert found == {"shuffle": {"ms": 2000.0, "ratio": 1.0}, "k": {"ms": 6000.0, "ratio": 2.0}}


# Photographs


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes, five photographs to learn from and two to test, of different sizes; one is grey."""
    image = pytest.importorskip("PIL.Image")
    for name, colour in (("n01", (250, 10, 10)), ("n02", (10, 10, 250))):
        for folder, count in (("train", 5), ("val", 2)):
            place = tmp_path / folder / name
            place.mkdir(parents=True)
            for k in range(count):
                grey = folder == "val" and k == 1
                picture = image.new("L" if grey else "RGB", (40 + k, 30), 128 if grey else colour)
                picture.save(place / f"{name}_{k}.JPEG")
    return tmp_path


def test_photographs_are_read_from_their_folders(photographs: Path) -> None:
    found = imagenet.imagenet(photographs, 2)
    assert found.classes == ("n01", "n02") and len(found.train) == 10 and len(found.val) == 4
    assert found.val.labels.tolist() == [0, 0, 1, 1]
    # JPEG moves colours a little; one step of 255 is 0.018 of a standard deviation.
    red = (torch.tensor([250, 10, 10]) / 255 - torch.tensor(imagenet.MEAN)) / torch.tensor(imagenet.SPREAD)
    x = imagenet.test_image(found.val.paths[0], 8)
    assert x.shape == (3, 8, 8) and (x - red[:, None, None]).abs().max() < 0.1
    draw = torch.Generator()
    assert imagenet.training_image(found.train.paths[0], 16, draw).shape == (3, 16, 16)
    assert imagenet.test_image(found.val.paths[1], 8).shape == (3, 8, 8)  # grey


def test_the_middle_is_cut_out_of_a_test_image(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((256, 356, 3), dtype=np.uint8)
    pixels[16:240, 66:290] = 255  # 224 x 224 of 256 x 356
    image.fromarray(pixels).save(tmp_path / "x.png")
    white = (1 - torch.tensor(imagenet.MEAN)) / torch.tensor(imagenet.SPREAD)
    torch.testing.assert_close(
        imagenet.test_image(tmp_path / "x.png", 224), white[:, None, None].expand(3, 224, 224)
    )


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (300, 10)])
def test_boxes_lie_in_the_image(width: int, height: int) -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        left, top, right, bottom = imagenet.random_box(width, height, draw)
        assert 0 <= left < right <= width + 1e-9 and 0 <= top < bottom <= height + 1e-9
        assert 3 / 4 - 1e-9 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-9


def test_layouts_that_are_not_imagenet_are_refused(photographs: Path, tmp_path_factory: Any) -> None:
    with pytest.raises(km.ArgumentError, match="2 classes and not 1000"):
        imagenet.imagenet(photographs, 1000)
    with pytest.raises(km.ArgumentError, match="no folder train; put the photographs into train/<class>"):
        imagenet.imagenet(tmp_path_factory.mktemp("empty"))
    broken = photographs / "val" / "n02" / "n02_0.JPEG"
    broken.write_bytes(b"not a photograph")
    with pytest.raises(km.ArgumentError, match="unreadable"):
        imagenet.test_image(broken, 8)
    (photographs / "val" / "n02").rename(photographs / "val" / "n03")
    with pytest.raises(km.ArgumentError, match="different classes"):
        imagenet.imagenet(photographs)


def test_a_run_goes_on_with_the_photographs_that_come_next(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = part("shufflenet.folders")
    # Worker processes would take longer than all of this test.
    monkeypatch.setattr(folders, "WORKERS", 0)
    chosen = dataclasses.replace(settings.settings("paper"), classes=2, size=8, epochs=3, held_out=2)
    whole = folders.Folders(chosen, 4, made_run(photographs))
    assert whole.steps == 2 and len(next(iter(whole.validation()))[1]) == 2
    seen = [whole.train(step) for step in range(5)]
    again = folders.Folders(chosen, 4, made_run(photographs))
    for step in (3, 4):
        for mine, other in zip(again.train(step), seen[step], strict=True):
            assert torch.equal(mine, other)
    assert not torch.equal(seen[0][0], seen[2][0])
    second = folders.Folders(chosen, 4, made_run(photographs, rank=1, world=2)).train(3)
    assert torch.equal(second[0], seen[3][0][1::2])
    assert sorted(torch.cat([y for _, y in whole.test()]).tolist()) == [0, 0, 1, 1]


# The command


def test_the_command_on_synthetic_images(kmatrix: Command, tmp_path: Path) -> None:
    done = kmatrix("recipe", "run", "shufflenet", "--seeds", "1", "--out", str(tmp_path))
    assert done.exit_code == 0, done.stderr
    rows = {row["case"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert set(rows) == {f"{name}/width-0.125" for name in [*mixing.MIXINGS, "time"]}
    assert rows["k/width-0.125"]["parameters"] > rows["shuffle/width-0.125"]["parameters"]
    assert set(rows["time/width-0.125"]["inference 32"]) == {*mixing.MIXINGS, "k, prepared"}
    assert (tmp_path / "loss.svg").is_file()
    assert "Top-1 at width 0.125" in (tmp_path / "tables.md").read_text()


def test_the_setting_of_the_paper_goes_through_a_step(kmatrix: Command) -> None:
    chosen = [x for name in ("k/width-0.25", "time/width-0.25") for x in ("--cases", name)]
    done = kmatrix("recipe", "run", "shufflenet", "--preset", "paper", "--dry-run", *chosen)
    assert done.exit_code == 0, done.stderr
    assert "k/width-0.25" in done.stdout


def test_small_needs_its_data(kmatrix: Command, tmp_path: Path) -> None:
    arguments = ("--preset", "small", "--cases", "k/width-0.25", "--out", str(tmp_path / "out"))
    done = kmatrix("recipe", "run", "shufflenet", *arguments, "--data", str(tmp_path))
    assert done.exit_code == 2 and "no sign digits there" in done.stderr


def test_the_paper_stands_beside_what_was_found() -> None:
    tables, chosen = part("shufflenet.tables"), settings.settings("small")
    rows = [
        {"case": f"{name}/width-0.25", "options": {"kind": "train"}, "seed": seed, "parameters": 5, "top5": 1.0,
         "top1": top1, "loss": [1.0]}
        for name, values in (("shuffle", (0.5, 0.7)), ("k", (0.6, 0.9)))
        for seed, top1 in enumerate(values, 1)
    ]  # fmt: skip
    sheet = tables.sheets(chosen, rows)[0]
    by_name = {row[0]: row for row in sheet.rows}
    assert by_name["K"][1:] == ["5", "75.0 ± 21.2", "+15.0 ± 7.1", "0.51M", "49.2", "+5.0", "73.4", "2"]
    assert by_name["none"][2:] == [""] * 6 + ["0"]
