"""Runs a program in a simulated enclave under one attack after the other."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import tempfile
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from enclave_simulator.attack.certificates import Certificates
from enclave_simulator.attack.hostile import HostileParent
from enclave_simulator.attack.model import DEADLINE, Place, Recorded
from enclave_simulator.attack.table import CONTROL
from enclave_simulator.attack.transcript import Transcript
from enclave_simulator.attack.verdict import (
    Finding,
    Outcome,
    judge,
    judge_control,
    read_results,
)
from enclave_simulator.attack.world import CONTEXT
from enclave_simulator.authority import Authority
from enclave_simulator.launcher.command import program_environment
from enclave_simulator.launcher.launch import Launcher
from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from enclave_simulator.attack.model import Attack

_MOST_OUTPUT: Final = 1 << 20
_MOST_ERRORS: Final = 1 << 16
_READ: Final = 1 << 16
_CREDENTIALS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class ControlError(AgentError):
    """The program fails without an attack: no verdict on it would mean anything."""


@dataclass(frozen=True, slots=True)
class Result:
    """One attack on one program."""

    attack: Attack
    finding: Finding
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """A program to attack.

    Attributes:
        argv: the program and its arguments; ``{ciphertext}``, ``{ciphertext_file}``, ``{key_id}``
            and ``{context}`` in them are replaced.
        env: its variables, to which ours are added.
        deadline: seconds for one run.
        own_network: give it a loopback interface of its own, if the kernel permits it.
        namespaces: see `Launcher`.
        show: pass its standard error on.
        context: the encryption context that it names.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    deadline: float = DEADLINE
    own_network: bool = True
    namespaces: bool | None = None
    show: bool = False
    context: Mapping[str, str] = field(default_factory=lambda: CONTEXT)


