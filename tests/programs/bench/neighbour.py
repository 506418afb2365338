"""What a hostile enclave takes from its neighbour: ``make bench BENCH=neighbour``.

One `enclave-parent` relays for a well-behaved client, while a hostile one does what it can to
another service of the same process. The load of the hostile client itself is accounted for: in
every round it attacks a second `enclave-parent` as well ("apart"), which takes as much of the
machine and nothing of the relay's process. The ratio of both is what the process shares. "CPU" is
what the attack alone costs the process that is attacked, in percent of one core: it says how much
of the relay's time can be lost, and needs no quiet machine. Rounds are interleaved; figures are
medians. ROUNDS=10 is steadier; ONLY="logs" measures some attacks; ONLY_CPU=1 only their CPU.

UNIX sockets stand for vsock. All clients of a forward or of egress are taken for one enclave;
those of a service together have the limits that one enclave has of the logs, and those of all
enclaves of the credentials.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parent.cli import main as main_of_parent
from tests.programs.bench.relay import Load
from tests.programs.bench.relay_peers import Peer
from tests.programs.bench.report import machine, table
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.proxy import forwarder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = int(os.environ.get("ROUNDS", "3"))
ONLY = os.environ.get("ONLY", "").split()
ONLY_CPU = bool(os.environ.get("ONLY_CPU"))
SECONDS = 0.8
BURST = 6.0  # seconds after which a hostile client has used up what it may have at once

CONFIGURATION = """\
proxy:
  allowlist: [{{address: 127.0.0.1, port: {port}}}]
  drain_timeout: 0 s
  forwards:
  - {{name: victim, listen: "unix:{folder}/victim", to: "tcp://127.0.0.1:{port}"}}
  - {{name: hostile, listen: "unix:{folder}/forward", to: "tcp://127.0.0.1:{port}"}}
  egress: {{listen: "unix:{folder}/egress", allowlist: [{{address: localhost, port: 443}}]}}
