"""Which layers are taken, by function and by pattern, and why others are left."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import kmatrix as km
from kmatrix.compress import select


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.normed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.broken = nn.Linear(8, 8)
        nn.init.constant_(self.broken.weight, float("nan"))
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embedding.weight


def names(filter_fn: object = None) -> list[str]:
    return [site.name for site in select(Model(), filter_fn)[0]]  # type: ignore[arg-type]


def test_what_cannot_be_taken_is_left_with_a_reason() -> None:
    sites, skipped = select(Model())
    assert [site.name for site in sites] == ["up", "down"]
    reasons = {s.names[0]: s.reason for s in skipped}
    assert set(reasons) == {"normed", "depthwise", "broken", "head"}
    assert "computed from other numbers" in reasons["normed"]
    assert "8 groups" in reasons["depthwise"]
    assert "not finite" in reasons["broken"]
    assert "shares its weight with embedding" in reasons["head"]


def test_filters_are_functions_and_patterns() -> None:
    assert names(lambda module, name: name == "up") == ["up"]
    assert names("d*") == ["down"]
    assert names(["*", "!down"]) == names("!down") == ["up"]


def test_a_tied_layer_is_one() -> None:
    shared = nn.Linear(8, 8)
    (site,), _ = select(nn.Sequential(shared, nn.ReLU(), shared))
    assert site.names == ("0", "2")


def test_filters_that_make_no_sense_are_refused() -> None:
    with pytest.raises(km.ArgumentError, match=r"'mlp\.\*': matches no module; .*embedding"):
        select(Model(), "mlp.*")
    with pytest.raises(km.DtypeError, match="filter_fn=3: not a pattern"):
        select(Model(), ["up", 3])  # type: ignore[list-item]


def test_weights_without_numbers_are_left() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4))
    assert "meta device" in select(model)[1][0].reason
