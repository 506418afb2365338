"""Programs in a simulated enclave: a static C program, Python's own sockets, another user's."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.launcher import CommandError, Launcher, LaunchError
from tests.enclave_simulator.launcher.rig import (
    EchoNsm,
    output,
    parent,
    python,
)
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

# --- the static program ---


@pytest.mark.parametrize("mode", ["nsm", "driver", "hostile", "threads", "children", "interrupted"])
def test_a_static_program(launcher: Launcher, program: str, mode: str) -> None:
    assert output(launcher, program, mode) == (0, "good\n", "")


def test_it_connects_to_the_parent(launcher: Launcher, program: str, tmp_path: Path) -> None:
    with parent(tmp_path / "3_8000"):
        assert output(launcher, program, "connects", "8000") == (0, "good\n", "")


def test_a_service_elsewhere(program: str, tmp_path: Path) -> None:
    ports = {8000: UnixAddress(str(tmp_path / "service"))}
    with parent(tmp_path / "service"):
        launcher = Launcher(nsm=EchoNsm(), parent_ports=ports)
        assert output(launcher, program, "connects", "8000") == (0, "good\n", "")


def test_the_supervisor_holds_nothing_of_closed_sockets(
    launcher: Launcher, program: str, tmp_path: Path
) -> None:
    def held() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = held()
    with parent(tmp_path / "3_8000"):
        script = f'"{program}" many 8000 && echo done && read line'
        with launcher.start(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as session:
            started = held()
            assert session.process.stdout is not None
            assert session.process.stdout.readline() == b"good\n"
            assert session.process.stdout.readline() == b"done\n"
            # The parent's service may be at its last connection still.
            assert held() <= started + 1
    assert held() == before


NO_ROOM = """
import errno, os, resource, select, socket, threading, time

def full():
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))

def told():
    try:
        server.accept()
    except OSError as e:
        failed.append(errno.errorcode[e.errno])

def waits_in_accept(thread):
    with open(f"/proc/self/task/{thread.native_id}/syscall") as f:
        return f.read().split()[0] in ("43", "288", "202", "242")

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
failed = []
for port, waits, blocking in ((700, False, True), (701, False, False), (702, True, True)):
    for closes in (False, True):
        client, server = (socket.socket(socket.AF_VSOCK) for _ in range(2))
        client.settimeout(TIMEOUT)
        server.bind((socket.VMADDR_CID_ANY, port + 10 * closes))
        server.listen()
        server.setblocking(blocking)
        poll = select.poll()
        poll.register(server, select.POLLIN)
        thread = threading.Thread(target=told)
        if waits:
            thread.start()
            deadline = time.monotonic() + TIMEOUT
            while not waits_in_accept(thread) and time.monotonic() < deadline:
                os.sched_yield()
            full()
        client.connect((16, port + 10 * closes))
        if not waits:
            full()
            thread.start()
        thread.join()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if closes:
            server.close()
            try:
                rest = client.recv(1)
            except ConnectionResetError:
                rest = b""
            assert rest == b"", rest
        else:
            assert poll.poll(1000 * TIMEOUT)
            client.sendall(b"here")
            later = socket.socket(socket.AF_VSOCK)
            later.settimeout(TIMEOUT)
            later.connect((16, port))
            later.sendall(b"next")
            server.setblocking(False)
            for expected in (b"here", b"next"):
                assert poll.poll(1000 * TIMEOUT)
                accepted, _ = server.accept()
                accepted.setblocking(True)
                assert accepted.recv(4) == expected
            assert not poll.poll(0)
            try:
                server.accept()
            except BlockingIOError:
                continue
            raise AssertionError("a connection that nobody made")
print(failed)
"""


def test_a_process_without_descriptors_loses_no_connection(launcher: Launcher) -> None:
    """It stays in the queue, or is kept; with the listener it ends."""
    script = NO_ROOM.replace("TIMEOUT", str(int(TEST_TIMEOUT)))
    assert python(launcher, script) == f"{['EMFILE'] * 6}\n"


# --- Python's own sockets ---


def test_both_ends_in_the_enclave(launcher: Launcher) -> None:
    script = """
