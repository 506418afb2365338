"""The sender's thread over real sockets, with parents of every kind."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave.logs.capture import Capture
from enclave.logs.handler import SinkHandler
from enclave.logs.link import FIRST_DELAY
from enclave.logs.options import DEFAULT_SINK
from enclave.logs.sender import Descriptor, Outcome, Sender, send_to_sink
from tests.doubles import RedirectingDialer
from tests.waiting import PATIENCE, eventually
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1 << 20


class Parent:
    """Listens where a sink would."""

    def __init__(self, path: Path) -> None:
        self.address = UnixAddress(str(path))
        self._listener: socket.socket | None = None

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address.path)
        self._listener.listen()
        self._listener.settimeout(PATIENCE)

    def vanish(self) -> None:
        if self._listener:
            self._listener.close()
            Path(self.address.path).unlink()
            self._listener = None

    def accept(self) -> socket.socket:
        assert self._listener
        accepted, _ = self._listener.accept()
        accepted.settimeout(PATIENCE)
        return accepted


def read_line(connection: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        assert byte, line
        line += byte
    return line.decode().rstrip("\n")


def read_all(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    made = Parent(tmp_path / "sink")
    yield made
    made.vanish()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sender(parent: Parent, said: list[str]) -> Iterator[Sender]:
    made = send_to_sink(parent.address, limit=LIMIT, complain=said.append)
    yield made
    made.close(0)
    made._thread.join(PATIENCE)
    assert not made._thread.is_alive()


def test_everything_arrives_and_the_sink_confirms(parent: Parent, sender: Sender) -> None:
    parent.listen()
    sender.put([b"one", b"two"])
    got: list[bytes] = []
    with parent.accept() as connection:
        reader = threading.Thread(target=lambda: got.append(read_all(connection)))
        reader.start()
        sender.put([b"three"])
        assert sender.close(PATIENCE) == Outcome([], 0, confirmed=True)
        reader.join()
    assert got == [b"one\ntwo\nthree\n"]


def test_a_program_that_said_nothing_makes_no_connection(sender: Sender, said: list[str]) -> None:
    assert sender.close(PATIENCE) == Outcome([], 0, confirmed=True)
    assert said == []


def test_a_sink_that_comes_late_gets_it_all(
    parent: Parent, sender: Sender, said: list[str]
) -> None:
    sender.put([b"early"])
    eventually(lambda: said)
    assert said == [
        f"logs: {parent.address}: No such file or directory; trying again, lines wait meanwhile"
    ]
    parent.listen()
    with parent.accept() as connection:
        assert read_line(connection) == "early"
    assert said[1:] == [f"logs: {parent.address}: connected again"]


def test_a_sink_that_is_restarted_gets_what_follows(
    parent: Parent, sender: Sender, said: list[str]
) -> None:
    parent.listen()
    sender.put([b"one"])
    with parent.accept() as connection:
        assert read_line(connection) == "one"
    parent.vanish()
    sender.put([b"two"])
    eventually(lambda: said)
    assert said == [f"logs: {parent.address}: it hung up; trying again, lines wait meanwhile"]
    sender.put([b"three"])
    parent.listen()
    with parent.accept() as connection:
        lines = [read_line(connection) for _ in range(3)]
    assert lines[0].startswith("enclave-agent: logs: connected again")
    assert lines[1:] == ["two", "three"]


def test_one_that_never_reads_delays_nobody_and_costs_a_bounded_memory(
    parent: Parent, sender: Sender
) -> None:
    parent.listen()
    total = 500_000
    for first in range(0, total, 500):
        sender.put(b"%0100d" % n for n in range(first, first + 500))
    assert sender._outbox._size <= LIMIT
    with parent.accept() as connection:
        # And when it reads at last, each line is there or counted.
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(read_all(connection)))
        reader.start()
        outcome = sender.close(PATIENCE)
        reader.join()
    assert outcome.unsent == []
    assert outcome.confirmed
    expected = told = 0
    for line in got[0].decode().splitlines():
        if line.startswith("enclave-agent: "):
            told += int(line.split()[2])
            expected += int(line.split()[2])
        else:
            assert int(line) == expected
            expected += 1
    assert expected == total
    assert told == outcome.left_out > 0


def test_one_that_never_reads_holds_the_end_up_for_a_bounded_time(
    parent: Parent, sender: Sender
) -> None:
    parent.listen()
    sender.put([b"x" * 8000] * 1000)
    with parent.accept():
        outcome = sender.close(0.2)
    assert outcome.unsent
    assert not outcome.confirmed


def test_one_that_reads_nothing_of_little_confirms_nothing(parent: Parent, sender: Sender) -> None:
    parent.listen()
    sender.put([b"in the kernel's buffer"])
    with parent.accept():
        assert sender.close(0.2) == Outcome([], 0, confirmed=False)


def test_one_that_hangs_up_each_time_is_met_ever_more_rarely(
    parent: Parent, sender: Sender
) -> None:
    parent.listen()
    delays = []
    for _ in range(4):
        delays.append(sender._link._delay)
        sender.put([b"line"])
        parent.accept().close()
        while sender._link._delay == delays[-1]:
            sender.put([b"another, by which it notices"])
    assert delays == [FIRST_DELAY * 2**n for n in range(4)]


def test_one_that_answers_is_no_sink(parent: Parent, sender: Sender, said: list[str]) -> None:
    parent.listen()
    sender.put([b"one"])
    with parent.accept() as connection:
        assert read_line(connection) == "one"
        connection.sendall(b"surprise" * 100)
        sender.put([b"two"])
        eventually(lambda: said)
    assert "it answers, as no log sink does" in said[0]


def test_one_that_resets_loses_lines_and_that_is_said(parent: Parent, sender: Sender) -> None:
    parent.listen()
    sender.put([b"never read"])
    connection = parent.accept()
    eventually(lambda: not sender._outbox)
    connection.close()  # with data unread: a reset
    sender.put([b"two"])
    with parent.accept() as connection:
        assert read_line(connection).endswith("lines just before this may be missing")
        assert read_line(connection) == "two"


def test_lines_for_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "console"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    sender = Sender("standard error", lambda: Descriptor(fd))
    sender.put([b"one", b"two"])
    assert sender.close(PATIENCE) == Outcome([], 0, confirmed=True)
    os.close(fd)
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_descriptor_that_takes_nothing_blocks_nobody() -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)  # as whoever shares it may have made it
    sender = Sender("standard error", lambda: Descriptor(into), limit=LIMIT)
    for _ in range(100):
        sender.put([b"x" * 1000] * 100)
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(_lengths(out)))
    reader.start()
    outcome = sender.close(PATIENCE)
    os.close(into)
    reader.join()
    os.close(out)
    assert outcome.unsent == []
    assert outcome.left_out > 0
    assert sum(got) > LIMIT / 2


def _lengths(fd: int) -> Iterator[int]:
    while data := os.read(fd, 1 << 16):
        yield len(data)


class Pipes:
    """Two pipes that are captured."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        (out, self.out), (err, self.err) = os.pipe(), os.pipe()
        self.capture = Capture([out, err], self.lines.extend)


