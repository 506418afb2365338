"""The launcher's two ways, a /dev of the program's own and trapped paths: what each holds to."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import errno
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.launcher import Launcher, LaunchError
from enclave_simulator.launcher.abi import ARCHITECTURES
from enclave_simulator.launcher.handshake import _failure
from tests.enclave_simulator.launcher.rig import (
    EchoNsm,
    connect,
    namespaces_refused,
    output,
    parent,
    python,
)
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave_simulator.launcher import Session

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WALL = 0x4000_0000

needs_namespaces = pytest.mark.skipif(
    "namespaces_refused()",
    reason="the kernel gives this user no user and mount namespace (user_namespaces(7))",
)


def kernel_release() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


class SlowNsm(EchoNsm):
    """Takes longer than it is from one signal to the next, now and then; counts."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def exchange(self, request: bytes) -> bytes:
        self.requests.append(request)
        if len(self.requests) % 10 == 0:
            time.sleep(0.003)
        return super().exchange(request)


# --- a /dev of its own ---


@needs_namespaces
def test_nsm_is_a_device_like_others(program: str) -> None:
    launcher = Launcher(nsm=EchoNsm(), namespaces=True)
    assert output(launcher, program, "listed") == (0, "good\n", "")


@needs_namespaces
def test_the_rest_of_dev_is_the_machines() -> None:
    def listing(folder: str) -> dict[str, tuple[int, int]]:
        status = {path.name: path.lstat() for path in Path(folder).iterdir()}
        return {name: (each.st_mode, each.st_rdev) for name, each in status.items()}

    script = """
import os
status = {name: os.lstat(f"/dev/{name}") for name in os.listdir("/dev")}
shm = os.stat("/dev/shm")
print(({name: (each.st_mode, each.st_rdev) for name, each in status.items()},
       (shm.st_dev, shm.st_ino)))
"""
    launcher = Launcher(nsm=EchoNsm(), namespaces=True)
    status, out, err = output(launcher, sys.executable, "-c", script)
    assert (status, err) == (0, "")
    (seen, shm), expected = ast.literal_eval(out), listing("/dev")
    shared = Path("/dev/shm").stat()  # noqa: S108 (only looked at)
    assert shm == (shared.st_dev, shared.st_ino)
    for device in ("nsm", "vsock"):
        seen.pop(device)
        expected.pop(device, None)
    for device in ("tpm0", "tpmrm0"):  # an enclave has none
        expected.pop(device, None)
    assert seen == expected


@needs_namespaces
def test_a_working_folder_in_dev_is_the_new_one(launcher: Launcher) -> None:
    status, out, err = output(launcher, "sh", "-c", "test -c nsm && pwd", cwd="/dev")
    assert (status, out, err) == (0, "/dev\n", "")


def test_the_user_is_the_same(launcher: Launcher) -> None:
    status, out, _ = output(launcher, "sh", "-c", "id -u; id -g; umask")
    mask = os.umask(0)
    os.umask(mask)
    assert (status, out.split()) == (0, [str(os.getuid()), str(os.getgid()), f"{mask:04o}"])


@needs_namespaces
def test_mounts_stay_in_the_enclave() -> None:
    before = Path("/proc/self/mountinfo").read_bytes()
    assert Launcher(nsm=EchoNsm(), namespaces=True).run(["test", "-c", "/dev/nsm"]) == 0
    assert Path("/proc/self/mountinfo").read_bytes() == before


def test_without_namespaces_paths_are_trapped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The trampoline of a kernel that refuses unshare."""
    real = Path(sys.modules[Launcher.__module__].__file__ or "").with_name("trampoline.py")
    refusing = tmp_path / "trampoline.py"
    text = real.read_text()
    assert "libc.unshare(" in text
    refusing.write_text(text.replace("libc.unshare(", "libc.close(-1 + 0 * "))
    monkeypatch.setattr(f"{Launcher.__module__}._TRAMPOLINE", refusing)
    caplog.set_level(logging.DEBUG)
    launcher = Launcher(nsm=EchoNsm(), own_network=True)
    with launcher.start(["test", "-c", "/dev/nsm"]) as session:
        assert session.wait(TEST_TIMEOUT) == 0
        assert not session.own_dev
        assert not session.own_network
    assert "calls with paths are trapped" in caplog.text
    assert "no network of its own" in caplog.text
    with pytest.raises(LaunchError, match="namespace of its own: Bad file descriptor") as caught:
        Launcher(nsm=EchoNsm(), namespaces=True).run(["true"])
    assert caught.value.hint


# --- signals ---


def test_a_program_under_signals_keeps_its_memory(launcher: Launcher) -> None:
    """Python frees and uses again what an interrupted call would still be written to."""
    script = """