import socket, threading
server = socket.socket(socket.AF_VSOCK)
server.bind((socket.VMADDR_CID_ANY, 5000))
server.listen()
def serve():
    client, address = server.accept()
    print("accepted", address, client.getsockname(), client.getpeername() == address)
    client.sendall(client.recv(10)[::-1])
    client.close()
thread = threading.Thread(target=serve)
thread.start()
with socket.socket(socket.AF_VSOCK) as client:
    client.connect((16, 5000))
    client.sendall(b"stressed")
    print(client.recv(10).decode(), client.getpeername(), client.family.name)
    client.shutdown(socket.SHUT_WR)
    assert client.getsockname() == (socket.VMADDR_CID_ANY, 1024)
thread.join()
"""
    lines = sorted(python(launcher, script).splitlines())
    assert lines == [
        "accepted (16, 1024) (16, 5000) True",
        "desserts (16, 5000) AF_VSOCK",
    ]


def test_asyncio(launcher: Launcher, tmp_path: Path) -> None:
    script = """
import asyncio, socket
async def main():
    s = socket.socket(socket.AF_VSOCK)
    s.setblocking(False)
    await asyncio.get_running_loop().sock_connect(s, (3, 8000))
    reader, writer = await asyncio.open_connection(sock=s)
    writer.write(b"ping")
    print(await reader.readexactly(4), writer.get_extra_info("peername"))
    writer.close()
    await writer.wait_closed()
asyncio.run(main())
"""
    with parent(tmp_path / "3_8000"):
        assert python(launcher, script) == "b'pong' (3, 8000)\n"


def test_the_host_reaches_a_listener_by_its_path(launcher: Launcher, tmp_path: Path) -> None:
    script = """
import socket
server = socket.socket(socket.AF_VSOCK)
server.bind((16, 5000))
server.listen()
print("listening", flush=True)
client, (cid, port) = server.accept()
client.sendall(b"hello %d" % cid)
"""
    with launcher.start([sys.executable, "-c", script], stdout=subprocess.PIPE) as session:
        assert session.process.stdout is not None
        assert session.process.stdout.readline() == b"listening\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TEST_TIMEOUT)
            client.connect(str(tmp_path / "16_5000"))
            assert client.recv(100) == b"hello 3"
        assert session.wait(TEST_TIMEOUT) == 0


def test_a_sent_socket_is_still_vsock(launcher: Launcher) -> None:
    script = """
import os, socket
ours, theirs = socket.socketpair()
if os.fork() == 0:
    _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
    print(socket.socket(fileno=fds[0]).getsockname(), flush=True)
    os._exit(0)
s = socket.socket(socket.AF_VSOCK)
s.bind((socket.VMADDR_CID_ANY, 77))
socket.send_fds(ours, [b"x"], [s.fileno()])
os.wait()
"""
    assert python(launcher, script) == f"({socket.VMADDR_CID_ANY}, 77)\n"


def test_the_local_cid() -> None:
    script = """
import fcntl, os
cid = bytearray(4)
fcntl.ioctl(os.open("/dev/vsock", os.O_RDONLY), 0x7B9, cid)
print(int.from_bytes(cid, "little"))
"""
    assert python(Launcher(nsm=EchoNsm(), cid=77), script) == "77\n"


def test_a_failing_nsm_is_an_error_to_the_program_only() -> None:
    class Broken:
        def exchange(self, request: bytes) -> bytes:
            raise ValueError(request)

    script = """
import ctypes, fcntl, os, struct
buffer = ctypes.create_string_buffer(8)
at = ctypes.addressof(buffer)
device = os.open("/dev/nsm", os.O_RDWR)
for _ in range(2):
    try:
        fcntl.ioctl(device, 0xC0200A00, struct.pack("QQQQ", at, 8, at, 8))
    except OSError as e:
        print(e.strerror)
