"""`DevNsm` without hardware: the driver is a function that reads and writes this process's memory,
as the real one does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from enclave.errors import NsmError, NsmResponseError, NsmUnavailableError
from enclave.nsm import DevNsm, device
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

Ioctl = Callable[[int, int, bytearray, bool], int]


def _driver(answer: Callable[[bytes], bytes], *, length: int | None = None) -> Ioctl:
    def ioctl(fd: int, code: int, raw: bytearray, mutate: bool, /) -> int:
        os.fstat(fd)  # A closed descriptor fails here, as it would in the kernel.
        assert code == 0xC0200A00
        assert mutate
        asked_at, asked_len, answer_at, answer_len = struct.unpack("=QQQQ", raw)
        assert answer_len == 0x3000
        given = answer(ctypes.string_at(asked_at, asked_len))
        ctypes.memmove(answer_at, given, len(given))
        raw[24:] = struct.pack("=Q", len(given) if length is None else length)
        return 0

    return ioctl


def _failing(code: int) -> Ioctl:
    def ioctl(fd: int, code_: int, raw: bytearray, mutate: bool, /) -> int:
        raise OSError(code, os.strerror(code))

    return ioctl


def _open(path: str, flags: int) -> int:
    assert path == "/dev/nsm"
    assert flags == os.O_RDWR | os.O_CLOEXEC
    return os.open(os.devnull, flags)


def test_bytes_in_bytes_out() -> None:
    with DevNsm(_open=_open, _ioctl=_driver(lambda asked: asked[::-1])) as nsm:
        assert nsm.exchange(b"abc") == b"cba"
        assert nsm.exchange(b"x" * 0x1000) == b"x" * 0x1000
    full = b"y" * 0x3000
    with DevNsm(_open=_open, _ioctl=_driver(lambda _: full)) as nsm:
        assert nsm.exchange(b"abc") == full


@pytest.mark.parametrize("request_", [b"", b"x" * 0x1001])
def test_sizes_the_driver_must_not_see(request_: bytes) -> None:
    def never(fd: int, code: int, raw: bytearray, mutate: bool, /) -> int:
        pytest.fail("the driver was called")

    with (
        DevNsm(_open=_open, _ioctl=never) as nsm,
        pytest.raises(NsmError, match=rf"{len(request_)} bytes"),
    ):
        nsm.exchange(request_)


@pytest.mark.parametrize("length", [0, 0x3001, 2**63])
def test_a_length_that_cannot_be(length: int) -> None:
    ioctl = _driver(lambda _: b"", length=length)
    with DevNsm(_open=_open, _ioctl=ioctl) as nsm, pytest.raises(NsmResponseError, match="bytes"):
        nsm.exchange(b"x")


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ETIMEDOUT, "restart the enclave"),
        (errno.EBUSY, "another program"),
        (errno.ENOTTY, "not the NSM"),
        (errno.EINVAL, "ioctl"),
        (errno.ENODATA, ""),
    ],
)
def test_the_drivers_failures(code: int, hint: str) -> None:
    with (
        DevNsm(_open=_open, _ioctl=_failing(code)) as nsm,
        pytest.raises(NsmUnavailableError) as caught,
    ):
        nsm.exchange(b"x")
    assert os.strerror(code) in str(caught.value)
    assert hint in caught.value.hint


def test_the_real_ioctl_takes_what_it_is_given() -> None:
    """The kernel's answer to this ioctl on any other device is ENOTTY, not a wrong argument."""
    with DevNsm(_open=_open) as nsm, pytest.raises(NsmUnavailableError) as caught:
        nsm.exchange(b"x")
    assert "not the NSM device" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOENT, "enclave-simulator run --"),
        (errno.ENODEV, "nsm driver"),
        (errno.EACCES, "0666"),
        (errno.EPERM, "0666"),
        (errno.EMFILE, ""),
    ],
)
def test_it_does_not_open(code: int, hint: str) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(code, os.strerror(code), path)

    with pytest.raises(NsmUnavailableError, match="cannot open /dev/nsm") as caught:
        DevNsm(_open=refuse)
    assert hint in caught.value.hint


def test_nothing_but_the_constant_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NSM_DEVICE", "NSM_PATH", "NSM", "ENCLAVE_NSM"):
        monkeypatch.setenv(name, "/tmp/other")  # noqa: S108 (never opened)
    assert device.PATH == "/dev/nsm"
    with DevNsm(_open=_open, _ioctl=_driver(lambda asked: asked)) as nsm:
        assert nsm.exchange(b"x") == b"x"


def test_closing_twice_and_using_it_afterwards() -> None:
    nsm = DevNsm(_open=_open, _ioctl=_driver(lambda asked: asked))
    nsm.close()
    nsm.close()
    with pytest.raises(NsmUnavailableError, match="closed"):
        nsm.exchange(b"x")


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    opened: list[int] = []

    def remember(path: str, flags: int) -> int:
        opened.append(os.open(tmp_path, os.O_RDONLY))
        return opened[-1]

    with (
        contextlib.suppress(NsmUnavailableError),
        DevNsm(_open=remember, _ioctl=_failing(errno.EIO)) as nsm,
    ):
        nsm.exchange(b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


class _Gate:
    """A driver that answers when told to."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.inside = 0

    def answer(self, asked: bytes) -> bytes:
        self.inside += 1
        assert self.inside == 1, "two requests in the driver at once"
        self.entered.set()
        assert self.release.wait(TEST_TIMEOUT)
        self.inside -= 1
        return asked


def _started(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_one_request_at_a_time_and_the_wait_has_an_end() -> None:
    gate = _Gate()
    answers: list[bytes] = []
    with DevNsm(_open=_open, _ioctl=_driver(gate.answer), _wait_seconds=0.01) as nsm:
        thread = _started(lambda: answers.append(nsm.exchange(b"first")))
        assert gate.entered.wait(TEST_TIMEOUT)
        with pytest.raises(NsmUnavailableError, match="busy"):
            nsm.exchange(b"second")
        gate.release.set()
        thread.join(30)
        assert answers == [b"first"]
        assert nsm.exchange(b"third") == b"third"


def test_closing_waits_for_the_request_under_way() -> None:
    gate = _Gate()
    answers: list[bytes] = []
    nsm = DevNsm(_open=_open, _ioctl=_driver(gate.answer))
    asking = _started(lambda: answers.append(nsm.exchange(b"first")))
    assert gate.entered.wait(TEST_TIMEOUT)
    closing = _started(nsm.close)
    gate.release.set()
    asking.join(30)
    closing.join(30)
    assert answers == [b"first"]
    with pytest.raises(NsmUnavailableError, match="closed"):
        nsm.exchange(b"x")
