"""What one attested call costs: 2,000 calls of one `Agent`, KMS simulated in another process.

The NSM is called in this process, so that its calls can be counted; it is asked once in two
minutes, so it does not weigh. KMS is reached over loopback TCP with real TLS. Each part's share
is measured alone, in the same run, on an envelope and a request as the calls have them.
"""

from __future__ import annotations

import base64
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP

from enclave import Agent, Credentials
from enclave.kms.signing import signed_headers
from enclave.recipient.cms import parse_enveloped_data
from enclave.recipient.exchange import attested_request
from enclave_simulator.authority import Authority
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.nsm import SimulatedNsm
from enclave_simulator.parent.processes import Service
from tests.doubles import RedirectingDialer
from tests.enclave.recipient.envelopes import Envelope, private_key
from tests.programs.bench.report import machine, table
from vsock_proxy.net.addresses import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable


CALLS, ROUNDS = 2000, 5
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
                rounds = [_round(agent) for _ in range(ROUNDS)]
    wall, cpu = zip(*rounds, strict=True)
    document = nsm.exchange(b"\xa1\x6bAttestation\xa0")  # of the size the calls have
    print(f"\nAttested GenerateRandom, one Agent, one thread; {machine()}")
    print(f"{ROUNDS} rounds of {CALLS} calls, 32 bytes each\n")
    table(
        ("figure", "median", "least", "most"),
        [
            ("calls per second", *_spread([CALLS / seconds for seconds in wall], "{:.0f}")),
            ("CPU per call, ms", *_spread([1000 * seconds / CALLS for seconds in cpu], "{:.3f}")),
            ("NSM calls in all", str(sum(nsm.calls.values()) - 1), "", ""),
            ("connections in all", str(len(dialer.dialed)), "", ""),
        ],
    )
    print("\nWhere a call's CPU goes, each part alone (medians)\n")
    total = 1000 * statistics.median(cpu) / CALLS
    parts = [(name, _cost(part)) for name, part in _parts(document).items()]
    parts.append(("the rest: HTTP, TLS, sockets", total - sum(cost for _, cost in parts)))
    table(
        ("part", "ms", "share"),
        [(name, f"{cost:.3f}", f"{100 * cost / total:.0f} %") for name, cost in parts],
    )


def _round(agent: Agent) -> tuple[float, float]:
    """Wall and CPU seconds of one round; the CPU is this process's, user and system."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(CALLS):
        agent.generate_random(32)
    return time.perf_counter() - wall, time.process_time() - cpu


def _parts(document: bytes) -> dict[str, Callable[[], object]]:
    envelope = Envelope(plaintext=bytes(32)).der()
    encrypted_key = parse_enveloped_data(envelope).encrypted_key
    key = private_key()
    oaep = OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), None)
    parameters = {"NumberOfBytes": 32}
    body = base64.b64encode(document + bytes(64))
    at = datetime.now(UTC)
    return {
        "RSA-2048 decryption": lambda: key.decrypt(encrypted_key, oaep),
        "CMS reading": lambda: parse_enveloped_data(envelope),
        "request with document": lambda: attested_request("GenerateRandom", parameters, document),
        "SigV4 signature": lambda: signed_headers(
            url="https://kms.eu-central-1.amazonaws.com/",
            headers={"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "T.G"},
            body=body,
            credentials=CREDENTIALS,
            region="eu-central-1",
            at=at,
        ),
    }


def _cost(part: Callable[[], object], times: int = 500) -> float:
    """Milliseconds of CPU, the median of a few rounds."""
    part()
    costs = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(times):
            part()
        costs.append(1000 * (time.process_time() - started) / times)
    return statistics.median(costs)


def _spread(values: list[float], form: str) -> tuple[str, str, str]:
    return (
        form.format(statistics.median(values)),
        form.format(min(values)),
        form.format(max(values)),
    )
