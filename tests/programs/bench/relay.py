"""The relay against what else relays on this machine: ``make bench BENCH=relay``.

Every round measures each thing on each proxy in turn, each time in another order, so that what
else the machine does meanwhile meets all of them. Figures are medians of the rounds; a ratio is
the median of the rounds' own ratios. ROUNDS=10 takes longer and is steadier; ONLY="messages bulk"
measures only what has one of these in its name; WORKERS=2 gives the others two threads;
OTHER="NAME=/PATH/PROXY {path} 127.0.0.1:{port}" measures one more, which listens on the UNIX path.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.programs.bench.relay_peers import MAX_CONNECTIONS, PEERS, WORKERS, Peer, missing, running
from tests.programs.bench.report import machine, table

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUNDS = int(os.environ.get("ROUNDS", "3"))
ONLY = os.environ.get("ONLY", "").split()
OURS = "vsock-proxy"
DIRECT = "direct"
MANY = 10_000
IDLE = 5.0  # seconds
_LOAD = (sys.executable, "-m", "tests.programs.bench.relay_load")


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        value: which of a measurement's answers it is.
        scale: what it is multiplied by to be shown in the unit that `name` has.
        more_is_better: whether it is.
    """

    name: str
    value: str
    scale: float
    form: str
    more_is_better: bool = True


@dataclass(frozen=True)
class Measurement:
    """One thing that `relay_load` does, and the figures it gives."""

    job: Mapping[str, Any]
    figures: tuple[Figure, ...]


def _bulk(mode: str, connections: int) -> Measurement:
    word = {"U": "up", "D": "down"}[mode]
    name = f"bulk {word}, {connections} connection{'s' * (connections > 1)}"
    figures = [Figure(f"{name}, GB/s", "rate", 1e-9, "{:.2f}")]
    if connections > 1:
        figures.append(Figure(f"{name}, CPU s/GB", "cpu_per_item", 1e9, "{:.2f}", False))
    job = {"measure": "bulk", "mode": mode, "connections": connections, "seconds": 0.6}
    return Measurement(job, tuple(figures))


def _connections(clients: int) -> Measurement:
    name = f"new connections/s, {clients} client{'s' * (clients > 1)}"
    job = {"measure": "connections", "clients": clients, "seconds": 0.5}
    figures = [Figure(name, "rate", 1, "{:.0f}")]
    if clients > 1:
        figures.append(Figure(f"{name}, CPU us each", "cpu_per_item", 1e6, "{:.0f}", False))
    return Measurement(job, tuple(figures))


MEASUREMENTS = (
    _bulk("U", 1),
    _bulk("U", 8),
    _bulk("D", 1),
    _bulk("D", 8),
    Measurement(
        {"measure": "ping_pong", "seconds": 0.4},
        (
            Figure("1 KiB ping-pong p50, us", "p50", 1e6, "{:.0f}", False),
            Figure("1 KiB ping-pong p99, us", "p99", 1e6, "{:.0f}", False),
        ),
    ),
    Measurement(
        {"measure": "messages", "connections": 64, "seconds": 0.6},
        (
            Figure("messages/s, 64 x 1 KiB", "rate", 1, "{:.0f}"),
            Figure("messages/s, 64 x 1 KiB, CPU us each", "cpu_per_item", 1e6, "{:.1f}", False),
        ),
    ),
    _connections(1),
    _connections(64),
    Measurement(
        {"measure": "write_write_read", "times": 100},
        (Figure("write-write-read, ms", "median", 1e3, "{:.3f}", False),),
    ),
)


