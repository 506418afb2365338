"""``make test-storm``: the proxy killed and started again in the middle of 10,000 calls.

Everything runs as processes, as in an enclave: the simulated KMS, vsock-proxy, ``enclave-agent
serve`` under the launcher. 16 clients call, with and without the pool; every call must end in a
right answer or in one typed error within the deadline, and no bytes may come twice.
"""

from __future__ import annotations

import base64
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.chain.serving import chain, serving
from tests.programs.endpoint_client import EndpointClient, NoAnswerError

CALLS, CLIENTS, KILLS = 10_000, 16, 3
DEADLINE = 10.0
SLACK = 2.0
"""Seconds beyond the deadline for a loaded machine: the answer must be on its way by then."""

MET = 50
"""Calls that must fail before the proxy comes back, so that each time without it is felt."""

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


def client(port: int, tally: Tally) -> None:
    """Call until all calls are begun. Every call has one answer, and its time."""
    with EndpointClient(port, timeout=DEADLINE + SLACK) as endpoint:
        while tally.begin():
            started = time.monotonic()
            try:
                status, fields = endpoint.call("GenerateRandom", {"NumberOfBytes": 32})
            except NoAnswerError as e:
                with tally.lock:
                    tally.wrong.append(str(e))
                continue
            took = time.monotonic() - started
            with tally.lock:
                tally.slowest = max(tally.slowest, took)
                if status == 200:
                    tally.secrets.append(base64.b64decode(fields["Plaintext"]))
                    continue
                tally.errors[fields["__type"]] += 1
            time.sleep(0.05)  # an SDK would wait as well


def storm(*options: str) -> Tally:
    """One run: `KILLS` times the proxy dies, and is back while calls wait for it."""
    tally = Tally()
    with (
        chain() as made,
        serving(made, "--deadline", str(DEADLINE), *options) as served,
    ):
        threads = [
            threading.Thread(target=client, args=(served.port, tally)) for _ in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for kill in range(1, KILLS + 1):
            while tally.ended < kill * CALLS // (KILLS + 1):
                time.sleep(0.005)
            made.proxy.kill()
            enough = tally.errors.total() + MET
            while tally.errors.total() < enough and tally.ended < CALLS:
                time.sleep(0.005)
            made.proxy.start()
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
    if tally.errors.total() < KILLS * MET:
        found.append("too few calls have met a dead proxy: nothing was shown")
    if tally.slowest > DEADLINE + SLACK:
        found.append(f"a call took {tally.slowest:.1f} s")
    if len(tally.secrets) < CALLS // 2:
        found.append("fewer than half of the calls have succeeded")
    return found


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run both storms; returns the exit code."""
    code = 0
    for options in ((), ("--pool",)):
        started = time.monotonic()
        tally = storm(*options)
        say(
            f"serve {' '.join(options)}: {CALLS} calls of {CLIENTS} clients in "
            f"{time.monotonic() - started:.1f} s, the proxy killed {KILLS} times: "
            f"{len(tally.secrets)} right, {tally.errors.total()} typed errors "
            f"{dict(tally.errors)}, slowest {tally.slowest:.2f} s"
        )
        for failure in failures(tally):
            say(f"storm: error: {failure}")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
