"""Whole models in folders: what comes back is what was saved, and a save that fails loses nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import kmatrix as km
from kmatrix import ArgumentError, DtypeError, FileFormatError
from kmatrix.compress import describe_model
from kmatrix.compress._folder import NUMBERS, STRUCTURE
from kmatrix.structures import Factor
from kmatrix.structures.chain import ChainStructure, Layout


class Net(nn.Module):
    """A table tied to the output, convolutions, a layer used twice, buffers of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 16)
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)
        self.again = self.down
        self.head = nn.Linear(16, 12, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("phase", torch.polar(torch.ones(3), torch.arange(3.0)))
        self.register_buffer("coarse", torch.ones(2, dtype=torch.bfloat16))
        self.register_buffer("scratch", torch.arange(4.0), persistent=False)
        self.register_parameter("scale", nn.Parameter(torch.tensor(2.0)))

    def forward(self, index: Tensor, image: Tensor) -> Tensor:
        x = self.table(index) + self.norm(self.conv(image)).mean() * self.scale
        return self.head(self.again(torch.relu(self.up(self.down(torch.relu(self.up(x)))))))


def small() -> Net:
    torch.manual_seed(1)
    model = Net().eval()
    model.norm.running_mean.normal_()
    km.replace_linear_(model, km.GroupShuffle(4), lambda _, name: name in ("up", "down"))
    km.replace_linear_(model, km.LowRank(3), lambda _, name: name == "conv", kinds=("conv2d",))
    return model


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.tensor([[0, 5, 11]]), torch.randn(1, 4, 6, 6, generator=generator)


def test_a_model_comes_back_with_its_structures(tmp_path: Path) -> None:
    model = small()
    km.save(model, tmp_path / "small")
    again = km.load_model(lambda: Net().eval(), tmp_path / "small")
    assert isinstance(again, Net)
    assert isinstance(again.up, km.nn.Linear)
    assert isinstance(again.conv, km.nn.Conv2d)
    assert again.up.structure == km.GroupShuffle(4)
    assert again.down is again.again
    assert again.head.weight is again.table.weight
    assert not again.training
    assert torch.equal(model(*inputs()), again(*inputs()))
    expected, got = model.state_dict(), again.state_dict()
    assert list(expected) == list(got)
    assert all(torch.equal(expected[k], got[k]) and expected[k].dtype == got[k].dtype for k in expected)


def test_the_numbers_are_read_by_any_reader_and_written_once(tmp_path: Path) -> None:
    model = small()
    km.save(model, tmp_path)
    stored = safetensors.torch.load_file(tmp_path / NUMBERS)
    state = model.state_dict()
    assert set(stored) < set(state)
    assert not {"head.weight", "again.bias"} & set(stored)
    assert all(torch.equal(stored[name], state[name]) for name in stored)
    assert json.loads((tmp_path / STRUCTURE).read_text())["aliases"]["head.weight"] == "table.weight"


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        km.save(small(), tmp_path / name)
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in (NUMBERS, STRUCTURE)
    )


def test_models_built_on_the_meta_device_are_filled(tmp_path: Path) -> None:
    model = small()
    km.save(model, tmp_path)

    def build() -> Net:
        with torch.device("meta"):
            made = Net().eval()
        made.scratch = torch.arange(4.0)
        return made

    again = km.load_model(build, tmp_path)
    assert torch.equal(model(*inputs()), again(*inputs()))
    assert again.head.weight is again.table.weight

    def forgetful() -> Net:
        with torch.device("meta"):
            return Net()

    with pytest.raises(ArgumentError, match=r"scratch.*state_dict"):
        km.load_model(forgetful, tmp_path)


def test_structured_models_load_into_structured_ones(tmp_path: Path) -> None:
    model = small()
    km.save(model, tmp_path)
    again = km.load_model(lambda: copy.deepcopy(model).requires_grad_(False), tmp_path)
    assert torch.equal(model(*inputs()), again(*inputs()))
    assert not any(p.requires_grad for p in again.parameters())


def test_dense_and_densified_models_are_saved_alike(tmp_path: Path) -> None:
    model = small()
    km.densify_(model)
    km.save(model, tmp_path)
    again = km.load_model(Net, tmp_path).eval()
    assert type(again.up) is nn.Linear
    assert torch.equal(model(*inputs()), again(*inputs()))


def test_the_loaded_model_trains_compiles_and_lowers(tmp_path: Path) -> None:
    km.save(small(), tmp_path)
    model = km.load_model(Net, tmp_path).eval()
    model(*inputs()).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    before = model(*inputs())
    km.lower_(model)
    torch.testing.assert_close(model(*inputs()), before)


