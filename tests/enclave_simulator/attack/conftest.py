"""Attacks in a test's own process: a hostile parent, and a client in a thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from enclave_simulator.attack.certificates import Certificates
from enclave_simulator.attack.hostile import HostileParent
from enclave_simulator.attack.table import ATTACKS, CONTROL
from enclave_simulator.attack.verdict import Finding, Outcome, judge, judge_control
from tests.programs.attacked.caught import WAITING, arrives
from tests.programs.attacked.vulnerable import AbortedError, Client, Surroundings
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    from enclave_simulator.attack.model import Recorded
    from enclave_simulator.authority import Authority


@dataclass
class Range:
    """Where clients are attacked."""

    authority: Authority
    certificates: Certificates = field(default_factory=Certificates)
    # One for all clients but the one that must not keep its own: keys take long to make.
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    fixed_key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(65537, 2048)
    )
    recorded: dict[str, Recorded | None] = field(default_factory=dict)

    def control(self, weakness: str) -> str:
        """Return why a client fails without an attack; empty if it succeeds."""
        with HostileParent(self.authority, self.certificates, CONTROL) as parent:
            outcome = self.outcome(parent, weakness)
            self.recorded[weakness] = parent.world.recorded
            return judge_control(outcome, parent.world.secrets(), attested=parent.attested > 0)

    def attack(self, name: str, weakness: str, *, timeout: float | None = None) -> Finding:
        """Return the verdict on a client; `timeout` is for one of its calls."""
        if weakness == "fixed-key-pair" and weakness not in self.recorded:
            assert not self.control(weakness)
        recorded = self.recorded.get(weakness)
        attack = ATTACKS[name]
        with HostileParent(self.authority, self.certificates, attack, recorded=recorded) as parent:
            outcome = self.outcome(parent, weakness, timeout)
            return judge(attack, outcome, parent.world.secrets())

    def outcome(
        self, parent: HostileParent, weakness: str, timeout: float | None = None
    ) -> Outcome:
        """Run a client and return how it ended."""
        given, ended = parent.world.input, threading.Event()
        if timeout is None:
            # A client that is not to hang refuses what does not arrive; sooner is as good.
            timeout = TEST_TIMEOUT if arrives(parent.attack.name) else 0.2
        environ = given.variables()
        if parent.attack.place.value != "credentials":
            environ |= {
                "AWS_ACCESS_KEY_ID": given.credentials.access_key_id,
                "AWS_SECRET_ACCESS_KEY": given.credentials.secret_access_key,
                "AWS_SESSION_TOKEN": given.credentials.session_token or "",
            }
        dialer = SocketDialer()
        around = Surroundings(
            exchange=parent.nsm.exchange,
            proxy=lambda: dialer.dial(parent.proxy, TEST_TIMEOUT),
            credentials=lambda: dialer.dial(parent.credentials, TEST_TIMEOUT),
            log=lambda: dialer.dial(parent.log, TEST_TIMEOUT),
            environ=environ,
            ca_pem=self.certificates.ca_pem,
            key=self.key,
            fixed_key=self.fixed_key,
            alive=lambda: not ended.is_set(),
            timeout=timeout,
        )
        codes: list[int] = []
        lines: list[str] = []

        def run() -> None:
            try:
                lines.extend(Client(around, weakness).results())
                codes.append(0)
            except AbortedError:
                codes.append(128 + 6)

        thread = threading.Thread(target=run)
        thread.start()
        # One that waits for ever has not ended at any deadline; the others have all the time.
        thread.join(0.3 if weakness in WAITING else TEST_TIMEOUT)
        code = codes[0] if codes else None
        output = "\n".join(lines).encode() if codes else b""
        ended.set()
        if code is None:
            parent.close()  # which ends its waiting
            thread.join(TEST_TIMEOUT)
        assert not thread.is_alive()
        return Outcome(code, output, met=parent.met, evidence=parent.evidence)


@pytest.fixture(scope="session")
def attacked(nitro_authority: Authority) -> Range:
    return Range(nitro_authority)
