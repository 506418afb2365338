"""Credentials over a socket, from a parent that is slow, gone, or hostile."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from enclave.credentials import DEFAULT_SERVICE, ParentCredentials
from enclave.credentials.document import MAX_BODY
from enclave.errors import CredentialsError, KmsRefusedError
from enclave_simulator.parent.credentials import CredentialServer, simulated_document
from tests.doubles import ManualClock, RedirectingDialer
from tests.forked import run_in_child
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.enclave.conftest import Enclave

START = datetime(2026, 1, 2, tzinfo=UTC)


class Service:
    """A credential service that counts, can be held up, and can be told to fail."""

    def __init__(self) -> None:
        self.asked = 0
        self.lifetime = 3600.0
        self.document: dict[str, Any] | None = None
        self.clock = ManualClock(START)
        self.go_on = threading.Event()
        self.go_on.set()
        listener = socket.create_server(("127.0.0.1", 0))
        self.dialer = RedirectingDialer(TcpAddress("127.0.0.1", listener.getsockname()[1]))
        self.server = CredentialServer(listener, self.answer)
        self.provider = ParentCredentials(
            dialer=self.dialer, clock=self.clock, uniform=lambda _, high: high, timeout=TEST_TIMEOUT
        )

    def answer(self) -> dict[str, Any]:
        self.asked += 1
        number = self.asked
        assert self.go_on.wait(TEST_TIMEOUT)
        if self.document is not None:
            return self.document
        expires = self.clock.now() + timedelta(seconds=self.lifetime)
        return {
            "AccessKeyId": f"ASIA{number}",
            "SecretAccessKey": "hush",
            "Token": "token",
            "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def key(self, **asked: Any) -> str:
        return self.provider.credentials(**asked).access_key_id

    def settle(self) -> None:
        """Wait until no question is under way."""
        renewal = self.provider._renewal
        if renewal is not None:
            renewal.exception(TEST_TIMEOUT)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    thread = threading.Thread(target=service.server.serve_forever, args=(0.01,))
    thread.start()
    yield service
    service.go_on.set()
    service.settle()
    service.server.shutdown()
    thread.join(TEST_TIMEOUT)
    service.server.server_close()


def test_one_answer_serves_until_half_its_time_is_over(service: Service) -> None:
    service.lifetime = 600
    for elapsed, key in ((0, "ASIA1"), (1, "ASIA1"), (299, "ASIA1")):
        service.clock.elapsed = float(elapsed)
        assert service.key() == key
    assert service.dialer.dialed == [DEFAULT_SERVICE]


def test_the_parent_is_asked_once_for_all_threads(service: Service) -> None:
    service.go_on.clear()
    with ThreadPoolExecutor(8) as threads:
        keys = [threads.submit(service.key) for _ in range(8)]
        service.go_on.set()
        assert {key.result(TEST_TIMEOUT) for key in keys} == {"ASIA1"}
    assert service.asked == 1


def test_nobody_waits_while_credentials_are_renewed(service: Service) -> None:
    service.lifetime = 600
    assert service.key() == "ASIA1"
    service.go_on.clear()
    service.clock.elapsed = 301.0
    # The service is held up: these return only because they do not wait for it.
    assert {service.key() for _ in range(10)} == {"ASIA1"}
    service.go_on.set()
    service.settle()
    assert service.key() == "ASIA2"
    assert service.asked == 2


def test_credentials_that_last_are_asked_for_again_too(service: Service) -> None:
    service.document = {"AccessKeyId": "AKIA", "SecretAccessKey": "hush"}
    assert service.key() == "AKIA"
    service.clock.elapsed = 10**9
    service.document = {**service.document, "AccessKeyId": "AKIB"}
    assert service.key() == "AKIA", "no end: the last ones serve meanwhile"
    service.settle()
    assert service.key() == "AKIB"


def test_after_their_end_they_are_not_used_whatever_happens(service: Service) -> None:
    service.lifetime = 600
    service.key()
    service.document = {"message": "the role is gone"}
    service.clock.elapsed = 600.0
    with pytest.raises(CredentialsError, match="no AWS credentials"):
        service.key()


def test_an_answer_that_is_no_use_leaves_the_last_ones(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.lifetime = 600
    service.key()
    service.clock.elapsed = 301.0
    service.document = {"AccessKeyId": "half"}
    assert service.key() == "ASIA1"
    service.settle()
    assert service.key() == "ASIA1"
    assert "using the cached ones" in caplog.text
    assert "SecretAccessKey is not set" in caplog.text


def test_pauses_between_failures_grow(service: Service) -> None:
    service.document = {"message": "nothing here"}
    asked = []
    for elapsed in (0.0, 0.05, 0.11, 0.2, 0.35, 0.4, 60.0, 60.2, 60.9, 61.3):
        service.clock.elapsed = elapsed
        with pytest.raises(CredentialsError, match="no AWS credentials"):
            service.key()
        asked.append(service.asked)
    # 0.1 s after the first failure, then 0.2, 0.4, 0.8 s: else the last error, at once.
    assert asked == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_what_kms_calls_expired_is_replaced(service: Service) -> None:
    first = service.provider.credentials()
    service.clock.elapsed = 2.0
    assert service.key(rejected=first) == "ASIA2"
    assert service.key(rejected=first) == "ASIA2", "others than the rejected ones are at hand"
    assert service.asked == 2


def test_the_first_rejection_renews_at_once(service: Service) -> None:
    """Keys that were dead when they came are not kept for a moment longer."""
    first = service.provider.credentials()
    assert service.key(rejected=first) == "ASIA2"
    assert service.asked == 2


def test_rejections_renew_once_a_second_at_most(service: Service) -> None:
    rejected = service.provider.credentials()
    asked = []
    for elapsed in (0.0, 0.5, 0.99, 1.01, 1.5, 2.5):
        service.clock.elapsed = elapsed
        rejected = service.provider.credentials(rejected=rejected)
        asked.append(service.asked)
    assert asked == [2, 2, 2, 3, 3, 4]


def test_one_rejection_renews_once_for_all_threads(service: Service) -> None:
    first = service.provider.credentials()
    with ThreadPoolExecutor(8) as threads:
        keys = [threads.submit(service.key, rejected=first) for _ in range(8)]
        assert {key.result(TEST_TIMEOUT) for key in keys} == {"ASIA2"}
    assert service.asked == 2


def test_a_short_deadline_is_kept(service: Service) -> None:
    service.go_on.clear()
    with pytest.raises(CredentialsError, match=r"within 0\.05 s") as caught:
        service.key(timeout=0.05)
    assert caught.value.transient


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_renews_for_itself(service: Service) -> None:
    """Whatever another thread was in the middle of: it is not there to go on."""
    service.lifetime = 600
    service.key()
    service.clock.elapsed = 600.0  # too late to go on with these

    def in_child() -> None:
        assert service.key() == "ASIA2"

    with service.provider._lock:
        service.provider._renewal = Future()  # nobody in the child will ever complete it
        run_in_child(in_child)
    service.provider._renewal = None


def test_threads_do_not_share_an_error(service: Service) -> None:
    service.document = {}
    errors = []
    for _ in range(2):
        with pytest.raises(CredentialsError) as caught:
            service.key()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert str(errors[0]) == str(errors[1])


def test_secrets_are_not_logged(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service.key()
    assert "valid until 2026-01-02 01:00:00" in caplog.text
    assert "hush" not in caplog.text
    assert "token" not in caplog.text


# Hostile parents. Each ends in one error, and long before the test's own patience.

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = json.dumps(simulated_document()).encode()


def length(body: bytes, more: int = 0) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % (len(body) + more) + body


HOSTILE: dict[str, tuple[bytes, bool, str]] = {
    # name: what is sent, whether the last byte is then repeated for ever, the error
    "hangs up": (b"", False, "no HTTP response"),
    "is silent": (b"", True, "no complete response"),
    "is no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", False, "no HTTP response"),
    "cuts the body": (length(WHOLE, 1), False, "no HTTP response"),
    "stalls in the body": (length(WHOLE, 1), True, "no complete response"),
    "has a body without end": (OK + b"\r\n" + b" " * 100_000, False, "more than 65536 bytes"),
    "has a chunk without sense": (
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", False, "no HTTP response"),
    "has a line without end": (OK + b"X: " + b"x" * 100_000, False, "no HTTP response"),
    "has headers without end": (OK + b"X: x\r\n" * 10_000, False, "no HTTP response"),
    "compresses": (length(b"\x1f\x8b" + bytes(64)), False, "not a JSON object"),
    "redirects": (b"HTTP/1.1 307 X\r\nLocation: /secret\r\nContent-Length: 0\r\n\r\n", False,
                  "HTTP status 307"),
    "refuses": (b"HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n", False, "HTTP status 403"),
    "has no content": (b"HTTP/1.1 204 X\r\n\r\n", False, "HTTP status 204"),
    "has a length below none": (OK + b"Content-Length: -5\r\n\r\n", False, "no HTTP response"),
}  # fmt: skip


@contextlib.contextmanager
def speaking(data: bytes, *, hold: bool) -> Iterator[RedirectingDialer]:
    """A server that says this to whoever connects, and then hangs up or holds the line."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TEST_TIMEOUT)

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(TEST_TIMEOUT)
                connection.recv(4096)
                connection.sendall(data)
                if hold:
                    done.wait(TEST_TIMEOUT)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):  # closing with unread bytes would reset
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield RedirectingDialer(TcpAddress("127.0.0.1", server.getsockname()[1]))
        done.set()
        thread.join(TEST_TIMEOUT)