credentials: {{listen: "unix:{folder}/credentials"}}
logs: {{listen: "unix:{folder}/logs", to: {{file: {folder}/log}}}}
"""


def _lines(line: bytes) -> Callable[[str], None]:
    def attack(folder: str) -> None:
        """Write these lines to the log sink as fast as it reads, on all connections."""
        data = memoryview(line * (65536 // len(line)))
        ends = [_connected(f"{folder}/logs") for _ in range(16)]
        for end in ends:
            end.setblocking(False)
        while True:
            for end in select.select([], ends, [])[1]:
                with contextlib.suppress(BlockingIOError):
                    end.send(data)

    return attack


def _drip(folder: str) -> None:
    """Write single bytes, each of which wakes the reader."""
    ends = [_connected(f"{folder}/logs") for _ in range(16)]
    for end in ends:
        end.setblocking(False)
    while True:
        for end in ends:
            with contextlib.suppress(BlockingIOError):
                end.send(b"x")
        time.sleep(0.0001)


def _connecting(name: str, request: bytes) -> Callable[[str], None]:
    def attack(folder: str) -> None:
        """Connect in a loop, and request something."""
        while True:
            try:
                with _connected(f"{folder}/{name}") as end:
                    end.sendall(request)
                    if request:
                        end.recv(1024)
            except OSError:
                time.sleep(0.0005)

    return attack


ATTACKS: dict[str, Callable[[str], None]] = {
    "logs: NUL": _lines(b"\0" * 8191 + b"\n"),
    "logs: tab, invalid UTF-8": _lines(b"a\tb\xff\n"),
    "logs: random characters": _lines("\U000e0041\u202e\x1b\u65e5".encode() * 20 + b"\n"),
    "logs: empty lines": _lines(b"\n"),
    "logs: single bytes": _drip,
    "logs: connections": _connecting("logs", b""),
    "credentials: requests": _connecting(
        "credentials", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ),
    "credentials: connections": _connecting("credentials", b""),
    "forward: connections": _connecting("forward", b"C"),
    "egress: connections": _connecting("egress", b""),
    "egress: requests": _connecting(
        "egress", b"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n"
    ),
}


def main() -> None:
    """Run and print."""
    figures: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(Load("server")).answer()
        client = stack.enter_context(Load("client"))
        parents = [stack.enter_context(_parent(port)) for _ in range(2)]
        for round_ in range(ROUNDS):
            for name in ATTACKS:
                if not ONLY or any(word in name for word in ONLY):
                    row = figures.setdefault(name, {})
                    places = [("beside", parents[0]), ("apart", parents[1])]
                    for place, target in places[:: 1 if round_ % 2 else -1]:
                        with _hostile(name, target.address):
                            time.sleep(BURST)
                            row.setdefault("cpu", []).append(_cpu(target))
                            if not ONLY_CPU:
                                _measure(client, parents[0].address, row, place)
    _print(figures)


def hostile(name: str, folder: str) -> None:
    """Be the hostile client."""
    os.nice(5)
    ATTACKS[name](folder)


def parent(path: str) -> int:
    """Run ``enclave-parent``, for which each client of a forward comes from CID 16."""
    forwarder._cid_of = lambda peer: 16  # noqa: ARG005 (its signature)
    return main_of_parent(["run", "--config", path])


@dataclass(frozen=True)
class _Parent:
    address: str
    process: Peer


@contextlib.contextmanager
def _parent(port: int) -> Iterator[_Parent]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "parent.yaml")
        path.write_text(CONFIGURATION.format(folder=folder, port=port))
        keys = {"AWS_ACCESS_KEY_ID": "AKIABENCH", "AWS_SECRET_ACCESS_KEY": "bench"}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.programs.bench.neighbour", "parent", str(path)],
            env={**os.environ, **keys},
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                deadline = time.monotonic() + TEST_TIMEOUT
                while not Path(folder, "logs").exists():
                    if time.monotonic() > deadline:
                        raise TimeoutError("enclave-parent does not start")
                    time.sleep(0.05)
                yield _Parent(folder, Peer(folder, process.pid))
            finally:
                process.kill()


@contextlib.contextmanager
def _hostile(name: str, folder: str) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.programs.bench.neighbour", name, folder],
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
            if process.poll() is not None:
                raise RuntimeError(f"{name}: the hostile client has ended")
        finally:
            process.kill()


def _cpu(parent: _Parent) -> float:
    """Return the share of one core that its process takes."""
    before, started = parent.process.cpu(), time.monotonic()
    time.sleep(2.0)
    return (parent.process.cpu() - before) / (time.monotonic() - started)


def _measure(client: Load, folder: str, into: dict[str, list[float]], place: str) -> None:
    address = f"{folder}/victim"
    for job in (
        {"measure": "messages", "connections": 16, "seconds": SECONDS},
        {"measure": "ping_pong", "seconds": SECONDS},
    ):
        result: dict[str, Any] = client.answer({**job, "address": address})
        client.answer({})
        for key in ("rate", "p50", "p99"):
            if key in result:
                into.setdefault(f"{key} {place}", []).append(result[key])


def _print(figures: dict[str, dict[str, list[float]]]) -> None:
    print(f"\nBeside a hostile client; {machine()}; {ROUNDS} rounds, medians\n")
    rows = []
    for name, found in figures.items():
        cells = [f"{100 * statistics.median(found['cpu']):.1f}"]
        for key, scale, form in (
            ("rate", 1, "{:.0f}"),
            ("p50", 1e6, "{:.0f}"),
            ("p99", 1e6, "{:.0f}"),
        ):
            if ONLY_CPU:
                cells += 3 * ["-"]
                continue
            beside, apart = found[f"{key} beside"], found[f"{key} apart"]
            ratios = [one / other for one, other in zip(beside, apart, strict=True)]
            cells += [
                form.format(scale * statistics.median(apart)),
                form.format(scale * statistics.median(beside)),
                f"{statistics.median(ratios):.2f}",
            ]
        rows.append((name, *cells))
    table(
        (
            "",
            "CPU %",
            *("msg/s apart", "beside", "ratio"),
            *("p50 us apart", "beside", "ratio"),
            *("p99 us apart", "beside", "ratio"),
        ),
        rows,
    )  # fmt: skip


def _connected(path: str) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(TEST_TIMEOUT)
    end.connect(path)
    return end


if __name__ == "__main__":
    match sys.argv[1:]:
        case "parent", configuration:
            sys.exit(parent(configuration))
        case attack, where:
            hostile(attack, where)
