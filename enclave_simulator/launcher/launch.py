"""Starting a program in a simulated enclave, from Python."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from enclave_simulator.launcher import bpf, memory, process
from enclave_simulator.launcher.abi import ARCHITECTURES
from enclave_simulator.launcher.errors import CommandError, LaunchError
from enclave_simulator.launcher.supervisor import Supervisor
from vsock_proxy.errors import AgentError, ConfigurationError
from vsock_proxy.net.addresses import MAX_UNIX_PATH, UnixAddress
from vsock_proxy.service.child import exit_code

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from enclave_simulator.launcher.devices import NsmDevice

DEFAULT_CID = 16
"""What nitro-cli gives the first enclave of an instance."""

_HANDSHAKE = 30
"""Seconds for the trampoline's few milliseconds, on however loaded a machine."""

_TRAMPOLINE = Path(__file__).with_name("trampoline.py")
_LONGEST_NAME = len("/4294967295_4294967295")
_REPORT_LIMIT = 4096
_HINTS = {
    "no_new_privs": "Linux 5.14 or newer is needed",
    "seccomp": "Linux 5.14 or newer with seccomp filters is needed, and none of whose parents "
    "has a notification filter of its own: is this inside another launcher?",
    "socket": "Linux 5.14 or newer is needed (SECCOMP_ADDFD_FLAG_SEND)",
    "access": "the launcher needs process_vm_readv and pidfd_getfd: in a container allow them "
    "(docker run --cap-add SYS_PTRACE), on the host see kernel.yama.ptrace_scope (0 or 1)",
}

Stream = int | IO[Any] | None
"""What `subprocess.Popen` takes for stdin, stdout and stderr."""


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Runs programs, each in a simulated enclave of its own.

    Attributes:
        nsm: answers `/dev/nsm`.
        cid: the enclave's context id.
        folder: where vsock addresses are UNIX sockets: a service of the parent listens on
            ``3_PORT``, a program in the enclave can be reached at ``CID_PORT``. Enclaves that
            share one need different CIDs. None makes one that goes with the session.
        parent_ports: services of the parent that listen elsewhere.
    """

    nsm: NsmDevice
    cid: int = DEFAULT_CID
    folder: Path | None = None
    parent_ports: Mapping[int, UnixAddress] = field(default_factory=dict)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> int:
        """Run a program to its end and return its exit code, 128+N if signal N ended it.

        Raises:
            LaunchError, CommandError: see `start`.
        """
        with self.start(argv, env=env, cwd=cwd) as session:
            return session.wait()

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        own_group: bool = True,
        die_with_thread: bool = False,
    ) -> Session:
        """Start a program; it runs when this returns.

        Args:
            argv: the program, looked up in `env`'s PATH, and its arguments.
            env: its environment; None passes this process's on.
            cwd: its working directory.
            stdin: as for `subprocess.Popen`; so are stdout and stderr.
            stdout: see stdin.
            stderr: see stdin.
            own_group: put it into a process group of its own, all of which ends with the
                session. A command line that leaves job control to the terminal does not.
            die_with_thread: kill it when the thread that called this ends, however it ends
                (PR_SET_PDEATHSIG).

        Raises:
            LaunchError: the kernel refuses (the hint says what is missing), or `cwd` is wrong.
            CommandError: there is no such program, or it cannot be executed.
            ConfigurationError: the folder does not exist, or its path is too long.
        """
        architecture = ARCHITECTURES.get(os.uname().machine)
        if architecture is None or sys.platform != "linux":
            raise LaunchError(
                f"no simulated enclave on {sys.platform} {os.uname().machine}",
                hint="Linux on x86_64 or aarch64 is needed",
            )
        with contextlib.ExitStack() as held:
            folder = self._open_folder(held)
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    try:
                        child = subprocess.Popen(  # noqa: S603 (to run what it is told, it is for)
                            [sys.executable, "-I", "-S", str(_TRAMPOLINE), str(theirs.fileno())],
                            pass_fds=[theirs.fileno()],
                            cwd=cwd,
                            stdin=stdin,
                            stdout=stdout,
                            stderr=stderr,
                            process_group=0 if own_group else None,
                        )
                    except OSError as e:
                        raise LaunchError(f"cannot begin in {cwd or '.'}: {e.strerror}") from e
                held.callback(_end, child, own_group=own_group)
                listener = _handshake(
                    ours,
                    child.pid,
                    {
                        "argv": list(argv),
                        "env": dict(os.environ if env is None else env),
                        "filter": bpf.assemble(architecture).hex(),
                        "parent": os.getpid() if die_with_thread else 0,
                    },
                )
                supervisor = Supervisor(
                    listener,
                    architecture=architecture,
                    nsm=self.nsm,
                    cid=self.cid,
                    folder=str(folder),
                    parent_ports={port: to.path for port, to in self.parent_ports.items()},
                )
                held.callback(_supervise(supervisor))
                # Runs before the line above does: calls that nobody answers any more fail with
                # ENOSYS, and a program that still ran would take that for the kernel's word.
                held.callback(_kill, child, own_group=own_group)
                _let_go(ours, argv[0])
            return Session(child, folder, held.pop_all())

    def _open_folder(self, held: contextlib.ExitStack) -> Path:
        if self.folder is None:
            folder = Path(tempfile.mkdtemp(prefix="enclave-"))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
        else:
            folder = self.folder.absolute()
        if len(os.fsencode(folder)) + _LONGEST_NAME > MAX_UNIX_PATH:
            raise ConfigurationError(
                f"the path of {folder} is too long for UNIX sockets",
                hint="choose a folder nearer to the root, or a shorter TMPDIR",
            )
        if not folder.is_dir():
            raise ConfigurationError(f"no such folder: {folder}")
        return folder


class Session:
    """A program in its simulated enclave. A context manager: leaving it ends the program.

    Attributes:
        process: the program, as `subprocess` has it.
        folder: where its vsock addresses are; see `Launcher.folder`.
    """

    def __init__(
        self, process: subprocess.Popen[Any], folder: Path, held: contextlib.ExitStack
    ) -> None:
        self.process = process
        self.folder = folder
        self._held = held

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the program's end and return its exit code, 128+N if signal N ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        return exit_code(self.process.wait(timeout))

    def close(self) -> None:
        """End the program if it still runs, then the enclave."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _handshake(control: socket.socket, child: int, plan: dict[str, object]) -> int:
    """Tell the trampoline what to do and get the notification descriptor from it."""
    control.settimeout(_HANDSHAKE)
    try:
        control.sendall(json.dumps(plan).encode() + b"\n")
        text, fds, _, _ = socket.recv_fds(control, _REPORT_LIMIT, 1, socket.MSG_CMSG_CLOEXEC)
    except (OSError, TimeoutError) as e:
        raise LaunchError(f"the program did not start: {e}") from e
    if not text:
        raise LaunchError("the program died before it began")
    report = json.loads(text)
    if not fds:
        raise _failure(report)
    try:
        _check_access(child, report)
    except BaseException:
        os.close(fds[0])
        raise
    return fds[0]


