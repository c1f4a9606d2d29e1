"""The recipe of latent permutations: total variation, kaleidoscopes, baselines, certificates, and the command."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.spatial.distance
import torch
from click.testing import Result

import kmatrix as km
from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
package = recipes()


def part(name: str) -> Any:
    """A module of the recipe."""
    return importlib.import_module(f"{package.__name__}.permutation.{name}")


kaleidoscope, variation, scrambles, sinkhorn = map(
    part, ("kaleidoscope", "variation", "scrambles", "sinkhorn")
)
seriation, certificate, models, running = map(part, ("seriation", "certificate", "models", "run"))
settings, tables = part("settings"), part("tables")
resnet = importlib.import_module(f"{package.__name__}.common.resnet")


def ring_table(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances between points on a circle in a random order, and an order of least variation."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randperm(n, generator=draw)
    angle = 2 * torch.pi * mixed / n
    points = torch.stack([angle.cos(), angle.sin()], 1)
    table = torch.cdist(points, points)
    return table / table.mean(), mixed.argsort()


# Total variation


@pytest.mark.parametrize("wrap", [False, True])
def test_total_variation_is_the_papers_sum(wrap: bool) -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    wanted = 0.0
    for image, i, j in itertools.product(x.flatten(0, 1), range(4), range(4)):
        down = image[(i + 1) % 4, j] - image[i, j] if wrap or i < 3 else torch.tensor(0.0)
        right = image[i, (j + 1) % 4] - image[i, j] if wrap or j < 3 else torch.tensor(0.0)
        wanted += float((down**2 + right**2).sqrt()) / 2
    assert float(variation.total_variation(x, wrap=wrap)) == pytest.approx(wanted, rel=1e-12)


def test_flat_images_have_no_variation_and_a_gradient_without_nan() -> None:
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    value = variation.total_variation(x)
    value.backward()
    assert value == 0 and torch.equal(x.grad, torch.zeros(1, 1, 4, 4))


def test_distances_are_those_of_scipy() -> None:
    images = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8)
    array = images.double().numpy()
    tables = [
        variation.line_distances(images, 0),
        variation.line_distances(images, 1),
        variation.pixel_distances(images),
    ]
    things = [array.transpose(2, 0, 1, 3).reshape(4, -1), array.transpose(3, 0, 1, 2).reshape(4, -1)]
    things += [array.transpose(2, 3, 0, 1).reshape(16, -1)]
    for table, rows in zip(tables, things, strict=True):
        wanted = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(rows, "cityblock"))
        np.testing.assert_allclose(table.numpy(), wanted / wanted.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("sizes", "width"), [((8,), 0.0), ((8,), 1.3), ((4, 4), 0.0), ((4, 4), 0.9)])
def test_neighbours_are_weighted_by_their_distance_on_the_torus(sizes: tuple[int, ...], width: float) -> None:
    places = variation.Places(sizes)
    matrix = places.spread(torch.eye(len(places), dtype=torch.float64)[None], width)[0]
    at = list(itertools.product(*(range(s) for s in sizes)))
    wanted = np.zeros((len(at), len(at)))
    for (i, p), (j, q) in itertools.product(enumerate(at), enumerate(at)):
        steps = [min(abs(a - b), s - abs(a - b)) for a, b, s in zip(p, q, sizes, strict=True)]
        near = np.exp(-0.5 * sum(k * k for k in steps) / width**2) if width else float(sum(steps) == 1)
        wanted[i, j] = 0.0 if i == j else near
    wanted *= 2 * len(sizes) / wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(matrix.numpy(), wanted, atol=1e-6)


def test_the_value_of_an_arrangement_is_the_sum_of_absolute_differences() -> None:
    images = torch.randint(256, (3, 1, 4, 4), dtype=torch.uint8)
    pixels = images.double().flatten(2)[:, 0].T
    table, order = torch.cdist(pixels, pixels, p=1) / 3, torch.randperm(16)
    value = variation.Places((4, 4)).value(table[None], order[None])[0]
    arranged = images.flatten(2)[..., order].reshape(images.shape)
    assert float(value) == pytest.approx(certificate.absolute(arranged), rel=1e-12)


@pytest.mark.parametrize(
    ("gaps", "start"),
    [([3, 1, 1, 1], 0), ([1, 1, 2.5, 1], 2), ([0, 0, 5, 4, 5, 0], 0), ([1, 0, 0, 0, 1, 1], 2)],
)
def test_rings_are_opened_in_the_margin_or_at_the_seam(gaps: list[float], start: int) -> None:
    """``gaps[k]`` lies between lines k - 1 and k; lines 4, 5, 0, 1 and 0, 1, 2, 3 are the margins."""
    assert variation.cut(torch.tensor(gaps, dtype=torch.float64)) == start


# Kaleidoscopes


@pytest.mark.parametrize("n", [2, 8])
def test_expected_matrices_are_doubly_stochastic(n: int) -> None:
    chances = torch.rand(3, len(kaleidoscope.strides(n)), n // 2, dtype=torch.float64)
    matrix = kaleidoscope.times(chances, torch.eye(n, dtype=torch.float64).expand(3, n, n))
    one = torch.ones(3, n, dtype=torch.float64)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), one, rtol=1e-12, atol=0)
    torch.testing.assert_close(matrix.sum(2), one, rtol=1e-12, atol=0)


def test_expected_matrices_are_the_mean_of_all_choices() -> None:
    """n = 2: two switches; n = 4 has eight."""
    for n in (2, 4):
        count = len(kaleidoscope.strides(n)) * n // 2
        shape = (1, len(kaleidoscope.strides(n)), n // 2)
        chances = torch.rand(shape, dtype=torch.float64)
        mean = torch.zeros(n, n, dtype=torch.float64)
        for bits in itertools.product((0.0, 1.0), repeat=count):
            stay = torch.tensor(bits, dtype=torch.float64).reshape(shape)
            weight = torch.where(stay == 1, chances, 1 - chances).prod()
            order = kaleidoscope.rounded(stay - 0.5)[0]
            mean += weight * torch.eye(n, dtype=torch.float64)[order]
        got = kaleidoscope.times(chances, torch.eye(n, dtype=torch.float64)[None])[0]
        torch.testing.assert_close(got, mean, rtol=1e-12, atol=1e-14)


def test_a_rounded_kaleidoscope_is_its_own_limit() -> None:
    logits = torch.randn(4, 6, 4, dtype=torch.float64)
    sharp = kaleidoscope.times((logits > 0).double(), torch.eye(8, dtype=torch.float64).expand(4, 8, 8))
    assert torch.equal(sharp.argmax(2), kaleidoscope.rounded(logits))


def test_entropies_and_their_gradients_stay_finite() -> None:
    logits = torch.tensor([-300.0, -2.0, 0.0, 1.5, 300.0], dtype=torch.float64, requires_grad=True)
    found = kaleidoscope.entropies(logits)
    wanted = torch.distributions.Bernoulli(logits=logits.detach()).entropy()
    torch.testing.assert_close(found.detach()[1:4], wanted[1:4], rtol=1e-12, atol=0)
    assert found.detach()[[0, 4]].max() < 1e-100
    found.sum().backward()
    assert logits.grad.isfinite().all()


def test_any_permutation_is_one_kaleidoscope_of_zeros_and_ones() -> None:
    order = torch.randperm(64)
    matrix = kaleidoscope.network(order)
    x = torch.randn(64, dtype=torch.float64)
    assert torch.equal(matrix @ x, x[order])
    assert [factor.d for factor in matrix.layout.factors] == kaleidoscope.strides(64)


def test_stages_find_the_order_of_a_circle() -> None:
    tables, truths = zip(*(ring_table(8, seed) for seed in (1, 2)), strict=True)
    plan = kaleidoscope.Plan(chains=4, first=40, stages=12, steps=12, select=4)
    places = variation.Places((8,))
    orders, values = kaleidoscope.staged(torch.stack(tables), places, plan, 1, lambda *a: None)
    torch.testing.assert_close(values, places.value(torch.stack(tables), torch.stack(truths)))
    torch.testing.assert_close(values, places.value(torch.stack(tables), orders))


def test_restarts_end_when_two_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of three tables, restart by restart; the first agrees at once, the second later, the third never."""
    told = iter([[3.0, 5.0, 9.0], [3.0, 4.0, 8.0], [4.0, 7.0], [6.0]])
    asked = []

    def staged(tables: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.tensor(next(told))
        asked.append(len(tables))
        return values[:, None].long().expand(-1, 4).clone(), values

    monkeypatch.setattr(kaleidoscope, "staged", staged)
    plan = kaleidoscope.Plan(restarts=4)
    places = variation.Places((2, 2))  # no lines: values stay as told
    found = kaleidoscope.agreed(torch.zeros(3, 4, 4), places, plan, 0, lambda *a: None)
    assert asked == [3, 3, 2, 1] and found.restarts == [2, 3, 4]
    assert found.value.tolist() == [3.0, 4.0, 6.0] and found.order[:, 0].tolist() == [3, 4, 6]
    assert torch.equal(found.learned, found.order)


def test_flips_of_switches_undo_a_reversal() -> None:
    table, truth = ring_table(16, 3)
    places = variation.Places((16,))
    wrong = truth.clone()
    wrong[3:10] = truth[3:10].flip(0)
    found = kaleidoscope.settle(table, wrong, places)
    torch.testing.assert_close(places.value(table[None], found[None]), places.value(table[None], truth[None]))


def test_folded_rings_have_mirror_images_side_by_side() -> None:
    wired = variation.folded(8)
    assert sorted(wired.tolist()) == list(range(8))
    assert ((wired[0::2] + wired[1::2]) % 8).tolist() == [7] * 4
    draw = torch.Generator().manual_seed(0)
    for sizes in ((8,), (4, 4)):
        for wiring in variation.Places(sizes).wirings(6, draw):
            assert sorted(wiring.tolist()) == list(range(len(wiring)))


def test_single_switches_settle_a_swapped_pair() -> None:
    table, truth = ring_table(16, 3)
    places = variation.Places((16,))
    wrong = truth.clone()
    wrong[[4, 5]] = truth[[5, 4]]
    found = kaleidoscope.settle(table, wrong, places)
    assert torch.equal(found, truth)


@pytest.mark.parametrize("kind", ["rows-columns", "pixels"])
def test_sampled_kaleidoscopes_lower_the_variation(kind: str) -> None:
    images = scrambles.blobs(64, 8, 1, 1).images
    mixed = scrambles.scramble(kind, 8, 2)
    way = {"steps": 200, "chains": 2, "batch": 8, "rate": 0.2, "entropy": 0.3, "temperature": 0.5, "seed": 3}
    order = kaleidoscope.sampled(mixed(images), mixed.rank, shown=lambda *a: None, **way)
    assert sorted(order.tolist()) == list(range(64))
    variation_of = certificate.Objective(images, torus=False)
    others = [scrambles.scramble(kind, 8, seed).index for seed in range(5)]
    assert variation_of(mixed.index[order]) < min(map(variation_of, others))


# The others


def test_sinkhorn_ends_doubly_stochastic_and_cold_ones_are_assignments() -> None:
    scores = torch.randn(2, 6, 6, dtype=torch.float64)
    matrix = sinkhorn.sinkhorn(scores, 200)
    torch.testing.assert_close(matrix.sum(1), torch.ones(2, 6, dtype=torch.float64), rtol=1e-10, atol=0)
    torch.testing.assert_close(matrix.sum(2), torch.ones(2, 6, dtype=torch.float64), rtol=1e-10, atol=0)
    best = max(
        itertools.permutations(range(6)), key=lambda p: sum(float(scores[0, i, j]) for i, j in enumerate(p))
    )
    assert sinkhorn.assigned(-scores[0]).tolist() == list(best)


def test_sinkhorn_learns_arrangements() -> None:
    table, _ = ring_table(8, 4)
    places, plan = variation.Places((8,)), sinkhorn.Plan(chains=2, steps=60, rate=0.3)
    orders, values = sinkhorn.learned(table[None], places, plan, 1, lambda *a: None)
    assert sorted(orders[0].tolist()) == list(range(8))
    assert float(values[0]) == pytest.approx(float(places.value(table[None], orders)[0]))
    assert float(values[0]) < float(places.value(table[None], torch.arange(8)[None])[0])


@pytest.mark.parametrize("n", [7, 20])
def test_seriation_orders_a_circle(n: int) -> None:
    table, truth = ring_table(n, 5)
    places = variation.Places((n,))
    order = seriation.ring(table)
    torch.testing.assert_close(places.value(table[None], order[None]), places.value(table[None], truth[None]))


def test_local_search_stops_where_no_change_helps() -> None:
    table, truth = ring_table(12, 6)
    order = seriation.improved(table.double().numpy(), np.arange(12))
    places = variation.Places((12,))
    best = places.value(table[None], truth[None])
    assert best <= places.value(table[None], torch.from_numpy(order)[None]) + 1e-5
    assert sorted(order.tolist()) == list(range(12))


def test_swaps_lower_the_variation_by_what_they_say() -> None:
    pixels = torch.rand(16, 10)
    table, places = torch.cdist(pixels, pixels), variation.Places((4, 4))
    order = torch.randperm(16)
    values = [float(places.value(table[None], order[None])[0])]
    for _ in range(4):
        order = seriation.swapped(table, order, places, most=1)
        values.append(float(places.value(table[None], order[None])[0]))
    assert values == sorted(values, reverse=True)
    last = seriation.swapped(table, order, places)
    value = float(places.value(table[None], last[None])[0])
    for i, j in itertools.combinations(range(16), 2):
        other = last.clone()
        other[[i, j]] = last[[j, i]]
        assert float(places.value(table[None], other[None])[0]) >= value - 1e-4


def test_a_plane_is_filled_once() -> None:
    pixels = torch.rand(16, 10)
    order = seriation.plane(torch.cdist(pixels, pixels), variation.Places((4, 4)))
    assert sorted(order.tolist()) == list(range(16))


# Data and certificates


def test_bit_reversal_is_the_kronecker_product() -> None:
    index = scrambles.scramble("bit-reversal", 8, 0).index
    reverse = km.transforms.bit_reversal(8, dtype=torch.float64).to_dense()
    image = torch.randn(8, 8, dtype=torch.float64)
    assert torch.equal(image.flatten()[index].reshape(8, 8), reverse @ image @ reverse.T)


@pytest.mark.parametrize("kind", scrambles.KINDS)
def test_scrambles_are_taken_back_by_their_inverse(kind: str) -> None:
    scrambled = scrambles.scramble(kind, 8, 3)
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    back = scrambled(images).flatten(2)[..., scrambles.inverse(scrambled.index)].reshape(images.shape)
    assert torch.equal(back, images)
    assert torch.equal(scrambled.index, scrambles.scramble(kind, 8, 3).index)


def test_images_come_at_32_pixels() -> None:
    grey = torch.randint(256, (2, 28, 28), dtype=torch.uint8)
    padded = scrambles.squared(grey)
    assert padded.shape == (2, 1, 32, 32) and torch.equal(padded[:, 0, 2:-2, 2:-2], grey)
    assert padded.sum() == grey.sum()
    colour = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    small = scrambles.squared(colour)
    wanted = torch.nn.functional.avg_pool2d(colour.permute(0, 3, 1, 2).double(), 2)
    assert small.shape == (2, 3, 32, 32) and (small.double() - wanted).abs().max() <= 0.5


@pytest.mark.parametrize("turned", [False, True])
def test_certificates_know_the_symmetries(turned: bool) -> None:
    images = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    grid = torch.arange(64).reshape(8, 8).T.flip(0)
    found = (grid.roll(3, 1) if turned else grid).flatten()
    given = scrambles.scramble("pixels", 8, 0).index
    proof = certificate.certify(found, images, given, certificate.Objective(images, torus=True), 0)
    assert proof.hard and proof.wrapped and proof.exact != turned
    assert proof.right == 1 and proof.neighbours == 1
    assert proof.objective == pytest.approx(proof.objective_truth, rel=1e-12)
    assert proof.limit == ("cut" if turned else "nothing")
    assert "transposed" in proof.symmetry


def test_a_wrong_arrangement_has_no_certificate() -> None:
    images = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    found = torch.arange(64)
    found[[10, 40]] = found[[40, 10]]
    goal = certificate.Objective(images, torus=True)
    proof = certificate.certify(found, images, torch.arange(64), goal, 0)
    assert proof.hard and not proof.wrapped and not proof.exact
    assert proof.right == 62 / 64 and proof.neighbours < 1
    images[:, :, 1, 2] = images[:, :, 5, 0]  # pixels 10 and 40 are the same in every image now
    assert certificate.certify(found, images, torch.arange(64), goal, 0).exact


def test_the_objective_is_the_learners_own() -> None:
    """On the torus a difference of 1 / 255 is itself; the paper's total variation is over all of its images."""
    images = torch.randint(256, (150, 2, 8, 8), dtype=torch.uint8)
    order = torch.randperm(64)
    seen = images.flatten(2)[..., order].reshape(images.shape).double() / 255
    wanted = sum((seen.roll(-1, axis) - seen).abs().sum() for axis in (-2, -1)) / len(images)
    assert certificate.Objective(images, torus=True)(order) == pytest.approx(float(wanted), rel=1e-12)
    paper = certificate.Objective(images, torus=False)
    assert paper(order) == pytest.approx(float(variation.total_variation(seen)), rel=1e-12)
    flipped = [images.flip(axes) for axes in ((), (-2,), (-1,), (-2, -1))]
    least = min(float(variation.total_variation(x.double() / 255)) for x in flipped)
    assert paper.truth == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize(("torus", "limit"), [(True, "cut"), (False, "loss")])
def test_what_limits_depends_on_the_objective(torus: bool, limit: str) -> None:
    """A bright bar in the middle, turned to the edge: open edges count one of its two sides less, the torus both."""
    images = torch.randint(20, (4, 1, 8, 8), dtype=torch.uint8)
    images[..., 2:5] += 200
    found = torch.arange(64).reshape(8, 8).roll(-2, 1).flatten()
    goal = certificate.Objective(images, torus=torus)
    proof = certificate.certify(found, images, torch.arange(64), goal, 0)
    assert proof.wrapped and not proof.exact and proof.limit == limit
    worse = certificate.certify(torch.randperm(64), images, torch.arange(64), goal, 0)
    assert worse.limit == "search"


def test_turns_that_save_the_costliest_place_are_seen() -> None:
    """A vertical edge in the middle, black at both sides of the image: turned to the rim, one of two edges is gone."""
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[..., 2:5] = 255
    found = certificate.turned(images)["turned"]
    assert found["columns"]["least"] == pytest.approx(0.5) and found["rows"]["least"] == pytest.approx(1.0)


def test_what_is_no_permutation_is_seen() -> None:
    assert not certificate.is_permutation(torch.tensor([0, 1, 2, 2]), 2)
    assert certificate.is_permutation(torch.tensor([3, 1, 2, 0]), 2)


# Models and the command


def test_an_arrangement_stands_in_front_of_the_network() -> None:
    index = scrambles.scramble("pixels", 8, 1)
    network = resnet.ResNet(1, 10, (4,), 1).eval()
    x = torch.randn(2, 1, 8, 8)
    arranged = models.Arranged(scrambles.inverse(index.index), network)
    torch.testing.assert_close(arranged(index(x)), network(x))


def test_the_command_runs_everything(kmatrix: Command, tmp_path: Path) -> None:
    done = kmatrix(
        "recipe", "run", "permutation", "--preset", "smoke", "--seeds", "1", "--out", str(tmp_path)
    )
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == len(settings.cases(settings.settings("smoke")))
    learned = [row for row in rows if row["method"] in settings.LEARNERS]
    assert learned and all(row["hard"] and row["truth"] < row["random"] for row in learned)
    exact = {row["case"] for row in learned if row["exact"]}
    assert {"kaleidoscope/bit-reversal/synthetic", "kaleidoscope/rows-columns/synthetic"} <= exact
    assert (tmp_path / "arranged.svg").is_file() and (tmp_path / "accuracy.svg").is_file()


def test_paper_runs_dry(kmatrix: Command) -> None:
    chosen = [word for name in ("fc/*", "kaleidoscope/bit*", "sinkhorn/rows*") for word in ("--cases", name)]
    done = kmatrix("recipe", "run", "permutation", "--preset", "paper", "--dry-run", "--seeds", "1", *chosen)
    assert done.exit_code == 0, done.output


def test_figures_of_the_paper_stand_beside_what_the_paper_did() -> None:
    """K in stages is ours: the paper's K is compared with the one that is learned in the paper's way."""
    small = settings.settings("small")
    sheet = tables.sheets(small, [])[0]
    printed = {(row[0], row[1]): row[-1] for row in sheet.rows}
    assert printed["2-D bit reversal", "K as in the paper + CNN"] == "93.6"
    assert printed["2-D bit reversal", "K in stages + CNN"] == tables.NONE
    assert printed["none", "CNN, unpermuted images"] == "94.9"
    assert {figure for (kind, _), figure in printed.items() if kind.startswith("random")} == {tables.NONE}
