"""Random bytes from the pool: small requests, refills, errors and deadlines."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from enclave.errors import KmsUnreachableError
from tests.enclave.serve.serving import Kms, read_response, request, served, signed_for
from tests.waiting import TEST_TIMEOUT

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
