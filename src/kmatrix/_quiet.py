"""What libraries write past Python, straight to a file descriptor, kept from the user's terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(descriptor: int) -> Iterator[None]:
    """Send a descriptor of this process (1: standard output, 2: standard error) nowhere inside the block.

    What other threads write there meanwhile is lost as well, so keep the block short. Without such a descriptor, as
    under some servers, nothing is done.
    """
    stream = sys.stdout if descriptor == 1 else sys.stderr
    if stream is not None:
        stream.flush()
    try:
        kept = os.dup(descriptor)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(nowhere)
