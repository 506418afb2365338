"""The log sink over sockets, and where lines end up."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from parent.logs.component import LogSink
from parent.logs.intake import Intake, Source
from parent.logs.server import LogServer
from parent.logs.settings import LISTEN, LogFile, LogSettings, read_logs_section
from parent.logs.sinks import Journal, open_sink
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.net.addresses import UnixAddress
from vsock_proxy.service.cids import MAX_CIDS
from vsock_proxy.service.settings import parse_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.closed = False
        self.error: OSError | None = None
        self._changed = threading.Condition()

    def write(self, enclave: str, cid: int | None, line: str) -> None:  # noqa: ARG002
        with self._changed:
            if self.error:
                raise self.error
            self.lines.append(line)
            self._changed.notify_all()

    def close(self) -> None:
        self.closed = True

    def wait_for(self, count: int) -> list[str]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.lines) >= count, TEST_TIMEOUT)
            return self.lines


def unix(tmp_path: Path, **changes: int) -> LogSettings:
    plain = LogSettings(cids=None, listen=UnixAddress(str(tmp_path / "logs")))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def connect(settings: LogSettings) -> socket.socket:
    assert isinstance(settings.listen, UnixAddress)
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(TEST_TIMEOUT)
    made.connect(settings.listen.path)
    return made


@contextlib.contextmanager
def serving(
    settings: LogSettings,
    kept: Kept,
    *,
    monotonic: Callable[[], float],
    names: dict[int, str] | None = None,
) -> Iterator[LogServer]:
    """A server whose turns the test takes; closed even if the test fails."""
    assert isinstance(settings.listen, UnixAddress)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(settings.listen.path)
        listener.listen(1024)
        server = LogServer(listener, kept, settings, names=names or {}, monotonic=monotonic)
        with contextlib.closing(server):
            yield server


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_lines_arrive_whole_and_harmless(tmp_path: Path, kept: Kept) -> None:
    settings = unix(tmp_path)
    sink = LogSink(settings, sink=kept)
    assert not sink.status().healthy
    sink.start()
    with connect(settings) as one, connect(settings) as other:
        one.sendall(b"first\nsec")
        kept.wait_for(1)
        other.sendall(b"\x1b[31mother\n")
        kept.wait_for(2)
        one.sendall(b"ond\n\nlast without an end")
        kept.wait_for(3)
        assert sink.status().healthy
        assert sink.status().values["connections"] == 2
    assert kept.wait_for(4) == ["first", r"\x1b[31mother", "second", "last without an end"]
    sink.stop(10)
    sink.stop(10)
    assert kept.closed
    assert not (tmp_path / "logs").exists()
    assert not sink.status().healthy


def test_data_that_arrived_before_stop_is_not_lost(tmp_path: Path, kept: Kept) -> None:
    settings = unix(tmp_path, lines_per_second=100_000)
    sink = LogSink(settings, sink=kept)
    sink.start()
    with connect(settings) as one:
        one.sendall(b"0\n")
        kept.wait_for(1)
        one.sendall(b"".join(b"%d\n" % n for n in range(1, 10_000)))
        sink.stop(30)
    assert kept.lines == [str(n) for n in range(10_000)]


def test_a_flood_is_dropped_counted_and_logged(
    tmp_path: Path, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    settings = unix(tmp_path, lines_per_second=10, connections=2)
    with serving(settings, kept, monotonic=lambda: now) as server:
        hostile = connect(settings)
        hostile.sendall(b"x\n" * 8000)
        server.turn(0)
        server.turn(0)
        source = server.sources[None]
        assert (len(kept.lines), source.lines, source.dropped) == (50, 50, 7950)
        assert "7950 lines of enclave dropped: over 10 a second" in caplog.text
        with connect(settings) as second, connect(settings) as third:
            server.turn(0)
            server.turn(0)
            assert third.recv(1) == b""
            assert (server.rejected, server.connections) == (1, 2)
            now += 10
            second.sendall(b"after a while\n")
            server.turn(0)
            assert kept.lines[-1] == "after a while"
        hostile.close()
        for _ in range(3):
            server.turn(0)
        assert server.connections == 0


def test_a_fast_sender_is_read_more_slowly(tmp_path: Path, kept: Kept) -> None:
    now = 0.0
    settings = unix(tmp_path, bytes_per_second=16384)
    with serving(settings, kept, monotonic=lambda: now) as server, connect(settings) as hostile:
        hostile.sendall(b"x" * 100_000)
        server.turn(0)
        reads = 0
        while server.turn(0):
            reads += 1
        assert reads == 2
        for second in range(1, 4):
            now = second + 0.001
            assert server.turn(0)
            assert not server.turn(0)


def test_a_thousand_connections_leave_nothing_behind(tmp_path: Path, kept: Kept) -> None:
    settings = unix(tmp_path, connections_per_second=1000)
    sink = LogSink(settings, sink=kept)
    sink.start()
    for _ in range(1000):
        connect(settings).close()

    def one_more_is_served() -> bool:
        # Some of the thousand may still wait to be accepted: then this one is rejected as well.
        with connect(settings) as one, contextlib.suppress(ConnectionError):
            one.sendall(b"still there\n")
            one.shutdown(socket.SHUT_WR)
            one.recv(1)  # until it is read to its end, or rejected
        return bool(kept.lines)

    eventually(one_more_is_served)
    eventually(lambda: sink.status().values["connections"] == 0)
    sink.stop(10)


def test_connections_in_a_loop_are_rejected_and_counted(
    tmp_path: Path, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    settings = unix(tmp_path, connections_per_second=2)
    with serving(settings, kept, monotonic=lambda: now) as server, connect(settings) as honest:
        server.turn(0)
        for _ in range(800):
            connect(settings).close()
        turns = 0
        while server.turn(0):
            turns += 1
        # Ten at once may be; 500 a second are refused; the others wait in the kernel.
        assert server.rejected == 501
        assert turns < 2 * 501
        assert len(caplog.messages) == 10
        assert "rejected a connection of enclave: it opens over 2 a second" in caplog.text
        honest.sendall(b"reads on\n")
        server.turn(0)
        assert kept.lines == ["reads on"]
        now += 0.051
        while server.turn(0):
            pass
        assert server.rejected == 501 + 26
        now += 10
        while server.turn(0):
            now += 0.051
        assert server.connections == 1
        assert "517 more such lines dropped" in caplog.text
        with connect(settings) as later:
            now += 5
            server.turn(0)
            later.sendall(b"and later\n")
            server.turn(0)
            assert kept.lines == ["reads on", "and later"]


def test_connections_of_another_cid_in_a_loop(tmp_path: Path, kept: Kept) -> None:
    settings = dataclasses.replace(unix(tmp_path), cids=frozenset({16}))
    with serving(settings, kept, monotonic=lambda: 0) as server:
        for _ in range(700):
            connect(settings).close()
        while server.turn(0):
            pass
        assert (server.rejected, server.sources) == (501, {})


def test_lines_that_cannot_be_written_are_counted_as_lost(tmp_path: Path, kept: Kept) -> None:
    settings = unix(tmp_path)
    sink = LogSink(settings, sink=kept)
    sink.start()
    with connect(settings) as one:
        kept.error = OSError(errno.ENOSPC, "No space left on device")
        one.sendall(b"lost\n")
        eventually(lambda: "No space left" in sink.status().detail)
        assert not sink.status().healthy
        kept.error = None
        one.sendall(b"kept\n")
        assert kept.wait_for(1) == ["kept"]
        eventually(lambda: sink.status().healthy)
        assert sink.status().values["lost"] == 1
    sink.stop(10)


def test_cids_are_told_apart() -> None:
    settings = LogSettings(cids=frozenset({16, 17}), lines_per_second=1)
    one, other = Source(16, "one", settings), Source(17, "other", settings)
    assert Intake(one).feed(0, b"a\nb\nc\nd\ne\nf\ng\n") == ["a", "b", "c", "d", "e"]
    assert Intake(one).feed(0, b"h\n") == []
    assert Intake(other).feed(0, b"a\n") == ["a"]
    assert (one.dropped, other.dropped) == (3, 0)


def test_a_reload_changes_the_rate_of_connections() -> None:
    source = Source(16, "one", LogSettings(cids=None, connections_per_second=1))
    assert [source.arrive(0) for _ in range(6)] == [True] * 5 + [False]
    source.reconfigure("one", LogSettings(cids=None, connections_per_second=2))
    assert [source.arrive(60) for _ in range(11)] == [True] * 10 + [False]


def test_cids_that_come_and_go_are_forgotten(tmp_path: Path, kept: Kept) -> None:
    with serving(unix(tmp_path), kept, names={16: "one"}, monotonic=lambda: 0) as server:
        server._source(16).connections = 1
        for cid in range(17, 1000):
            server._source(cid)
        assert len(server.sources) <= MAX_CIDS
        assert server.sources[16].name == "one"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(TEST_TIMEOUT)
        yield listener, path


def test_the_journal_gets_fields(journal: tuple[socket.socket, str]) -> None:
    listener, path = journal
    sink = Journal(path)
    sink.write("worker", 16, "größer = \\x1b")
    assert listener.recv(65536).decode() == (
        "MESSAGE=größer = \\x1b\nPRIORITY=6\nSYSLOG_IDENTIFIER=enclave\nENCLAVE=worker\nCID=16\n"
    )
    sink.write("enclave", None, "x" * 40_000)
    assert len(listener.recv(65536)) > 40_000
    sink.close()


def test_a_full_journal_does_not_block(journal: tuple[socket.socket, str]) -> None:
    _, path = journal
    sink = Journal(path)

    def fill() -> None:
        for _ in range(10_000):
            sink.write("worker", 16, "x" * 1000)

    with pytest.raises(BlockingIOError):
        fill()
    sink.close()


def test_a_journal_that_is_away_for_a_while(tmp_path: Path) -> None:
    """Lines are lost meanwhile; those that come later are not."""
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as first:
        first.bind(str(path))
        sink = Journal(str(path))
    path.unlink()
    for _ in range(3):
        with pytest.raises(OSError, match="No such file"):
            sink.write("worker", 16, "lost")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.settimeout(TEST_TIMEOUT)
        second.bind(str(path))
        sink.write("worker", 16, "again")
        assert b"MESSAGE=again\n" in second.recv(1000)
    sink.close()


def test_a_restarted_journal_is_reconnected(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.bind(str(path))
    sink = Journal(str(path))
    first.close()
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(str(path))
        second.settimeout(TEST_TIMEOUT)
        sink.write("worker", 16, "again")
        assert b"MESSAGE=again\n" in second.recv(65536)
    sink.close()
    with pytest.raises(ConfigurationError, match="no journal"):
        Journal(str(tmp_path / "none"))


def test_a_file_has_a_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "enclaves.log"
    sink = open_sink(LogFile(path, size=65536, keep=2))
    for number in range(5000):
        sink.write("worker", 16, f"line {number} " + "x" * 50)
    sink.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [path.name, f"{path.name}.1", f"{path.name}.2"]
    assert all(file.stat().st_size <= 65536 for file in files)
    assert "Z worker[16]: line 4999 x" in path.read_text().splitlines()[-1]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write") as caught:
        open_sink(LogFile(tmp_path / "none" / "log"))
    assert "the folder has to be there" in caught.value.hint
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="it is a FIFO"):
        open_sink(LogFile(tmp_path / "fifo"))
    full = open_sink(LogFile(Path("/dev/full")))
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            full.write("worker", 16, "lost")
    full.close()


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_a_file_that_somebody_moves_or_deletes_is_made_anew(how: str, tmp_path: Path) -> None:
    """As logrotate does it; into a deleted file lines would go unseen, and take space."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path, old = folder / "log", folder / "old"
    sink = open_sink(LogFile(path))
    sink.write("worker", 16, "one")
    path.rename(old) if how == "moved" else path.unlink()
    sink.write("worker", 16, "two")
    sink.write("worker", 16, "three")
    assert [line.split(": ")[1] for line in path.read_text().splitlines()] == ["two", "three"]
    assert not old.exists() or old.read_text().endswith(": one\n")
    path.unlink()
    folder.rename(tmp_path / "gone")
    with pytest.raises(OSError, match="No such file"):
        sink.write("worker", 16, "lost")
    folder.mkdir()
    sink.write("worker", 16, "four")
    assert path.read_text().endswith(": four\n")
    sink.close()


