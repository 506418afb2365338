"""The simulated parent's log sink."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from enclave_simulator.parent.logs import print_logs
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    import pytest


def blocked() -> set[int]:
    return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def blocked_in(thread: threading.Thread) -> int:
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text(encoding="ascii")
    return int(dict(line.split(":", 1) for line in status.splitlines())["SigBlk"], 16)


def test_lines_are_printed_and_signals_are_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, before = str(tmp_path / "sink"), blocked()
    with print_logs(UnixAddress(path)), socket.socket(socket.AF_UNIX) as enclave:
        assert blocked() == before
        [thread] = [each for each in threading.enumerate() if each.name == "logs"]
        assert blocked_in(thread) & 1 << signal.SIGTERM - 1
        enclave.connect(path)
        enclave.sendall(b"\x1b[31mred\n" + b"line\n" * 3000)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [r"enclave: \x1b[31mred", *["enclave: line"] * 3000]


def test_an_existing_listener_is_left_alone(tmp_path: Path) -> None:
    path, before = str(tmp_path / "sink"), blocked()
    with socket.socket(socket.AF_UNIX) as own, socket.socket(socket.AF_UNIX) as enclave:
        own.settimeout(TEST_TIMEOUT)
        own.bind(path)
        own.listen()
        with print_logs(UnixAddress(path)):
            assert blocked() == before
            own.accept()[0].close()  # which looked whether anybody is there
            enclave.connect(path)
            with own.accept()[0] as accepted:
                enclave.sendall(b"line\n")
                assert accepted.recv(10) == b"line\n"
