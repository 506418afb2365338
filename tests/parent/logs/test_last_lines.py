"""The last lines of each enclave, kept to be looked at: few, short, and the newest."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from parent.logs.component import LogSink
from parent.logs.intake import KEPT_CHARACTERS, KEPT_LINES, Intake, Source
from parent.logs.settings import LogSettings
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = LogSettings(cids=None)


@given(st.lists(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line))))
def test_the_newest_lines_are_kept(batches: list[list[bytes]]) -> None:
    source = Source(16, "a", SETTINGS)
    passed = []
    for now, batch in enumerate(batches):
        passed += [(float(now), line) for line in source.take(float(now), batch)]
    assert list(source.last) == passed[-KEPT_LINES:]


def test_a_long_line_is_shortened() -> None:
    source = Source(16, "a", SETTINGS)
    (line,) = Intake(source).feed(0.0, b"\0" * 8000 + b"\n")
    assert len(line) == 4 * 8000, "the sink gets it whole"
    ((_, kept),) = source.last
    assert kept == f"{line[:KEPT_CHARACTERS]}…"


def test_lines_beyond_the_rate_are_not_kept() -> None:
    source = Source(16, "a", LogSettings(cids=None, lines_per_second=1))
    source.take(0.0, [b"%d" % n for n in range(30)])
    assert [line for _, line in source.last] == ["0", "1", "2", "3", "4"]


class Kept:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, _enclave: str, _cid: int | None, line: str) -> None:
        self.lines.append(line)

    def close(self) -> None: ...


def test_the_sink_tells_how_old_they_are(tmp_path: Path) -> None:
    now = [100.0]
    kept = Kept()
    settings = LogSettings(cids=None, listen=UnixAddress(str(tmp_path / "logs")))
    sink = LogSink(settings, sink=kept, monotonic=lambda: now[0])
    assert sink.last_lines() == []
    sink.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "logs"))
        client.sendall(b"one\n\x1b[2J\n")
        eventually(lambda: len(kept.lines) == 2)
        now[0] = 107.0
        (enclave,) = sink.last_lines()
        (shorter,) = sink.last_lines(1)
    sink.stop(TEST_TIMEOUT)
    assert (enclave.name, enclave.cid) == ("enclave", None)
    assert enclave.lines == ((7.0, "one"), (7.0, r"\x1b[2J"))
    assert shorter.lines == ((7.0, r"\x1b[2J"),)
    assert sink.last_lines(0) == []
