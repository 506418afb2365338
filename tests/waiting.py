"""Waiting in tests: one timeout, and polling for what no event announces."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEST_TIMEOUT = 300.0
"""Seconds after which a test that waits, for a program's end or anything else, has failed. Nothing
takes that long: a hang is a failure, a slow machine is not. Beside 25 other programs on 2 CPUs, a
second of work takes half a minute. pytest's own timeout, in pyproject.toml, is longer."""


def eventually(condition: Callable[[], object]) -> None:
    """Wait until another thread or process has made a condition true."""
    deadline = time.monotonic() + TEST_TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def listens(path: Path) -> bool:
    """Return whether a UNIX socket takes connections: it is there a moment before it listens."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
