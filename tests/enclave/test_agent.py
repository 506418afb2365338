"""The agent as a whole: faults of every neighbour, each with its error."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from enclave.errors import (
    AgentError,
    ConfigurationError,
    CredentialsError,
    DecryptionError,
    KmsRefusedError,
    KmsResponseError,
    KmsUnreachableError,
    NsmRefusedError,
    NsmResponseError,
)
from enclave.recipient.recipient import RENEWABLE_AFTER
from tests.doubles import ManualClock, RedirectingDialer
from tests.enclave.conftest import SIMULATED
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress, UnixAddress, VsockAddress

if TYPE_CHECKING:
    from datetime import datetime

    from tests.enclave.conftest import Enclave


def test_random_bytes_only_the_enclave_reads(enclave: Enclave) -> None:
    with enclave.agent() as agent:
        first, second = agent.generate_random(32), agent.generate_random(1024)
    assert (len(first), len(second)) == (32, 1024)
    assert first not in second
    assert enclave.dialer.dialed == [VsockAddress(3, 8000)], "one connection, through the parent"


@pytest.mark.parametrize("number", [1, 1024])
def test_limits_are_within(enclave: Enclave, number: int) -> None:
    assert len(enclave.agent().generate_random(number)) == number


@pytest.mark.parametrize("number", [0, -1, 1025, True, "32", 1.5])
def test_beyond_the_limits_nothing_is_asked(enclave: Enclave, number: Any) -> None:
    with pytest.raises(ConfigurationError, match="number of bytes"):
        enclave.agent().generate_random(number)
    assert not enclave.dialer.dialed
    assert not enclave.nsm.calls


def test_one_document_serves_many_calls_and_threads(enclave: Enclave) -> None:
    agent = enclave.agent(max_connections=4)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: agent.generate_random(16), range(64)))
    assert len(set(answers)) == 64
    assert enclave.nsm.calls["Attestation"] == 1
    assert len(enclave.dialer.dialed) <= 4


def test_the_document_is_renewed_long_before_it_is_old(enclave: Enclave) -> None:
    clock = ManualClock()
    agent = enclave.agent(clock=clock)
    for elapsed, documents in ((0, 1), (100, 1), (121, 2), (240, 2), (242, 3)):
        clock.elapsed = float(elapsed)
        agent.generate_random(1)
        assert enclave.nsm.calls["Attestation"] == documents


def test_a_document_that_kms_rejects_is_renewed_by_the_next_call(
    enclave: Enclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a pause of the whole enclave, in which no clock of its own has counted."""
    clock = ManualClock()
    agent = enclave.agent(clock=clock)
    agent.generate_random(1)
    service = enclave.kms.service
    later = service._now() + timedelta(minutes=10)
    monkeypatch.setattr(service, "_verifier", DocumentVerifierAt(service._verifier, later))
    for elapsed, documents in ((RENEWABLE_AFTER - 1, 1), (RENEWABLE_AFTER, 1), (11, 2), (12, 2)):
        clock.elapsed = float(elapsed)
        with pytest.raises(KmsRefusedError, match="ValidationException"):
            agent.generate_random(1)
        assert enclave.nsm.calls["Attestation"] == documents
    monkeypatch.undo()
    assert agent.generate_random(1)


class DocumentVerifierAt:
    """KMS's verifier, at another time than the rest of KMS."""

    def __init__(self, verifier: Any, at: datetime) -> None:
        self._verifier, self._at = verifier, at

    def verify(self, document: bytes, _now: datetime) -> Any:
        return self._verifier.verify(document, self._at)


def test_a_key_store_is_passed_on(enclave: Enclave) -> None:
    with pytest.raises(KmsRefusedError) as caught:
        enclave.agent().generate_random(8, custom_key_store_id="cks-1234567890abcdef0")
    assert caught.value.type == "CustomKeyStoreNotFoundException"
    assert caught.value.request_id


# Each fault of KMS gives one named error, at once or after the retries that are safe.

