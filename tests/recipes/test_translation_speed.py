"""The recipe of translation: the fast decoder is the model, and who is timed against whom."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmatrix as km
from kmatrix.cli.recipe import recipes

package = recipes()


def part(name: str) -> Any:
    """A module of the recipes."""
    return importlib.import_module(f"{package.__name__}.{name}")


model, families, settled = (part(f"translation.{name}") for name in ("model", "families", "settled"))
decoding, speed = part("translation.decoding"), part("translation.speed")

SMALL = model.Size(32, 64, 4, (3, 5), (3, 7), 50, 40)
NAMES = ["dense", *families.FAMILIES]


def sentences(count: int, words: int, most: int = 50) -> Tensor:
    return torch.randint(3, most, (count, words))


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("family", NAMES)
def test_the_settled_decoder_is_the_model(made: Any, family: str, fold: bool, everywhere: bool) -> None:
    net, source, target = made(family, everywhere), sentences(1, 6), sentences(1, 9, 40)
    with torch.inference_mode():
        expected = net(source, target)[0]
        fast = settled.Settled(net, limit=9, fold=fold)
        for _ in range(2):  # what the last sentence left behind does not matter
            fast.begin(source[0])
            got = torch.cat([fast.output(fast.hidden(int(target[0, t]), t)) for t in range(9)])
            torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)


def test_the_settled_decoder_says_what_greedy_search_says(made: Any) -> None:
    net, source = made("b"), sentences(1, 6)
    expected = decoding.greedy(net, source)[0]
    assert settled.Settled(net, limit=decoding.limits(source) - 1).translate(source[0]) == expected


def test_the_two_forms_of_dense_agree() -> None:
    layer, x, out = nn.Linear(12, 7), torch.randn(1, 12), torch.empty(1, 7)
    with torch.inference_mode():
        for bias in (layer.bias, None):
            for form in settled.dense_forms(layer.weight, bias):
                expected = nn.functional.linear(x, layer.weight, bias)
                torch.testing.assert_close(form(x), expected)
                form(x, out)
                torch.testing.assert_close(out, expected)


def test_a_profile_adds_up_and_leaves_the_decoder_as_it_was(made: Any) -> None:
    fast = settled.Settled(made("b"), limit=9)
    chosen = speed.drawn(2, 4, 8, 40, torch.Generator().manual_seed(0))
    said = [fast.translate(*sentence) for sentence in chosen]
    shares = speed.profile(fast, chosen)
    assert {"encoder, keys and values", "the four linear layers", speed.REST} <= set(shares)
    assert not any("timed" in repr(value) for value in vars(fast.layers[0]).values())
    assert [fast.translate(*sentence) for sentence in chosen] == said


def test_contenders_share_what_is_not_replaced() -> None:
    chosen = speed.drawn(2, 3, 5, 40, torch.Generator().manual_seed(0))
    contenders = [speed.Contender(), speed.Contender("b"), speed.Contender("b", everywhere=True)]
    decoders, counts = speed._decoders(contenders, SMALL, 5)
    dense, b, everywhere = (decoder.model for decoder in decoders.values())
    assert dense.encoder[0].ffn.fc1.weight is b.encoder[0].ffn.fc1.weight
    assert dense.decoder[0].attention.q.weight is b.decoder[0].attention.q.weight
    assert isinstance(everywhere.output, km.nn.Linear)
    found = speed.compete(contenders, SMALL, chosen, 2)
    assert found["contenders"]["dense"]["ratio"] == [1.0, 1.0, 1.0]
    assert all(c["error"] < 1e-4 for c in found["contenders"].values())
    assert counts["b"]["parameters"] == found["contenders"]["b"]["parameters"]


def test_who_says_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if only the last word of the longest sentence differs."""
    chosen = speed.drawn(2, 3, 6, 40, torch.Generator().manual_seed(0))
    longest = max(count for _, count in chosen)
    hidden = settled.Settled.hidden

    def wrong(self: Any, word: int, position: int) -> Tensor:
        return hidden(self, word, position) * (1.01 if position == longest - 1 else 1.0)  # type: ignore[no-any-return]

    monkeypatch.setattr(settled.Settled, "hidden", wrong)
    with pytest.raises(part("common.errors").MismatchError, match=f"contender=dense: over {longest} words"):
        speed.compete([speed.Contender()], SMALL, chosen, 1)


def test_scores_that_are_no_numbers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = settled.Settled.hidden
    monkeypatch.setattr(settled.Settled, "hidden", lambda self, *args: hidden(self, *args) * torch.nan)
    chosen = speed.drawn(1, 3, 6, 40, torch.Generator().manual_seed(0))
    with pytest.raises(part("common.errors").MismatchError, match="nan"):
        speed.compete([speed.Contender()], SMALL, chosen, 1)


def test_sentences_are_spread_over_the_lengths() -> None:
    encoded = [(torch.ones(3), torch.ones(k)) for k in (9, 2, 4, 7, 5, 30, 6)]
    assert [count for _, count in speed.lengths(encoded, 3, 4, 9)] == [4, 6, 9]
