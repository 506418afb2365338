"""The sender thread over real sockets, with well-behaved and hostile sinks."""

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
from enclave.logs.options import DEFAULT_SINK
from enclave.logs.sender import Descriptor, Outcome, Sender, send_to_sink
from tests.doubles import RedirectingDialer
from tests.sockets import read_all
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1 << 20


class Parent:
    """A sink, played by the test."""

    def __init__(self, path: Path) -> None:
        self.address = UnixAddress(str(path))
        self._listener: socket.socket | None = None

    def listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address.path)
        self._listener.listen()
        self._listener.settimeout(TEST_TIMEOUT)

    def vanish(self) -> None:
        if self._listener:
            self._listener.close()
            Path(self.address.path).unlink()
            self._listener = None

    def accept(self) -> socket.socket:
        assert self._listener
        accepted, _ = self._listener.accept()
        accepted.settimeout(TEST_TIMEOUT)
        return accepted


def read_line(connection: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        assert byte, line
        line += byte
    return line.decode().rstrip("\n")


def read_and_close(connection: socket.socket) -> bytes:
    with connection:
        return read_all(connection)


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
    made = send_to_sink(parent.address, limit=LIMIT, report=said.append)
    yield made
    made.close(0)
    made._thread.join(TEST_TIMEOUT)
    assert not made._thread.is_alive()


def test_all_lines_arrive_and_are_confirmed(parent: Parent, sender: Sender) -> None:
    parent.listen()
    sender.put([b"one", b"two"])
    got: list[bytes] = []
    with parent.accept() as connection:
        reader = threading.Thread(target=lambda: got.append(read_and_close(connection)))
        reader.start()
        sender.put([b"three"])
        assert sender.close(TEST_TIMEOUT) == Outcome([], 0, confirmed=True)
        reader.join()
    assert got == [b"one\ntwo\nthree\n"]


def test_program_without_output_makes_no_connection(sender: Sender, said: list[str]) -> None:
    assert sender.close(TEST_TIMEOUT) == Outcome([], 0, confirmed=True)
    assert said == []


def test_late_sink_gets_all_lines(parent: Parent, sender: Sender, said: list[str]) -> None:
    sender.put([b"early"])
    eventually(lambda: said)
    assert said == [
        f"logs: {parent.address}: No such file or directory; retrying, lines are buffered"
    ]
    parent.listen()
    with parent.accept() as connection:
        assert read_line(connection) == "early"
    assert said[1:] == [f"logs: {parent.address}: reconnected"]


def test_restarted_sink_gets_the_following_lines(
    parent: Parent, sender: Sender, said: list[str]
) -> None:
    parent.listen()
    sender.put([b"one"])
    with parent.accept() as connection:
        assert read_line(connection) == "one"
    parent.vanish()
    sender.put([b"two"])
    eventually(lambda: said)
    assert said == [f"logs: {parent.address}: it hung up; retrying, lines are buffered"]
    sender.put([b"three"])
    parent.listen()
    with parent.accept() as connection:
        lines = [read_line(connection) for _ in range(3)]
    assert lines[0].startswith("enclave-agent: logs: reconnected")
    assert lines[1:] == ["two", "three"]


def test_sink_that_never_reads_blocks_nothing_and_memory_is_bounded(
    parent: Parent, sender: Sender
) -> None:
    parent.listen()
    total = 500_000
    for first in range(0, total, 500):
        sender.put(b"%0100d" % n for n in range(first, first + 500))
    assert sender._outbox._size <= LIMIT
    with parent.accept() as connection:
        # When it reads in the end, each line is there or counted.
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(read_and_close(connection)))
        reader.start()
        outcome = sender.close(TEST_TIMEOUT)
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
    assert told == outcome.dropped > 0


def test_sink_that_never_reads_delays_close_up_to_the_timeout(
    parent: Parent, sender: Sender
) -> None:
    parent.listen()
    sender.put([b"x" * 8000] * 1000)
    with parent.accept():
        outcome = sender.close(0.2)
    assert outcome.unsent
    assert not outcome.confirmed


def test_lines_that_were_not_read_are_not_confirmed(parent: Parent, sender: Sender) -> None:
    parent.listen()
    sender.put([b"in the kernel's buffer"])
    with parent.accept():
        assert sender.close(0.2) == Outcome([], 0, confirmed=False)


