"""Attested TLS beside plain TLS of the same Python: ``make bench BENCH=ingress``.

*TLS* ends TLS with asyncio's streams and relays to the program; *attested* is ``enclave-agent serve
--ingress-tls`` under the launcher, with the same key, version and program. All listen on UNIX
sockets, which stand for vsock. The NSM is simulated in another process than the agent's: its CPU is
the load's. A new connection is one request long; *with a document* its client asks for one first,
as relying parties do, and does not verify it; what that costs is the row *proven*, in the client.

CPU is of the process that ends TLS, also as a multiple of one RSA-2048 decryption, measured around
each round. ROUNDS=9 takes longer.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from enclave.attested_tls.connecting import connect_with
from enclave.attested_tls.context import AttestedContext
from enclave_simulator.authority import Authority
from enclave_simulator.launcher.launch import Launcher
from enclave_simulator.nsm import SimulatedNsm
from tests.chain.commands import AGENT
from tests.programs.bench.endpoint import cpu_seconds, rsa_seconds
from tests.programs.bench.report import machine, table
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = int(os.environ.get("ROUNDS", "5"))
CLIENTS = 16
NEW, KEPT, PROVEN = 400, 8_000, 25
_PEERS = (sys.executable, "-m", "tests.programs.bench.ingress_peers")


@dataclass
class Case:
    """One row: who ends TLS, what the load does, and figures of each round.

    Attributes:
        rates: connections or requests a second.
        cpu: seconds of CPU for one of them.
        rsa: the same as a multiple of one RSA-2048 decryption.
    """

    name: str
    server: str
    load: str
    count: int
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rsa: list[float] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        return (
            self.name,
            self.server,
            f"{statistics.median(self.rates):.0f}",
            f"{1e6 * statistics.median(self.cpu):.0f}",
            f"{statistics.median(self.rsa):.2f}",
            f"{min(self.rsa):.2f}..{max(self.rsa):.2f}",
        )


def main() -> None:
    """Run and print."""
    cases = [
        Case("new connections", "TLS", "new", NEW),
        Case("new connections", "attested", "new", NEW),
        Case("new connections with a document", "attested", "document", NEW),
        Case("requests on kept connections", "TLS", "kept", KEPT),
        Case("requests on kept connections", "attested", "kept", KEPT),
    ]
    proven = Case("proven: the client's CPU", "attested", "proven", PROVEN)
    authority = Authority.generate()
    nsm = SimulatedNsm(authority)
    context = AttestedContext(
        pcrs={0: nsm._pcrs[0]},
        root_fingerprint=bytes.fromhex(authority.fingerprint),
        timeout=TEST_TIMEOUT,
    )
    with tempfile.TemporaryDirectory() as folder, _running(Path(folder), nsm) as servers:
        for _ in range(ROUNDS):
            for case in cases:
                _round(case, *servers[case.server])
            _prove(proven, servers["attested"][0], context)
    print(f"\nTLS 1.3, a P-256 key, {CLIENTS} clients, UNIX sockets; {machine()}")
    print(f"medians of {ROUNDS} rounds; CPU for each connection or request\n")
    header = ("", "", "a second", "CPU us", "x RSA", "least..most")
    table(header, [case.row() for case in (*cases, proven)])


@contextlib.contextmanager
def _running(folder: Path, nsm: SimulatedNsm) -> Iterator[dict[str, tuple[str, int]]]:
    """Start program and servers; yield where each listens, and its process."""
    program, tls, attested = (str(folder / name) for name in ("program", "tls", "attested"))
    serve = (
        *AGENT, "serve", "--no-kms", "--ingress-tls", "localhost", "--ingress-tls-rate=65536",
        f"--ingress-tls-forward=unix:{attested}=unix:{program}",
    )  # fmt: skip
    with (
        _peer("program", program),
        _peer("tls", tls, program) as plain,
        Launcher(nsm=nsm).start(serve) as agent,
    ):
        eventually(Path(attested).exists)
        yield {"TLS": (tls, plain.pid), "attested": (attested, agent.process.pid)}


@contextlib.contextmanager
def _peer(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [*_PEERS, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def _round(case: Case, path: str, pid: int) -> None:
    rsa = rsa_seconds()
    with _peer("load", path, case.load, str(CLIENTS), str(case.count)) as load:
        before = cpu_seconds(pid)
        assert load.stdin
        assert load.stdout
        load.stdin.write("\n")
        load.stdin.flush()
        case.rates.append(float(load.stdout.readline()))
        spent = (cpu_seconds(pid) - before) / case.count
    case.cpu.append(spent)
    case.rsa.append(spent / ((rsa + rsa_seconds()) / 2))


def _prove(case: Case, path: str, context: AttestedContext) -> None:
    """Connect as relying parties do, one connection after the other."""
    rsa = rsa_seconds()
    began, busy = time.perf_counter(), time.thread_time()
    for _ in range(case.count):
        connect_with(context, "localhost", UnixAddress(path)).close()
    spent = (time.thread_time() - busy) / case.count
    case.rates.append(case.count / (time.perf_counter() - began))
    case.cpu.append(spent)
    case.rsa.append(spent / ((rsa + rsa_seconds()) / 2))
