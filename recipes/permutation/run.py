"""One run: find an arrangement without labels, certify it, train a classifier behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common import Case, Row, Run
from ..common.data.images import Split
from ..common.images import accuracy, jittered
from ..common.resnet import ResNet
from ..common.training import train, warmup_cosine
from . import kaleidoscope, models, seriation, sinkhorn
from .certificate import Objective, certify, turned
from .scrambles import CLASSES, Scramble, Task, grid, load, scramble
from .settings import LEARNERS, Settings
from .variation import Places, cut, line_distances, pixel_distances

Learner = Callable[[Tensor, Places], tuple[Tensor, Tensor]]


def run(settings: Settings, case: Case, run: Run) -> Row:
    """Arrange if the method does, then classify."""
    method, kind = case.options["method"], case.options["permutation"]
    side = settings.synthetic_side or (32 if run.dry else None)
    task = load(case.options["data"], settings.counts, run, synthetic_side=side)
    if run.dry:
        settings = _one_step(settings)
    scrambled = scramble(kind, task.side, run.seed)
    row: Row = {"method": method, "permutation": kind, "data": task.name, "side": task.side}
    order = None
    if method == "unpermuted":
        row |= turned(task.train.images)
    if method in LEARNERS:
        began, busy = time.perf_counter(), time.process_time()
        given = scrambled(task.train.images)
        order, more = arrange(method, settings, given, scrambled.rank, run)
        row["learning_seconds"] = time.perf_counter() - began
        row["learning_cpu_seconds"] = time.process_time() - busy
        found = scrambled.index[order]
        seen = task.train.images[
            : settings.pixel_images if scrambled.rank == 1 and method != "sampled" else None
        ]
        goal = Objective(seen, torus=method != "sampled")
        row |= certify(found, task.train.images, scrambled.index, goal, run.seed).row()
        if more is not None:
            # What the stages alone found, before switches are flipped.
            learned = scrambled.index[opened(together(more.learned), given)]
            alone = certify(learned, task.train.images, scrambled.index, goal, run.seed).row()
            row |= {
                "stages": {k: alone[k] for k in ("exact", "wrapped", "objective")},
            }
        row["choices"] = choices(method, scrambled.rank, task.side)
        row["starts"] = starts(method, settings, scrambled.rank, more)
        row["example"] = _example(task, scrambled, found)
    if case.options["classified"]:
        row |= classify(settings, dict(settings.data)[task.name], task, scrambled, method, order, run)
    return row


def arrange(
    method: str, settings: Settings, images: Tensor, rank: int, run: Run
) -> tuple[Tensor, kaleidoscope.Found | None]:
    """The pixels of scrambled images ``(count, channels, side, side)`` in order, from the images alone."""
    side = images.shape[-1]

    def shown(done: int, total: int, value: float) -> None:
        run.progress("arranging", done, total, variation=value)

    if method == "sampled":
        way = vars(settings.sampled_lines if rank == 2 else settings.sampled_pixels)
        return kaleidoscope.sampled(images, rank, seed=run.seed, shown=shown, **way), None
    if rank == 2:
        places, tables = Places((side,)), torch.stack([line_distances(images, axis) for axis in (0, 1)])
    else:
        places = Places((side, side))
        tables = pixel_distances(images[: settings.pixel_images])[None]
    found = None
    if method == "kaleidoscope":
        plan = settings.lines if rank == 2 else settings.pixels
        found = kaleidoscope.agreed(tables, places, plan, run.seed, shown)
        orders = found.order
    elif method == "sinkhorn":
        trial = settings.sinkhorn_lines if rank == 2 else settings.sinkhorn_pixels
        orders, _ = sinkhorn.learned(tables, places, trial, run.seed, shown)
    else:
        way_of = seriation.ring if rank == 2 else (lambda table: seriation.plane(table, places))
        orders = torch.stack([way_of(table) for table in tables])
    return opened(together(orders), images), found


def together(orders: Tensor) -> Tensor:
    """One order of all pixels, from one of them or from two of rows and columns."""
    return grid(*orders) if len(orders) == 2 else orders[0]


def opened(order: Tensor, images: Tensor) -> Tensor:
    """An arrangement on the torus, turned so that its seams come to the edges of the image."""
    side = images.shape[-1]
    arranged = images.flatten(2)[..., order].reshape(images.shape)
    starts = []
    for axis in (0, 1):
        table = line_distances(arranged, axis)
        lines = torch.arange(side)
        starts.append(cut(table[lines - 1, lines]))
    return order.reshape(side, side).roll((-starts[0], -starts[1]), (0, 1)).flatten()


def choices(method: str, rank: int, side: int) -> int:
    """How many numbers are learned to find the arrangement."""
    n, times = (side, 2) if rank == 2 else (side * side, 1)
    switches = len(kaleidoscope.strides(n)) * n // 2
    return times * {"kaleidoscope": switches, "sampled": switches, "sinkhorn": n * n, "seriation": 0}[method]


def starts(method: str, settings: Settings, rank: int, more: kaleidoscope.Found | None) -> list[int]:
    """How often it began anew, for each table of distances."""
    lines = rank == 2
    if more is not None:
        chains = (settings.lines if lines else settings.pixels).chains
        return [chains * restarts for restarts in more.restarts]
    if method == "sampled":
        return [(settings.sampled_lines if lines else settings.sampled_pixels).chains]
    if method == "sinkhorn":
        return [(settings.sinkhorn_lines if lines else settings.sinkhorn_pixels).chains]
    return [1]


def classify(
    settings: Settings,
    epochs: int,
    task: Task,
    scrambled: Scramble,
    method: str,
    order: Tensor | None,
    run: Run,
) -> Row:
    """Train on the scrambled images and test."""
    torch.manual_seed(run.seed)
    model = _model(settings, task, method, order).to(run.device)
    optimizer = torch.optim.Adam(model.parameters(), settings.rate, weight_decay=settings.decay)
    count = min(len(task.train), settings.counts[0])
    size = min(settings.batch, count)
    per_epoch = count // size
    steps = epochs * per_epoch
    draw = torch.Generator().manual_seed(run.seed)
    orders = torch.stack([torch.randperm(count, generator=draw)[: per_epoch * size] for _ in range(epochs)])
    batches = orders.reshape(steps, size)

    def loss(net: nn.Module, step: int) -> Tensor:
        which = run.share(batches[step])
        images = task.train.images[which]
        if settings.augment:
            draw = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
            images = jittered(images.permute(0, 2, 3, 1), 4, draw).permute(0, 3, 1, 2)
        x = _floats(scrambled(images), run.device)
        return F.cross_entropy(net(x), task.train.labels[which].to(run.device))

    def fifths(step: int) -> float:
        return 0.2 ** (step // (settings.drop * per_epoch))

    history = train(
        model, optimizer, loss, run, steps, title="classifying", every=settings.every, better="max",
        schedule=fifths if settings.drop else warmup_cosine(steps),
        validate=lambda net: _accuracy(net, task.validation, scrambled, run.device),
    )  # fmt: skip
    return {
        "validation": history.best,
        "test": _accuracy(model, task.test, scrambled, run.device),
        "images": [count, len(task.validation), len(task.test)],
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _model(settings: Settings, task: Task, method: str, order: Tensor | None) -> nn.Module:
    pixels = task.side**2
    if method == "fc":
        return models.layers(task.channels * pixels, CLASSES, settings.hidden)
    if method == "gru":
        return models.Rows(task.channels, task.side, CLASSES, settings.hidden)
    network = ResNet(task.channels, CLASSES, settings.widths, settings.blocks)
    if method == "dense":
        return models.Mixed(pixels, network)
    return network if order is None else models.Arranged(order, network)


def _accuracy(model: nn.Module, split: Split, scrambled: Scramble, device: torch.device) -> float:
    return accuracy(lambda images: model(_floats(scrambled(images), device)), split.images, split.labels)


def _floats(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device).float() / 255 - 0.5


def _example(task: Task, scrambled: Scramble, found: Tensor) -> Row:
    """One test image as it was, as it was given, and as it was arranged; grey, in rows of bytes."""
    image = task.test.images[:1].float().mean(1).round().long().flatten()
    views = {"original": image, "scrambled": image[scrambled.index], "arranged": image[found]}
    return {name: view.tolist() for name, view in views.items()}


def _one_step(settings: Settings) -> Settings:
    """Every search with a single step."""
    lines, pixels = (
        replace(p, chains=1, first=1, stages=1, steps=1, restarts=1)
        for p in (settings.lines, settings.pixels)
    )
    return replace(
        settings,
        lines=lines,
        pixels=pixels,
        sampled_lines=replace(settings.sampled_lines, steps=1, chains=1),
        sampled_pixels=replace(settings.sampled_pixels, steps=1, chains=1),
        sinkhorn_lines=replace(settings.sinkhorn_lines, chains=1, steps=1),
        sinkhorn_pixels=replace(settings.sinkhorn_pixels, chains=1, steps=1),
    )
