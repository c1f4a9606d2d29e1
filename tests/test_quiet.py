"""What is written to a descriptor inside the block goes nowhere, and what comes after arrives."""

from __future__ import annotations

import os

import pytest

from kmatrix._quiet import quiet


@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_descriptor_is_quiet_for_a_while(descriptor: int, capfd: pytest.CaptureFixture[str]) -> None:
    os.write(descriptor, b"before ")
    with quiet(descriptor):
        os.write(descriptor, b"inside ")
    os.write(descriptor, b"after")
    assert capfd.readouterr()[descriptor - 1] == "before after"


def test_an_exception_gives_the_descriptor_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), quiet(1):
        raise ZeroDivisionError
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"
