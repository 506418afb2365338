"""The local endpoint: rate and latency at 1, 16 and 64 clients, with and without the pool, memory,
CPU, and the time from a process's start to its first random bytes.

All of it as processes, in an enclave as the launcher makes it. Clients, agent, proxy and KMS share
the machine: a rate is what they leave the agent, and the CPU of each, per call, tells what that
is. Two rows are not the agent: "constant" is the ceiling of the load generator and the event loop,
"cached" the endpoint with a pool that never waits for KMS. Rows with a flood have one more client,
which sends thousands of requests ahead, or connects and resets, as fast as it can.

Pooled calls are many more than the pool holds, so that their rate is one that lasts: it includes
the attested calls that refill it, one for each 32.

The agent's CPU is also given as a multiple of one RSA-2048 decryption, measured around each
round, so that figures of different machines compare. With `--processes`, CPU and memory are of
all processes, and memory they share counts once.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chain.serving import Chain, chain, serving
from tests.programs.bench.agent import decryption
from tests.programs.bench.report import machine, table
from tests.programs.bench.starts import starts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CLIENTS = (1, 16, 64)
ROUNDS = 3
FEW, MANY = 2000, 60_000


@dataclass
class Case:
    """One row: what is requested, by how many clients, and one figure a round of each kind.

    Attributes:
        flood: what one more client does meanwhile, see `flood`; "" for nothing.
    """

    name: str
    clients: int
    calls: int
    options: tuple[str, ...] = ()
    flood: str = ""
    figures: list[dict[str, float]] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(figures.get(name, 0.0) for figures in self.figures)


def main() -> None:
    """Run and print."""
    cases = [
        Case(name, clients, calls, options)
        for name, calls, options in (
            ("constant", MANY, ()),
            ("cached", MANY, ()),
            ("no pool", FEW, ()),
            ("--processes 2", FEW, ("--processes", "2")),
            ("--pool", MANY, ("--pool",)),
            ("--pool --processes 2", MANY, ("--pool", "--processes", "2")),
        )
        for clients in CLIENTS
    ]
    cases += [
        Case(name, 16, calls, options, flood)
        for name, calls, options in (("no pool", FEW, ()), ("--pool", MANY, ("--pool",)))
        for flood in ("pipelining", "connecting")
    ]
    with chain() as made:
        for _ in range(ROUNDS):
            for case in cases:
                with _running(made, case) as (port, pids), _flooded(case.flood, port):
                    case.figures.append(_round(port, pids, case))
        print(f"\nGenerateRandom of 32 bytes through enclave-agent serve; {machine()}")
        print(f"medians of {ROUNDS} rounds; CPU in microseconds per call\n")
        table(HEADER, map(_row, cases))
        print("\nFrom the start of a process to random bytes, ms\n")
        table(("", "median", "least", "most", "CPU"), starts(made))


HEADER = (
    "", "clients", "calls/s", "spread", "p50 ms", "p99 ms",
    "agent", "x RSA", "load", "proxy", "KMS", "MiB",
)  # fmt: skip


def _row(case: Case) -> tuple[str, ...]:
    rates = [figures["rate"] for figures in case.figures]
    return (
        f"{case.name}, flooded: {case.flood}" if case.flood else case.name,
        str(case.clients),
        f"{statistics.median(rates):.0f}",
        f"{min(rates):.0f}..{max(rates):.0f}",
        f"{case.median('p50'):.2f}",
        f"{case.median('p99'):.2f}",
        f"{1e6 * case.median('agent') / case.calls:.0f}",
        f"{case.median('x RSA') / case.calls:.2f}",
        *(f"{1e6 * case.median(name) / case.calls:.0f}" for name in ("load", "proxy")),
        f"{1e6 * case.median('KMS') / case.calls:.0f}",
        f"{max(figures['memory'] for figures in case.figures):.1f}",
    )


@contextlib.contextmanager
def _running(made: Chain, case: Case) -> Iterator[tuple[int, Mapping[str, int]]]:
    """Start what is measured; yield its port, and the processes that work for it."""
    if case.name not in ("constant", "cached"):
        with serving(made, *case.options) as served:
            yield served.port, {"agent": served.pid, "proxy": made.proxy.pid, "KMS": made.kms_pid}
        return
    argv = [sys.executable, "-m", "tests.programs.bench.ceiling", case.name.replace(" ", "-")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield int(process.stdout.readline()), {"agent": process.pid}
        finally:
            process.kill()


@contextlib.contextmanager
def _flooded(flood: str, port: int) -> Iterator[None]:
    """Have one more client flood the endpoint."""
    if not flood:
        yield
        return
    argv = [sys.executable, "-m", "tests.programs.bench.flood", flood, str(port)]
    with subprocess.Popen(argv) as process:
        try:
            yield
        finally:
            process.kill()


def _round(port: int, pids: Mapping[str, int], case: Case) -> dict[str, float]:
    rsa = rsa_seconds()
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    argv = [
        sys.executable,
        "-m",
        "tests.programs.bench.load",
        str(port),
        str(case.clients),
        str(case.calls),
    ]
    done = subprocess.run(argv, check=True, capture_output=True, timeout=300)
    found: dict[str, float] = json.loads(done.stdout)
    if found["wrong"]:
        raise RuntimeError(f"{found['wrong']:.0f} calls had no bytes")
    spent = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    rsa = (rsa + rsa_seconds()) / 2
    return {
        **found,
        **spent,
        "x RSA": spent["agent"] / rsa,
        "load": found["cpu"],
        "memory": _memory(pids["agent"]),
    }


def rsa_seconds(times: int = 100) -> float:
    """Return the CPU time of one RSA-2048 decryption."""
    started = time.process_time()
    for _ in range(times):
        _decrypt()
    return (time.process_time() - started) / times


_decrypt = decryption()


def _with_workers(pid: int) -> list[int]:
    """Return a process and those that it has started."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text(encoding="ascii").rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def cpu_seconds(pid: int) -> float:
    spent = 0
    for each in _with_workers(pid):
        text = Path(f"/proc/{each}/stat").read_text(encoding="ascii")
        spent += sum(map(int, text.rpartition(")")[2].split()[11:13]))
    return spent / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    """The most memory that a process ever had, or what several have now, MiB."""
    pids = _with_workers(pid)
    if len(pids) == 1:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    rollups = [Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii") for each in pids]
    return sum(int(text.partition("\nPss:")[2].split()[0]) for text in rollups) / 1024
