"""The cost of attested calls: an `Agent` with 1, 2 and 8 threads, KMS simulated elsewhere.

The NSM is in this process, so that its calls can be counted; it is called once in two minutes, so
that it does not weigh. KMS is a process of its own, reached over loopback TCP with real TLS. The
CPU of a call is also given as a multiple of one RSA-2048 decryption, which no call can do without:
so figures of different machines compare. The decryption is measured in each round, beside the
calls. Each part's share is measured alone, in the same run, on an envelope and a request as the
calls have them.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP

from enclave import Agent, Credentials
from enclave.kms.body import encode_body
from enclave.recipient.cms import parse_enveloped_data
from enclave.recipient.exchange import attested_request
from enclave_simulator.authority import Authority
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.nsm import SimulatedNsm
from enclave_simulator.parent.processes import Service
from tests.doubles import RedirectingDialer
from tests.enclave.recipient.envelopes import Envelope, private_key
from tests.programs.bench.report import machine, table
from tests.signing import signed_headers
from vsock_proxy.net.addresses import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable


CALLS, ROUNDS = 2000, 5
THREADS = (1, 2, 8)
CREDENTIALS = Credentials(
    SIMULATED_CREDENTIALS.access_key_id,
    SIMULATED_CREDENTIALS.secret_access_key,
    SIMULATED_CREDENTIALS.session_token,
)


def main() -> None:
    """Run and print."""
    authority = Authority.generate()
    nsm = SimulatedNsm(authority)
    with tempfile.TemporaryDirectory() as folder:
        root, ca = Path(folder, "root.pem"), Path(folder, "ca.pem")
        root.write_bytes(authority.root_pem)
        arguments = ["kms", "--listen", "tcp://127.0.0.1:0", f"--nitro-root={root}"]
        with Service("enclave_simulator.cli", [*arguments, f"--ca-file={ca}"]) as kms:
            address = parse_address(kms.state["STATUS"].removeprefix("listening on "))
            dialer = RedirectingDialer(address)
            with Agent(
                region="eu-central-1",
                credentials=CREDENTIALS,
                ca_bundle=str(ca),
                device=nsm,
                dialer=dialer,
            ) as agent:
                agent.generate_random(32)  # key pair, document and connection: not per call
                figures: dict[int, list[Figures]] = {threads: [] for threads in THREADS}
                for _ in range(ROUNDS):
                    rsa = _cost(decryption(), rounds=1)
                    for threads in THREADS:
                        figures[threads].append(_round(agent, threads, rsa))
    document = nsm.exchange(b"\xa1\x6bAttestation\xa0")  # of the size the calls have
    print(f"\nAttested GenerateRandom of 32 bytes, one Agent; {machine()}")
    print(f"{ROUNDS} rounds of {CALLS} calls; median (least to most)\n")
    table(
        ("threads", "calls/s", "CPU per call, ms", "x RSA-2048", "CPUs used"),
        [
            (
                str(threads),
                _spread([each.rate for each in rounds], 0),
                _spread([each.cpu for each in rounds], 3),
                _spread([each.cpu / each.rsa for each in rounds], 2),
                _spread([each.cpu * each.rate / 1000 for each in rounds], 2),
            )
            for threads, rounds in figures.items()
        ],
    )
    print(f"\nNSM calls in all: {sum(nsm.calls.values()) - 1}; connections: {len(dialer.dialed)}")
    print("\nWhere a call's CPU goes, one thread, each part alone (medians)\n")
    total = statistics.median(each.cpu for each in figures[1])
    parts = [(name, _cost(part)) for name, part in _parts(document).items()]
    parts.append(("the rest: HTTP, TLS, sockets", total - sum(cost for _, cost in parts)))
    rsa = parts[0][1]
    table(
        ("part", "ms", "x RSA-2048", "share"),
        [
            (name, f"{cost:.3f}", f"{cost / rsa:.2f}", f"{100 * cost / total:.0f} %")
            for name, cost in parts
        ],
    )


class Figures(NamedTuple):
    """One round: calls per second; milliseconds of CPU of a call, and of one RSA decryption."""

    rate: float
    cpu: float
    rsa: float


def _round(agent: Agent, threads: int, rsa: float) -> Figures:
    """Have threads share the calls of a round; CPU is this process's, user and system."""

    def work() -> None:
        for _ in range(CALLS // threads):
            agent.generate_random(32)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    wall, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    calls = CALLS // threads * threads
    return Figures(calls / wall, 1000 * cpu / calls, rsa)


def decryption() -> Callable[[], object]:
    """Return one RSA-2048 decryption, as `cryptography` does it."""
    encrypted_key = parse_enveloped_data(Envelope(plaintext=bytes(32)).der()).encrypted_key
    key = private_key()
    oaep = OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return lambda: key.decrypt(encrypted_key, oaep)


def _parts(document: bytes) -> dict[str, Callable[[], object]]:
    envelope = Envelope(plaintext=bytes(32)).der()
    parameters = {"NumberOfBytes": 32}
    request = attested_request("GenerateRandom", parameters, document)
    digest = encode_body("GenerateRandom", request).digest
    at = datetime.now(UTC)
    return {
        "RSA-2048 decryption": decryption(),
        "CMS reading": lambda: parse_enveloped_data(envelope),
        "request with document": lambda: attested_request("GenerateRandom", parameters, document),
        "JSON and its hash": lambda: encode_body("GenerateRandom", request),
        "SigV4 signature": lambda: signed_headers(
            url="https://kms.eu-central-1.amazonaws.com/",
            headers={"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "T.G"},
            digest=digest,
            credentials=CREDENTIALS,
            region="eu-central-1",
            at=at,
        ),
    }


def _cost(part: Callable[[], object], times: int = 500, rounds: int = ROUNDS) -> float:
    """Milliseconds of CPU, the median of a few rounds."""
    part()
    costs = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(times):
            part()
        costs.append(1000 * (time.process_time() - started) / times)
    return statistics.median(costs)


def _spread(values: list[float], digits: int) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"