def test_closing_the_outlet_is_not_taken_for_a_confirmation() -> None:
    """`finish` waits for the sink's end; closing the socket wakes it with what looks like one."""

    class Outlet:
        closed, finished = threading.Event(), threading.Event()

        def write(self, data: bytes) -> int:
            return len(data)

        def finish(self, timeout: float) -> bool:  # noqa: ARG002
            assert self.closed.wait(TEST_TIMEOUT)
            return True

        def close(self) -> None:
            if self.closed.is_set():
                self.finished.set()  # Called by the thread, after `finish`.
            else:
                self.closed.set()
                assert self.finished.wait(TEST_TIMEOUT)

    sender = Sender("a sink", Outlet)
    sender.put([b"line"])
    eventually(lambda: not sender._outbox)
    assert sender.close(0.05) == Outcome([], 0, confirmed=False)


def test_sink_that_hangs_up_is_retried_with_growing_delays(parent: Parent, sender: Sender) -> None:
    parent.listen()
    for failures in range(4):
        assert sender._link._failures == failures
        sender.put([b"line"])
        parent.accept().close()
        while sender._link._failures == failures:
            sender.put([b"another, by which it notices"])


def test_sink_that_sends_data_is_not_a_sink(
    parent: Parent, sender: Sender, said: list[str]
) -> None:
    parent.listen()
    sender.put([b"one"])
    with parent.accept() as connection:
        assert read_line(connection) == "one"
        connection.sendall(b"surprise" * 100)
        sender.put([b"two"])
        eventually(lambda: said)
    assert "it sent data, which a log sink never does" in said[0]


def test_lines_lost_by_a_reset_are_reported(parent: Parent, sender: Sender) -> None:
    parent.listen()
    sender.put([b"never read"])
    connection = parent.accept()
    eventually(lambda: not sender._outbox)
    connection.close()  # with data unread: a reset
    sender.put([b"two"])
    with parent.accept() as connection:
        assert read_line(connection).endswith("lines just before this may be missing")
        assert read_line(connection) == "two"


def test_lines_are_written_to_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "console"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    sender = Sender("standard error", lambda: Descriptor(fd))
    sender.put([b"one", b"two"])
    assert sender.close(TEST_TIMEOUT) == Outcome([], 0, confirmed=True)
    os.close(fd)
    assert path.read_bytes() == b"one\ntwo\n"


def test_full_descriptor_does_not_block() -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)  # as whoever shares it may have made it
    sender = Sender("standard error", lambda: Descriptor(into), limit=LIMIT)
    for _ in range(100):
        sender.put([b"x" * 1000] * 100)
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(_lengths(out)))
    reader.start()
    outcome = sender.close(TEST_TIMEOUT)
    os.close(into)
    reader.join()
    os.close(out)
    assert outcome.unsent == []
    assert outcome.dropped > 0
    assert sum(got) > LIMIT / 2


def _lengths(fd: int) -> Iterator[int]:
    while data := os.read(fd, 1 << 16):
        yield len(data)


class Pipes:
    """Two captured pipes."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        (out, self.out), (err, self.err) = os.pipe(), os.pipe()
        self.capture = Capture([out, err], self.lines.extend)


def test_lines_of_two_streams_do_not_mix() -> None:
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


def test_pipe_held_open_by_another_process_does_not_block() -> None:
    out, into = os.pipe()
    size = fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(into, b"x" * 7 + b"\n" * (size - 7))
    lines: list[bytes] = []
    Capture([out], lines.extend).stop()
    assert len(lines) == size - 7
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(out)
    os.close(into)


def test_too_long_line_is_truncated() -> None:
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


def test_logging_handler_sends_records(parent: Parent) -> None:
    parent.listen()
    dialer = RedirectingDialer(parent.address)
    handler = SinkHandler(dialer=dialer)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for text in ("größer \udcff", "of\nthree\nlines"):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, text, None, None))
    got: list[bytes] = []
    with parent.accept() as connection:
        reader = threading.Thread(target=lambda: got.append(read_and_close(connection)))
        reader.start()
        handler.close()
        reader.join()
    assert dialer.dialed == [DEFAULT_SINK]
    assert got[0].decode().splitlines() == ["INFO größer \\udcff", "INFO of", "three", "lines"]


def test_record_that_cannot_be_formatted_is_reported_by_logging(
    parent: Parent, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = SinkHandler(parent.address)
    with contextlib.closing(handler):
        handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("no number",), None))
    assert "--- Logging error ---" in capsys.readouterr().err
