"""Watchdog notifications stop when the relay hangs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.rig import COMMAND
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import UnixAddress
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Forward
from vsock_proxy.service.watchdog import Watchdog, watchdog_interval

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval_from_the_environment(
    environment: dict[str, str], interval: float | None
) -> None:
    assert watchdog_interval(environment, 7) == interval


def test_hanging_loop_sends_no_watchdog_notification(tmp_path: Path) -> None:
    told: list[str] = []
    forward = Forward(UnixAddress(str(tmp_path / "a")), UnixAddress(str(tmp_path / "b")))
    daemon = Daemon([forward], drain_timeout=0.0, tick=0.01)
    watchdog = Watchdog(lambda: daemon.turns, notify=told.append)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(TEST_TIMEOUT)

    thread = threading.Thread(target=daemon.run)
    thread.start()
    daemon._loop.call_from_thread(hold)
    assert held.wait(TEST_TIMEOUT)
    watchdog.check()
    watchdog.check()
    watchdog.check()
    assert told == ["WATCHDOG=1"]
    go_on.set()
    before = daemon.turns
    while daemon.turns == before:
        pass
    watchdog.check()
    assert told == ["WATCHDOG=1"] * 2
    daemon.stop()
    thread.join(TEST_TIMEOUT)


def test_command_notifies_the_watchdog(tmp_path: Path) -> None:
    allowlist = tmp_path / "allowlist.yaml"
    allowlist.write_text("allowlist: [{address: 127.0.0.1, port: 9}]")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(TEST_TIMEOUT)
        process = subprocess.Popen(
            [*COMMAND, f"unix:{tmp_path}/proxy", "127.0.0.1", "9", "--config", str(allowlist)],
            env={
                **os.environ,
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "WATCHDOG_USEC": "100000",
            },
            stderr=subprocess.PIPE,
        )
        try:
            heard = [systemd.recv(100) for _ in range(3)]
            assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
            process.send_signal(signal.SIGABRT)  # As systemd does to one that hangs.
            _, said = process.communicate(timeout=TEST_TIMEOUT)
            assert b"Fatal Python error: Aborted" in said
            assert b"loop.py" in said
        finally:
            process.kill()
            process.wait()
