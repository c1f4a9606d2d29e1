"""Learning the boxes of whole models: budgets, what is left when it is stopped, and what it finds."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import kmatrix as km
from kmatrix import ArgumentError, DtypeError
from kmatrix.compress import learning
from kmatrix.compress._box_layers import replace_


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 3))


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 12, 16, generator=generator)
    return [(b, (b[:, 0] > b[:, 1]).long()) for b in x]


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.mark.parametrize(
    ("start", "method"), [("trained", "projection"), ("scratch", "projection"), ("scratch", "shrink")]
)
def test_the_budget_is_met_to_the_unit(
    net: nn.Sequential, batches: list[tuple[Tensor, Tensor]], start: str, method: str
) -> None:
    biases = [layer.bias for layer in (net[0], net[2])]
    report = km.learn_structure(
        net, 0.3, batches, start=start, method=method, steps=12, filter_fn=("0", "2"), progress=silent
    )
    assert sum(layer.cost for layer in report.layers) == math.floor(0.3 * 2 * 16 * 24)
    assert report.share <= 0.3 and report.budget == 0.3 and len(report.losses) == len(report.costs) == 12
    for layer, bias, found in zip((net[0], net[2]), biases, report.layers, strict=True):
        assert isinstance(layer, km.nn.Linear) and isinstance(layer.matrix, km.GBLRMatrix)
        assert layer.bias is bias and layer.matrix.num_params == found.cost
        assert layer.matrix.boxes == found.boxes
    assert isinstance(net[4], nn.Linear) and all(p.grad is None for p in net.parameters())
    assert report.healing is not None and len(report.healing.losses) == 2
    assert f"2 layers at {230 / 768:.1%}" in str(report) and "0: 24 x 16" in str(report)


class Beside(nn.Module):
    """Two layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.rich, self.poor = (nn.Linear(16, 16, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.rich(x), self.poor(x)], -1)


def test_layers_get_of_one_budget_what_they_need() -> None:
    torch.manual_seed(0)
    net, teacher = Beside(), Beside()
    with torch.no_grad():
        teacher.rich.weight.normal_()
        teacher.poor.weight.copy_(torch.outer(torch.randn(16), torch.randn(16)))
        data = [(x, teacher(x)) for x in torch.randn(30, 64, 16)]
    # From the cost of dense much is to be given away.
    report = km.learn_structure(net, 0.6, data, start="spread", steps=200, lr=1e-2, progress=silent)
    cost = {layer.name: layer.cost for layer in report.layers}
    assert cost["rich"] + cost["poor"] == math.floor(0.6 * 512)
    assert cost["rich"] > 1.1 * 0.5 * math.floor(0.6 * 512)  # clearly more than the even share


def test_trained_weights_begin_with_all_that_the_budget_allows() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 10))
    replace_(net, None, "trained", km.Gaudi(budget=0.47), 0, silent)
    boxes = net[0].matrix.boxes
    assert int(0.47 * 10 * 10) == 46  # 0.47 is the double next to it
    assert boxes.select(boxes.occupied.nonzero().squeeze(-1)).cost == 47


@pytest.mark.parametrize(("sigma", "heal_steps"), [(None, 3), ((1.0, 8.0), 0)])
@pytest.mark.parametrize("helps", [True, False])
def test_from_trained_weights_the_end_is_never_worse_than_the_fit(
    batches: list[tuple[Tensor, Tensor]],
    helps: bool,
    sigma: tuple[float, float] | None,
    heal_steps: int,
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), nn.GELU(), km.nn.Linear(8, 3, structure=km.Gaudi()))
    seen = []

    def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        value = nn.functional.cross_entropy(output, batch[1])
        return value if helps else -value

    def judge(model: nn.Module) -> float:
        # Each but the dense model is one that could be kept: cropped, and within the budget.
        if seen:
            assert all(isinstance(model[k].matrix, km.GBLRMatrix) for k in (0, 2))
            assert sum(model[k].matrix.num_params for k in (0, 2)) <= 0.3 * (16 * 8 + 8 * 3)
        with torch.no_grad():
            seen.append(
                sum(float(nn.functional.cross_entropy(model(x), y)) for x, y in batches) / len(batches)
            )
        return seen[-1]

    dense = judge(copy.deepcopy(net))
    seen.clear()
    report = km.learn_structure(
        net,
        0.3,
        batches,
        loss,
        steps=12,
        lr=3e-2,
        schedule=km.nn.Schedule(12, sigma=sigma),
        heal_steps=heal_steps,
        validate=judge,
        progress=silent,
    )
    scores = dict(report.scores)
    assert report.dense_score == dense and report.start_score == scores[0] == seen[1]
    assert helps or report.best_step == 0
    assert report.end_score <= min(scores.values()) == scores[report.best_step]
    assert helps == (report.end_score < scores[0])
    assert len(seen) == 1 + len(scores) + (len(report.healing.scores) if report.healing else 0)
    assert judge(net.eval()) == pytest.approx(report.end_score, rel=1e-6)
    if not helps:
        assert f"{report.end_score:.4g} at the end, and the boxes are the fitted ones, the best" in str(
            report
        )


