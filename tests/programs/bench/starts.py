"""From the start of a process to its first random bytes, on standard output or from the endpoint.

Without the launcher, see `unlaunched`, and with it. The CAs are those that a program trusts for
AWS's endpoints by default, and that of the simulated KMS.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from enclave.kms.roots import write_ready
from tests.chain.commands import AGENT
from tests.programs.bench.load import PLAINTEXT, REQUEST
from tests.programs.bench.unlaunched import MAX_MESSAGE
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from enclave_simulator.launcher.devices import NsmDevice
    from tests.chain.serving import Chain

TIMES = 15

GENERATE_RANDOM = ("generate-random", "--number-of-bytes", "32")
KEY = "from enclave.recipient.keypair import new_private_key; new_private_key()"


def starts(made: Chain) -> list[tuple[str, ...]]:
    """The rows of a table: ms until, at the median, the least and the most, and ms of CPU."""
    folder = made.folder
    python = [sys.executable, "-c"]
    alone = [sys.executable, "-m", "tests.programs.bench.unlaunched", str(folder)]
    nsm = made.launcher.nsm
    assert nsm is not None
    with _environment(made) as env, _nsm(nsm, folder / "nsm"):

        def ends(*argv: str) -> tuple[float, float]:
            return _printed(argv, env)

        return [
            _spread("python has begun", lambda: ends(*python, "print()")),
            _spread("and imported all", lambda: ends(*python, "import enclave.agent; print()")),
            _spread("python has a key pair", lambda: ends(*python, f"{KEY}; print()")),
            _spread("generate-random", lambda: ends(*alone, *GENERATE_RANDOM)),
            _spread("serve", lambda: _served(alone, env)),
            _spread("generate-random, launched", lambda: _launched(made, env)),
        ]


@contextlib.contextmanager
def _environment(made: Chain) -> Iterator[Mapping[str, str]]:
    """The variables of a program whose bytecode is kept, and who trusts Amazon's roots, too."""
    ca, every = made.folder / "ca.pem", made.folder / "every.pem"
    write_ready(every)
    every.write_bytes(every.read_bytes() + ca.read_bytes())
    env = {name: value for name, value in made.env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        yield {**env, "AWS_CA_BUNDLE": str(every)}
    finally:
        every.unlink()


@contextlib.contextmanager
def _nsm(nsm: NsmDevice, path: Path) -> Iterator[None]:
    """The NSM on a socket, for `unlaunched`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):  # shut down, below
                while True:
                    asker, _ = listener.accept()
                    with asker:
                        asker.send(nsm.exchange(asker.recv(MAX_MESSAGE)))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _printed(argv: Sequence[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds until the first byte is out, and of CPU until the end."""
    before, began = _cpu_seconds(), time.monotonic()
    with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as child:
        assert child.stdout
        found = child.stdout.read(1)
        took = time.monotonic() - began
    if child.returncode or not found:
        raise RuntimeError(f"{argv} failed")
    return took, _cpu_seconds() - before


def _served(alone: Sequence[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds until a client that knocks again and again has its answer."""
    port = unused_port()
    # No duties of a whole machine's: this one is not an enclave.
    duties = [f"--no-{duty}" for duty in ("seed-from-nsm", "seed-from-kms", "raise-loopback")]
    argv = [*alone, "serve", "--listen", f"tcp://127.0.0.1:{port}", *duties]
    before, began = _cpu_seconds(), time.monotonic()
    with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL) as child:
        try:
            with _knock(port) as client:
                client.sendall(REQUEST)
                if PLAINTEXT not in client.recv(4096):
                    raise RuntimeError("no bytes")
            took = time.monotonic() - began
        finally:
            child.terminate()
    return took, _cpu_seconds() - before


def _knock(port: int) -> socket.socket:
    ends = time.monotonic() + TEST_TIMEOUT
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), TEST_TIMEOUT)
        except ConnectionRefusedError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.001)


def _launched(made: Chain, env: Mapping[str, str]) -> tuple[float, float]:
    began = time.monotonic()
    reader, writer = os.pipe()
    with open(reader, "rb") as answer:  # noqa: PTH123 (it is no path)
        with open(writer, "wb") as theirs:  # noqa: PTH123
            session = made.launcher.start([*AGENT, *GENERATE_RANDOM], env=env, stdout=theirs)
        with session:
            found = answer.read(1)
            took = time.monotonic() - began
            if session.wait(TEST_TIMEOUT) or not found:
                raise RuntimeError("generate-random failed")
    return took, 0.0  # it has come out of the launcher's hands, not ours


def _cpu_seconds() -> float:
    """Of children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _spread(name: str, start: Callable[[], tuple[float, float]]) -> tuple[str, ...]:
    start()  # bytecode and files into memory
    took, cpu = zip(*(start() for _ in range(TIMES)), strict=True)
    return (
        name,
        f"{1000 * statistics.median(took):.0f}",
        f"{1000 * min(took):.0f}",
        f"{1000 * max(took):.0f}",
        f"{1000 * statistics.median(cpu):.0f}" if any(cpu) else "",
    )
