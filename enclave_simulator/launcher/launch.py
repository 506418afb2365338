"""Starting a program in a simulated enclave, from Python."""

from __future__ import annotations

import contextlib
import logging
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

from enclave_simulator.launcher import bpf
from enclave_simulator.launcher.abi import ARCHITECTURES
from enclave_simulator.launcher.errors import LaunchError
from enclave_simulator.launcher.handshake import NamespacesError, Plan, exchange, let_go
from enclave_simulator.launcher.relay import relaying
from enclave_simulator.launcher.supervisor import Supervisor
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import MAX_UNIX_PATH, UnixAddress
from vsock_proxy.service.child import exit_code

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from enclave_simulator.launcher.abi import Architecture
    from enclave_simulator.launcher.devices import NsmDevice
    from enclave_simulator.launcher.handshake import Report
    from enclave_simulator.launcher.tpm_device import TpmDevice
    from vsock_proxy.net.addresses import TcpAddress

log = logging.getLogger(__name__)

DEFAULT_CID = 16
"""What nitro-cli gives the first enclave of an instance."""

_TRAMPOLINE = Path(__file__).with_name("trampoline.py")
_LONGEST_NAME = len("/4294967295_4294967295")
Word = str | bytes | os.PathLike[str]
"""What `subprocess.Popen` takes for an argument."""

