"""Tells which test left a socket open: a plugin of pytest.

A socket that nobody closes is found by the garbage collector, some tests later, and pytest blames
the test that runs then. The warning names the descriptor; this remembers since when it is open.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

FOLDER = "/proc/self/fd"

_since: dict[int, tuple[str, str]] = {}
"""By descriptor: the socket, and the test after which it was first seen."""


def note(test: str) -> None:
    """Remember the sockets that are new since the last call."""
    found = {}
    for name in os.listdir(FOLDER) if os.path.isdir(FOLDER) else ():  # noqa: PTH112, PTH208 (fast)
        try:
            target = os.readlink(f"{FOLDER}/{name}")  # noqa: PTH115 (as above)
        except OSError:
            continue  # the listing's own
        if target.startswith("socket:"):
            before = _since.get(int(name))
            found[int(name)] = before if before and before[0] == target else (target, test)
    _since.clear()
    _since.update(found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note the sockets that are open after each test."""
    try:
        return (yield)
    finally:
        note(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure by an unclosed socket since when it has been open."""
    report = yield
    if report.failed:
        for fd in re.findall(r"unclosed <[^>]*\bfd=([0-9]+)", str(report.longrepr)):
            _, test = _since.get(int(fd), ("", "this test"))
            report.sections.append((f"unclosed socket {fd}", f"open since {test}"))
    return report
