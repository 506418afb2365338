"""Throttled log lines, and the count of dropped ones."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    import pytest

log = logging.getLogger("vsock_proxy.test")


def test_dropped_lines_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    throttle = Throttle(log, lambda: now, burst=3, period=10)
    for i in range(100):
        throttle.warning("line %d", i)
    assert caplog.messages == ["line 0", "line 1", "line 2"]
    now = 9.9
    throttle.catch_up()
    assert len(caplog.messages) == 3
    now = 10.0
    throttle.catch_up()
    assert caplog.messages[3:] == ["97 more such lines dropped"]
    throttle.warning("again")
    assert caplog.messages[4:] == ["again"]


def test_nothing_is_reported_if_no_line_was_dropped(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    throttle = Throttle(log, lambda: now, burst=3, period=10)
    throttle.warning("once")
    now = 100.0
    throttle.catch_up()
    assert caplog.messages == ["once"]