"""
    assert python(Launcher(nsm=Broken()), script) == "Input/output error\n" * 2


# --- the process ---


def test_exit_codes(launcher: Launcher) -> None:
    assert launcher.run(["sh", "-c", "exit 7"]) == 7
    assert launcher.run(["sh", "-c", "kill -9 $$"]) == 128 + signal.SIGKILL


def test_what_the_program_gets(launcher: Launcher) -> None:
    script = """
import os, signal
print(os.environb, os.getcwd(), sorted(map(int, os.listdir("/proc/self/fd")))[:-1])
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    env = {"ODD": "\udcff=\n"}
    status, out, err = output(launcher, sys.executable, "-I", "-c", script, env=env, cwd="/")
    assert (status, err) == (0, "")
    # LC_CTYPE is the program's own doing: it is Python again.
    assert "b'ODD': b'\\xff=\\n'" in out
    assert out.splitlines()[0].endswith("/ [0, 1, 2]")
    assert out.splitlines()[1] == "set()"


def test_signals_that_python_ignores_are_not_ignored(launcher: Launcher) -> None:
    assert launcher.run(["sh", "-c", "kill -PIPE $$"]) == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("path", "code"), [("/nonexistent", 127), ("/etc/passwd", 126), ("a\0b", 126)]
)
def test_a_command_that_cannot_be_run(launcher: Launcher, path: str, code: int) -> None:
    with pytest.raises(CommandError) as caught:
        launcher.run([path])
    assert caught.value.exit_code == code


