"""Proximal steps on the widths of a model after every step of an optimiser."""

import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import kmatrix as km
from kmatrix import ArgumentError, DtypeError
from kmatrix.nn import Schedule, StructureLearning, harden_


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        km.nn.Linear(12, 20, structure=km.Gaudi()),
        nn.Tanh(),
        km.nn.Linear(20, 9, structure=km.Gaudi(nblocks=7)),
    )


def train(net: nn.Module, optimiser: torch.optim.Optimizer, steps: int, seed: int = 1) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 12, generator=generator)
        optimiser.zero_grad()
        loss = (net(x) - x[:, :9].sin()).square().mean()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def cost(net: nn.Sequential) -> int:
    return sum(layer.matrix.boxes.cost for layer in (net[0], net[2]))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_any_optimiser_comes_to_the_budget(kind: type[torch.optim.Optimizer]) -> None:
    net = model()
    optimiser = kind(net.parameters(), lr=1e-3)
    learning = StructureLearning(optimiser, net, budget=0.3, steps=20)
    first = learning.cost
    train(net, optimiser, 11)
    assert 0.3 < learning.cost < first  # on its way
    assert learning.cost <= learning.target + 1e-5
    train(net, optimiser, 9)
    assert learning.done == 20 and 0.25 < learning.cost <= 0.3 * (1 + 1e-6)
    assert sorted(harden_(net, 0.3)) == ["0", "2"]
    assert isinstance(net[0].matrix, km.GBLRMatrix)
    assert cost(net) == math.floor(0.3 * (12 * 20 + 20 * 9))


def test_shrinkage_stops_at_the_target() -> None:
    net = model()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0)
    options = {"method": "shrink", "lr": 1e-2, "shrinkage": 2.0}
    learning = StructureLearning(
        optimiser, net, 0.4, 200, **options, schedule=Schedule(200, begin=0, reach=0.01)
    )
    costs = []
    for _ in range(200):
        train(net, optimiser, 1)
        costs.append(learning.cost)
    assert costs[0] > costs[5] > 0.4 > costs[-1] > 0.35  # one step at most below
    below = next(k for k, c in enumerate(costs) if c <= 0.4)
    assert costs[below - 1] > 0.4


def test_the_structure_has_a_group_of_its_own() -> None:
    net = model()
    optimiser = torch.optim.AdamW(km.nn.param_groups(net, lr=1e-3, weight_decay=0.1))
    StructureLearning(optimiser, net, 0.3, 10, lr=0.02)
    ids = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())
    own = optimiser.param_groups[-1]
    assert {id(p) for p in own["params"]} == {
        id(p) for layer in (net[0], net[2]) for p in (layer.matrix.widths, layer.matrix.starts)
    }
    assert (own["lr"], own["weight_decay"], own["betas"]) == (0.02, 0.0, (0.0, 0.999))
    decaying = [id(p) for group in optimiser.param_groups if group["weight_decay"] for p in group["params"]]
    assert id(net[0].matrix.left) in decaying and id(net[2].matrix.right) in decaying


def test_schedules_of_torch_apply_to_the_structure_too() -> None:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    StructureLearning(optimiser, net, 0.3, 10, lr=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 / (k + 1))
    train(net, optimiser, 1)
    schedule.step()
    assert [group["lr"] for group in optimiser.param_groups] == [5e-4, 0.01]


def test_sigma_follows_the_schedule_and_ends_exact() -> None:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    StructureLearning(optimiser, net, 0.3, 10, schedule=Schedule(10, reach=0.5, sigma=(1.0, 32.0)))
    found = [net[2].matrix.sigma]
    for _ in range(6):
        train(net, optimiser, 1)
        found.append(net[0].matrix.sigma)
    assert found == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, math.inf, math.inf])


def test_dead_boxes_are_revived_while_there_is_time() -> None:
    net = model()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0)
    learning = StructureLearning(optimiser, net, 2.0, 100, revive_every=10, lr=1e-12)
    with torch.no_grad():
        net[0].matrix.widths[:, 3] = 0
    train(net, optimiser, 9)
    assert net[0].matrix.dead.sum() == 1
    train(net, optimiser, 1)
    assert not net[0].matrix.dead.any() and learning.revived == 1


