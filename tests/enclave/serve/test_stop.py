"""How the program of `serve` is told to end, and what is known of its end."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from enclave.errors import ConfigurationError
from enclave.serve.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def asyncio_looks_for_ends_in_its_loop() -> Iterator[None]:
    """Where Python has threads for that (before 3.12), these would race with the test."""
    if sys.version_info >= (3, 12):
        yield
        return
    policy = asyncio.get_event_loop_policy()
    before = policy.get_child_watcher()
    watcher = asyncio.PidfdChildWatcher()
    policy.set_child_watcher(watcher)
    try:
        yield
    finally:
        policy.set_child_watcher(before)
        watcher.close()


@pytest.mark.usefixtures("asyncio_looks_for_ends_in_its_loop")
@pytest.mark.parametrize("way", ["fail", "end"])
def test_a_signal_at_the_end_of_the_program_leaves_its_exit_code(way: str) -> None:
    """A group's SIGTERM ends the program and reaches the agent, which passes it on."""

    async def scenario() -> int:
        stop = Stop()
        reading, writing = os.pipe()
        stop.process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", "read line; exit 7", stdin=reading
        )
        os.close(reading)
        end(stop.process.pid, writing)
        if way == "fail":
            stop.fail(ConfigurationError("a reason"))
        else:
            assert await stop.end(60) == 7
        return await stop.process.wait()

    def end(pid: int, writing: int) -> None:
        """The program ends, and asyncio has no turn to see it."""
        os.close(writing)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert asyncio.run(scenario()) == 7