def _check_access(child: int, report: dict[str, Any]) -> None:
    """Try what the supervisor will need, so that a refusal shows now and not as odd errors."""
    try:
        memory.read(child, report["proof"], 1)
        os.close(process.borrow(child, report["control"]))
    except OSError as e:
        raise LaunchError(
            f"cannot reach into the program: {e.strerror}", hint=_HINTS["access"]
        ) from e


def _supervise(supervisor: Supervisor) -> Callable[[], None]:
    """Run a supervisor on a thread of its own; the result ends it."""

    def run() -> None:
        # Signals are for the threads of the program this one is a guest of.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        supervisor.run()

    thread = threading.Thread(target=run, name="enclave-supervisor", daemon=True)
    thread.start()

    def end() -> None:
        supervisor.stop()
        thread.join()
        supervisor.close()

    return end


def _let_go(control: socket.socket, command: str) -> None:
    """Let the trampoline try a socket and become the program."""
    try:
        control.sendall(b"g")
        text = control.recv(_REPORT_LIMIT)  # ends without a word where exec succeeds
    except OSError as e:
        raise LaunchError(f"the program did not start: {e}") from e
    if text:
        raise _failure(json.loads(text), command)


def _failure(report: dict[str, Any], command: str = "") -> AgentError:
    step, code = str(report["error"]), int(report["errno"])
    reason = os.strerror(code)
    if step != "exec":
        return LaunchError(f"the kernel refuses {step}: {reason}", hint=_HINTS.get(step, ""))
    return CommandError(command, reason, exit_code=127 if code == errno.ENOENT else 126)


def _kill(child: subprocess.Popen[Any], *, own_group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if own_group:
            os.killpg(child.pid, signal.SIGKILL)
        elif child.poll() is None:
            child.kill()


def _end(child: subprocess.Popen[Any], *, own_group: bool) -> None:
    _kill(child, own_group=own_group)
    child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()
