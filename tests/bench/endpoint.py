"""The local endpoint: rate and latency at 1, 16 and 64 clients, with and without the pool, memory,
and the time from a process's start to its first random bytes.

All of it as processes, in an enclave as the launcher makes it. Clients, agent, proxy and KMS share
the machine, so that a rate is what is left of it for the agent; the CPU columns tell. The launcher
answers each file a program opens, which an import does hundreds of times: starts inside it take
longer than they would, so that the part that is imports is measured outside as well.

Pooled calls are many more than the pool holds, so that their rate is one that lasts: it includes
the attested calls that refill it, one for each 32.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.report import machine, table
from tests.chain.serving import Chain, Served, chain, serving
from tests.chain.test_main_job import AGENT

CLIENTS = (1, 16, 64)
STARTS = 7


def main() -> None:
    """Run and print."""
    with chain() as made:
        rows = [*_rates(made, "no pool", 2000), *_rates(made, "--pool", 60_000, "--pool")]
        print(f"\nGenerateRandom of 32 bytes through enclave-agent serve; {machine()}\n")
        header = ("", "clients", "calls/s", "p50 ms", "p99 ms", "agent CPU", "load CPU", "RSS MiB")
        table(header, rows)
        print("\nFrom the start of a process, ms\n")
        table(("until", "median", "least", "most"), _starts(made))


def _rates(made: Chain, name: str, calls: int, *options: str) -> list[tuple[str, ...]]:
    with serving(made, *options) as served:
        return [_row(served, name, clients, calls) for clients in CLIENTS]


def _row(served: Served, name: str, clients: int, calls: int) -> tuple[str, ...]:
    before, began = _cpu_seconds(served.pid), time.monotonic()
    argv = [sys.executable, "-m", "tests.bench.load", str(served.port), str(clients), str(calls)]
    done = subprocess.run(argv, check=True, capture_output=True, timeout=300)
    cpu = (_cpu_seconds(served.pid) - before) / (time.monotonic() - began)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["wrong"]:
        print(f"bench: error: {found['wrong']} calls had no bytes")
    return (
        name,
        str(clients),
        f"{found['rate']:.0f}",
        f"{found['p50']:.2f}",
        f"{found['p99']:.2f}",
        f"{100 * cpu:.0f} %",
        f"{100 * found['own_cpu']:.0f} %",
        f"{_resident(served.pid):.1f}",
    )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    """The most it ever was, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _starts(made: Chain) -> list[tuple[str, str, str, str]]:
    python = [sys.executable, "-c"]
    agent = [*AGENT, "generate-random", "--number-of-bytes", "32"]
    serve = [*AGENT, "serve", "--listen", "tcp://127.0.0.1:0", "--", "true"]
    return [
        _spread("python runs", lambda: _outside([*python, "pass"])),
        _spread("enclave.agent is imported", lambda: _outside([*python, "import enclave.agent"])),
        _spread(
            "serve's modules are imported",
            lambda: _outside([*python, "import enclave.agent, enclave.serve.service"]),
        ),
        _spread("generate-random has printed (launcher)", lambda: _inside(made, agent)),
        _spread("serve is ready, and has ended (launcher)", lambda: _inside(made, serve)),
    ]


def _outside(argv: list[str]) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def _inside(made: Chain, argv: list[str]) -> None:
    with made.launcher.start(argv, env=made.env, stdout=subprocess.DEVNULL) as session:
        if session.wait(60):
            raise RuntimeError(f"{argv} failed")


def _spread(name: str, start: Any) -> tuple[str, str, str, str]:
    start()  # files into memory
    took = []
    for _ in range(STARTS):
        began = time.monotonic()
        start()
        took.append(1000 * (time.monotonic() - began))
    return name, f"{statistics.median(took):.0f}", f"{min(took):.0f}", f"{max(took):.0f}"
