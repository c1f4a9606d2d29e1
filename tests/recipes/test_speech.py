"""The recipe of the speech front end: features, matrices, the recogniser, decoding, data, the command."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import scipy.signal
import torch
from click.testing import Result
from torch import nn

import kmatrix as km
from kmatrix.cli.recipe import recipes

Command = Callable[..., Result]
package = recipes()


def part(name: str) -> Any:
    """A module of the recipes."""
    return importlib.import_module(f"{package.__name__}.{name}")


features, frontends, models, decoding = (
    part(f"speech.{n}") for n in ("features", "frontends", "model", "decoding")
)
settings, corpus, running, tables, clock = (
    part(f"speech.{n}") for n in ("settings", "corpus", "run", "tables", "clock")
)
data, common = part("common.data.speech"), part("common")
SMOKE = settings.settings("smoke")
PAPER = settings.settings("paper")
GEOMETRY = SMOKE.geometry


# Features


@pytest.mark.parametrize(("rate", "n"), [(8_000, 256), (16_000, 512)])
def test_short_time_fourier_transform_is_that_of_scipy(rate: int, n: int) -> None:
    geometry = settings.Geometry(rate)
    assert (geometry.width, geometry.hop, geometry.n) == (rate // 40, rate // 100, n)
    audio = torch.randn(rate // 2, dtype=torch.float64)
    window = features.hamming(geometry.width).double()
    spectra = features.stft(audio, window, geometry.hop, n)
    overlap = geometry.width - geometry.hop
    _, _, expected = scipy.signal.stft(
        audio.numpy(), window=window.numpy(), nperseg=geometry.width, noverlap=overlap, nfft=n, boundary=None,
        padded=False,
    )  # fmt: skip
    expected = expected.T * window.sum().item()  # scipy divides by the sum of the window
    np.testing.assert_allclose(spectra.numpy(), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_hamming_is_that_of_scipy() -> None:
    expected = scipy.signal.windows.hamming(200, sym=True)
    np.testing.assert_allclose(features.hamming(200).numpy(), expected, rtol=0, atol=1e-6)


def test_short_audio_is_one_frame() -> None:
    assert features.frames(torch.ones(5), 8, 4).tolist() == [[1.0] * 5 + [0.0] * 3]


def test_mels_are_those_of_htk() -> None:
    assert features.mel(700.0) == pytest.approx(2595 * math.log10(2), rel=1e-15)
    assert features.mel(0.0) == 0
    assert float(features.mel(1000.0)) == pytest.approx(999.9855371396244, rel=1e-12)


def test_mel_filters_are_triangles_that_sum_to_one() -> None:
    bands, n, rate = 23, 512, 16_000
    filters = features.mel_filters(bands, n, rate).double().numpy()
    assert filters.shape == (257, bands) and filters.min() == 0 and filters.max() <= 1
    corners = np.linspace(features.mel(20.0), features.mel(rate / 2), bands + 2)
    bins = features.mel(np.arange(257) * rate / n)
    between = (bins >= corners[1]) & (bins <= corners[-2])
    np.testing.assert_allclose(filters[between].sum(1), 1, rtol=0, atol=1e-6)
    for k in range(bands):
        outside = (bins <= corners[k]) | (bins >= corners[k + 2])
        assert (filters[outside, k] == 0).all() and filters[:, k].max() > 0
        # A straight line in mels on either side of the centre.
        line = np.interp(bins, corners[k : k + 3], [0, 1, 0])
        np.testing.assert_allclose(filters[:, k], line, rtol=0, atol=1e-6)


def test_mfsc_is_its_definition() -> None:
    x = 1000 * torch.randn(3, GEOMETRY.width)
    window, filters = np.hamming(GEOMETRY.width), features.mel_filters(23, GEOMETRY.n, GEOMETRY.rate).numpy()
    expected = []
    for frame in x.double().numpy():
        sharp = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        spectrum = np.fft.rfft(sharp * window, GEOMETRY.n)
        expected.append(np.log(np.abs(spectrum) ** 2 @ filters + 1))
    np.testing.assert_allclose(frontends.Mfsc(GEOMETRY)(x).numpy(), expected, rtol=1e-5)


# Matrices


@cache
def start(name: str, rate: int = 8_000) -> Any:
    return frontends.front_end(name, settings.Geometry(rate))


@pytest.mark.parametrize(("rate", "count"), [(8_000, 32_768), (16_000, 73_728)])
def test_k_begins_as_the_fourier_transform(rate: int, count: int) -> None:
    """73,728 parameters, of which the paper says about 75K."""
    front = start("kaleidoscope", rate)
    assert front.transform.structure == km.Kaleidoscope(width=2)
    assert sum(p.numel() for p in front.parameters()) == count
    x = 1000 * torch.randn(4, settings.Geometry(rate).width)
    expected = np.log(np.abs(np.fft.fft(x.double().numpy(), front.n)) ** 2 + 1)
    np.testing.assert_allclose(front(x).detach().numpy(), expected, rtol=1e-3)
    np.testing.assert_allclose(start("fft", rate)(x).numpy(), expected, rtol=1e-3)


def test_structures_begin_nearest_to_the_fourier_transform() -> None:
    n = GEOMETRY.n
    fourier = np.fft.fft(np.eye(n))
    dense, low, circulant = (start(name, 2_000).transform for name in ("dense", "low-rank", "circulant"))
    np.testing.assert_allclose(dense.to_dense().detach().numpy(), fourier, rtol=0, atol=1e-5)
    # All singular values are equal, so rank r leaves a share 1 - r/n of the energy, and no member leaves less.
    rank = frontends.rank_like_kaleidoscope(n)
    left = np.linalg.norm(fourier - low.to_dense().detach().numpy()) / np.linalg.norm(fourier)
    assert left == pytest.approx(math.sqrt(1 - rank / n), rel=1e-5)
    means = [np.mean([fourier[(i + k) % n, i] for i in range(n)]) for k in range(n)]
    np.testing.assert_allclose(circulant.to_dense().detach().numpy()[:, 0], means, rtol=0, atol=1e-6)


def test_low_rank_has_as_many_parameters_as_k() -> None:
    for n in (256, 512):
        rank = frontends.rank_like_kaleidoscope(n)
        k = km.Kaleidoscope(width=2).num_params(n, n)
        assert km.LowRank(rank).num_params(n, n) <= k < km.LowRank(rank + 1).num_params(n, n)


def test_hybrid_begins_as_mfsc() -> None:
    x = 1000 * torch.randn(4, 200)
    torch.testing.assert_close(start("hybrid")(x), start("mfsc")(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", settings.FRONT_ENDS)
def test_what_learns_gets_gradients(name: str) -> None:
    front = frontends.front_end(name, GEOMETRY)
    front(
        1000 * torch.randn(6, GEOMETRY.width)
    ).square().sum().backward() if name in settings.LEARNED else None
    grads = [p.grad for p in front.parameters()]
    assert bool(grads) == (name in settings.LEARNED)
    assert all(g is not None and g.isfinite().all() and g.abs().max() > 0 for g in grads)


# The recogniser


@pytest.mark.parametrize("per_utterance", [False, True])
def test_an_utterance_is_read_alike_alone_and_beside_a_longer_one(per_utterance: bool) -> None:
    made = dataclasses.replace(SMOKE, layers=2, per_utterance=per_utterance)
    model = models.Recogniser("fft", made, 10).eval()
    frames = 1000 * torch.randn(20, GEOMETRY.width)
    with torch.no_grad():
        both, lengths = model(frames, torch.tensor([7, 13]))
        assert lengths.tolist() == [3, 5]
        for k, own in enumerate(frames.split([7, 13])):
            alone, _ = model(own, torch.tensor([len(own)]))
            torch.testing.assert_close(both[: lengths[k], k], alone[:, 0])


def test_both_directions_have_the_same_weights() -> None:
    layer = models.BothWays(5, 4).eval()
    x, lengths = torch.randn(6, 1, 5), torch.tensor([6])
    y, mirrored = layer(x, lengths), layer(x.flip(0), lengths)
    forwards, backwards = y.chunk(2, -1)
    torch.testing.assert_close(mirrored, torch.cat([backwards, forwards], -1).flip(0))
    reference = nn.LSTM(5, 4)
    reference.load_state_dict(layer.lstm.state_dict())
    torch.testing.assert_close(forwards, reference(layer.norm(x[:, 0])[:, None])[0])
    gate = layer.lstm.weight_hh_l0[4:8]
    torch.testing.assert_close(gate @ gate.T, torch.eye(4))


def test_sizes_of_the_paper() -> None:
    """The wider input and the K-matrix cost 1.1M parameters more than MFSC, as Table 5 has it."""
    with torch.device("meta"):
        lstm = [models.BothWays(w, 550) for w in (512, 23, 1100, 1100, 1100)]
    count = [sum(p.numel() for p in layer.parameters()) for layer in lstm]
    assert (count[0] - count[1] + 73_728) / 1e6 == pytest.approx(15.4 - 14.3, abs=0.06)
    # With 1,100 x 1,936 for the states of the paper's HMM, which CTC does not need, they are the 14.3M of MFSC.
    assert (sum(count[1:]) + 1100 * 1936) / 1e6 == pytest.approx(14.3, abs=0.1)


# Decoding


def test_greedy_merges_repetitions_and_drops_blanks() -> None:
    best = torch.tensor([[0, 2], [3, 2], [3, 0], [0, 2], [3, 1]])
    scores = nn.functional.one_hot(best, 4).float()
    assert decoding.greedy(scores, torch.tensor([5, 3])) == [[2, 2], [1]]


def test_edit_distance() -> None:
    def recursive(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return recursive(a[1:], b[1:])
        return 1 + min(recursive(a[1:], b), recursive(a, b[1:]), recursive(a[1:], b[1:]))

    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = (tuple(rng.integers(3, size=rng.integers(6)).tolist()) for _ in range(2))
        assert decoding.edits(a, b) == recursive(a, b)
    assert decoding.edits([ord(c) for c in "kitten"], [ord(c) for c in "sitting"]) == 3
    assert decoding.error_rate([[1, 2], [3]], [[1, 2], [4, 5]]) == 50


# Data


def test_strings_are_of_one_speaker_and_repeatable() -> None:
    audio = [np.full(50, 100.0 * (k + 1), dtype=np.float32) for k in range(8)]
    clips = data.Clips(audio, list(range(8)), list("aabbccdd"), 1000)
    made = [data.strings(clips.of("abd"), 40, np.random.default_rng(3), tempo=t) for t in (0.0, 0.0, 0.2)]
    for first, second in zip(made[0], made[1], strict=True):
        assert first.labels == second.labels and (first.audio == second.audio).all()
    assert {len(u.labels) for u in made[0]} == {3, 4, 5, 6, 7}
    speakers = [{label // 2 for label in u.labels} for u in made[0]]
    assert all(len(s) == 1 for s in speakers) and set.union(*speakers) == {0, 1, 3}
    for string in made[0]:
        words = 50 * len(string.labels)
        assert words <= len(string.audio) <= words + 300 * (len(string.labels) + 1)
    assert {len(u.audio) for u in made[2]} != {len(u.audio) for u in made[0]}
    noise = [np.std(u.audio[:10]) for u in made[0]]
    assert all(n > 0 for n in noise)


def write_digits(folder: Path, **changes: Any) -> None:
    arrays = {
        "audio": np.arange(60, dtype=np.int16), "offsets": np.array([0, 10, 30, 60]),
        "digit": np.array([7, 0, 9], dtype=np.uint8), "speaker": np.array([1, 0, 1], dtype=np.uint8),
        "speakers": np.array(["ann", "bob"]),
    }  # fmt: skip
    np.savez(folder / "fsdd.npz", **arrays | changes)


def test_spoken_digits_from_one_file(tmp_path: Path) -> None:
    write_digits(tmp_path)
    clips = data.spoken_digits(tmp_path)
    assert clips.words == [7, 0, 9] and clips.speakers == ["bob", "ann", "bob"]
    assert [len(a) for a in clips.audio] == [10, 20, 30] and clips.audio[1][0] == 10
    assert clips.of(["ann"]).words == [0]
    for wrong in ({"offsets": np.array([0, 10, 30, 61])}, {"digit": np.array([7, 0, 10], dtype=np.uint8)}):
        write_digits(tmp_path, **wrong)
        with pytest.raises(
            common.errors.DataError, match=r"fsdd\.npz: 3 clips whose ends, digits and speakers"
        ):
            data.spoken_digits(tmp_path)
    (tmp_path / "fsdd.npz").write_bytes(b"no zip")
    with pytest.raises(common.errors.DataError, match=r"unreadable.*get a fresh copy"):
        data.spoken_digits(tmp_path)


def write_sound(path: Path, rate: int, form: str = "WAV") -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.arange(rate // 10, dtype=np.int16), rate, format=form, subtype="PCM_16")


def test_spoken_digits_from_the_recordings(tmp_path: Path) -> None:
    write_sound(tmp_path / "recordings" / "7_ann_12.wav", 8_000)
    write_sound(tmp_path / "recordings" / "3_bob_0.wav", 8_000)
    clips = data.spoken_digits(tmp_path)
    assert clips.words == [3, 7] and clips.speakers == ["bob", "ann"] and clips.audio[0][5] == 5
    write_sound(tmp_path / "recordings" / "4_bob_0.wav", 16_000)
    with pytest.raises(common.errors.DataError, match="1 channels of 16000 Hz and not one of 8000"):
        data.spoken_digits(tmp_path)


def write_timit(root: Path, speaker: str, half: str, form: str, phones: str = "h# sh ix q axr h#") -> None:
    for sentence in ("SA1", "SI943"):
        path = root / half / "DR1" / speaker / f"{sentence}.WAV"
        write_sound(path, 16_000, form)
        lines = [f"{100 * k} {100 * k + 100} {phone}" for k, phone in enumerate(phones.split())]
        path.with_suffix(".PHN").write_text("\n".join(lines) + "\n")


def test_timit_in_its_layout(tmp_path: Path) -> None:
    root = tmp_path / "TIMIT"
    write_timit(root, "FCJF0", "TRAIN", "NIST")
    write_timit(root, "FAKS0", "TEST", "NIST")
    write_timit(root, "MDAB0", "TEST", "WAV")
    write_timit(root, "FADG9", "TEST", "NIST")  # neither in the core test set nor in the development set
    speech = data.timit(tmp_path, complete=False)
    for part_ in (speech.train, speech.validation, speech.test):
        assert len(part_) == 1  # without SA1
        assert [data.PHONES[k] for k in part_[0].labels] == ["sil", "sh", "ih", "er", "sil"]
        assert (part_[0].audio == np.arange(1600)).all()
    with pytest.raises(common.errors.DataError, match="1 sentences for train and not 3696"):
        data.timit(tmp_path)
    write_timit(root, "FCJF0", "TRAIN", "NIST", "h# xx h#")
    with pytest.raises(common.errors.DataError, match="phone 'xx' is none of TIMIT's 61"):
        data.timit(tmp_path, complete=False)
    with pytest.raises(common.errors.DataError, match="no folders TRAIN and TEST"):
        data.timit(root / "TRAIN")


def test_61_phones_become_39_classes() -> None:
    own = set(data.PHONES) - {"sil"}
    assert len(data.PHONES) == len(set(data.PHONES)) == 39
    assert not own & set(data.FOLDED) and set(data.FOLDED.values()) <= set(data.PHONES)
    assert len(own | set(data.FOLDED) | {"q"}) == 61
    assert len(data.CORE_TEST) == 24 and len(data.DEVELOPMENT) == 50 and not data.CORE_TEST & data.DEVELOPMENT


def test_speakers_are_in_one_part_alone() -> None:
    made = corpus.corpus(SMOKE, 1, Path, False)
    again = corpus.corpus(SMOKE, 2, Path, False)
    assert [u.labels for u in made.batch(0)] != [u.labels for u in again.batch(0)]
    assert all((a.audio == b.audio).all() for a, b in zip(made.test, again.test, strict=True))
    frames, rows, labels, counts = corpus.tensors(made.batch(0), GEOMETRY)
    assert frames.shape == (rows.sum(), GEOMETRY.width) and len(labels) == counts.sum() and labels.min() >= 1


def test_an_epoch_has_every_sentence_once() -> None:
    train = [data.Utterance(np.zeros(1, dtype=np.float32), (k,)) for k in range(12)]
    made = corpus._sentences(data.Speech(train, train, train), 4, seed=5)
    epochs = [[u.labels[0] for step in range(3 * e, 3 * e + 3) for u in made.batch(step)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12)) and epochs[0] != epochs[1]


# Running


@pytest.mark.parametrize("name", settings.FRONT_ENDS)
def test_what_is_timed_is_what_was_trained(name: str) -> None:
    front, x = frontends.front_end(name, GEOMETRY), 1000 * torch.randn(7, GEOMETRY.width)
    with torch.no_grad():
        expected = front(x)
        torch.testing.assert_close(clock.deployed(front)(x), expected, rtol=1e-3, atol=1e-3)


def test_a_search_sets_the_rate_of_what_learns() -> None:
    trial = optuna.trial.FixedTrial({"front_lr": 8e-4})
    case = common.Case("dense", {"front": "dense"})
    found = running.search(trial, PAPER, case)
    assert (
        found.front_lr["dense"] == 8e-4 and found.front_lr["kaleidoscope"] == PAPER.front_lr["kaleidoscope"]
    )
    assert running.search(trial, PAPER, common.Case("mfsc", {"front": "mfsc"})) is PAPER
    model = models.Recogniser("dense", SMOKE, 10)
    groups = running.optimizer(
        model, dataclasses.replace(SMOKE, front_lr=found.front_lr), "dense"
    ).param_groups
    assert [g["lr"] for g in groups] == [SMOKE.lr, 8e-4]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_gaps_are_taken_seed_by_seed() -> None:
    rows = [
        {"case": c, "seed": s, "test": t} for c, s, t in [("fft", 1, 5.0), ("fft", 2, 9.0), ("mfsc", 1, 4.0)]
    ]
    assert tables.gaps(rows, "fft") == [1.0]


def test_the_command_runs_everything_in_small(kmatrix: Command, tmp_path: Path) -> None:
    arguments = ("recipe", "run", "speech", "--preset", "smoke", "--seeds", "1", "--out", str(tmp_path))
    done = kmatrix(*arguments)
    assert done.exit_code == 0, done.output
    rows = {row["case"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert list(rows) == list(settings.FRONT_ENDS)
    for name, row in rows.items():
        assert 0 <= row["validation"] and row["times"]["2000"]["ratio"] > 0
        assert (row["front_params"] > 0) == (name in settings.LEARNED)
    text = (tmp_path / "tables.md").read_text()
    assert "14.6 ± 0.3" in text and "these figures mean nothing" in text
    assert (tmp_path / "errors.svg").is_file()


@pytest.mark.parametrize("name", ["kaleidoscope", "mfsc"])
def test_the_original_setting_goes_through_one_step(kmatrix: Command, name: str) -> None:
    done = kmatrix("recipe", "run", "speech", "--preset", "paper", "--dry-run", "--cases", name)
    assert done.exit_code == 0, done.output
    assert name in done.output