FAULTS: dict[str, tuple[type[AgentError], str, int]] = {
    # fault: error, text in it, attempts made by then
    "refuse": (KmsRefusedError, "AccessDeniedException", 1),
    "throttle": (KmsRefusedError, "ThrottlingException", 3),
    "internal": (KmsRefusedError, "KMSInternalException", 3),
    "dependency-timeout": (KmsRefusedError, "DependencyTimeoutException", 3),
    "unavailable": (KmsRefusedError, "HTTP status 503", 3),
    "garbage": (KmsResponseError, "not a JSON object", 1),
    "plaintext": (KmsResponseError, "Plaintext in the open", 1),
    "no-ciphertext": (KmsResponseError, "no CiphertextForRecipient", 1),
    "wrong-length": (KmsResponseError, "31 bytes where 32", 1),
    "extra-length": (KmsResponseError, "33 bytes where 32", 1),
    "wrong-key": (DecryptionError, "does not open with this key", 1),
    "stall": (KmsUnreachableError, "no complete response", 3),
    "drip": (KmsUnreachableError, "no complete response", 3),
    "cut": (KmsUnreachableError, "broke", 3),
    "reset": (KmsUnreachableError, "broke", 3),
    "huge": (KmsResponseError, "longer than", 1),
    "wrong-host": (KmsUnreachableError, r"does not prove to be KMS.*mismatch", 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_gives_one_named_error(enclave: Enclave, fault: str) -> None:
    error, text, attempts = FAULTS[fault]
    enclave.kms.faults.inject(fault)
    clock = ManualClock()
    # The clock stands still, so only the sockets' own timeouts pass, and those are real:
    # short where one is to be seen, and nowhere else, as a busy machine may be slow.
    read_timeout = 0.5 if text == "no complete response" else 60.0
    with pytest.raises(error, match=text) as caught:
        enclave.agent(clock=clock, read_timeout=read_timeout).generate_random(32)
    assert type(caught.value) is error
    assert len(clock.slept) + 1 == attempts


def test_a_flipped_bit_in_the_content_never_passes_for_the_whole(enclave: Enclave) -> None:
    # The last block's padding or the length gives it away; CBC itself tells nothing.
    enclave.kms.faults.inject("corrupt-cms")
    try:
        secret = enclave.agent().generate_random(32)
    except (DecryptionError, KmsResponseError):
        return
    assert len(secret) == 32


@pytest.mark.parametrize(
    "fault", ["throttle", "internal", "dependency-timeout", "unavailable", "cut", "reset"]
)
def test_what_passes_is_waited_out(enclave: Enclave, fault: str) -> None:
    clock = ManualClock()
    enclave.kms.faults.inject(f"{fault}:2")
    assert len(enclave.agent(clock=clock).generate_random(32)) == 32
    assert len(clock.slept) == 2
    assert clock.slept[0] <= 0.1
    assert clock.slept[1] <= 0.2


def test_no_retry_beyond_the_deadline(enclave: Enclave) -> None:
    class Jump(ManualClock):
        def now(self) -> Any:
            self.elapsed += 15.0  # each attempt takes 15 of the 20 seconds
            return super().now() - (super().now() - self._start)

    enclave.kms.faults.inject("throttle")
    # The second attempt starts with no time left: refused, if KMS is quick.
    with pytest.raises((KmsRefusedError, KmsUnreachableError)):
        enclave.agent(clock=Jump()).generate_random(32)
    assert enclave.kms.service.requests["GenerateRandom"] <= 2


def test_a_connection_kms_closed_is_replaced(enclave: Enclave) -> None:
    agent = enclave.agent()
    enclave.kms.faults.inject("close-after:3")
    assert len({agent.generate_random(8) for _ in range(5)}) == 5
    assert len(enclave.dialer.dialed) >= 4


def test_an_answer_that_was_given_up_never_becomes_the_next_one(enclave: Enclave) -> None:
    agent = enclave.agent(max_connections=1, connect_timeout=1.0)
    for times in (1, 2):
        enclave.kms.faults.inject("huge:1")
        with pytest.raises(KmsResponseError):
            agent.generate_random(8)
        assert len(agent.generate_random(8)) == 8, "the one place in the pool is free again"
        assert len(enclave.dialer.dialed) == 1 + times


# Python 3.12 warns of forks beside threads; the simulated KMS is a thread of this process.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(enclave: Enclave) -> None:
    agent = enclave.agent()
    agent.generate_random(8)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover (another process)
        try:
            os.write(writing, agent.generate_random(8))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        theirs = answer.read()
    os.waitpid(child, 0)
    assert len(theirs) == 8
    assert agent.generate_random(8) != theirs
    assert len(enclave.dialer.dialed) == 1, "the parent's connection is as it was"
    assert enclave.kms.service.requests["GenerateRandom"] == 3


# The way to KMS.


def test_no_proxy(enclave: Enclave) -> None:
    enclave.dialer.target = TcpAddress("127.0.0.1", unused_port())
    with pytest.raises(KmsUnreachableError, match="refused"):
        enclave.agent(clock=ManualClock()).generate_random(32)
    assert len(enclave.dialer.dialed) == 3


def test_no_proxy_at_its_unix_path(enclave: Enclave, tmp_path: Path) -> None:
    enclave.dialer.target = UnixAddress(str(tmp_path / "none"))
    with pytest.raises(KmsUnreachableError, match="No such file"):
        enclave.agent(clock=ManualClock()).generate_random(32)


def test_a_proxy_that_says_nothing(enclave: Enclave) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        enclave.dialer.target = TcpAddress("127.0.0.1", silent.getsockname()[1])
        agent = enclave.agent(connect_timeout=0.3, deadline=0.5)
        with pytest.raises(KmsUnreachableError, match="no TLS with") as caught:
            agent.generate_random(32)
    # The limit that was asked for, not what was left of it.
    assert re.search(r"within (0\.3 s|the call's deadline of 0\.5 s)$", str(caught.value))


def test_a_proxy_that_hangs_up(enclave: Enclave) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TEST_TIMEOUT)
        enclave.dialer.target = TcpAddress("127.0.0.1", server.getsockname()[1])

        def hang_up() -> None:
            for _ in range(3):
                server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(KmsUnreachableError, match=r"TLS with|broke"):
            enclave.agent(clock=ManualClock()).generate_random(32)
        thread.join(20)


def test_a_proxy_that_speaks_no_tls(enclave: Enclave) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TEST_TIMEOUT)
        enclave.dialer.target = TcpAddress("127.0.0.1", server.getsockname()[1])

        def babble() -> None:
            for _ in range(3):
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(TEST_TIMEOUT)
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(KmsUnreachableError, match="TLS with"):
            enclave.agent(clock=ManualClock()).generate_random(32)
        thread.join(20)


