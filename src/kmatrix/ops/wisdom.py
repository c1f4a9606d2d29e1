"""What measuring has taught about running chains natively, in a file people can read.

The file is JSON: one line of meaning for each chain, number type, batch size, thread count and processor.
``$KMATRIX_WISDOM`` names it (empty: none), else it is ``~/.cache/kmatrix/wisdom.json``. It is advice: a
missing, foreign or damaged file changes how long a product takes and never what it is.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, get_args

import torch

from kmatrix._files import write_atomically
from kmatrix.ops.definition import Patterns, flatten_patterns
from kmatrix.ops.native_module import DTYPE_CODES, native_part
from kmatrix.ops.native_plan import Kernel, Schedule

_log = logging.getLogger(__name__)


class Answer(Protocol):
    """How to run a chain: a named tuple of numbers, words and tuples of them."""

    def _asdict(self) -> dict[str, Any]: ...


FORMAT = 1
MAX_BYTES = 2**26  # a file larger than this is not ours


def wisdom_path() -> Path | None:
    """Where the file lies or would lie; None if the environment says there is none."""
    named = os.environ.get("KMATRIX_WISDOM")
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        if named is not None:
            return Path(named).expanduser() if named else None
        return (Path(cache) if cache else Path.home() / ".cache") / "kmatrix" / "wisdom.json"
    except RuntimeError:  # there is no home
        return None


def obstacle(path: Path) -> str | None:
    """Why nothing can be kept in a file, in words; None if nothing is in the way."""
    try:
        if path.exists():
            if not path.is_file():
                return "is a folder" if path.is_dir() else "is not a file"
            _content(path)
            return None if os.access(path, os.W_OK) else "cannot be written"
        nearest = next(folder for folder in path.absolute().parents if folder.exists())
        if not nearest.is_dir():
            return f"{nearest} is not a folder"
        return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} cannot be written"
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read: {_reason(error)}"


def question(patterns: Patterns, dtype: torch.dtype, batch: int, threads: int, selects: bool = False) -> str:
    """What a measurement answers, in words: the key of the file.

    ``selects`` says whether index arrays are folded in.
    """
    chain = " ".join(".".join(map(str, p)) for p in patterns)
    name = str(dtype).removeprefix("torch.")
    many = "thread" if threads == 1 else "threads"
    ends = " | indices" if selects else ""
    isa = native_part().isa
    return f"{processor_name()} | {isa} | {name} | batch {batch} | {threads} {many} | {chain}{ends}"


def learned_schedule(
    patterns: Patterns, dtype: torch.dtype, batch: int, threads: int, selects: bool = False
) -> Schedule | None:
    """What was measured to be best, if anything was; ``batch`` is a batch class."""
    return _looked_up(patterns, dtype, batch, threads, selects) if _known() else None


@lru_cache(maxsize=1024)
def _looked_up(
    patterns: Patterns, dtype: torch.dtype, batch: int, threads: int, selects: bool
) -> Schedule | None:
    entry = _known().get(question(patterns, dtype, batch, threads, selects))
    schedule = None if entry is None else _as_schedule(entry, len(patterns))
    return schedule if schedule is not None and _runs(schedule, patterns, dtype) else None


def entry(key: str) -> object:
    """What is known to a question, as it stands in the file; None if nothing is."""
    return _known().get(key)


def remember(key: str, schedule: Answer, measured: Mapping[str, float]) -> Path | None:
    """Add an answer to what is known and to the file; returns where it was written, None if it was not.

    What cannot be written this process knows all the same, and a file that is not ours stays as it is.
    """
    found = schedule._asdict().items()
    answer = {**{k: list(v) if isinstance(v, tuple) else v for k, v in found}, **measured}
    path = wisdom_path()
    _known()[key] = answer
    _looked_up.cache_clear()
    if path is None:
        return None
    try:
        entries = {**_content(path), key: answer}  # read again: another process may have learned meanwhile
        text = json.dumps({"format": FORMAT, "entries": entries}, indent=1, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically("tune", path, text.encode())
    except (OSError, ValueError, RecursionError) as error:  # a complaint is a ValueError, too
        _log.warning(
            "wisdom is not kept, this process alone knows it: %s is left as it is: %s; "
            "move it away, or name another file with KMATRIX_WISDOM",
            path,
            _reason(error),
        )
        return None
    return path


def answers() -> int:
    """How many answers are known."""
    return len(_known())


def forget() -> None:
    """Drop what this process has read, so that the file is read again."""
    _known.cache_clear()
    _looked_up.cache_clear()


@lru_cache(maxsize=1)
def _known() -> dict[str, Any]:
    path = wisdom_path()
    return {} if path is None else _read(path)


def _read(path: Path) -> dict[str, Any]:
    """The entries of a file; none, and one line in the log, if it is not one of ours."""
    try:
        return _content(path)
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("wisdom file %s is passed over: %s", path, _reason(error))
        return {}


def _content(path: Path) -> dict[str, Any]:
    """The entries of a file, none if there is no file or nothing in it; raises if it is not one of ours."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return {}
    if size > MAX_BYTES:
        raise ValueError("too large")
    text = path.read_bytes()
    if not text.strip():
        return {}
    content = json.loads(text)
    if not isinstance(content, dict) or not isinstance(content.get("entries"), dict):
        raise ValueError("not a table of answers")
    if content.get("format") != FORMAT:
        raise ValueError(f"format {content.get('format')!r}, this version reads {FORMAT}")
    entries: dict[str, Any] = content["entries"]
    return entries


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _as_schedule(entry: object, factors: int) -> Schedule | None:
    match entry:
        case {"kernel": str(kernel), "passes": [*passes], "tile_vectors": int(height)}:
            sizes = [count for count in passes if type(count) is int and count > 0]
            if kernel in get_args(Kernel) and len(sizes) == len(passes) and sum(sizes) == factors:
                return Schedule(
                    "rows" if kernel == "rows" else "tiles", tuple(sizes), min(max(height, 1), 64)
                )
    return None


def _runs(schedule: Schedule, patterns: Patterns, dtype: torch.dtype) -> bool:
    """Whether the kernels of this build take these passes."""
    module, isa, _ = native_part()
    if module is None:
        return False
    start, flat = 0, flatten_patterns(patterns)
    for count in schedule.passes:
        if count > 1 and not module.Chain.can_fuse(DTYPE_CODES[dtype], flat, start, count, isa):
            return False
        start += count
    return True


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()