def test_lines_of_two_streams_stay_whole() -> None:
    pipes = Pipes()
    os.write(pipes.out, b"one ")
    os.write(pipes.err, b"two\nthree ")
    eventually(lambda: pipes.lines == [b"two"])
    os.write(pipes.out, b"half\n")
    eventually(lambda: len(pipes.lines) == 2)
    os.write(pipes.err, b"without an end")
    os.close(pipes.out)
    os.close(pipes.err)
    pipes.capture.stop()
    assert pipes.lines == [b"two", b"one half", b"three without an end"]


def test_a_pipe_that_somebody_holds_open_holds_nobody_up() -> None:
    out, into = os.pipe()
    size = fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(into, b"x" * 7 + b"\n" * (size - 7))
    lines: list[bytes] = []
    Capture([out], lines.extend).stop()
    assert len(lines) == size - 7
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(out)
    os.close(into)


def test_a_line_without_end_is_cut() -> None:
    pipes = Pipes()
    for _ in range(100):
        os.write(pipes.out, b"x" * 10_000)
    os.write(pipes.out, b"\nnext\n")
    eventually(lambda: len(pipes.lines) == 2)
    pipes.capture.stop()
    assert pipes.lines[0].decode().endswith("x…")
    assert len(pipes.lines[0]) == 8192
    os.close(pipes.out)
    os.close(pipes.err)


def test_pythons_logging(parent: Parent) -> None:
    parent.listen()
    dialer = RedirectingDialer(parent.address)
    handler = SinkHandler(dialer=dialer)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for text in ("größer \udcff", "of\nthree\nlines"):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, text, None, None))
    got: list[bytes] = []
    with parent.accept() as connection:
        reader = threading.Thread(target=lambda: got.append(read_all(connection)))
        reader.start()
        handler.close()
        reader.join()
    assert dialer.dialed == [DEFAULT_SINK]
    assert got[0].decode().splitlines() == ["INFO größer \\udcff", "INFO of", "three", "lines"]


def test_a_record_that_cannot_be_formatted_is_pythons_own_complaint(
    parent: Parent, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = SinkHandler(parent.address)
    with contextlib.closing(handler):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("no number",), None))
    assert "--- Logging error ---" in capsys.readouterr().err