@pytest.mark.parametrize("behaviour", HOSTILE)
def test_a_parent_that(behaviour: str) -> None:
    data, hold, text = HOSTILE[behaviour]
    with speaking(data, hold=hold) as dialer:
        provider = ParentCredentials(dialer=dialer, timeout=0.3 if hold else TEST_TIMEOUT)
        with pytest.raises(CredentialsError, match=text) as caught:
            provider.credentials(timeout=TEST_TIMEOUT)
    assert caught.value.hint


def test_a_parent_that_drips_is_cut_off() -> None:
    """One byte at a time, each of which would start a plain socket's timeout anew."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TEST_TIMEOUT)

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(OK)
                while not stop.wait(0.02):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        dialer = RedirectingDialer(TcpAddress("127.0.0.1", server.getsockname()[1]))
        with pytest.raises(CredentialsError, match=r"no complete response .* within 0\.3 s"):
            ParentCredentials(dialer=dialer, timeout=0.3).credentials(timeout=TEST_TIMEOUT)
        stop.set()
        thread.join(TEST_TIMEOUT)


def test_a_parent_that_is_not_there(tmp_path: Path) -> None:
    dialer = RedirectingDialer(UnixAddress(str(tmp_path / "none")))
    with pytest.raises(CredentialsError, match=r"no AWS credentials.*No such file") as caught:
        ParentCredentials(dialer=dialer).credentials()
    assert caught.value.transient
    assert "vsock://3:8002" in caught.value.hint


def test_the_largest_document_fits() -> None:
    body = json.dumps({**simulated_document(), "Token": "x" * 16_384}).encode()
    with speaking(length(body.ljust(MAX_BODY)), hold=False) as dialer:
        credentials = ParentCredentials(dialer=dialer).credentials(timeout=TEST_TIMEOUT)
    assert credentials.session_token == "x" * 16_384


# The agent with credentials from the parent.


@pytest.fixture
def signing(enclave: Enclave, service: Service) -> Callable[[], Any]:
    """An agent whose credentials come from the service, in real time."""
    service.clock = ManualClock()
    service.document = None
    enclave.dialer.others[DEFAULT_SERVICE] = service.dialer.target
    real = simulated_document()

    def answer() -> dict[str, Any]:
        service.asked += 1
        # Each answer is another by its expiration: the simulated KMS knows one key.
        expires = datetime.now(UTC) + timedelta(hours=service.asked)
        return {**real, "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}

    service.server.document = answer
    return lambda **changes: enclave.agent(credentials="auto", **changes)


def test_without_credentials_in_the_environment_the_parent_is_asked(
    enclave: Enclave, service: Service, signing: Callable[..., Any]
) -> None:
    assert len(signing().generate_random(32)) == 32
    assert service.asked == 1
    assert DEFAULT_SERVICE in enclave.dialer.dialed


def test_a_token_kms_calls_expired_is_renewed_once(
    enclave: Enclave, service: Service, signing: Callable[..., Any]
) -> None:
    clock = ManualClock()
    agent = signing(clock=clock)
    agent.generate_random(1)
    clock.elapsed = 2.0
    enclave.kms.faults.inject("expired-token:1")
    assert len(agent.generate_random(32)) == 32
    assert service.asked == 2
    assert not clock.slept, "at once, not as a retry"
    clock.elapsed = 4.0
    enclave.kms.faults.inject("expired-token:2")
    with pytest.raises(KmsRefusedError) as caught:
        agent.generate_random(32)
    assert caught.value.type == "ExpiredTokenException"
    assert service.asked == 3


def test_others_than_the_parents_stay_expired(enclave: Enclave) -> None:
    enclave.kms.faults.inject("expired-token")
    with pytest.raises(KmsRefusedError, match="ExpiredTokenException") as caught:
        enclave.agent().generate_random(32)
    assert re.search("renew", caught.value.hint)
    assert enclave.kms.service.requests["GenerateRandom"] == 1


def test_a_parent_that_comes_late_is_waited_for(
    enclave: Enclave, service: Service, signing: Callable[..., Any]
) -> None:
    class Late(RedirectingDialer):
        def dial(self, address: Any, timeout: float) -> socket.socket:
            if address == DEFAULT_SERVICE and DEFAULT_SERVICE not in self.dialed:
                self.dialed.append(address)
                return super().dial(UnixAddress("/nonexistent"), timeout)
            return super().dial(address, timeout)

    class LongPauses(ManualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(1.0 + seconds)  # longer than the provider's own pause

    late = Late(enclave.dialer.target, enclave.dialer.others)
    late.others[UnixAddress("/nonexistent")] = UnixAddress("/nonexistent")
    assert len(signing(dialer=late, clock=LongPauses()).generate_random(32)) == 32
    assert service.asked == 1
