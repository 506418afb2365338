"""Counters and histograms for metrics."""

from __future__ import annotations

import errno
import socket

import pytest

from vsock_proxy.proxy.counters import LATENCY_BOUNDS, Histogram, kind_of


def test_histogram_is_cumulative_with_inclusive_bounds() -> None:
    histogram = Histogram()
    assert histogram.cumulative == [0] * (len(LATENCY_BOUNDS) + 1)
    for seconds in (0.0, 0.001, 0.0011, 10.0, 10.1, 99.0):
        histogram.observe(seconds)
    assert dict(zip(LATENCY_BOUNDS, histogram.cumulative, strict=False)) == {
        0.001: 2,
        **dict.fromkeys(LATENCY_BOUNDS[1:-1], 3),
        10.0: 4,
    }
    assert histogram.cumulative[-1] == 6
    assert histogram.sum == pytest.approx(119.1021)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "name"),
        (TimeoutError("no answer"), "timeout"),
        (OSError(errno.ETIMEDOUT, "x"), "timeout"),
        (OSError(errno.ECONNREFUSED, "x"), "refused"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "reset"),
        (OSError(errno.EHOSTUNREACH, "x"), "unreachable"),
        (FileNotFoundError(errno.ENOENT, "x"), "missing"),
        (PermissionError("its addresses are special"), "permission"),
        (OSError(errno.EIO, "x"), "other"),
        (OSError("no number"), "other"),
    ],
)
def test_kind_of_an_error(error: OSError, kind: str) -> None:
    assert kind_of(error) == kind
