"""`DevTpm` without hardware: the driver is the other end of a socket pair."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from enclave.errors import TpmBusyError, TpmTimeoutError, TpmUnavailableError
from enclave.nitrotpm import DevTpm
from enclave.nitrotpm import device as device_module
from tests.doubles import ManualClock
from tests.forked import run_in_child
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOON = 0.05
"""Seconds until what never comes is given up on."""


class Driver:
    """Opens socket pairs in the device's place; the far ends are here."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.far: list[socket.socket] = []

    def open(self, path: str, flags: int) -> int:
        assert flags == os.O_RDWR | os.O_CLOEXEC
        self.paths.append(path)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.far.append(far)
        return near.detach()

    def serve(self, respond: Callable[[bytes], bytes]) -> None:
        """Respond to one command on the last device opened."""
        far = self.far[-1]
        threading.Thread(target=lambda: far.send(respond(far.recv(4096))), daemon=True).start()

    def is_closed(self) -> bool:
        """Whether the near end of the last device is closed."""
        try:
            return self.far[-1].recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False


@pytest.fixture
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    for each in made.far:
        each.close()


def _refusing(code: int) -> Callable[[str, int], int]:
    def refuse(_path: str, _flags: int) -> int:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize(("managed", "path"), [(True, "/dev/tpmrm0"), (False, "/dev/tpm0")])
def test_bytes_in_bytes_out(driver: Driver, managed: bool, path: str) -> None:
    device = DevTpm(managed=managed, _open=driver.open)
    with device.open(timeout=TEST_TIMEOUT) as channel:
        for command in (b"first", b"x" * 4096):
            driver.serve(lambda got: got[::-1])
            assert channel.exchange(command, timeout=TEST_TIMEOUT) == command[::-1]
    assert driver.paths == [path]
    assert driver.is_closed()


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOENT, "--tpm-support v2.0"),
        (errno.ENODEV, "--tpm-support v2.0"),
        (errno.EACCES, "this user may not open it"),
        (errno.EPERM, "this user may not open it"),
        (errno.EIO, "enclave-agent describe"),
    ],
)
def test_a_device_that_cannot_be_opened(code: int, hint: str) -> None:
    device = DevTpm(_open=_refusing(code))
    with pytest.raises(TpmUnavailableError, match="cannot open /dev/tpmrm0") as caught:
        device.open(timeout=TEST_TIMEOUT).__enter__()
    assert os.strerror(code) in str(caught.value)
    assert hint in caught.value.hint


def test_a_device_that_others_hold_open() -> None:
    """``/dev/tpm0`` admits one opener; who is second waits, up to a deadline."""
    clock = ManualClock()
    device = DevTpm(managed=False, _open=_refusing(errno.EBUSY), _clock=clock)
    with pytest.raises(TpmBusyError, match="/dev/tpm0 is held open by another program"):
        device.open(timeout=10).__enter__()
    assert 10 <= clock.elapsed < 11


def test_a_device_that_is_given_back_in_time(driver: Driver) -> None:
    clock = ManualClock()

    def open_at_last(path: str, flags: int) -> int:
        if clock.elapsed < 1:
            raise OSError(errno.EBUSY, "")
        return driver.open(path, flags)

    with DevTpm(_open=open_at_last, _clock=clock).open(timeout=10):
        assert clock.elapsed >= 1


def test_one_attestation_at_a_time_between_processes(tmp_path: Path) -> None:
    """The lock is on the inode: another open descriptor of it stands for another process."""
    (tmp_path / "tpm").touch()
    clock = ManualClock()
    device = DevTpm(_open=lambda _, flags: os.open(tmp_path / "tpm", flags), _clock=clock)
    other = os.open(tmp_path / "tpm", os.O_RDWR)
    try:
        with device.open(timeout=1), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(TpmBusyError, match="locked by another attestation"):
            device.open(timeout=1).__enter__()
    finally:
        os.close(other)
    with device.open(timeout=1):
        pass


def test_a_lock_that_a_forked_child_would_hold(tmp_path: Path) -> None:
    """A child has no copy of the descriptor, so that it does not keep the TPM for its life."""
    (tmp_path / "tpm").touch()
    device = DevTpm(_open=lambda _, flags: os.open(tmp_path / "tpm", flags))
    with device.open(timeout=1) as channel:

        def in_the_child() -> None:
            with pytest.raises(TpmUnavailableError, match="/dev/tpmrm0 is closed"):
                channel.exchange(b"", timeout=1)

        run_in_child(in_the_child)


def test_a_tpm_that_does_not_respond(driver: Driver) -> None:
    """The thread in the driver closes the device when it comes back, and nobody waits for it."""
    with DevTpm(_open=driver.open).open(timeout=TEST_TIMEOUT) as channel:
        with pytest.raises(TpmTimeoutError, match="no response within") as caught:
            channel.exchange(b"command", timeout=SOON)
        assert caught.value.hint
        with pytest.raises(TpmUnavailableError, match="closed"):
            channel.exchange(b"command", timeout=SOON)
    assert driver.far[-1].recv(4096) == b"command"
    driver.far[-1].send(b"too late")
    eventually(driver.is_closed)


def test_an_interrupt_while_the_tpm_works(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """Ctrl-C: the descriptor stays the thread's until it is back."""

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 (as the base class)
            raise KeyboardInterrupt

    monkeypatch.setattr(
        device_module,
        "threading",
        SimpleNamespace(Event=Interrupted, Lock=threading.Lock, Thread=threading.Thread),
    )
    with (
        pytest.raises(KeyboardInterrupt),
        DevTpm(_open=driver.open).open(timeout=TEST_TIMEOUT) as channel,
    ):
        channel.exchange(b"command", timeout=TEST_TIMEOUT)
    assert driver.far[-1].recv(4096) == b"command"
    assert not driver.is_closed()
    driver.far[-1].send(b"too late")
    eventually(driver.is_closed)


def test_a_driver_that_has_lost_the_tpm(driver: Driver) -> None:
    with DevTpm(_open=driver.open).open(timeout=TEST_TIMEOUT) as channel:
        driver.far[-1].close()
        with pytest.raises(TpmUnavailableError, match="Broken pipe") as caught:
            channel.exchange(b"command", timeout=TEST_TIMEOUT)
        assert "stop and start the instance" in caught.value.hint


def test_a_driver_that_fails() -> None:
    with DevTpm(_open=lambda _, flags: os.open("/dev/full", flags)).open(timeout=1) as channel:
        for _ in range(2):
            with pytest.raises(TpmUnavailableError, match="No space left on device"):
                channel.exchange(b"command", timeout=TEST_TIMEOUT)


def test_without_a_thread_the_device_is_unavailable_and_closed(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with (
        DevTpm(_open=driver.open).open(timeout=TEST_TIMEOUT) as channel,
        pytest.raises(TpmUnavailableError, match="can't start new thread"),
    ):
        channel.exchange(b"command", timeout=TEST_TIMEOUT)
    assert driver.is_closed()
