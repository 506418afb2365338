"""/healthz and /readyz: what they tell, and that they ask no more than they must."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading

import pytest

from enclave.errors import KmsRefusedError, KmsUnreachableError, NsmUnavailableError
from tests.enclave.serve.serving import Kms, get, request, served
from tests.waiting import TEST_TIMEOUT


def test_health_tells_what_became_of_calls(kms: Kms) -> None:
    with served(kms) as endpoint:
        endpoint.exchange(request())
        kms.error = KmsUnreachableError("gone")
        endpoint.exchange(request())
        response = endpoint.exchange(get(b"/healthz"))
    facts = json.loads(response.body)
    assert response.status == 200
    assert (facts["status"], facts["calls"], facts["failed"]) == ("ok", 2, 1)


@pytest.mark.parametrize(
    ("drift", "shown"), [(None, {}), (0.0, {"clock_drift_seconds": 0.0}),
                         (-12.34567, {"clock_drift_seconds": -12.346})],
)  # fmt: skip
def test_readiness_tells_the_drift_of_the_clock(
    kms: Kms, drift: float | None, shown: dict[str, float]
) -> None:
    with served(kms, probe=lambda: None, clock_drift=lambda: drift) as endpoint:
        response = endpoint.exchange(get(b"/readyz"))
    assert json.loads(response.body) == {"status": "ready", **shown}


def test_ready_is_asked_for_once_in_a_while(kms: Kms) -> None:
    probes: list[int] = []
    with served(kms, probe=lambda: probes.append(1)) as endpoint:
        for _ in range(5):
            response = endpoint.exchange(get(b"/readyz"))
            assert (response.status, json.loads(response.body)) == (200, {"status": "ready"})
    assert probes == [1]


def test_not_ready_says_why(kms: Kms) -> None:
    def probe() -> None:
        raise NsmUnavailableError("no /dev/nsm", hint="start it in an enclave")

    with served(kms, probe=probe) as endpoint:
        response = endpoint.exchange(get(b"/readyz"))
    assert response.status == 503
    assert json.loads(response.body) == {
        "status": "not ready",
        "error": "no /dev/nsm",
        "hint": "start it in an enclave",
    }


@pytest.mark.parametrize(
    ("type_", "status"), [("AccessDeniedException", 200), ("ExpiredTokenException", 503)]
)
def test_ready_does_not_need_the_permission_for_random_bytes(
    kms: Kms, type_: str, status: int
) -> None:
    def probe() -> None:
        raise KmsRefusedError(type_, "no", request_id=None, status=400)

    with served(kms, probe=probe) as endpoint:
        assert endpoint.exchange(get(b"/readyz")).status == status


def test_a_probe_that_hangs_is_not_waited_for_nor_started_twice(kms: Kms) -> None:
    started, go_on = [], threading.Event()

    def probe() -> None:
        started.append(1)
        go_on.wait(TEST_TIMEOUT)

    try:
        with served(kms, probe=probe, readiness={"timeout": 0.05}) as endpoint:
            responses = [endpoint.exchange(get(b"/readyz")) for _ in range(2)]
            assert [response.status for response in responses] == [503, 503]
            assert started == [1]
            go_on.set()
            ready = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=TEST_TIMEOUT)
            with contextlib.closing(ready):
                status = 503
                while status != 200:
                    ready.request("GET", "/readyz")
                    with ready.getresponse() as response:
                        response.read()
                        status = response.status
    finally:
        go_on.set()