import ctypes, os, signal, struct
signals = 0
def count(*_):
    global signals
    signals += 1
signal.signal(signal.SIGALRM, count)
device, libc = os.open("/dev/nsm", os.O_RDWR), ctypes.CDLL(None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while signals < 1000:
    request, response = ctypes.create_string_buffer(b"hello", 5), ctypes.create_string_buffer(64)
    raw = struct.pack("QQQQ", ctypes.addressof(request), 5, ctypes.addressof(response), 64)
    raw = ctypes.create_string_buffer(raw)
    if libc.ioctl(device, ctypes.c_ulong(0xC0200A00), raw) == 0:
        assert response.raw[:10] == b"echo:hello", response.raw
signal.setitimer(signal.ITIMER_REAL, 0)
print("good")
"""
    if kernel_release() < (5, 19):
        pytest.skip("a signal may interrupt a call while it is executed, before Linux 5.19")
    assert python(launcher, script) == "good\n"


def test_signals_and_paths(launcher: Launcher, program: str) -> None:
    status, out, err = output(launcher, program, "paths")
    assert (status, err) == (0, "")
    if launcher.namespaces:
        assert out == "failed: 0\ngood\n"
    else:
        # The limit of this way: the kernel ends a call that the supervisor has not received yet.
        assert out.startswith("failed: ")


@pytest.mark.parametrize("mode", ["restarts", "retries"])
def test_what_a_signal_interrupts_is_done_once(program: str, tmp_path: Path, mode: str) -> None:
    if kernel_release() < (5, 19):
        pytest.skip("a signal may interrupt a call while it is executed, before Linux 5.19")
    for namespaces in [False] if namespaces_refused() else [True, False]:
        nsm, folder = SlowNsm(), tmp_path / str(namespaces)
        folder.mkdir()
        with parent(folder / "3_8000"):
            launcher = Launcher(nsm=nsm, folder=folder, namespaces=namespaces)
            assert output(launcher, program, mode, "8000") == (0, "good\n", "")
        assert nsm.requests == [b"request %d" % number for number in range(300)]


# --- a thread in accept ---


@contextlib.contextmanager
def accepting(launcher: Launcher, program: str) -> Iterator[Session]:
    """Run a program until it waits in accept."""
    number = str(ARCHITECTURES[os.uname().machine].syscalls["accept"])
    with launcher.start([program, "accepts"], stdout=subprocess.PIPE) as session:
        assert session.process.stdout is not None
        assert session.process.stdout.readline() == b"accepting\n"
        syscall = Path(f"/proc/{session.process.pid}/syscall")
        eventually(lambda: syscall.read_text().split()[0] == number)
        yield session


def assert_serves(session: Session, folder: Path) -> None:
    with connect(folder / "16_600") as client:
        assert client.recv(5) == b"hello"
    assert session.wait(TEST_TIMEOUT) == 0


def test_a_tracer_can_stop_it(launcher: Launcher, program: str, tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    with accepting(launcher, program) as session:
        pid = session.process.pid
        if libc.ptrace(PTRACE_SEIZE, pid, None, None):
            pytest.skip(f"ptrace: {os.strerror(ctypes.get_errno())}")
        for _ in range(2):
            assert libc.ptrace(PTRACE_INTERRUPT, pid, None, None) == 0
            eventually(lambda: os.waitpid(pid, os.WNOHANG | WALL)[0] == pid)
            assert libc.ptrace(7, pid, None, None) == 0  # PTRACE_CONT
        assert libc.ptrace(PTRACE_INTERRUPT, pid, None, None) == 0
        eventually(lambda: os.waitpid(pid, os.WNOHANG | WALL)[0] == pid)
        assert libc.ptrace(PTRACE_DETACH, pid, None, None) == 0
        assert_serves(session, tmp_path)


def test_it_can_be_stopped_and_continued(launcher: Launcher, program: str, tmp_path: Path) -> None:
    with accepting(launcher, program) as session:
        stat = Path(f"/proc/{session.process.pid}/stat")
        session.process.send_signal(signal.SIGSTOP)
        eventually(lambda: stat.read_text().split()[2] == "T")
        session.process.send_signal(signal.SIGCONT)
        assert_serves(session, tmp_path)


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A control group that can be frozen."""
    group = next(filter(None, map(make_group, ("/sys/fs/cgroup/freezer", "/sys/fs/cgroup"))), None)
    if group is None:
        pytest.skip("no control group with a freezer can be made by this user")
    yield group
    eventually(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def make_group(root: str) -> Path | None:
    group = Path(root, f"test-{uuid.uuid4()}")
    try:
        group.mkdir()
    except OSError:
        return None
    if any((group / name).exists() for name in ("freezer.state", "cgroup.freeze")):
        return group
    group.rmdir()
    return None


def test_it_can_be_frozen(launcher: Launcher, program: str, tmp_path: Path, freezer: Path) -> None:
    v1 = freezer / "freezer.state"
    with accepting(launcher, program) as session:
        (freezer / "cgroup.procs").write_text(str(session.process.pid))
        if v1.exists():
            v1.write_text("FROZEN")
            eventually(lambda: v1.read_text() == "FROZEN\n")
            v1.write_text("THAWED")
        else:
            (freezer / "cgroup.freeze").write_text("1")
            eventually(lambda: "frozen 1" in (freezer / "cgroup.events").read_text())
            (freezer / "cgroup.freeze").write_text("0")
        assert_serves(session, tmp_path)


# --- a network of its own ---


@needs_namespaces
def test_two_enclaves_listen_on_one_port() -> None:
    script = """
import socket, sys
server = socket.create_server(("127.0.0.1", 8009))
print("listening", flush=True)
sys.stdin.readline()
with socket.create_connection(("127.0.0.1", 8009)):
    print("connected")
socket.create_server(("::1", 8009), family=socket.AF_INET6)
"""
    launcher = Launcher(nsm=EchoNsm(), own_network=True)
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(launcher.start([sys.executable, "-c", script], **pipes))
            for _ in range(2)
        ]
        if not all(session.own_network for session in sessions):
            pytest.skip("the kernel gives this user no network namespace")
        for session in sessions:
            assert session.process.stdout is not None
            assert session.process.stdout.readline() == b"listening\n"
        for session in sessions:
            out, _ = session.process.communicate(b"\n", TEST_TIMEOUT)
            assert out == b"connected\n"
            assert session.wait(TEST_TIMEOUT) == 0


@needs_namespaces
def test_vsock_leads_out_of_a_network_of_its_own(program: str, tmp_path: Path) -> None:
    launcher = Launcher(nsm=EchoNsm(), folder=tmp_path, own_network=True)
    with parent(tmp_path / "3_8000"):
        assert output(launcher, program, "connects", "8000") == (0, "good\n", "")
        assert output(launcher, program, "threads") == (0, "good\n", "")


# --- what vsock is not ---


def test_neither_urgent_data_nor_descriptors(
    launcher: Launcher, program: str, tmp_path: Path
) -> None:
    with parent(tmp_path / "3_8000"):
        status, out, err = output(launcher, program, "vsock", "8000")
    assert (status, err) == (0, "")
    assert out == ("good\n" if kernel_release() >= (6, 16) else "passes descriptors\ngood\n")


def test_a_chroot_that_can_have_no_mounts_is_named() -> None:
    report = {"error": "namespaces", "errno": errno.EINVAL, "call": "mount /"}
    assert "no mount point, as in a chroot" in str(_failure(report))


def test_hints_for_a_filter_that_is_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    report = {"error": "seccomp", "errno": 16}
    assert "another launcher" in _failure(report).hint
    names = os.uname()
    wsl = os.uname_result((*names[:2], "6.6.87.2-microsoft-standard-WSL2", *names[3:]))
    monkeypatch.setattr(os, "uname", lambda: wsl)
    assert "networkingMode=nat" in _failure(report).hint