def test_it_goes_on_where_it_was_saved() -> None:
    straight, halves = model(), model()
    optimisers = [torch.optim.AdamW(net.parameters(), lr=1e-2) for net in (straight, halves)]
    learnings = [
        StructureLearning(optimiser, net, 0.3, 16, revive_every=3)
        for optimiser, net in zip(optimisers, (straight, halves), strict=True)
    ]
    train(straight, optimisers[0], 6)
    train(straight, optimisers[0], 6, seed=2)
    train(halves, optimisers[1], 6)
    again = model(seed=5)
    again.load_state_dict(halves.state_dict())
    optimiser = torch.optim.AdamW(again.parameters(), lr=1e-2)
    learning = StructureLearning(optimiser, again, 0.3, 16, revive_every=3)
    optimiser.load_state_dict(optimisers[1].state_dict())
    learning.load_state_dict(learnings[1].state_dict())
    train(again, optimiser, 6, seed=2)
    assert learning.state_dict() == learnings[0].state_dict()
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), again.parameters(), strict=True))
    with pytest.raises(ArgumentError, match="missing"):
        learning.load_state_dict({"done": 3})


def test_hardened_models_say_what_trained_ones_said() -> None:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    StructureLearning(optimiser, net, 0.3, 10)
    train(net, optimiser, 10)
    with torch.no_grad():  # on whole positions, so that rounding changes nothing
        for layer in (net[0], net[2]):
            sizes = torch.tensor(layer.matrix.shape).unsqueeze(1)
            layer.matrix.widths.copy_((layer.matrix.widths * sizes).floor() / sizes)
    x = torch.randn(5, 12)
    before = net(x)
    harden_(net, 0.3)
    assert torch.allclose(net(x), before, rtol=1e-5, atol=1e-6)
    assert cost(net) == math.floor(0.3 * (12 * 20 + 20 * 9))


def test_a_tied_matrix_is_counted_and_hardened_once() -> None:
    shared = km.nn.Linear(10, 10, structure=km.Gaudi())
    net = nn.Sequential(shared, nn.ReLU(), km.nn.Linear.from_matrix(shared.matrix))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    assert len(StructureLearning(optimiser, net, 0.5, 10).matrices) == 1
    harden_(net, 0.5)
    assert net[0].matrix is net[2].matrix and net[0].matrix.num_params == 50


def test_an_optimiser_that_is_left_behind_says_so_once() -> None:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    learning = StructureLearning(optimiser, net, 0.3, 10)
    train(net, optimiser, 2)
    harden_(net, 0.3)
    with pytest.warns(UserWarning, match="no longer in the model.*make a new optimiser"):
        optimiser.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimiser.step()
    assert learning.done == 2


def test_removed_it_does_nothing_any_more() -> None:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    learning = StructureLearning(optimiser, net, 0.3, 10)
    learning.remove()
    train(net, optimiser, 3)
    assert learning.done == 0