Stream = int | IO[Any] | None
"""What `subprocess.Popen` takes for stdin, stdout and stderr."""


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Runs programs, each in a simulated enclave of its own.

    Attributes:
        nsm: answers `/dev/nsm`; None: there is none.
        tpm: answers `/dev/tpm0` and `/dev/tpmrm0`; None: there are none.
        cid: the enclave's context id.
        folder: where vsock addresses are UNIX sockets: a service of the parent listens on
            ``3_PORT``, a program in the enclave can be reached at ``CID_PORT``. Enclaves that
            share one need different CIDs. None makes one that goes with the session.
        parent_ports: services of the parent that listen elsewhere.
        namespaces: whether programs get a ``/dev`` of their own, which makes the kernel answer
            every call with a path. None: if the kernel permits it. If it does not, or with False,
            the launcher answers these calls: they are slower, and a signal may end one with EINTR.
        own_network: give programs a network of their own, with a loopback interface and nothing
            else, if they get a ``/dev`` of their own and the kernel permits it.
        services: of a network of the program's own: IPv4 address and TCP port, each with the
            address on this machine that connections are relayed to.
        hosts: names that resolve there, with their addresses.
        env_with: variables to add if there is a network of its own.
        env_without: variables to add if there is none, to find the services on this machine.
    """

    nsm: NsmDevice | None
    tpm: TpmDevice | None = None
    cid: int = DEFAULT_CID
    folder: Path | None = None
    parent_ports: Mapping[int, UnixAddress] = field(default_factory=dict)
    namespaces: bool | None = None
    own_network: bool = False
    services: Mapping[tuple[str, int], TcpAddress] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    env_with: Mapping[str, str] = field(default_factory=dict)
    env_without: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        argv: Sequence[Word],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> int:
        """Run a program to its end and return its exit code, 128+N if signal N ended it.

        Raises:
            LaunchError, CommandError, ConfigurationError: see `start`.
        """
        with self.start(argv, env=env, cwd=cwd) as session:
            return session.wait()

    def start(
        self,
        argv: Sequence[Word],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        own_group: bool = True,
        die_with_thread: bool = False,
        pass_descriptors: bool = False,
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
            pass_descriptors: give it all inheritable descriptors of this process, as a shell does
                (``3<FILE``). For a process that starts no other one at the same time.

        Raises:
            LaunchError: the kernel refuses (the hint says what is missing), or `cwd` is wrong.
            CommandError: there is no such program, or it cannot be executed.
            ConfigurationError: the folder does not exist, or its path is too long; `argv` is no
                list of words.
        """
        words = words_of(argv)
        architecture = ARCHITECTURES.get(os.uname().machine)
        if architecture is None or sys.platform != "linux":
            raise LaunchError(
                f"no simulated enclave on {sys.platform} {os.uname().machine}",
                hint="Linux on x86_64 or aarch64 is needed",
            )
        streams: dict[str, Stream] = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        with contextlib.ExitStack() as held:
            folder = self._open_folder(held)
            hosts = self._write_hosts(held)

            def attempt(*, namespaces: bool) -> tuple[subprocess.Popen[Any], Report]:
                rules = bpf.RULES + (() if namespaces else bpf.PATH_RULES)
                if self.tpm is not None:
                    rules += bpf.TPM_READ_RULES + (bpf.TPM_RULES if namespaces else ())
                plan = Plan(
                    argv=words,
                    env=dict(os.environ if env is None else env),
                    filter=bpf.assemble(architecture, rules).hex(),
                    namespaces=namespaces,
                    network=namespaces and self.own_network,
                    parent=os.getpid() if die_with_thread else 0,
                    devices=self._devices(),
                    listen=list(self.services),
                    hosts=hosts,
                    env_with=dict(self.env_with),
                    env_without=dict(self.env_without),
                )
                return self._attempt(
                    held, architecture, plan, folder, own_group=own_group,
                    pass_descriptors=pass_descriptors, cwd=cwd, **streams,
                )  # fmt: skip

            try:
                child, report = attempt(namespaces=self.namespaces is not False)
            except NamespacesError as e:
                if self.namespaces:
                    raise
                log.debug("no /dev of its own: %s", e)
                child, report = attempt(namespaces=False)
            _log_ways(report, wanted=self.own_network)
            return Session(child, folder, held.pop_all(), report)

    def _attempt(
        self,
        held: contextlib.ExitStack,
        architecture: Architecture,
        plan: Plan,
        folder: Path,
        *,
        own_group: bool,
        pass_descriptors: bool,
        cwd: str | os.PathLike[str] | None,
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
    ) -> tuple[subprocess.Popen[Any], Report]:
        """Start a program by this plan; leaving `held` ends it."""
        with contextlib.ExitStack() as started:
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    theirs.set_inheritable(True)
                    try:
                        child = subprocess.Popen(  # noqa: S603 (it runs what it is given)
                            [sys.executable, "-I", "-S", str(_TRAMPOLINE), str(theirs.fileno())],
                            close_fds=not pass_descriptors,
                            pass_fds=() if pass_descriptors else [theirs.fileno()],
                            cwd=cwd,
                            process_group=0 if own_group else None,
                            stdin=stdin,
                            stdout=stdout,
                            stderr=stderr,
                        )
                    except OSError as e:
                        raise LaunchError(f"cannot begin in {cwd or '.'}: {e.strerror}") from e
                started.callback(_end, child, own_group=own_group)
                report = exchange(ours, child.pid, plan)
                supervisor = Supervisor(
                    report.listener,
                    architecture=architecture,
                    nsm=self.nsm,
                    cid=self.cid,
                    folder=str(folder),
                    parent_ports={port: to.path for port, to in self.parent_ports.items()},
                    rdev=report.rdev if report.node else None,
                    tpm=self.tpm,
                )
                for listener, target in zip(report.listening, self.services.values(), strict=False):
                    started.enter_context(relaying(listener, target))
                started.callback(_supervise(supervisor))
                # Runs before the line above does. Calls without a supervisor fail with ENOSYS, and
                # a program that still ran would take that for the kernel's own error.
                started.callback(_kill, child, own_group=own_group)
                let_go(ours, plan.argv[0])
            held.push(started.pop_all())
            return child, report

    def _devices(self) -> list[str]:
        devices = ["vsock"]
        if self.nsm is not None:
            devices.append("nsm")
        if self.tpm is not None:
            devices += ["tpm0", "tpmrm0"]
        return devices

    def _write_hosts(self, held: contextlib.ExitStack) -> str:
        """Return the path of a file like /etc/hosts; empty if there are no names."""
        if not self.hosts:
            return ""
        folder = Path(tempfile.mkdtemp(prefix="enclave-"))
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        lines = ["127.0.0.1 localhost", f"127.0.1.1 {os.uname().nodename}"]
        lines += [f"{address} {name}" for name, address in self.hosts.items()]
        path = folder / "hosts"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o644)
        folder.chmod(0o755)  # as /etc: the program may change its user
        return str(path)

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
        own_dev: whether it has a ``/dev`` of its own.
        own_network: whether it has a network of its own.
    """

    def __init__(
        self,
        process: subprocess.Popen[Any],
        folder: Path,
        held: contextlib.ExitStack,
        report: Report,
    ) -> None:
        self.process = process
        self.folder = folder
        self.own_dev = bool(report.node)
        self.own_network = report.network
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


def words_of(argv: Sequence[Word]) -> list[str]:
    """Return a program and its arguments as text.

    Raises:
        ConfigurationError: they are one text, or nothing.
    """
    if isinstance(argv, str | bytes):
        raise ConfigurationError(
            f"a text, not a list of words: {os.fsdecode(argv)!r:.100}",
            hint="write a list: the program, then each argument; shlex.split makes one of a text",
        )
    if not argv:
        raise ConfigurationError("no program to run", hint="its name is the first of the words")
    return [os.fsdecode(word) for word in argv]


def _log_ways(report: Report, *, wanted: bool) -> None:
    """Log how the program's /dev and network came about: `--verbose` shows it."""
    if report.node:
        log.debug("a /dev of its own: /dev/nsm is a node of the device %s", report.node)
    else:
        log.debug("calls with paths are trapped: a signal may end one with EINTR")
    if report.network:
        log.debug("a network of its own: loopback only")
    elif wanted:
        log.debug("no network of its own: loopback ports are the machine's, and may be in use")


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
