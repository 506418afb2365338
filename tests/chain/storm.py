"""``make test-storm``: the proxy killed and started again in the middle of 10,000 calls.

Everything runs as processes, as in an enclave: the simulated KMS, vsock-proxy, ``enclave-agent
serve`` under the launcher. 16 clients call, with and without the pool; every call must end in a
right answer or in one typed error within the deadline, and no bytes may come twice.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.authority import Authority
from simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from simulator.launcher.launch import Launcher
from simulator.nsm import SimulatedNsm
from simulator.processes import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS, CLIENTS, KILLS = 10_000, 16, 3
DEADLINE = 10.0
SLACK = 2.0
"""Seconds beyond the deadline for a loaded machine: the answer must be on its way by then."""

EXPECTED = {"ServiceUnavailable", "ThrottlingException"}


@dataclass
class Tally:
    """What came of the calls."""

    secrets: list[bytes] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    begun: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> bool:
        """Whether there is one more call to make."""
        with self.lock:
            self.begun += 1
            return self.begun <= CALLS

    @property
    def ended(self) -> int:
        return len(self.secrets) + self.errors.total() + len(self.wrong)


class Proxy:
    """vsock-proxy on the parent, as often as it is started."""

    def __init__(self, folder: Path, kms: Service) -> None:
        host, port = kms.state["STATUS"].removeprefix("listening on tcp://").split(":")
        allowlist = folder / "allowlist.yaml"
        allowlist.write_text(f"allowlist:\n- {{address: {host}, port: {port}}}\n")
        self._arguments = ["--config", str(allowlist), f"unix:{folder}/3_8000", host, port]
        self._running = self._start()

    def _start(self) -> Service:
        return Service("vsock_proxy.cli", self._arguments)

    def kill(self) -> None:
        self._running.process.kill()
        self._running.process.wait()

    def start(self) -> None:
        self._running = self._start()

    def close(self) -> None:
        self._running.close()


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[int, Proxy]]:
    """The whole chain: the endpoint's port, and the proxy to be killed."""
    authority = Authority.generate()
    root, ca, ready = folder / "root.pem", folder / "ca.pem", folder / "port"
    root.write_bytes(authority.root_pem)
    kms_arguments = ["kms", f"--nitro-root={root}", f"--ca-file={ca}"]
    os.mkfifo(ready)
    with (
        Service("simulator.cli", kms_arguments) as kms,
        contextlib.closing(Proxy(folder, kms)) as proxy,
    ):
        env = {
            **os.environ,
            "AWS_CA_BUNDLE": str(ca),
            "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
            "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
            "AWS_REGION": "us-east-1",
        }
        # The program that `serve` runs once it is ready tells the port, and stays.
        program = f'echo "$AWS_ENDPOINT_URL_KMS" > {ready}; exec sleep 600'
        argv = [
            sys.executable, "-m", "enclave.cli", "serve", "--listen", "tcp://127.0.0.1:0",
            "--deadline", str(DEADLINE), *options, "--", "sh", "-c", program,
        ]  # fmt: skip
        launcher = Launcher(nsm=SimulatedNsm(authority), folder=folder)
        with launcher.start(argv, env=env):
            url = ready.read_text().strip()
            yield int(url.rpartition(":")[2]), proxy


def client(port: int, tally: Tally) -> None:
    """Call until all calls are begun. Every call has one answer, and its time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE + SLACK)
    headers = {"X-Amz-Target": "TrentService.GenerateRandom"}
    while tally.begin():
        started = time.monotonic()
        try:
            connection.request("POST", "/", b'{"NumberOfBytes":32}', headers)
            with connection.getresponse() as response:
                fields, status = json.loads(response.read()), response.status
        except (OSError, http.client.HTTPException, ValueError) as e:
            with tally.lock:
                tally.wrong.append(f"{type(e).__name__}: {e}")
            connection.close()
            continue
        took = time.monotonic() - started
        with tally.lock:
            tally.slowest = max(tally.slowest, took)
            if status == 200:
                tally.secrets.append(base64.b64decode(fields["Plaintext"]))
            else:
                tally.errors[fields["__type"]] += 1
    connection.close()


def storm(*options: str) -> Tally:
    """One run: `KILLS` times the proxy dies, and is back while calls wait for it."""
    tally = Tally()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), *options) as (port, proxy),
    ):
        threads = [threading.Thread(target=client, args=(port, tally)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for kill in range(1, KILLS + 1):
            while tally.ended < kill * CALLS // (KILLS + 1):
                time.sleep(0.005)
            proxy.kill()
            before = tally.ended
            # Without it for as long as it takes until somebody notices, or a good while.
            ends = time.monotonic() + 1.0
            while not tally.errors and tally.ended < before + 1000 and time.monotonic() < ends:
                time.sleep(0.005)
            proxy.start()
        for thread in threads:
            thread.join(120)
            if thread.is_alive():
                tally.wrong.append("a client hangs")
    return tally


def failures(tally: Tally) -> list[str]:
    """What must not be."""
    found = list(tally.wrong)
    if tally.ended != CALLS:
        found.append(f"{tally.ended} of {CALLS} calls have ended")
    if any(len(secret) != 32 for secret in tally.secrets):
        found.append("an answer of a wrong length")
    if len(set(tally.secrets)) != len(tally.secrets):
        found.append("bytes were given out twice")
    if set(tally.errors) - EXPECTED:
        found.append(f"errors of other types: {dict(tally.errors)}")
    if tally.slowest > DEADLINE + SLACK:
        found.append(f"a call took {tally.slowest:.1f} s")
    if len(tally.secrets) < CALLS // 2:
        found.append("fewer than half of the calls have succeeded")
    return found


def main() -> int:
    """Run both storms; returns the exit code."""
    code = 0
    for options in ((), ("--pool",)):
        started = time.monotonic()
        tally = storm(*options)
        print(
            f"serve {' '.join(options)}: {CALLS} calls of {CLIENTS} clients in "
            f"{time.monotonic() - started:.1f} s, the proxy killed {KILLS} times: "
            f"{len(tally.secrets)} right, {tally.errors.total()} typed errors "
            f"{dict(tally.errors)}, slowest {tally.slowest:.2f} s"
        )
        for failure in failures(tally):
            print(f"storm: error: {failure}")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