def test_a_folder_too_deep_for_sockets(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long"):
        Launcher(nsm=EchoNsm(), folder=tmp_path / ("x" * 100)).run(["true"])


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such folder"):
        Launcher(nsm=EchoNsm(), folder=tmp_path / "x").run(["true"])
    with pytest.raises(LaunchError, match="No such file"):
        Launcher(nsm=EchoNsm()).run(["true"], cwd=tmp_path / "x")


def test_a_launcher_inside_a_launcher_says_so(launcher: Launcher) -> None:
    script = """
from enclave_simulator.launcher import Launcher, LaunchError
try:
    Launcher(nsm=None).run(["true"])
except LaunchError as e:
    print(e, e.hint)
"""
    said = python(launcher, script)
    assert said.startswith("the kernel refuses seccomp: Device or resource busy")
    assert "inside another launcher?" in said


@pytest.mark.parametrize(
    ("refused", "message", "hint"),
    [
        ("seccomp", "the kernel refuses seccomp: Operation not permitted", "seccomp filters"),
        ("process_vm_readv", "cannot reach into the program: ", "--cap-add SYS_PTRACE"),
        ("pidfd_getfd", "cannot reach into the program: ", "--cap-add SYS_PTRACE"),
    ],
)
def test_what_a_container_may_refuse(refused: str, message: str, hint: str) -> None:
    """A filter such as a container's, around the launcher."""
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers below are x86_64's")
    script = """
import ctypes, sys
from enclave_simulator.launcher import Launcher, LaunchError, abi, bpf
from enclave_simulator.launcher.trampoline import SockFprog
number = {"seccomp": 317, "process_vm_readv": 310, "pidfd_getfd": 438}[sys.argv[1]]
here = abi.Architecture(abi.X86_64.audit, {"refused": number}, abi.X86_64.stat)
program = bpf.assemble(here, (bpf.Rule("refused", action=abi.SECCOMP_RET_ERRNO | 1),))
buffer = ctypes.create_string_buffer(program, len(program))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
fprog = SockFprog(len(program) // 8, ctypes.addressof(buffer))
assert libc.syscall(317, 1, 0, ctypes.byref(fprog)) == 0
try:
    Launcher(nsm=None).run(["true"])
except LaunchError as e:
    print(e)
    print(e.hint)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, refused],
        capture_output=True, text=True, check=False, timeout=TEST_TIMEOUT,
    )  # fmt: skip
    assert ran.stderr == ""
    first, second = ran.stdout.splitlines()
    assert first.startswith(message)
    assert hint in second


def test_closing_ends_the_program_and_its_group(launcher: Launcher) -> None:
    pipes: Any = {"stdout": subprocess.PIPE}
    with launcher.start(["sh", "-c", "sleep 600 & echo $!; wait"], **pipes) as session:
        assert session.process.stdout is not None
        child = os.pidfd_open(int(session.process.stdout.readline()))
    try:
        assert select.select([child], [], [], TEST_TIMEOUT)[0]
    finally:
        os.close(child)
    assert session.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("ignored", [False, True])
def test_a_32_bit_program_is_named_and_killed(
    launcher: Launcher, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, ignored: bool
) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("int 0x80 is an x86 instruction")
    # _exit(0) by the i386 ABI, from a 64-bit program; again, if it survived.
    source, binary = tmp_path / "i386.c", tmp_path / "i386"
    source.write_text(
        "int main(void) { "
        'for (;;) { int a = 1; __asm__ volatile("int $0x80" : "+a"(a) : "b"(0)); } }'
    )
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile a program with: apt-get install gcc libc6-dev")
    subprocess.run(["gcc", "-static", "-o", binary, source], check=True)
    if subprocess.run([binary], check=False).returncode != 0:
        pytest.skip("this kernel has no i386 ABI at all (CONFIG_IA32_EMULATION)")
    command = [str(binary)]
    if ignored:  # SIGSYS, which an exec leaves ignored
        command = ["sh", "-c", 'trap "" SYS; exec "$0"', *command]
    expected = signal.SIGKILL if ignored else signal.SIGSYS
    assert launcher.run(command) == 128 + expected
    assert f"{binary} makes 32-bit system calls" in caplog.text


NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}


def pythons_for_nobody() -> Iterator[list[str]]:
    """Interpreters that user 65534 can start, with this project importable."""
    root = str(ROOT)
    for interpreter in (sys.executable, "/usr/bin/python3"):
        command = ["env", f"PYTHONPATH={root}", interpreter]
        check = [
            *command,
            "-c",
            "import sys, enclave_simulator.launcher; assert sys.version_info >= (3, 11)",
        ]
        if subprocess.run(check, **NOBODY, check=False, capture_output=True).returncode == 0:
            yield command


def test_as_an_unprivileged_user(program: str) -> None:
    if os.getuid() != 0:
        pytest.skip("the suite itself runs without privilege: so did every other test")
    python = next(pythons_for_nobody(), None)
    if python is None:
        pytest.skip("user 65534 can read no Python 3.11, or not this checkout")
    script = """
import os, sys
from enclave_simulator.launcher import Launcher
class Echo:
    def exchange(self, request):
        return b"echo:" + request
status = open("/proc/self/status").read()
print(os.getuid(), status.split("CapEff:")[1].split()[0], flush=True)
for mode in ("nsm", "threads", "children"):
    assert Launcher(nsm=Echo()).run([sys.argv[1], mode]) == 0
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        # In an enclave nothing can be run from /tmp, and the program is where anybody may.
        is_enclave = os.statvfs(folder).f_flag & os.ST_NOEXEC
        copy = program if is_enclave else shutil.copy(program, folder)
        ran = subprocess.run(
            [*python, "-c", script, copy],
            **NOBODY,
            check=False,
            capture_output=True,
            timeout=TEST_TIMEOUT,
        )
    assert (ran.returncode, ran.stderr.decode()) == (0, "")
    assert ran.stdout.decode().split() == ["65534", "0" * 16, "good", "good", "good"]


@pytest.mark.parametrize("argv", ["echo text", b"echo", [], ()])
def test_what_is_no_list_of_words(launcher: Launcher, argv: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        launcher.run(argv)
    assert refused.value.hint


def test_words_may_be_paths_and_bytes(launcher: Launcher) -> None:
    argv: list[Any] = [
        Path(sys.executable),
        "-c",
        b"import sys; print(sys.argv[1:])",
        b"\xff",
        Path("x"),
    ]
    with launcher.start(argv, stdout=subprocess.PIPE) as session:
        out, _ = session.process.communicate(timeout=TEST_TIMEOUT)
    assert out == b"['\\udcff', 'x']\n"
