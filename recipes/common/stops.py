"""Being told to stop, by Ctrl-C or SIGTERM, in the middle of anything."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

TOLD = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KeyboardInterrupt):
    """A recipe was told to stop; what it has made is written.

    Attributes:
        number: of the signal.
        kept: finished runs, of those that were asked for.
        planned: how many those are.
    """

    def __init__(self, number: int, kept: int, planned: int) -> None:
        super().__init__(number, kept, planned)
        self.number, self.kept, self.planned = number, kept, planned


class Stops:
    """Both signals raise ``KeyboardInterrupt`` in the block, and are remembered.

    Args:
        wanted: whether to do so at all. Handlers that somebody else has set stay.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.number: int | None = None
        self._wanted = wanted and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stops:
        for number in TOLD if self._wanted else ():
            before = signal.getsignal(number)
            if before in (signal.SIG_DFL, signal.default_int_handler):
                self._before[number] = before
                signal.signal(number, self._notice)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` again if it came before: a fit ends with its best so far and does not say so."""
        if self.number is not None:
            raise KeyboardInterrupt

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt
