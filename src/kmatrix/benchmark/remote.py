"""A contender in a process of its own, where the environment can be another: the same library on other instructions.

KMATRIX_ISA=avx2 python -m kmatrix.benchmark.remote N BATCH    # then a count on each line of standard input
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType

import torch

from kmatrix.benchmark.cases import member
from kmatrix.benchmark.clock import Meter, using_threads
from kmatrix.benchmark.contenders import Problem, WrongResultError, ours
from kmatrix.ops.native_module import native_part
from kmatrix.structures import Butterfly


class Remote:
    """A butterfly of size ``n`` in another process; takes its turn like anyone else.

    Raises:
        WrongResultError: if the process does not come up with right results on these instructions.
    """

    def __init__(self, isa: str, n: int, batch: int) -> None:
        environment = {**os.environ, "KMATRIX_ISA": isa}
        command = [sys.executable, "-m", "kmatrix.benchmark.remote", str(n), str(batch)]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.cores = 0.0  # the most that it has kept busy
        told = self._read()
        if told != isa:
            self.__exit__(None, None, None)
            raise WrongResultError(f"bench: the process for {isa} runs on {told or 'nothing'}")

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def time(self, count: int) -> float:
        """Seconds of one product, the mean of ``count``."""
        assert self._process.stdin is not None
        print(count, file=self._process.stdin, flush=True)
        seconds, cores = map(float, self._read().split())
        self.cores = max(self.cores, cores)
        return seconds

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # End of input ends the loop below.
        self._process.communicate()


def serve(n: int, batch: int) -> None:
    """Check, say what runs, then answer each count with a time and the cores that were busy."""
    contender = ours(Problem(member(Butterfly(), n, n), batch))
    with using_threads(1), torch.inference_mode():
        contender.checked(f"butterfly {n}")
        print(native_part().isa, flush=True)
        for line in sys.stdin:
            with Meter() as meter:
                seconds = contender.time(int(line))
            print(seconds, meter.cores, flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