def test_the_report_names_the_loss_and_the_scores(
    net: nn.Sequential, batches: list[tuple[Tensor, Tensor]]
) -> None:
    def squares(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return output.square().mean()

    teacher = copy.deepcopy(net)
    regression = [(x, x[:, :3]) for x, _ in batches]
    for data, options, loss, number in (
        (batches, {}, "cross-entropy", "loss"),
        (regression, {}, "mean squares", "loss"),
        (batches, {"loss": squares}, "loss that was passed, squares", "loss"),
        (batches, {"teacher": teacher}, "divergence from the teacher", "divergence from the teacher"),
        (
            batches,
            {"teacher": teacher, "loss": lambda y, _: y.square().mean(), "mix": 0.25},
            "0.75 of the loss that was passed and 0.25 of the divergence from the teacher",
            "loss with the divergence from the teacher",
        ),
    ):
        for start in ("trained", "scratch"):
            again = copy.deepcopy(net)
            report = km.learn_structure(
                again, 0.3, data, start=start, steps=2, filter_fn="4", progress=silent, **options
            )
            assert (report.loss, report.number) == (loss, number)
            assert report.judged == "on the held-out batches" and report.healing is None
            assert (report.dense_score is None) == (start == "scratch")
            began = "at the start" if start == "scratch" else "as fitted"
            for words in (
                f"{report.start_score:.4g} {began}",
                f"{report.end_score:.4g} at the end",
                f"on {loss}",
            ):
                assert words in str(report)


@pytest.mark.parametrize("start", ["trained", "scratch"])
def test_a_seed_makes_it_repeatable(
    net: nn.Sequential, batches: list[tuple[Tensor, Tensor]], start: str
) -> None:
    with torch.no_grad():  # of rank 1, so that most boxes are not needed by the fit
        net[4].weight.copy_(torch.outer(torch.randn(3), torch.randn(16)))
    states = []
    for k, seed in enumerate((5, 5, 6)):
        again = copy.deepcopy(net)
        torch.manual_seed(k)
        km.learn_structure(
            again,
            0.4,
            batches,
            start=start,
            steps=10,
            lr=1e-2,
            structure_lr=0.1,
            filter_fn="4",
            seed=seed,
            progress=silent,
        )
        states.append(torch.cat([p.detach().flatten() for p in again.parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_ctrl_c_leaves_boxes_within_the_budget(
    net: nn.Sequential, batches: list[tuple[Tensor, Tensor]]
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("learning") and done == 3:
            raise KeyboardInterrupt

    report = km.learn_structure(net, 0.25, batches, start="scratch", steps=50, filter_fn="0", progress=stop)
    assert report.interrupted and len(report.losses) == 3 and report.healing is None
    assert net[0].matrix.num_params == math.floor(0.25 * 16 * 24)


def test_what_fails_leaves_the_model_as_it_was(
    net: nn.Sequential, batches: list[tuple[Tensor, Tensor]]
) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    layers = list(net)
    seen = []

    def broken(output: Tensor, batch: object) -> Tensor:
        seen.append(output)
        if len(seen) > 6:
            raise RuntimeError("no more")
        return output.square().mean()

    with pytest.raises(RuntimeError, match="no more"):
        km.learn_structure(net, 0.3, batches, broken, start="scratch", steps=50, progress=silent)
    assert list(net) == layers
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("phase", ["hardening", "healing"])
def test_what_fails_after_learning_leaves_the_model_as_it_was(
    net: nn.Sequential, batches: list[tuple[Tensor, Tensor]], phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net[4] = km.nn.Linear(16, 3, structure=km.Gaudi())  # one that learns already
    before = {name: value.clone() for name, value in net.state_dict().items()}
    layers, matrix, cropped = list(net), net[4].matrix, []

    def broken(model: nn.Module) -> float:
        if not isinstance(model[4].matrix, km.GaudiMatrix):
            cropped.append(type(model[0].matrix))
            raise RuntimeError("no more")
        return 1.0

    if phase == "hardening":
        monkeypatch.setattr(learning, "settled_", lambda model, _: broken(model))
    with pytest.raises(RuntimeError, match="no more"):
        km.learn_structure(
            net, 0.3, batches, start="scratch", steps=10, filter_fn="0", validate=broken, progress=silent
        )
    assert cropped == [km.GBLRMatrix]
    assert list(net) == layers and net[4].matrix is matrix and matrix.sigma == math.inf
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_an_iterator_gives_its_batches_once(net: nn.Sequential, batches: list[tuple[Tensor, Tensor]]) -> None:
    many = batches * 3
    for length, healed in ((28, 2), (27, 1), (26, 0)):  # 16 for the scores, 10 steps
        again, seen = copy.deepcopy(net), iter(many[:length])
        report = km.learn_structure(again, 0.3, seen, start="scratch", steps=10, progress=silent)
        assert len(report.losses) == 10 and report.healing is not None
        assert len(report.healing.losses) == healed and report.share <= 0.3
        assert next(seen, None) is None
    with pytest.raises(ArgumentError, match=r"learn_structure: data=.*at least 28 batches"):
        km.learn_structure(net, 0.3, iter(many[:25]), start="scratch", steps=10, progress=silent)
    assert [type(layer) for layer in net[::2]] == [nn.Linear] * 3


def test_a_gradient_of_a_width_that_is_no_number_is_passed_over(
    net: nn.Sequential, batches: list[tuple[Tensor, Tensor]]
) -> None:
    seen = []

    def odd(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        widths = next((m.widths for m in net.modules() if isinstance(m, km.GaudiMatrix)), None)
        if torch.is_grad_enabled() and widths is not None:
            seen.append(output)
            if len(seen) == 3:
                widths.register_hook(lambda grad: torch.full_like(grad, math.nan))
        return nn.functional.cross_entropy(output, batch[1])

    report = km.learn_structure(net, 0.3, batches, odd, start="scratch", steps=8, progress=silent)
    assert len(report.losses) == 8 and len(report.costs) == 2  # the hook stays, and no step is taken any more
    assert all(math.isfinite(c) for c in report.costs)
    assert sum(layer.cost for layer in report.layers) == math.floor(0.3 * (2 * 16 * 24 + 16 * 3))


class Own(nn.Module):
    """Boxes that are no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.A = km.Gaudi().random(3, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.A(x)


def test_a_matrix_of_a_module_of_its_own_is_learned(batches: list[tuple[Tensor, Tensor]]) -> None:
    net = Own()
    report = km.learn_structure(net, 0.4, batches, steps=4, progress=silent)
    assert [(x.name, x.cost) for x in report.layers] == [("A", math.floor(0.4 * 48))]
    assert isinstance(net.A, km.GBLRMatrix) and net.A.boxes == report.layers[0].boxes


@pytest.mark.parametrize("structure", [km.Sum((km.Gaudi(), km.LowRank(1))), km.Transpose(km.Gaudi())])
def test_boxes_inside_another_matrix_are_refused_before_any_step(
    net: nn.Sequential, batches: list[tuple[Tensor, Tensor]], structure: km.Structure
) -> None:
    net[2] = km.nn.Linear(24, 16, structure=structure)
    layers = list(net)
    with pytest.raises(ArgumentError, match="inside another matrix"):
        km.learn_structure(net, 0.3, batches, steps=4, progress=silent)
    with pytest.raises(ArgumentError, match=r"A\.harden\(\)"):
        km.learn_structure(km.Gaudi().random(4, 16), 0.3, batches, steps=4, progress=silent)
    assert list(net) == layers


def test_a_layer_that_is_not_worth_boxes_is_dense_again(batches: list[tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 3))
    x = torch.randn(5, 16)
    report = km.learn_structure(net, 1.0, batches, steps=2, lr=1e-9, heal_steps=0, progress=silent)
    assert type(net[0]) is nn.Linear and report.layers[0].boxes is None and report.share == 1.0
    assert net(x).shape == (5, 3)


def test_a_teacher_is_enough(net: nn.Sequential) -> None:
    teacher = nn.Sequential(nn.Linear(16, 3))
    report = km.learn_structure(
        net, 0.4, [torch.randn(8, 16) for _ in range(4)], teacher=teacher, steps=5, progress=silent
    )
    assert report.healing is None or report.healing.number == "divergence from the teacher"


def test_layers_that_learn_already_are_learned_on(batches: list[tuple[Tensor, Tensor]]) -> None:
    net = nn.Sequential(km.nn.Linear(16, 16, structure=km.Gaudi()), nn.Linear(16, 3))
    before = net[0].matrix.left.detach().clone()
    report = km.learn_structure(net, 0.3, batches, steps=4, filter_fn=lambda *_: False, progress=silent)
    assert [layer.name for layer in report.layers] == ["0"] and isinstance(net[1], nn.Linear)
    assert before.shape == (16, 16) and net[0].matrix.num_params == math.floor(0.3 * 256)


def test_saved_and_loaded(net: nn.Sequential, batches: list[tuple[Tensor, Tensor]], tmp_path: object) -> None:
    km.learn_structure(net, 0.3, batches, start="scratch", steps=3, progress=silent)
    km.save(net, f"{tmp_path}/small")
    again = km.load_model(
        lambda: nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 3)),
        f"{tmp_path}/small",
    )
    x = torch.randn(4, 16)
    assert torch.equal(net.eval()(x), again.eval()(x))


def test_what_makes_no_sense_is_refused(net: nn.Sequential, batches: list[tuple[Tensor, Tensor]]) -> None:
    given = {"budget": 0.3, "data": batches, "start": "scratch", "progress": silent}
    layers, before = list(net), copy.deepcopy(net.state_dict())
    for options, match in (
        ({"budget": 0}, "budget"),
        ({"budget": 2}, "budget=2: not a number over 0 and at most 1"),
        ({"budget": math.nan}, "budget=nan"),
        ({"budget": "half"}, "budget='half'"),
        ({"budget": 1e-9}, "budget=1e-09: .* too little for a box"),
        ({"budget": 1e-9, "start": "trained"}, "budget=1e-09: .* too little for a box"),
        ({"lr": math.inf}, "lr=inf"),
        ({"start": "again"}, "start"),
        ({"steps": 0}, "steps"),
        ({"heal_steps": -1}, "heal_steps"),
        ({"lr": 0.0}, "lr"),
        ({"mix": 2.0}, "mix"),
        ({"filter_fn": lambda *_: False}, "Gaudi"),
        ({"data": []}, "data"),
        ({"data": iter(batches[:4]), "steps": 50}, "begun again"),
        ({"data": [b for b, _ in batches]}, "loss"),
        ({"method": "magic"}, "method"),
        ({"steps": 10, "schedule": km.nn.Schedule(1000)}, "1000 steps, and there are 10"),
    ):
        with pytest.raises(ArgumentError, match=match):
            km.learn_structure(net, **{**given, **options})
        assert list(net) == layers and net.training
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    with pytest.raises(DtypeError, match="data"):
        km.learn_structure(net, 0.3, 5)  # type: ignore[arg-type]


def test_learned_boxes_find_more_of_a_planted_matrix_than_low_rank_of_equal_cost() -> None:
    # A block diagonal matrix of 4 blocks: 8 boxes of 8 x 8 each, half of the cost of dense; of low rank it has little.
    n, blocks = 32, 4
    weight = torch.block_diag(
        *torch.randn(blocks, n // blocks, n // blocks, generator=torch.Generator().manual_seed(5))
    )
    x = torch.randn(64, 64, n, generator=torch.Generator().manual_seed(6))
    net = nn.Sequential(nn.Linear(n, n, bias=False))
    data = [(b, b @ weight.mT) for b in x]
    report = km.learn_structure(net, 0.5, data, start="scratch", steps=600, lr=1e-2, progress=silent)
    assert report.share <= 0.5
    error = torch.linalg.matrix_norm(net[0].weight.detach() - weight)
    values = torch.linalg.svdvals(weight)
    best_low_rank = values[n // 4 :].norm()  # rank 8 costs 8 * 2 * 32, half of the dense matrix
    assert error < 0.7 * best_low_rank