def test_a_ca_nobody_named(enclave: Enclave) -> None:
    with pytest.raises(KmsUnreachableError, match="does not prove to be KMS") as caught:
        enclave.agent(ca_bundle=None).generate_random(32)
    assert "--ca-bundle" in caught.value.hint
    assert len(enclave.dialer.dialed) == 1, "a certificate does not get better by asking again"


def test_another_host_than_the_endpoint_names(enclave: Enclave) -> None:
    agent = enclave.agent(endpoint_url="https://kms.example.org")
    with pytest.raises(KmsUnreachableError, match="does not prove to be KMS"):
        agent.generate_random(32)


# The NSM.


def test_an_nsm_error(enclave: Enclave) -> None:
    enclave.nsm.fail_with("InternalError")
    with pytest.raises(NsmRefusedError, match="InternalError"):
        enclave.agent().generate_random(32)
    assert not enclave.dialer.dialed


def test_an_nsm_that_babbles(enclave: Enclave) -> None:
    class Babbling:
        def exchange(self, request: bytes) -> bytes:
            return request[:0] + b"\xff" * 17

    with pytest.raises(NsmResponseError):
        enclave.agent(device=Babbling()).generate_random(32)


def test_after_a_failure_the_next_call_asks_the_nsm_again(enclave: Enclave) -> None:
    agent = enclave.agent()
    enclave.nsm.fail_with("InternalError")
    with pytest.raises(NsmRefusedError):
        agent.generate_random(32)
    enclave.nsm.heal()
    assert len(agent.generate_random(32)) == 32


