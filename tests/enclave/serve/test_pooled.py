"""Random bytes from the pool: small requests, refills, errors and deadlines."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from enclave.errors import KmsUnreachableError
from enclave.random_store import REFILLERS
from tests.enclave.serve.serving import Kms, read_response, request, reset, served, signed_for
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


class Source:
    """Numbered bytes, as many fetches as it is told."""

    def __init__(self, fetches: int) -> None:
        self.left = threading.Semaphore(fetches)
        self.stopped = False
        self._lock, self._given = threading.Lock(), 0

    def __call__(self, number_of_bytes: int) -> bytes:
        assert self.left.acquire(timeout=TEST_TIMEOUT)
        if self.stopped:
            raise KmsUnreachableError("gone")
        with self._lock:
            start, self._given = self._given, self._given + number_of_bytes // 4
        return b"".join(n.to_bytes(4) for n in range(start, start + number_of_bytes // 4))

    def stop(self) -> None:
        self.stopped = True
        self.left.release(10_000)


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source(0)
    yield made
    made.stop()


def test_small_requests_come_from_the_pool_and_no_byte_twice(kms: Kms, source: Source) -> None:
    source.left.release(2)
    with served(kms, fetch=source) as endpoint, endpoint.connect() as client:
        seen = set()
        for _ in range(2 * 1024 // 4):
            client.sendall(request())
            seen.add(read_response(client).body)
        assert len(seen) == 512
        assert endpoint.calls.counts.pooled == 512
    assert kms.calls == []


def test_requests_of_an_empty_pool_wait_for_it_in_order(kms: Kms, source: Source) -> None:
    with (
        served(kms, fetch=source) as endpoint,
        endpoint.connect() as first,
        endpoint.connect() as second,
    ):
        first.sendall(request())
        endpoint.until(lambda: endpoint.calls.busy == 1)
        second.sendall(request())
        endpoint.until(lambda: endpoint.calls.busy == 2)
        source.left.release(1)
        assert json.loads(read_response(first).body) == {"Plaintext": "AAAAAA=="}
        assert json.loads(read_response(second).body) == {"Plaintext": "AAAAAQ=="}


def test_requests_of_an_empty_pool_get_the_error_of_its_refill(kms: Kms, source: Source) -> None:
    with served(kms, fetch=source) as endpoint, endpoint.connect() as client:
        client.sendall(request())
        endpoint.until(lambda: endpoint.calls.busy == 1)
        source.stop()
        response = read_response(client)
    assert response.error == "ServiceUnavailable"
    assert response.message.startswith("gone")


def test_requests_of_an_empty_pool_end_by_their_deadline(kms: Kms, source: Source) -> None:
    with served(kms, fetch=source, deadline=0.05) as endpoint:
        assert endpoint.exchange(request()).error == "ServiceUnavailable"
        assert endpoint.calls.busy == 0


def test_large_requests_go_to_kms(kms: Kms, source: Source) -> None:
    with served(kms, fetch=source) as endpoint:
        assert endpoint.exchange(request(b'{"NumberOfBytes":1024}')).status == 200
    assert len(kms.calls) == 1


def test_the_pool_is_of_the_first_region(kms: Kms, source: Source) -> None:
    source.left.release(2)
    regions = {"us-east-1": kms, "eu-west-1": kms}
    with served(kms, regions=regions, fetch=source) as endpoint:
        assert endpoint.exchange(signed_for("eu-west-1")).status == 200
        assert len(kms.calls) == 1
        assert endpoint.exchange(signed_for("us-east-1")).status == 200
        assert endpoint.exchange(signed_for("nowhere-1")).error == "EnclaveRegionException"
        assert (len(kms.calls), endpoint.calls.counts.pooled) == (1, 1)


def test_a_pool_fetches_again_after_a_failure(
    kms: Kms, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    failing = threading.Event()
    failing.set()

    def fetch(number_of_bytes: int) -> bytes:
        if failing.is_set():
            raise KmsUnreachableError("no way")
        return source(number_of_bytes)

    source.left.release(1)
    with served(kms, fetch=fetch) as endpoint:
        assert endpoint.exchange(request()).message.startswith("no way")
        failing.clear()
        eventually(lambda: endpoint.exchange(request()).status == 200)
        assert endpoint.calls.busy == 0
    lines = [line for line in caplog.messages if "for the pool" in line]
    assert lines == ["no random bytes for the pool: no way", "random bytes for the pool again"]


def test_a_pool_that_pauses_goes_on_once_kms_gives_random_bytes(kms: Kms, source: Source) -> None:
    failing = True

    def fetch(number_of_bytes: int) -> bytes:
        if failing:
            raise KmsUnreachableError("no way")
        return source(number_of_bytes)

    source.left.release(1)
    # The first retry waits for this long: only a request that KMS answers can end the pause.
    with served(kms, fetch=fetch, uniform=lambda _low, _high: 10 * TEST_TIMEOUT) as endpoint:
        assert endpoint.exchange(request()).message.startswith("no way")
        failing = False
        assert endpoint.exchange(request()).message.startswith("no way")
        assert endpoint.exchange(request(b'{"NumberOfBytes":1024}')).status == 200
        assert json.loads(endpoint.exchange(request()).body) == {"Plaintext": "AAAAAA=="}


def test_a_pool_makes_few_calls_at_the_same_time(kms: Kms) -> None:
    entered, release = threading.Semaphore(0), threading.Event()

    def fetch(number_of_bytes: int) -> bytes:
        entered.release()
        assert release.wait(TEST_TIMEOUT)
        return bytes(number_of_bytes)

    with served(kms, fetch=fetch) as endpoint, endpoint.connect() as client:
        for _ in range(REFILLERS):
            assert entered.acquire(timeout=TEST_TIMEOUT)
        client.sendall(request())
        endpoint.until(lambda: endpoint.calls.busy == 1)
        assert not entered.acquire(blocking=False)
        release.set()
        assert read_response(client).status == 200


def test_a_request_that_was_given_up_leaves_its_place(kms: Kms, source: Source) -> None:
    with served(kms, fetch=source) as endpoint, endpoint.connect() as second:
        with endpoint.connect() as first:
            first.sendall(request())
            endpoint.until(lambda: endpoint.calls.busy == 1)
            second.sendall(request())
            endpoint.until(lambda: endpoint.calls.busy == 2)
            reset(first)
        endpoint.until(lambda: endpoint.calls.busy == 1)
        source.left.release(1)
        assert json.loads(read_response(second).body) == {"Plaintext": "AAAAAA=="}


def test_a_bug_in_a_fetch_is_not_told_to_the_log(
    kms: Kms, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(_: int) -> bytes:
        raise RuntimeError("a secret")

    with served(kms, fetch=fetch) as endpoint:
        assert endpoint.exchange(request()).error == "InternalFailure"
    assert "no random bytes for the pool: RuntimeError" in caplog.messages
    assert "a secret" not in caplog.text
