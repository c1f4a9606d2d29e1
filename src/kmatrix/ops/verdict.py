"""What a backend says to a product: yes or no, and why."""

from __future__ import annotations

from typing import NamedTuple


class Verdict(NamedTuple):
    """Whether a backend can run a product, and why or why not."""

    ok: bool
    reason: str