class Zoo(nn.Module):
    """One of every kind of layer that is saved."""

    def __init__(self, dense: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.table = nn.Embedding(10, 8, padding_idx=2)
        self.conv = nn.Conv2d(8, 8, (3, 1), padding="same", groups=2, bias=False, padding_mode="reflect")
        self.wave = nn.Linear(8, 8)
        self.any = nn.Identity()

    def forward(self, index: Tensor) -> Tensor:
        x = self.any(self.table(index))
        x = self.attention(x, x, x, need_weights=False)[0]
        x = self.conv(x.mT.unsqueeze(-1)).squeeze(-1).mT
        return torch.view_as_real(self.wave(x.to(torch.complex64)))


def zoo() -> Zoo:
    model = Zoo().eval()
    model.table = km.nn.Embedding(10, 8, padding_idx=2, structure=km.LowRank(2))  # type: ignore[assignment]
    km.nn.open_attention_(model)
    model.attention.q_proj = km.nn.Linear.from_linear(model.attention.q_proj, km.LowRank(2))  # type: ignore[assignment, arg-type]
    model.conv = km.nn.Conv2d.from_conv2d(model.conv, km.LowRank(2))  # type: ignore[assignment]
    model.wave = km.nn.Linear.from_matrix(km.AFDF().random(8, 8, dtype=torch.complex64), torch.randn(8) + 1j)  # type: ignore[assignment]
    parts = km.Butterfly().random(8, 6) @ km.Permutation().random(6, 6) @ km.Sparse(9).random(6, 8)
    model.any = 0.5 * (parts + km.OBB().random(8, 8))  # type: ignore[assignment]
    return model


def test_every_kind_of_layer_comes_back(tmp_path: Path) -> None:
    model = zoo()
    km.save(model, tmp_path)
    again = km.load_model(lambda: Zoo().eval(), tmp_path)
    index = torch.tensor([[1, 2, 9, 4]])
    assert torch.equal(model(index), again(index))
    kinds = {layer.kind for layer in describe_model(tmp_path).layers}
    assert kinds == {"linear", "conv2d", "embedding", "matrix"}


@dataclass(frozen=True)
class Stretched(ChainStructure):
    """A structure of the user's own."""

    times: int

    def layout(self, m: int, n: int) -> Layout:
        return Layout((Factor(1, self.times, 1, n),))


def test_own_structures_are_saved_by_name(tmp_path: Path) -> None:
    model = nn.Sequential(km.nn.Linear(4, 12, structure=Stretched(3)))
    km.save(model, tmp_path)
    with pytest.raises(
        FileFormatError, match=r"'Stretched' is not known.*km\.load_model\(build, path, structures=\("
    ):
        km.load_model(lambda: nn.Sequential(nn.Linear(4, 12)), tmp_path)
    with pytest.raises(
        FileFormatError, match=r"pass it: kmatrix\.compress\.describe_model\(path, structures=\("
    ):
        describe_model(tmp_path)
    again = km.load_model(lambda: nn.Sequential(nn.Linear(4, 12)), tmp_path, structures=[Stretched])
    x = torch.randn(2, 4)
    assert torch.equal(model(x), again(x))


def test_a_model_is_no_function_that_builds_one(tmp_path: Path) -> None:
    model = nn.Sequential(km.nn.Linear(4, 12, structure=km.LowRank(1)))
    km.save(model, tmp_path)
    with pytest.raises(DtypeError, match="build=Sequential: a model; pass the function that builds it"):
        km.load_model(model, tmp_path)
    with pytest.raises(DtypeError, match=r"build=NoneType: it makes no nn\.Module"):
        km.load_model(lambda: None, tmp_path)  # type: ignore[arg-type,return-value]


def test_who_reads_a_folder_as_a_matrix_is_told_how(tmp_path: Path) -> None:
    km.save(nn.Sequential(nn.Linear(4, 12)), tmp_path / "saved")
    words = r"a folder of a whole model; use km\.load_model\(build, path\)"
    with pytest.raises(ArgumentError, match=words):
        km.load(tmp_path / "saved")
    with pytest.raises(ArgumentError, match=r"use kmatrix\.compress\.describe_model\(path\)"):
        km.structures.serialization.describe(tmp_path / "saved")
    with pytest.raises(ArgumentError, match="a folder; pass the file of a matrix"):
        km.load(tmp_path)


def test_a_matrix_still_goes_to_a_file(tmp_path: Path) -> None:
    A = km.Butterfly().random(6, 10)
    km.save(A, tmp_path / "A.safetensors")
    assert torch.equal(km.load(tmp_path / "A.safetensors").to_dense(), A.to_dense())


def test_the_description_counts(tmp_path: Path) -> None:
    model = small()
    km.save(model, tmp_path, certificate={"budget": 0.5})
    found = describe_model(tmp_path)
    assert [(layer.names, layer.kind, layer.shape) for layer in found.layers] == [
        (("conv",), "conv2d", (8, 36)),
        (("up",), "linear", (32, 16)),
        (("down", "again"), "linear", (16, 32)),
    ]
    assert found.num_params == sum(
        t.numel() for t in safetensors.torch.load_file(tmp_path / NUMBERS).values()
    )
    assert found.certificate == {"budget": 0.5}
    assert "head.weight" in found.tied


# What does not fit.


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4)), "no module"),
        (lambda: _changed(lambda m: setattr(m, "up", nn.Linear(16, 33))), "out_features=33.*32"),
        (lambda: _changed(lambda m: setattr(m, "norm", nn.BatchNorm2d(9))), "shape"),
        (lambda: _changed(lambda m: setattr(m, "more", nn.Linear(1, 1))), "lacks"),
        (lambda: _changed(lambda m: delattr(m, "mask")), "model lacks.*mask"),
        (lambda: _changed(lambda m: setattr(m, "up", m.down)), "ties"),
        (lambda: _changed(lambda m: setattr(m, "mask", torch.zeros(3))), "bool"),
        (lambda: _changed(lambda m: setattr(m.norm, "bias", m.norm.weight)), "two tensors"),
    ],
    ids=[
        "no such layer",
        "another size",
        "another shape",
        "missing",
        "unexpected",
        "tied layer",
        "dtype",
        "tied",
    ],
)
def test_other_models_are_refused(build: Callable[[], nn.Module], says: str, tmp_path: Path) -> None:
    km.save(small(), tmp_path)
    with pytest.raises(ArgumentError, match=f"load_model: build=.*{says}"):
        km.load_model(build, tmp_path)


