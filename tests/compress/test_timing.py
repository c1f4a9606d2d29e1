"""The clock measures each structure once in each place, and layers are what they would be in the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kmatrix as km
from kmatrix.compress import select
from kmatrix.compress import timing as module
from kmatrix.compress.layers import Place
from kmatrix.compress.timing import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(module, "SAMPLE_SECONDS", 1e-5)
    return Clock(3, model_bytes=3 * 32 * 24 * 4, rounds=3)


def place_of(layer: nn.Module, spatial: tuple[int, ...] = ()) -> Place:
    return Place.of(select(nn.Sequential(layer))[0][0], spatial)


def test_every_structure_is_measured_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(nn.Linear(24, 32))
    structures = [km.LowRank(2), km.Monarch(4), km.LowRank(2)]
    found = clock.against_dense(place, structures)
    assert set(found) == set(structures)
    assert all(t.batch == 3 and len(t.ratios) == 3 and t.matrix_seconds > 0 for t in found.values())
    monkeypatch.setattr(clock, "_race", lambda *_: pytest.fail("measured again"))
    assert clock.against_dense(place, structures[:1])[km.LowRank(2)] is found[km.LowRank(2)]
    assert clock.dense_seconds(place) in {t.dense_seconds for t in found.values()} | {
        sum(t.dense_seconds for t in found.values()) / 2
    }


def test_copies_make_up_the_weights_of_the_model(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASS_SECONDS", 1e9)  # however long this machine takes
    assert clock._copies(place_of(nn.Linear(24, 32)), nn.Linear(24, 32), torch.randn(3, 24)) == 3
    assert clock._copies(place_of(nn.Linear(500, 500)), nn.Linear(500, 500), torch.randn(3, 500)) == 1
    monkeypatch.setattr(module, "PASS_SECONDS", 0.0)
    assert clock._copies(place_of(nn.Linear(24, 32)), nn.Linear(24, 32), torch.randn(3, 24)) == 1


def test_all_copies_run_unseen_before_those_that_count() -> None:
    seen: list[int] = []

    class Layer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(id(self))
            return x

    runner = module._Runner(Layer(), 3, torch.randn(2))
    seen.clear()
    runner.time()
    assert len(set(seen)) == 3
    assert seen == seen[:3] * (1 + runner.passes)


def test_places_tell_layers_apart() -> None:
    assert place_of(nn.Linear(4, 5)) == place_of(nn.Linear(4, 5))
    assert place_of(nn.Linear(4, 5)) != place_of(nn.Linear(4, 5, bias=False))
    assert place_of(nn.Linear(4, 5)) != place_of(nn.Linear(4, 5).double())
    assert place_of(nn.Conv2d(3, 5, 3), (8, 8)) != place_of(nn.Conv2d(3, 5, 3), (9, 8))


def test_convolutions_are_measured_on_images(clock: Clock) -> None:
    conv = nn.Conv2d(3, 16, 3, padding=1, stride=2, padding_mode="reflect")
    place = place_of(conv, (9, 7))
    assert place.input(3) == (3, 3, 9, 7)
    dense = module._dense_layer(place)
    x = torch.randn(place.input(3))
    assert dense(x).shape == conv(x).shape
    (timing,) = clock.against_dense(place, [km.LowRank(2)]).values()
    assert timing.dense_seconds > 0
