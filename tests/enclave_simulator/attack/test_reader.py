"""Reading a program's output to the program's end, and no further."""

from __future__ import annotations

import os

import pytest

from enclave_simulator.attack.running import _Reader


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("size", [0, 10, 60_000])
@pytest.mark.parametrize("held", [False, True])
def test_all_is_read_although_another_process_holds_the_pipe(
    tail: bool, size: int, held: bool
) -> None:
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as stream, open(write, "wb", buffering=0) as program:  # noqa: PTH123 (descriptors)
        reader = _Reader(stream, 1 << 20, tail=tail)
        program.write(b"x" * size)
        if not held:
            program.close()
        assert reader.wait() == b"x" * size
        assert not reader._thread.is_alive()


def test_a_process_that_writes_on_is_not_read_on() -> None:
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as stream, open(write, "wb", buffering=0) as program:  # noqa: PTH123 (descriptors)
        reader = _Reader(stream, 1 << 20)
        program.write(b"before")
        assert reader.wait() == b"before"
        program.write(b"after")
        assert os.read(read, 10) == b"after"