def test_an_nsm_that_fails_later_is_lived_with_for_a_while(
    enclave: Enclave, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    agent = enclave.agent(clock=clock)
    agent.generate_random(1)
    enclave.nsm.fail_with("InternalError")
    clock.elapsed = 130.0
    assert len(agent.generate_random(1)) == 1
    assert "no fresh attestation document" in caplog.text
    enclave.nsm.fail_with("InternalError")
    clock.elapsed = 250.0
    with pytest.raises(NsmRefusedError):
        agent.generate_random(1)


# Configuration.


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"region": None}, "no AWS region"),
        ({"region": "nowhere"}, "not a region"),
        ({"region": "eu-central-1.evil.example/"}, "not a region"),
        ({"endpoint_url": "http://127.0.0.1:8443"}, "not https"),
        ({"endpoint_url": "https://user@kms.example"}, "not an endpoint"),
        ({"endpoint_url": "https://kms.example:99999"}, "not an endpoint"),
        ({"proxy": "vsock://3"}, "not an address"),
        ({"ca_bundle": "/nonexistent"}, "CA bundle"),
        ({"ca_bundle": "/dev/null"}, "CA bundle"),
        ({"read_timeout": 0}, "read timeout"),
        ({"connect_timeout": float("nan")}, "connect timeout"),
        ({"deadline": -1}, "deadline"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(
    enclave: Enclave, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        enclave.agent(**changes)
    assert caught.value.hint


def test_no_credentials(enclave: Enclave) -> None:
    with pytest.raises(CredentialsError, match="no AWS credentials"):
        enclave.agent(credentials="environment").generate_random(32)
    assert not enclave.dialer.dialed


def test_the_environment_is_enough(enclave: Enclave) -> None:
    environ = {
        "AWS_DEFAULT_REGION": "us-gov-west-1",
        "AWS_CA_BUNDLE": enclave.ca_bundle,
        "AWS_ACCESS_KEY_ID": SIMULATED.access_key_id,
        "AWS_SECRET_ACCESS_KEY": SIMULATED.secret_access_key,
        "AWS_SESSION_TOKEN": str(SIMULATED.session_token),
    }
    agent = enclave.agent(region=None, ca_bundle=None, credentials="auto", environ=environ)
    assert len(agent.generate_random(32)) == 32


def test_the_hops_are_logged_and_no_secret_is(
    enclave: Enclave, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = enclave.agent().generate_random(32)
    for expected in (
        enclave.nsm.module_id,
        "PCR0",
        "attestation document of",
        "vsock://3:8000",
        "CiphertextForRecipient of",
        "32 bytes inside",
    ):
        assert expected in caplog.text
    assert SIMULATED.secret_access_key not in caplog.text
    assert str(SIMULATED.session_token) not in caplog.text
    assert secret.hex() not in caplog.text
    assert repr(secret) not in caplog.text


def test_nothing_is_left_open(enclave: Enclave) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    enclave.agent().generate_random(1)
    for agent in enclave.agents:
        agent.close()
    before = descriptors()
    for _ in range(5):
        with enclave.agent() as agent:
            agent.generate_random(1)
    assert descriptors() <= before + 5, "the server's ends may take a moment to go"


def test_direct_connects_to_kms_itself(enclave: Enclave) -> None:
    dialer = RedirectingDialer(TcpAddress("127.0.0.1", enclave.kms.port))
    agent = enclave.agent(proxy="direct", dialer=dialer)
    assert len(agent.generate_random(8)) == 8
    assert set(dialer.dialed) == {TcpAddress("kms.eu-central-1.amazonaws.com", 443)}


POD = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}


@pytest.mark.parametrize(
    ("proxy", "environ", "target"),
    [
        ("auto", {}, "vsock://3:8000"),
        ("auto", POD, "tcp://kms.eu-central-1.amazonaws.com:443"),
        ("vsock://3:8001", POD, "vsock://3:8001"),
    ],
)
def test_auto_is_direct_where_there_is_a_network(
    enclave: Enclave, proxy: str, environ: dict[str, str], target: str
) -> None:
    dialer = RedirectingDialer(TcpAddress("127.0.0.1", enclave.kms.port))
    agent = enclave.agent(proxy=proxy, environ=environ, dialer=dialer)
    assert len(agent.generate_random(8)) == 8
    assert {str(address) for address in dialer.dialed} == {target}


def test_without_a_proxy_the_hints_are_about_the_network(enclave: Enclave) -> None:
    dialer = RedirectingDialer(TcpAddress("127.0.0.1", unused_port()))
    agent = enclave.agent(proxy="direct", dialer=dialer, deadline=0.5)
    with pytest.raises(KmsUnreachableError) as caught:
        agent.generate_random(8)
    assert "VPC endpoint" in caught.value.hint
    assert "proxy" not in f"{caught.value} {caught.value.hint}"


def test_a_proxy_that_is_no_address(enclave: Enclave) -> None:
    with pytest.raises(ConfigurationError, match="not an address: 'none'") as caught:
        enclave.agent(proxy="none")
    assert "direct" in caught.value.hint