@pytest.mark.parametrize("method", ["projection", "shrink"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_one_width_that_diverged_spoils_no_budget(bad: float, method: str) -> None:
    net = model()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0)
    learning = StructureLearning(optimiser, net, 0.3, 20, method=method, lr=1e-9, shrinkage=1e-9)
    with torch.no_grad():
        net[0].matrix.widths[0, 3] = bad
        net[0].matrix.starts[1, 4] = bad
    before = learning.cost
    optimiser.step()
    for layer in (net[0], net[2]):
        widths, starts = layer.matrix.widths, layer.matrix.starts
        assert ((widths >= 0) & (widths <= 1)).all() and ((starts >= 0) & (starts <= 1)).all()
    assert learning.cost == pytest.approx(before, abs=0.2)  # two sides of one box at most
    with torch.no_grad():
        net[0].matrix.widths[0, 3] = bad
    harden_(net, 0.3)
    assert cost(net) == math.floor(0.3 * (12 * 20 + 20 * 9))


@pytest.mark.parametrize("method", ["projection", "shrink"])
def test_frozen_boxes_stay_and_count(method: str) -> None:
    net = model()
    for stored in (net[0].matrix.widths, net[0].matrix.starts):
        stored.requires_grad_(False)
    with torch.no_grad():
        net[0].matrix.widths.mul_(0.3)
    before = [p.detach().clone() for p in (net[0].matrix.widths, net[0].matrix.starts, net[2].matrix.widths)]
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    learning = StructureLearning(optimiser, net, 0.4, 10, method=method, shrinkage=20.0, revive_every=1)
    train(net, optimiser, 10)
    assert torch.equal(net[0].matrix.widths, before[0]) and torch.equal(net[0].matrix.starts, before[1])
    assert not torch.equal(net[2].matrix.widths, before[2]) and learning.cost <= 0.4 * (1 + 1e-6)


def test_boxes_inside_another_matrix_and_bare_ones_are_refused() -> None:
    inside = nn.Sequential(km.nn.Linear(6, 6, structure=km.Sum((km.Gaudi(), km.LowRank(1)))))
    for net, match in ((inside, "inside another matrix"), (km.Gaudi().random(6, 6), r"A\.harden\(\)")):
        with pytest.raises(ArgumentError, match=match):
            StructureLearning(torch.optim.AdamW(net.parameters()), net, 0.3, 10)
        with pytest.raises(ArgumentError, match=match):
            harden_(net, 0.3)
    assert any(isinstance(part, km.GaudiMatrix) for part in inside.modules())


def test_what_cannot_be_learned_is_refused() -> None:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for options, match in (
        ({"budget": 0.0}, "budget"),
        ({"budget": "half"}, "budget"),
        ({"lr": -1.0}, "lr"),
        ({"method": "magic"}, "method"),
        ({"steps": 0}, "steps"),
        ({"schedule": Schedule(1000)}, "1000 steps, and there are 10"),
    ):
        with pytest.raises(ArgumentError, match=match):
            StructureLearning(optimiser, net, **{"budget": 0.3, "steps": 10, **options})
    for learns in (True, False):
        with pytest.raises(ArgumentError, match="too little for a box"):
            StructureLearning(optimiser, net, 1e-9, 10) if learns else harden_(net, 1e-9)
    with pytest.raises(DtypeError, match="optimizer"):
        StructureLearning(net, net, 0.3, 10)  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match=r"schedule=0\.5: not a kmatrix\.nn\.Schedule"):
        StructureLearning(optimiser, net, 0.3, 10, schedule=0.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="LBFGS"):
        StructureLearning(torch.optim.LBFGS(net.parameters()), net, 0.3, 10)
    plain = nn.Linear(3, 3)
    with pytest.raises(ArgumentError, match="Gaudi"):
        StructureLearning(torch.optim.AdamW(plain.parameters()), plain, 0.3, 10)
    with pytest.raises(ArgumentError, match="Gaudi"):
        harden_(plain, 0.3)
    for options in (
        {"begin": 0.9, "reach": 0.5},
        {"reach": 2.0},
        {"sigma": (0.0, 1.0)},
        {"sigma": (2.0,)},
        {"sigma": 5.0},
        {"sigma": (2.0, math.inf)},
        {"begin": "x"},
        {"begin": None},
        {"begin": math.nan},
        {"reach": [0.5]},
    ):
        with pytest.raises(ArgumentError, match="Schedule"):
            Schedule(10, **options)


PROGRAM = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import kmatrix as km

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)


def train(net, of):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    learning = km.nn.StructureLearning(optimizer, net, 0.3, 12, lr=0.1, revive_every=4)
    generator = torch.Generator().manual_seed(3)
    for _ in range(12):
        x = torch.randn(8, 10, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        mine = of(x)
        (net(mine) - mine.flip(-1)).square().mean().backward()
        optimizer.step()
    return learning


def make():
    torch.manual_seed(0)
    return km.nn.Linear(10, 10, structure=km.Gaudi(), dtype=torch.float64)


dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
alone, together = make(), make()
train(alone, lambda x: x)
learning = train(DistributedDataParallel(together), lambda x: x[rank::2])
assert learning.cost <= 0.3 + 1e-9, learning.cost
for one, other in zip(alone.parameters(), together.parameters()):
    assert torch.allclose(one, other, atol=1e-9), (one - other).abs().max()
dist.destroy_process_group()
"""


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    running = [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    for process in running:
        _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said.decode()