class Runner:
    """Attacks one program. The control run comes first, and once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._authority = Authority.generate()
        self._certificates = Certificates()
        self._recorded: Recorded | None = None
        self._controlled = self._by_lines = False
        self._lock = threading.Lock()
        self._stopped = False
        self._running: set[int] = set()

    def control(self) -> None:
        """Run the program without an attack.

        Raises:
            ControlError: it does not succeed.
            LaunchError, CommandError: it cannot be started.
        """
        with self._run(CONTROL) as (parent, outcome):
            reason = judge_control(outcome, parent.world.secrets(), attested=parent.attested > 0)
            self._by_lines = bool(read_results(outcome.output))
            self._recorded = parent.world.recorded
        if reason:
            raise ControlError(
                f"without an attack the program fails: {reason}",
                hint="docs/attack.md says what it is given, and how it tells what it got",
            )
        self._controlled = True

    def attack(self, attack: Attack) -> Result:
        """Run the program under one attack, and return the verdict."""
        if not self._controlled:
            self.control()
        started = time.monotonic()
        with self._run(attack) as (parent, outcome):
            finding = judge(attack, outcome, parent.world.secrets(), by_lines=self._by_lines)
        return Result(attack, finding, time.monotonic() - started)

    def attack_all(self, attacks: Iterable[Attack], *, jobs: int = 1) -> Iterator[Result]:
        """Yield the results in the order of the attacks.

        Args:
            attacks: each is a run of its own.
            jobs: runs at the same time; most of the time of many attacks is waiting.
        """
        if jobs <= 1:
            yield from map(self.attack, attacks)
            return
        with ThreadPoolExecutor(jobs, thread_name_prefix="attack") as pool:
            pending = [pool.submit(self.attack, attack) for attack in attacks]
            try:
                for each in pending:
                    yield each.result()
            finally:
                if not all(each.done() for each in pending):
                    for each in pending:
                        each.cancel()
                    self.stop()  # the pool waits for what runs

    def stop(self) -> None:
        """Kill the programs that run, from any thread; no other is waited for."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                _kill(pid)

    @contextlib.contextmanager
    def _run(self, attack: Attack) -> Iterator[tuple[HostileParent, Outcome]]:
        target = self._target
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attack-")))
            vsock = folder / "vsock"
            vsock.mkdir()
            parent = stack.enter_context(
                HostileParent(
                    self._authority,
                    self._certificates,
                    attack,
                    folder=vsock,
                    recorded=self._recorded,
                    context=target.context,
                )
            )
            env, words = self._given(parent, folder)
            launcher = Launcher(
                nsm=parent.nsm,
                folder=vsock,
                namespaces=target.namespaces,
                own_network=target.own_network,
            )
            argv = [_filled(word, words) for word in target.argv]
            exit_code, output, errors = self._run_to_the_end(launcher, argv, env)
            # `enclave-agent log` sends there what its program prints.
            logged = parent.logged()
            yield (
                parent,
                Outcome(
                    exit_code,
                    output + logged,
                    _last_line(errors) or _last_line(logged),
                    errors + logged,
                    met=parent.met,
                    evidence=parent.evidence,
                ),
            )

    def _run_to_the_end(
        self, launcher: Launcher, argv: Sequence[str], env: Mapping[str, str]
    ) -> tuple[int | None, bytes, bytes]:
        """Run a program; return its exit code (None at the deadline), its output and its errors."""
        with launcher.start(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            die_with_thread=True,
        ) as session:
            process = session.process
            assert process.stdout is not None  # noqa: S101 (they are pipes)
            assert process.stderr is not None  # noqa: S101
            output = _Reader(process.stdout, _MOST_OUTPUT)
            errors = _Reader(process.stderr, _MOST_ERRORS, tail=True, show=self._target.show)
            with self._lock:
                self._running.add(process.pid)
                if self._stopped:
                    _kill(process.pid)
            try:
                exit_code: int | None = session.wait(self._target.deadline)
            except subprocess.TimeoutExpired:
                exit_code = None
            finally:
                with self._lock:
                    self._running.discard(process.pid)
            # What it left behind holds its pipes open; an enclave ends with its first program.
            _kill(process.pid)
            return exit_code, output.wait(), errors.wait()

    def _given(self, parent: HostileParent, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """Return the program's variables, and what its arguments may name."""
        given = parent.world.input
        ca, ciphertext = folder / "kms-ca.pem", folder / "ciphertext"
        ca.write_bytes(self._certificates.ca_pem)
        ciphertext.write_bytes(given.ciphertexts[0])
        # The attacks on the credential service are for a program that asks it.
        with_credentials = parent.attack.place is not Place.CREDENTIALS
        env = program_environment(dict(self._target.env), ca, with_credentials=with_credentials)
        if with_credentials:
            of = given.credentials
            values = of.access_key_id, of.secret_access_key, of.session_token or ""
            env |= dict(zip(_CREDENTIALS, values, strict=True))
        # The libraries of C, Go and Rust know this one, and not AWS's.
        env["SSL_CERT_FILE"] = str(ca)
        env |= given.variables() | {"ATTACK_CIPHERTEXT_FILE": str(ciphertext)}
        return env, {
            "{ciphertext}": env["ATTACK_CIPHERTEXT"],
            "{ciphertext_file}": str(ciphertext),
            "{key_id}": given.key_id,
            "{context}": env["ATTACK_CONTEXT"],
        }


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class _Reader:
    """Reads a pipe in a thread until its program has ended; keeps a `Transcript` or the end."""

    _WITHIN = 5.0  # seconds; only what is shown on a full pipe takes as long

    def __init__(
        self, stream: IO[bytes], most: int, *, tail: bool = False, show: bool = False
    ) -> None:
        self._most, self._show = most, show
        self._end = bytearray() if tail else None
        self._transcript = Transcript(most)
        self._fd = stream.fileno()
        self._ended = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        poll = select.poll()
        for fd in (self._fd, self._ended):
            poll.register(fd, select.POLLIN)
        left = None
        with contextlib.suppress(OSError):
            while left is None or left > 0:
                if left is None and (self._ended, select.POLLIN) in poll.poll():
                    left = _readable_bytes(self._fd)
                    continue
                part = os.read(self._fd, _READ if left is None else min(left, _READ))
                if not part:
                    return
                left = None if left is None else left - len(part)
                self._keep(part)

    def _keep(self, part: bytes) -> None:
        if self._show:
            os.write(2, part)
        if self._end is not None:
            self._end = (self._end + part)[-self._most :]
        else:
            self._transcript.add(part)

    def wait(self) -> bytes:
        """Return what is kept, once the program has ended.

        All that it wrote is in the pipe then. A process that it left behind in a group of its own
        may hold the pipe: its end is not waited for.
        """
        os.eventfd_write(self._ended, 1)
        self._thread.join(self._WITHIN)
        if not self._thread.is_alive():
            os.close(self._ended)
        return bytes(self._transcript if self._end is None else self._end)


def _readable_bytes(fd: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


def _last_line(errors: bytes) -> str:
    """Return the last line of an error, without the hint that follows ours, and no result."""
    text = errors.decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and "ATTACK-RESULT" not in line]
    telling = [line for line in lines if ": hint: " not in line]
    return (telling or lines or [""])[-1].strip()
