"""What recipes with images share: moved and mirrored images, the share that is right, the residual network."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from kmatrix.cli.recipe import recipes


def part(name: str) -> Any:
    """A module of what recipes share."""
    return importlib.import_module(f"{recipes().__name__}.common.{name}")


images_of, resnet = part("images"), part("resnet")


def window(wide: torch.Tensor, top: int, left: int, flip: bool) -> torch.Tensor:
    wide = wide.flip(1) if flip else wide
    return wide[top : top + 5, left : left + 5]


def test_images_are_moved_and_flipped() -> None:
    """Every result is one of the shifts of the image or its mirror, black where it came from outside."""
    images = torch.randint(1, 256, (40, 5, 5, 3)).byte()
    found = images_of.jittered(images, 1, torch.Generator().manual_seed(1))
    kinds = set()
    for image, moved in zip(images, found, strict=True):
        wide = torch.nn.functional.pad(image, (0, 0, 1, 1, 1, 1))
        fits = [
            (flip, top, left)
            for top in range(3)
            for left in range(3)
            for flip in (False, True)
            if torch.equal(window(wide, top, left, flip), moved)
        ]
        assert len(fits) == 1
        kinds.add(fits[0])
    assert len(kinds) > 10


def test_no_shift_leaves_images_and_their_mirrors() -> None:
    images = torch.randint(256, (20, 4, 6, 1)).byte()
    found = images_of.jittered(images, 0, torch.Generator().manual_seed(1))
    mirrored = [torch.equal(moved, image.flip(1)) for image, moved in zip(images, found, strict=True)]
    kept = [torch.equal(moved, image) for image, moved in zip(images, found, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 0 < sum(mirrored) < 20


def test_accuracy_counts_the_highest_scores_over_all_parts() -> None:
    labels = torch.arange(10).repeat(250)
    scores = torch.nn.functional.one_hot(labels, 10).float()
    scores[:500] = -scores[:500]
    seen = []

    def as_given(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return part

    assert images_of.accuracy(as_given, scores, labels) == 80.0
    assert sum(seen) == 2_500 and max(seen) <= images_of.AT_ONCE


def test_resnet18_has_its_parameters() -> None:
    """11,173,962 is the usual count of the variant for CIFAR-10."""
    with torch.device("meta"):
        model = resnet.ResNet(3, 10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962


@pytest.mark.parametrize("extra", [None, lambda n: torch.nn.Linear(n, n)])
def test_a_layer_before_the_classifier_is_followed_by_relu(extra: Any) -> None:
    net = resnet.ResNet(1, 3, (4, 8), 1, extra).eval()
    x = torch.randn(2, 1, 8, 8)
    features = net.blocks(net.stem(x)).mean((2, 3))
    expected = features if extra is None else net.extra(features).relu()
    torch.testing.assert_close(net(x), net.last(expected))
