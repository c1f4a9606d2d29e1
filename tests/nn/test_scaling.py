"""Parameter groups: every parameter once, with the rate of its factor and decay only where it makes sense."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import kmatrix as km
from kmatrix.nn.scaling import multipliers, parts


def rates(structure: km.Structure, m: int, n: int, **options: Any) -> list[float]:
    return [rate for _, rate in multipliers(structure.random(m, n), **options)]


def test_rates_are_those_of_the_published_rule() -> None:
    # (n / fan_in) / factors for Adam; (fan_out / fan_in) / (m / n) / factors for SGD.
    assert rates(km.Dense(), 20, 30) == [1.0]
    assert rates(km.LowRank(5), 20, 30) == [0.5, 3.0]
    assert rates(km.LowRank(5), 20, 30, optimizer="sgd") == [5 / 30 * 1.5 / 2, 20 / 5 * 1.5 / 2]
    assert rates(km.Monarch(4), 64, 32) == pytest.approx([32 / 8 / 2, 32 / 8 / 2])
    # Two cores: (q, rank * p, n / q) and (p, m / p, q * rank).
    assert rates(km.BlockTensorTrain((4, 8), rank=2), 32, 64) == [64 / 8 / 2, 64 / 16 / 2]
    assert rates(km.BLAST(2, 3), 16, 24) == [24 / 12 / 3, 24 / 2 / 3, 24 / 3 / 3]
    assert rates(km.Kronecker(left=(4, 6)), 20, 30) == [30 / 6 / 2, 30 / 5 / 2]


def test_deep_chains_get_a_rate_of_their_own() -> None:
    for structure in (km.Butterfly(), km.Kaleidoscope(), km.FixedBPBP()):
        assert set(rates(structure, 32, 32)) == {1.0}
        assert set(rates(structure, 32, 32, butterfly=3.0)) == {3.0}
        assert not any(part.decays for part in parts(structure.random(32, 32)))
    assert set(rates(km.Butterfly(), 4, 4, butterfly=2.0)) == {2.0}


def test_rates_of_matrices_made_of_others() -> None:
    A, B = km.LowRank(5).random(20, 30), km.LowRank(4).random(30, 60)
    assert [r for _, r in multipliers(A.T)] == pytest.approx([20 / 5 / 2, 20 / 20 / 2])
    assert [r for _, r in multipliers(A @ B)] == [60 / 30 / 4, 60 / 5 / 4, 60 / 60 / 4, 60 / 4 / 4]
    assert [r for _, r in multipliers(0.5 * A + A)] == [0.5, 3.0, 0.5, 3.0]
    assert rates(km.Grouped(km.LowRank(2), 3), 30, 60) == [60 / 20 / 2, 60 / 2 / 2] * 3
    assert rates(km.RealPart(km.LowRank(5)), 20, 30) == [0.5, 3.0]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = km.nn.Embedding(20, 16, structure=km.LowRank(4))
        self.mix = km.nn.Linear(16, 16, structure=km.Monarch(4))
        self.fast = km.nn.Linear(16, 16, structure=km.Butterfly())
        self.turn = km.nn.Linear(16, 16, structure=km.OrthogonalButterfly())
        self.wave = km.nn.Linear(16, 16, structure=km.Toeplitz(), dtype=torch.complex64)
        self.norm = nn.LayerNorm(16)
        self.dense = nn.Linear(16, 16)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.head = km.nn.Linear.from_matrix(self.embed.matrix)
        self.tied = self.mix


def test_every_parameter_is_in_one_group() -> None:
    model = Net()
    groups = km.nn.param_groups(model, lr=0.1, weight_decay=0.5)
    found = {id(p): (g["lr_multiplier"], g["weight_decay"]) for g in groups for p in g["params"]}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sorted(found) == sorted(map(id, trained)) and sum(len(g["params"]) for g in groups) == len(trained)
    assert all(g["lr"] == pytest.approx(0.1 * g["lr_multiplier"]) for g in groups)
    named = {name: found[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert named["embed.matrix.factors.0"] == (0.5, 0.5) and named["embed.matrix.factors.1"] == (2.0, 0.5)
    assert named["mix.matrix.factors.0"] == (2.0, 0.5)
    assert {rule for name, rule in named.items() if name.startswith(("fast", "turn", "wave", "norm"))} == {
        (1.0, 0.0)
    }
    assert named["dense.weight"] == (1.0, 0.5) and named["dense.bias"] == (1.0, 0.0)
    torch.optim.AdamW(groups)
    torch.optim.SGD(km.nn.param_groups(model, lr=0.1, optimizer="sgd"))
    same = km.nn.param_groups(copy.deepcopy(model), lr=0.1, weight_decay=0.5)
    assert [(g["lr"], len(g["params"])) for g in same] == [(g["lr"], len(g["params"])) for g in groups]


def test_parameters_behind_caps_keep_their_rates() -> None:
    layer = km.nn.Linear(30, 20, structure=km.LowRank(5))
    km.nn.rms_cap_(layer)
    named = dict(layer.named_parameters())
    groups = km.nn.param_groups(layer, lr=1.0, weight_decay=0.1)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found[id(named["matrix.base.factors.1"])] == (3.0, 0.1)
    assert found[id(named["matrix.gains"])] == (1.0, 0.0)


def test_steps_move_outputs_more_alike_than_with_one_rate() -> None:
    """What the rule is for: how far one step of Adam moves the outputs depends less on the structure."""
    x, z = torch.randn(64, 512), torch.randn(64, 512)
    moved: dict[bool, list[float]] = {True: [], False: []}
    structures = (km.Dense(), km.LowRank(16), km.LowRank(64), km.Monarch(4), km.Monarch(16), km.BLAST(4, 16))
    for structure in structures:
        for ruled, far in moved.items():
            torch.manual_seed(1)
            layer = km.nn.Linear(512, 512, bias=False, structure=structure)
            groups = km.nn.param_groups(layer, lr=1e-4) if ruled else [{"params": layer.parameters()}]
            optimizer = torch.optim.Adam(groups, lr=1e-4)
            before = layer(x).detach()
            (layer(x) * z).sum().backward()
            optimizer.step()
            far.append(float((layer(x).detach() - before).norm()))
    spread = {ruled: max(far) / min(far) for ruled, far in moved.items()}
    assert spread[True] < 0.5 * spread[False], spread


def test_what_is_refused() -> None:
    layer = km.nn.Linear(4, 4, structure=km.Dense())
    with pytest.raises(km.DtypeError, match="pass the model"):
        km.nn.param_groups(layer.parameters(), lr=0.1)  # type: ignore[arg-type]
    with pytest.raises(km.ArgumentError, match="optimizer='lion': unknown"):
        km.nn.param_groups(layer, lr=0.1, optimizer="lion")  # type: ignore[arg-type]
    for name in ("lr", "weight_decay", "butterfly"):
        with pytest.raises(km.ArgumentError, match=f"{name}=-1"):
            km.nn.param_groups(layer, **{"lr": 0.1, name: -1})


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_the_rate_of_butterflies_is_for_butterflies_alone(dtype: torch.dtype) -> None:
    def found(structure: km.Structure) -> list[float]:
        return [rate for _, rate in multipliers(structure.random(8, 8, dtype=dtype), butterfly=3.0)]

    for structure in (km.Toeplitz(), km.BlockCirculant(2), km.Sparse(9), km.BPPermutation()):
        assert set(found(structure)) == {1.0}
    for structure in (km.OrthogonalButterfly(unitary=dtype.is_complex), km.OBB(unitary=dtype.is_complex)):
        assert set(found(structure)) == {3.0}
    assert set(found(km.BPBP())) == {1.0, 3.0}  # logits and butterflies
    assert set(found(km.Transpose(km.Butterfly()))) == {3.0}