class Load:
    """One of the two load processes."""

    def __init__(self, role: str) -> None:
        self._process = subprocess.Popen(
            [*_LOAD, role], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def answer(self, job: Mapping[str, Any] | None = None) -> Any:
        """What it says next, after it was told `job`; None where it could not do it."""
        assert self._process.stdin
        assert self._process.stdout
        if job is not None:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


Results = dict[str, dict[str, list[float]]]
"""By figure, by proxy: a value for each round."""


def main() -> None:
    """Run and print."""
    lacking = missing()
    names = [name for name in PEERS if name not in lacking]
    for name, packages in lacking.items():
        print(f"bench: {name} is not installed: not measured (apt-get install {packages})")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        client = stack.enter_context(Load("client"))
        peers: dict[str, Peer] = {}
        for name in (DIRECT, *names):
            # A server each: connections that ended hold their ports for a minute.
            port = stack.enter_context(Load("server")).answer()
            peers[name] = (
                Peer(("127.0.0.1", port))
                if name == DIRECT
                else stack.enter_context(running(name, Path(folder, name), port))
            )
        for round_ in range(ROUNDS):
            for measurement in MEASUREMENTS:
                if _wanted(measurement.figures[0].name):
                    order = [*peers][round_ % len(peers) :] + [*peers][: round_ % len(peers)]
                    for name in order:
                        measure(client, measurement, name, peers[name], results)
    for connections in (1000, MANY):
        if _wanted("memory"):
            for name in names:
                _idle(name, connections, results)
    _print(results, [DIRECT, *names])


def _wanted(name: str) -> bool:
    return not ONLY or any(word in name for word in ONLY)


def measure(
    client: Load, measurement: Measurement, name: str, peer: Peer, results: Results
) -> None:
    before = peer.cpu()
    answer = client.answer({**measurement.job, "address": peer.address, "target": peer.target})
    if "error" in answer:
        raise RuntimeError(f"{name}: {answer['error']}")
    if "items" in answer:
        answer["cpu_per_item"] = (peer.cpu() - before) / answer["items"]
    client.answer({})
    for figure in measurement.figures:
        value = answer.get(figure.value)
        if value:
            row = results.setdefault(figure.name, {})
            row.setdefault(name, []).append(figure.scale * value)


def _idle(name: str, connections: int, results: Results) -> None:
    """Memory per idle connection, and what holding them takes, in a proxy that saw nothing else."""
    connections = min(connections, MAX_CONNECTIONS - 50)
    memory = results.setdefault(f"memory/idle connection, {connections}, KiB", {})
    cpu = results.setdefault(f"CPU with {connections} idle, % of one", {})
    if name == "socat" and connections > 1000:
        return  # A process for each.
    with (
        tempfile.TemporaryDirectory() as folder,
        Load("server") as server,
        Load("client") as client,
        running(name, Path(folder, "proxy"), server.answer()) as peer,
    ):
        client.answer({"measure": "idle", "connections": 1, "address": peer.address})
        before = peer.memory()
        job = {"measure": "idle", "connections": connections, "address": peer.address}
        if "error" in (answer := client.answer(job)):
            print(f"bench: {name}, {connections} idle connections: {answer['error']}")
            return
        memory[name] = [(peer.memory() - before) / connections / 1024]
        used = peer.cpu()
        time.sleep(IDLE)
        cpu[name] = [100 * (peer.cpu() - used) / IDLE]


def _print(results: Results, names: list[str]) -> None:
    figures = {f.name: f for m in MEASUREMENTS for f in m.figures}
    others = [name for name in names if name not in (DIRECT, OURS)]
    print(f"\nRelay, UNIX socket in front, TCP behind; {machine()}; {ROUNDS} rounds, medians;")
    print(f"the others with {WORKERS} worker{'s' * (WORKERS > 1)}\n")
    rows, ratios = [], []
    for name, row in results.items():
        # What is not a job's figure is of idle connections.
        figure = figures.get(name, Figure(name, "", 1, "{:.2f}", more_is_better=False))
        medians = {peer: statistics.median(values) for peer, values in row.items()}
        cells = [figure.form.format(medians[n]) if n in medians else "-" for n in names]
        spread = ""
        if OURS in row:
            spread = "-".join(figure.form.format(end(row[OURS])) for end in (min, max))
        rows.append((name, *cells, spread))
        ratios.append((name, *(ratio(figure, row, other) for other in others)))
    table(("", *names, f"spread of {OURS}"), rows, across=True)
    print(f"\n{OURS} to each of the others: 1.20 is 20 % better, whatever better means there\n")
    table(("", *others), ratios, across=True)


def ratio(figure: Figure, row: dict[str, list[float]], other: str) -> str:
    ours, theirs = row.get(OURS), row.get(other)
    if not ours or not theirs:
        return "-"
    pairs = zip(ours, theirs, strict=False)
    quotients = [(a, b) if figure.more_is_better else (b, a) for a, b in pairs]
    if any(divisor <= 0 for _, divisor in quotients):
        return "-"  # too little to be measured: memory that did not grow, an idle CPU
    return f"{statistics.median(a / b for a, b in quotients):.2f}"
