"""The recipe of translation: the model, the families, decoding, words, training, and the command."""

from __future__ import annotations

import dataclasses
import gzip
import importlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import Tensor, nn

import kmatrix as km
from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
package = recipes()


def part(name: str) -> Any:
    """A module of the recipes."""
    return importlib.import_module(f"{package.__name__}.{name}")


model, families = part("translation.model"), part("translation.families")
decoding, text, quality = (part(f"translation.{name}") for name in ("decoding", "text", "quality"))
settings, running = part("translation.settings"), part("translation.run")
common, pairs_of = part("common"), part("common.data.translation")

SMALL = model.Size(32, 64, 4, (3, 5), (3, 7), 50, 40)
NAMES = ["dense", *families.FAMILIES]


def sentences(count: int, words: int, most: int = 50) -> Tensor:
    return torch.randint(3, most, (count, words))


def made_run(folder: Path, **changes: Any) -> Any:
    return common.Run(1, torch.device("cpu"), folder, data_folder=folder, **changes)


# The model


@pytest.mark.parametrize(("causal", "kernel"), [(True, 4), (False, 5), (False, 11), (True, 1)])
def test_dynamic_convolution_is_its_definition(causal: bool, kernel: int) -> None:
    conv = model.DynamicConv(8, 2, kernel, causal).double()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    kernels = (x @ conv.weight.weight.T).view(2, 6, 2, kernel).softmax(-1)
    before = kernel - 1 if causal else kernel // 2
    expected = torch.zeros_like(x)
    for t, k, channel in itertools.product(range(6), range(kernel), range(8)):
        if 0 <= t + k - before < 6:
            expected[:, t, channel] += kernels[:, t, channel // 4, k] * x[:, t + k - before, channel]
    torch.testing.assert_close(conv(x), expected)


def test_the_decoder_does_not_see_what_follows(made: Any) -> None:
    net, source, target = made(), sentences(1, 6), sentences(1, 7, 40)
    other = target.clone()
    other[0, 4:] = 3
    same = net(source, target)[0, :4] - net(source, other)[0, :4]
    assert same.abs().max() < 1e-6


def test_padding_changes_nothing(made: Any) -> None:
    net, source, target = made(), sentences(1, 6), sentences(1, 5, 40)
    padded = torch.cat([source, torch.full((1, 4), model.PAD)], 1)
    both = torch.cat([padded, sentences(1, 10)])
    torch.testing.assert_close(net(both, target.expand(2, -1))[:1], net(source, target), atol=1e-5, rtol=1e-5)


def test_steps_give_what_the_whole_sentence_gives(made: Any) -> None:
    net, source, target = made(), sentences(3, 6), sentences(3, 9, 40)
    source[0, 4:] = model.PAD
    with torch.no_grad():
        state = net.start(source)
        steps = torch.stack([net.step(target[:, t], state) for t in range(9)], 1)
        torch.testing.assert_close(steps, net(source, target), atol=1e-5, rtol=1e-5)


def test_parameters_are_as_printed() -> None:
    """arXiv 2012.14966, Table 4: 39M dense, 30M with class B."""
    with torch.device("meta"):
        dense = model.Translator(model.Size())
    assert round(families.count(dense) / 1e6) == 39
    weights = sum(
        layer.get_submodule(path).weight.numel() for layer in dense.decoder for path in families.REPLACED
    )
    assert weights == 9_437_184
    budget = sum(
        families.butterfly(m, n).num_params(m, n)
        for m, n in ((512, 512), (512, 512), (1024, 512), (512, 1024))
    )
    # The paper's 57,344 a layer: 2,048 fewer where two factors are multiplied out.
    assert budget == 57_344 - 2_048
    assert round((families.count(dense) - weights + 6 * budget) / 1e6) == 30


# The families


@pytest.mark.parametrize(("outputs", "inputs"), [(512, 512), (1024, 512), (512, 1024)])
def test_families_have_as_many_numbers_as_a_butterfly_as_far_as_they_can(outputs: int, inputs: int) -> None:
    budget = families.butterfly(outputs, inputs).num_params(outputs, inputs)
    twice = km.Kaleidoscope().num_params(outputs, inputs)
    for name, family in families.FAMILIES.items():
        layer = family.layer(inputs, outputs)
        held = families.count(layer) - outputs
        wanted = twice if name in ("k", "low-rank-k") else budget
        # Blocks of circulants halve their numbers from one size to the next.
        assert (0.85 if name == "circulant" else 0.975) * wanted <= held <= 1.02 * wanted, name


def test_replacing_counts_and_leaves_the_rest() -> None:
    net = model.Translator(SMALL)
    rest = families.count(net)
    found = families.replace(net, "b")
    assert (
        found["parameters"]
        == families.count(net)
        == rest - found["dense_layer_parameters"] + found["layer_parameters"]
    )
    assert all(isinstance(layer.attention.q, nn.Linear) for layer in net.decoder)
    assert all(isinstance(layer.ffn.fc1, nn.Linear) for layer in net.encoder)
    assert all(isinstance(layer.ffn.fc1, km.nn.Linear) for layer in net.decoder)
    numbers = sum(
        layer.get_submodule(p).matrix.num_params for layer in net.decoder for p in families.REPLACED
    )
    assert sum(p.numel() for p in families.structured_parameters(net)) == numbers


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_learns(made: Any, family: str) -> None:
    net = made(family).train()
    source, target = sentences(8, 5), sentences(8, 5, 40)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = quality.smoothed(net(source, target), target, 0.0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for p in families.structured_parameters(net))


@pytest.mark.parametrize("family", ["acdc", "fastfood", "toeplitz-like"])
def test_many_vectors_give_what_few_give(family: str) -> None:
    layer = families.FAMILIES[family].layer(16, 24).double()
    x = torch.randn(3, 20, 16, dtype=torch.float64)
    assert isinstance(layer, families.Expanded)
    with torch.no_grad():
        layer.bias.normal_()
    torch.testing.assert_close(layer(x), torch.stack([layer(row) for row in x.flatten(0, 1)]).view(3, 20, 24))


# Decoding


class Chain(nn.Module):
    """A language of three words, EOS and PAD whose next word depends on the last one alone."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def start(self, source: Tensor) -> Any:
        return model.State(None, [], [])

    def step(self, words: Tensor, state: Any) -> Tensor:
        return self.scores[words].clone()


def test_a_beam_as_wide_as_everything_finds_the_best() -> None:
    """Against all sequences of up to 3 words, each ended by EOS."""
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(3)).double()
    scores[:, model.PAD] = -torch.inf
    logs = scores.log_softmax(-1)
    for penalty in (0.0, 1.0):
        best: tuple[float, list[int]] = (-float("inf"), [])
        for length in range(4):
            for words in itertools.product((2, 3, 4), repeat=length):
                path = [model.EOS, *words, model.EOS]
                total = sum(float(logs[a, b]) for a, b in itertools.pairwise(path))
                best = max(best, (total / (length + 1) ** penalty, list(words)))
        source = torch.zeros(1, 1, dtype=torch.long)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoding, "limits", lambda source: 4)
            assert decoding.beam_search(Chain(scores), source, 81, penalty)[0] == best[1]


def test_a_beam_of_one_is_greedy(made: Any) -> None:
    net, source = made(), sentences(5, 6)
    source[2, 3:] = model.PAD
    assert decoding.beam_search(net, source, 1) == decoding.greedy(net, source)


def test_a_sentence_does_not_depend_on_its_batch(made: Any) -> None:
    net, source = made(), sentences(4, 6)
    together = decoding.beam_search(net, source, 3)
    assert together == [decoding.beam_search(net, source[k : k + 1], 3)[0] for k in range(4)]


# Words


PAIRS = [
    ("der Hund läuft", "the dog runs"),
    ("die Katze schläft", "the cat sleeps"),
    ("der Hund", "the dog"),
] * 3


def test_sentences_become_words_and_come_back() -> None:
    language = text.Language(PAIRS, 300)
    for source, target in language.encode([*PAIRS, ("die Kuh", "the cow")]):
        assert source[-1] == target[-1] == model.EOS
        assert int(source.max()) < len(language.source)
        assert int(target.max()) < len(language.target)
    assert language.decode(language.encode(PAIRS)[1][1][:-1].tolist()) == "the cat sleeps"
    # Only letters that German has here are unknown in English.
    unknown = language.encode([("q", "läuft")])[0]
    assert model.UNK in unknown[1].tolist()


def test_batches_have_every_sentence_once_and_hold_the_limit() -> None:
    lengths = [3, 9, 4, 4, 12, 2, 7, 30]
    encoded = [(torch.ones(k, dtype=torch.long), torch.ones(5, dtype=torch.long)) for k in lengths]
    made = text.batches(encoded, 20, torch.Generator().manual_seed(0))
    assert sorted(k for indices in made for k in indices.tolist()) == list(range(8))
    for indices in made:
        assert len(indices) == 1 or max(max(lengths[k], 5) for k in indices.tolist()) * len(indices) <= 20


def test_targets_follow_the_words_before_them() -> None:
    made = text.batch(
        [(torch.tensor([5, 1]), torch.tensor([7, 8, 1])), (torch.tensor([6, 4, 1]), torch.tensor([9, 1]))]
    )
    assert made.source.tolist() == [[5, 1, 0], [6, 4, 1]]
    assert made.previous.tolist() == [[1, 7, 8], [1, 9, 0]]
    assert made.target.tolist() == [[7, 8, 1], [9, 1, 0]]


# Data


def test_both_layouts_are_read(tmp_path: Path) -> None:
    for name, extra in (("train", "three\tdrei\n"), ("valid", ""), ("test", "")):
        raw = f"one\teins\ntwo \tzwei\n{extra}"
        (tmp_path / f"tiny_en-de.{name}.tsv.gz").write_bytes(gzip.compress(raw.encode()))
        (tmp_path / f"{name}.de").write_text("eins\nzwei\n\n")
        (tmp_path / f"{name}.en").write_text("one\ntwo\n\n")
    there = pairs_of.translation(tmp_path, "en", "de", "tiny")
    back = pairs_of.translation(tmp_path, "de", "en", "tiny")
    assert there.train == [("one", "eins"), ("two", "zwei"), ("three", "drei")]
    assert back.test == [("eins", "one"), ("zwei", "two")]
    assert pairs_of.translation(tmp_path, "de", "en").train == [("eins", "one"), ("zwei", "two")]


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("tiny_en-de.train.tsv", b"one\teins\tun\n", "line 1 has 3 columns"),
        ("tiny_en-de.train.tsv", b"\xff\xfe\t", "unreadable"),
        ("tiny_en-de.train.tsv.gz", b"no gzip", "unreadable"),
        ("other.tsv", b"", "no tiny pairs"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, raw: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(part("common.errors").DataError, match=words):
        pairs_of.translation(tmp_path, "en", "de", "tiny")


def test_files_of_different_length_are_refused(tmp_path: Path) -> None:
    for part_ in ("train", "valid", "test"):
        (tmp_path / f"{part_}.de").write_text("eins\nzwei\n")
        (tmp_path / f"{part_}.en").write_text("one\n")
    with pytest.raises(part("common.errors").DataError, match="1 lines"):
        pairs_of.translation(tmp_path, "de", "en")


# Training


def test_the_rate_rises_in_a_line_and_falls_with_the_root() -> None:
    chosen = settings.settings("paper")
    trainer = quality.Trainer(chosen, [], made_run(Path()))
    rates = [chosen.lr * trainer.schedule(step) for step in (0, 2_000, 4_000, 16_000)]
    assert rates == pytest.approx([1e-7, 2.5e-4, 5e-4, 2.5e-4], rel=2e-3)


def test_smoothed_labels_are_a_mixture() -> None:
    scores, target = torch.randn(1, 3, 5), torch.tensor([[4, 2, model.PAD]])
    logs = scores.log_softmax(-1)[0]
    mixed = [0.9 * logs[t, target[0, t]] + 0.1 * logs[t].mean() for t in range(2)]
    torch.testing.assert_close(quality.smoothed(scores, target, 0.1), -(mixed[0] + mixed[1]) / 2)


def test_the_last_states_are_averaged(tmp_path: Path) -> None:
    chosen = dataclasses.replace(settings.settings("smoke"), steps=3, average=2, average_every=1, every=1)
    run = made_run(tmp_path / "run")
    data = quality.synthetic(chosen, 20, 6, torch.Generator().manual_seed(0))
    net = model.Translator(chosen.size)
    quality.Trainer(chosen, data, run).train(net)
    files = sorted(run.folder.glob("state-*.safetensors"))
    assert [file.stem for file in files] == ["state-2", "state-3"]
    states = [part("translation.quality").load_file(file) for file in files]
    weight = net.state_dict()["output.weight"]
    torch.testing.assert_close(weight, (states[0]["output.weight"] + states[1]["output.weight"]) / 2)


def test_batches_depend_on_the_step_alone(tmp_path: Path) -> None:
    chosen = settings.settings("smoke")
    data = quality.synthetic(chosen, 60, 6, torch.Generator().manual_seed(0))
    first, second = (quality.Trainer(chosen, data, made_run(tmp_path)) for _ in range(2))
    wanted = [first._batch(step).tolist() for step in range(9)]
    assert second._batch(8).tolist() == wanted[8]
    assert second._batch(2).tolist() == wanted[2]


def test_a_trial_is_shorter_and_sees_no_test_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = dataclasses.replace(settings.settings("smoke"), steps=4, search_steps=3)
    monkeypatch.setattr(quality, "scored", lambda *args: {"bleu": 1.0})
    which = chosen.corpora[0]
    trial = quality.quality(chosen, which, "b", False, made_run(tmp_path / "trial", trial=True))
    full = quality.quality(chosen, which, "b", False, made_run(tmp_path / "full"))
    assert (trial["steps"], len(trial["last_losses"]), "bleu" in trial) == (3, 3, False)
    assert (full["steps"], len(full["last_losses"]), "bleu" in full) == (4, 4, True)
    assert trial["validation"] != full["validation"]


def test_what_is_searched_is_a_rate_of_the_grid() -> None:
    class Trial:
        def suggest_categorical(self, name: str, values: tuple[float, ...]) -> float:
            assert values == (0.25, 0.5, 1.0, 2.0, 4.0)  # arXiv 2012.14966: the rates of structured matrices
            return 4.0

    chosen = settings.settings("small")
    for case in settings.cases(chosen):
        found = settings.search(Trial(), chosen, case)
        rates = (found.dense_lr, found.structure_lr)
        if case.options["part"] == "speed":
            assert found == chosen
        else:
            assert rates == ((4.0, 1.0) if case.options["family"] == "dense" else (1.0, 4.0))


def test_rates_reach_the_parameters_they_are_for(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[float, int]] = []

    def train(model: Any, optimizer: Any, *args: Any, **options: Any) -> Any:
        seen.append({g["lr"]: sum(p.numel() for p in g["params"]) for g in optimizer.param_groups})
        return part("common.training").History()

    monkeypatch.setattr(quality, "train", train)
    chosen = dataclasses.replace(settings.settings("smoke"), lr=1.0, dense_lr=0.5, structure_lr=4.0)
    for family in ("dense", "b"):
        net = made(family, size=chosen.size)
        quality.Trainer(chosen, [], made_run(tmp_path)).train(net)
        held = sum(p.numel() for p in families.structured_parameters(net))
        assert seen.pop() == {0.5: families.count(net) - held, **({4.0: held} if held else {})}


# The command


def test_smoke_runs_and_reports(kmatrix: Command, tmp_path: Path) -> None:
    cases = ["--cases", "reversed/b", "--cases", "speed/decoder"]
    result = kmatrix(
        "recipe", "run", "translation", "--preset", "smoke", "--seeds", "1", "--out", "out", *cases
    )
    assert result.exit_code == 0, result.output
    rows = {row["case"]: row for row in json.loads(Path("out/results.json").read_text())["rows"]}
    assert 0 <= rows["reversed/b"]["bleu"] <= 100
    assert set(rows["speed/decoder"]["contenders"]) == set(NAMES)
    tables = Path("out/tables.md").read_text()
    assert "Random sentences" in tables
    assert (
        "**Speed at width 16: the decoder's linear layers**" in tables and "paper's dimensions" not in tables
    )
    assert "4.90" in tables
    assert Path("out/profile.svg").is_file()


def test_paper_runs_one_step_without_data(tmp_path: Path) -> None:
    """At the original size; what the command does for each case."""
    chosen = settings.settings("paper")
    assert chosen.size == model.Size()
    case = next(c for c in settings.cases(chosen) if c.name == "iwslt14/b")
    small = dataclasses.replace(chosen, size=SMALL)
    row = running.run(small, case, made_run(tmp_path, dry=True))
    assert len(row["last_losses"]) == 1
    assert "bleu" not in row


def test_plain_text_of_ones_own_is_trained_on(tmp_path: Path) -> None:
    others = [(f"die Kuh {k}", f"the cow {k}") for k in range(6)]
    for name, pairs in (("train", PAIRS), ("valid", others), ("test", others)):
        (tmp_path / f"{name}.de").write_text("\n".join(source for source, _ in pairs) + "\n")
        (tmp_path / f"{name}.en").write_text("\n".join(target for _, target in pairs) + "\n")
    chosen = dataclasses.replace(
        settings.settings("smoke"),
        corpora=(settings.Corpus("iwslt14", "de", "en", pieces=300),),
        synthetic=False,
    )
    case = settings.cases(chosen)[0]
    run = dataclasses.replace(made_run(tmp_path), folder=tmp_path / "run")
    row = running.run(chosen, case, run)
    assert row["signature"].startswith("nrefs:1")
    assert len(row["examples"]) >= 5


def test_what_is_held_out_is_not_learned_from() -> None:
    pairs = part("common.data.translation").Pairs(
        [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")], [("a", "A2")], [("e", "C")]
    )
    unseen = part("translation.text").unseen
    assert unseen(pairs).train == [("b", "B"), ("d", "D")]
    with pytest.raises(km.ArgumentError, match="every training sentence"):
        unseen(dataclasses.replace(pairs, train=pairs.train[:1]))