def test_the_daemons_own_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "parent.logs.enclave")
    sink = open_sink("stderr")
    sink.write("worker", 16, "100 %s")
    sink.close()
    assert caplog.messages == ["worker[16]: 100 %s"]


def read(text: str) -> LogSettings:
    return read_logs_section(parse_settings(text.encode(), source="parent.yaml"))


def test_the_section_is_read(tmp_path: Path) -> None:
    settings = read("cids: [16, 17]")
    assert settings == LogSettings(cids=frozenset({16, 17}), listen=LISTEN, to="journal")
    assert str(settings.listen) == "vsock://any:8003"
    assert read("cids: any").cids is None
    settings = read(
        "listen: unix:/run/logs\nto: {file: /var/log/e.log, size: 1 MiB, keep: 3}\n"
        "lines_per_second: 5\nbytes_per_second: 8 KiB\nconnections: 2\n"
        "connections_per_second: 1\n"
    )
    assert settings == LogSettings(
        cids=None,
        listen=UnixAddress("/run/logs"),
        to=LogFile(Path("/var/log/e.log"), 1 << 20, 3),
        lines_per_second=5,
        bytes_per_second=8192,
        connections=2,
        connections_per_second=1,
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cids: [3]", "1: cids: '3' is not an integer in 4.."),
        ("cids: all", "1: cids: 'all' is not one of:"),
        ("to: journal", "1: key 'cids' is missing"),
        ("listen: unix:/x\ncids: [16]", "2: cids: only for a vsock listener"),
        ("cids: [16]\nto: syslog", "2: to: 'syslog' is not one of:"),
        ("cids: [16]\nto: {file: x}", "2: file: not an absolute path"),
        ("cids: [16]\nto: {size: 1 MiB}", "2: to: key 'file' is missing"),
        ("cids: [16]\nconnections_per_second: 1001", "2: connections_per_second: '1001' is not"),
        ("cids: [16]\nconnections: 0", "2: connections: '0' is not an integer"),
    ],
)
def test_invalid_settings_are_rejected_with_their_line(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as e:
        read(text)
    assert str(e.value).startswith(f"parent.yaml:{said}")


def test_an_address_in_use_is_an_error(tmp_path: Path, kept: Kept) -> None:
    settings = unix(tmp_path)
    first = LogSink(settings, sink=kept)
    first.start()
    with pytest.raises(AgentError, match="cannot listen"):
        LogSink(settings, sink=Kept()).start()
    first.stop(10)