def _changed(change: Callable[[Any], object]) -> Net:
    model = Net()
    change(model)
    return model


def test_what_builds_no_model_is_refused(tmp_path: Path) -> None:
    km.save(small(), tmp_path)
    for build, words in (
        (dict, r"no nn\.Module"),
        (3, "no function"),
        (small().state_dict(), "no function"),
        (
            "small/",
            r"'small/': a path, not a function; pass the function first: km\.load_model\(build, path\)",
        ),
        (Path("small"), "a path, not a function"),
    ):
        with pytest.raises(DtypeError, match=words):
            km.load_model(build, tmp_path)  # type: ignore[arg-type]


def _guided() -> nn.Module:
    model = small()
    km.nn.self_guide_(model, 10)
    return model


def _capped() -> nn.Module:
    model = small()
    km.nn.rms_cap_(model)
    return model


def _lowered() -> nn.Module:
    model = small()
    km.lower_(model)
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_guided, "finish the guidance"),
        (_capped, "remove_rms_caps_"),
        (_lowered, "before km.lower_"),
        (lambda: nn.Sequential(nn.Linear(2, 2, device="meta")), "meta device"),
        (lambda: nn.Linear(2, 2, dtype=torch.complex128), "complex128"),
        (lambda: km.nn.Linear(2, 2, structure=km.Dense()), "holds it"),
    ],
    ids=["guided", "capped", "lowered", "meta", "complex128", "the layer itself"],
)
def test_what_cannot_be_saved_is_refused(make: Callable[[], nn.Module], says: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=says):
        km.save(make(), tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_other_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DtypeError, match="not a module"):
        km.save({"weight": torch.zeros(2)}, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, 3, b"small"])
def test_what_names_no_folder_is_refused(name: Any) -> None:
    for use in (lambda at: km.save(small(), at), lambda at: km.load_model(small, at), describe_model):
        with pytest.raises(DtypeError, match=r"path=.*pathlib\.Path"):
            use(name)


def test_a_model_does_not_go_to_a_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"a model goes to a folder.*'.*small'"):
        km.save(small(), tmp_path / "small.safetensors")


def test_folders_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here already")
    for path in (tmp_path / "file", tmp_path / "no" / "such"):
        with pytest.raises(ArgumentError, match="no folder can be made"):
            km.save(small(), path)
    assert (tmp_path / "file").read_text() == "here already"


@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_a_save_that_fails_leaves_the_old_files(
    fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    km.save(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        model.scale.fill_(3.0)
    calls = 0

    def once(real: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails:
                raise OSError(28, "No space left on device")
            return real(*args)

        return attempt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", once(lambda _: None))
        patch.setattr(Path, "replace", once(Path.replace))
        with pytest.raises(ArgumentError, match="No space left"):
            km.save(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    km.save(model, tmp_path)
    assert set(before) == {path.name for path in tmp_path.iterdir()}
    assert km.load_model(Net, tmp_path).scale.item() == 3.0


def test_files_of_two_saves_are_no_pair(tmp_path: Path) -> None:
    for scale, name in ((1.0, "a"), (2.0, "b")):
        model = small()
        torch.nn.init.constant_(model.scale, scale)
        km.save(model, tmp_path / name)
    (tmp_path / "a" / NUMBERS).replace(tmp_path / "b" / NUMBERS)
    with pytest.raises(FileFormatError, match="not of one save"):
        km.load_model(Net, tmp_path / "b")


def test_wrapped_models_are_saved_by_what_is_inside(tmp_path: Path) -> None:
    model = small()
    km.save(torch.compile(model, backend="eager"), tmp_path)  # type: ignore[arg-type]
    assert torch.equal(km.load_model(Net, tmp_path).eval()(*inputs()), model(*inputs()))
