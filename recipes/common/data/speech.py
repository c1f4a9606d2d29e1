"""Recorded speech: connected digits made of the Free Spoken Digit Dataset, and TIMIT in the layout it is sold in."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, complaint
from .folder import bad, find

Samples = NDArray[np.float32]
FSDD_RATE, TIMIT_RATE = 8_000, 16_000

# Lee and Hon (1989): 61 labels to 39 classes; the glottal stop q is left out. What is not named here stands for itself.
FOLDED = {
    "ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "el": "l", "em": "m", "en": "n",
    "nx": "n", "eng": "ng", "zh": "sh", "ux": "uw",
    **dict.fromkeys(("bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "epi", "h#", "pau"), "sil"),
}  # fmt: skip
PHONES = tuple(
    "aa ae ah aw ay b ch d dh dx eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh sil t th uh uw v w y z".split()
)
# The core test set of TIMIT's documentation, and the development set of Kaldi's recipe; both lie in TEST.
CORE_TEST = frozenset(
    "mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 "
    "mbpm0 mklt0 fnlp0 mcmj0 mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0".split()
)
DEVELOPMENT = frozenset(
    "faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 fedw0 mgjf0 "
    "mglb0 mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 mdvc0 mers0 fmah0 fdrw0 "
    "mrcs0 mrjm4 fcal1 mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0 fmml0 mrws1".split()
)
SENTENCES = {"train": 3_696, "validation": 400, "test": 192}
"""How many there are without the two sentences that every speaker reads."""


@dataclass(frozen=True)
class Utterance:
    """What was said and how it sounds.

    Attributes:
        audio: samples on the scale of 16-bit numbers.
        labels: numbers from 0 on, of digits or of ``PHONES``.
    """

    audio: Samples
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Speech:
    """Utterances in three parts, of different speakers."""

    train: Sequence[Utterance]
    validation: Sequence[Utterance]
    test: Sequence[Utterance]


@dataclass(frozen=True)
class Clips:
    """Isolated words.

    Attributes:
        audio: samples of each.
        words: what each says, a number.
        speakers: who says it.
        rate: samples in a second.
    """

    audio: Sequence[Samples]
    words: Sequence[int]
    speakers: Sequence[str]
    rate: int

    def of(self, speakers: Sequence[str]) -> Clips:
        """Those of some speakers."""
        kept = [k for k, name in enumerate(self.speakers) if name in speakers]
        return Clips(
            [self.audio[k] for k in kept],
            [self.words[k] for k in kept],
            [self.speakers[k] for k in kept],
            self.rate,
        )


def spoken_digits(folder: Path) -> Clips:
    """The 3,000 clips of FSDD, from ``fsdd.npz`` or from its folder of ``recordings/<digit>_<speaker>_<index>.wav``.

    Raises:
        DataError: if they are not there, or not what they should be.
    """
    recordings = [f for f in (folder / "recordings", *sorted(folder.glob("*/recordings"))) if f.is_dir()]
    if recordings:
        return _recordings(recordings[0])
    path = find(folder, ("fsdd.npz",), "spoken digits")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("audio", "offsets", "digit", "speaker", "speakers")}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise bad(path, f"unreadable: {error}") from None
    offsets, names = arrays["offsets"], [str(name) for name in arrays["speakers"]]
    count = len(offsets) - 1
    whole = offsets[0] == 0 and offsets[-1] == len(arrays["audio"]) and bool((np.diff(offsets) > 0).all())
    known = len(arrays["digit"]) == len(arrays["speaker"]) == count and int(arrays["digit"].max()) <= 9
    if count < 1 or not whole or not known or int(arrays["speaker"].max()) >= len(names):
        raise bad(path, f"{count} clips whose ends, digits and speakers do not fit together")
    audio = np.split(arrays["audio"].astype(np.float32), offsets[1:-1])
    who = [names[k] for k in arrays["speaker"]]
    return Clips(audio, arrays["digit"].astype(int).tolist(), who, FSDD_RATE)


def strings(
    clips: Clips,
    count: int,
    rng: np.random.Generator,
    *,
    digits: tuple[int, int] = (3, 7),
    gap: float = 0.3,
    tempo: float = 0.0,
) -> list[Utterance]:
    """Connected words: clips of one speaker one after the other, in white noise.

    Gaps before, between and after the words are uniform up to ``gap`` seconds. A word is louder or softer than recorded
    by up to 3 dB, a string by up to 6 dB, and the noise, which is everywhere, is 30 to 50 dB below the string.

    Args:
        clips: to choose from.
        count: how many strings.
        rng: what is random.
        digits: fewest and most words in a string.
        gap: longest gap in seconds.
        tempo: strings are played faster or slower by up to this share, which moves their pitch, too.
    """
    names = sorted(set(clips.speakers))
    by_name = {name: [k for k, who in enumerate(clips.speakers) if who == name] for name in names}
    return [
        _string(clips, by_name[names[rng.integers(len(names))]], rng, digits, gap, tempo)
        for _ in range(count)
    ]


def timit(folder: Path, complete: bool = True) -> Speech:
    """TIMIT's sentences and their phones in 39 classes: 3,696 to train, 400 for development, the core test set of 192.

    The layout is that of the original, ``TRAIN/DR1/FCJF0/SI1027.WAV`` (NIST SPHERE; RIFF as well) and ``.PHN``, in
    capitals or not. Sentences that every speaker reads (SA) are left out.

    Args:
        folder: with ``TRAIN`` and ``TEST``, or a folder above it.
        complete: whether anything else than those numbers of sentences is an error.

    Raises:
        DataError: if something is missing or unreadable.
    """
    root = next(
        (f for f in (folder, *sorted(folder.glob("*"))) if _named(f, "train") and _named(f, "test")), None
    )
    way_out = "TIMIT has TRAIN/DR1/<speaker>/<sentence>.WAV and .PHN, and TEST likewise"
    if root is None:
        raise DataError(complaint("kmatrix recipe", "--data", folder, "no folders TRAIN and TEST", way_out))
    parts: dict[str, list[Utterance]] = {name: [] for name in SENTENCES}
    for half in ("train", "test"):
        for path in sorted(_named(root, half)[0].glob("*/*/*")):
            part = _part(half, path.parent.name.lower())
            if path.suffix.lower() == ".phn" and part and not path.name.lower().startswith("sa"):
                parts[part].append(Utterance(_sound(path), _phones(path)))
    for part, wanted in SENTENCES.items():
        if not parts[part] or (complete and len(parts[part]) != wanted):
            reason = f"{len(parts[part])} sentences for {part} and not {wanted}"
            raise DataError(complaint("kmatrix recipe", "--data", root, reason, way_out))
    return Speech(parts["train"], parts["validation"], parts["test"])


def _string(
    clips: Clips,
    own: Sequence[int],
    rng: np.random.Generator,
    digits: tuple[int, int],
    gap: float,
    tempo: float,
) -> Utterance:
    chosen = [own[k] for k in rng.integers(len(own), size=rng.integers(digits[0], digits[1] + 1))]
    speed = 1 + rng.uniform(-tempo, tempo)
    pieces: list[Samples] = []
    for k in chosen:
        pieces.append(np.zeros(round(rng.uniform(0, gap) * clips.rate), dtype=np.float32))
        pieces.append(_faster(clips.audio[k], speed) * _gain(rng.uniform(-3, 3)))
    pieces.append(np.zeros(round(rng.uniform(0, gap) * clips.rate), dtype=np.float32))
    audio = np.concatenate(pieces) * _gain(rng.uniform(-6, 6))
    loud = float(np.sqrt(np.mean(np.square(audio)))) or 1.0
    noise = rng.standard_normal(len(audio), dtype=np.float32) * (loud * _gain(rng.uniform(-50, -30)))
    return Utterance(audio + noise, tuple(clips.words[k] for k in chosen))


def _gain(decibels: float) -> np.float32:
    return np.float32(10 ** (decibels / 20))


def _faster(audio: Samples, speed: float) -> Samples:
    if speed == 1:
        return audio
    at = np.arange(0, len(audio) - 1, speed)
    return np.asarray(np.interp(at, np.arange(len(audio)), audio), dtype=np.float32)


def _recordings(folder: Path) -> Clips:
    audio, words, speakers = [], [], []
    for path in sorted(folder.glob("*.wav")):
        digit, _, speaker = path.stem.rpartition("_")[0].partition("_")
        if not (digit.isdecimal() and len(digit) == 1 and speaker):
            raise bad(path, "not named <digit>_<speaker>_<index>.wav")
        audio.append(_read(path, FSDD_RATE))
        words.append(int(digit))
        speakers.append(speaker)
    if not audio:
        raise bad(folder, "no recordings")
    return Clips(audio, words, speakers, FSDD_RATE)


def _named(folder: Path, name: str) -> list[Path]:
    return [f for f in folder.glob("*") if f.is_dir() and f.name.lower() == name] if folder.is_dir() else []


def _part(half: str, speaker: str) -> str:
    if half == "train":
        return "train"
    return "test" if speaker in CORE_TEST else "validation" if speaker in DEVELOPMENT else ""


def _sound(phones: Path) -> Samples:
    """The recording that belongs to a file of phones."""
    stem = phones.stem.lower()
    names = (f"{stem}.wav", f"{stem}.wav.wav")  # copies in RIFF often keep the old name in front
    found = [path for path in sorted(phones.parent.iterdir()) if path.name.lower() in names]
    if not found:
        raise bad(phones, "no recording (.WAV) beside it")
    return _read(found[0], TIMIT_RATE)


def _phones(path: Path) -> tuple[int, ...]:
    number = {name: k for k, name in enumerate(PHONES)}
    labels = []
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        name = line.split()[-1] if line.split() else "q"
        if name != "q":
            if FOLDED.get(name, name) not in number:
                raise bad(path, f"phone {name!r} is none of TIMIT's 61")
            labels.append(number[FOLDED.get(name, name)])
    return tuple(labels)


def _read(path: Path, rate: int) -> Samples:
    soundfile = _soundfile(path)
    try:
        audio, found = soundfile.read(path, dtype="int16", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise bad(path, f"unreadable: {error}") from None
    if found != rate or audio.shape[1] != 1:
        raise bad(path, f"{audio.shape[1]} channels of {found} Hz and not one of {rate} Hz")
    return np.asarray(audio[:, 0], dtype=np.float32)


def _soundfile(path: Path) -> Any:
    try:
        import soundfile  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        reason, way_out = "soundfile is missing", "pip install soundfile"
        raise DataError(complaint("kmatrix recipe", "--data", path, reason, way_out)) from None
    return soundfile
