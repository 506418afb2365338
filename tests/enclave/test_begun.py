"""Calls that are begun: nothing waits, and what has to is left to `Agent.call`."""

from __future__ import annotations

import select
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from enclave.errors import KmsRefusedError, KmsResponseError, KmsUnreachableError
from enclave.recipient.recipient import REFRESH_AFTER
from tests.doubles import ManualClock
from tests.enclave.conftest import SIMULATED
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from enclave import Agent, Credentials
    from enclave.begun import BegunCall
    from tests.enclave.conftest import Enclave


LATER = datetime(2199, 1, 1, tzinfo=UTC)


def begin(agent: Agent, size: int = 8) -> BegunCall | None:
    return agent.begin("GenerateRandom", {"NumberOfBytes": size})


def begun(agent: Agent, size: int = 8) -> BegunCall:
    call = begin(agent, size)
    assert call is not None
    return call


def receive(call: BegunCall) -> None:
    readable = select.poll()
    readable.register(call.fileno(), select.POLLIN)
    deadline = time.monotonic() + TEST_TIMEOUT
    while time.monotonic() < deadline:
        if readable.poll(1000) and call.receive():
            return
    raise AssertionError("no response in time")


@pytest.fixture
def agent(enclave: Enclave) -> Agent:
    """An agent that has what a call needs."""
    agent = enclave.agent()
    agent.generate_random(8)
    return agent


def test_calls_are_begun_where_nothing_has_to_wait(enclave: Enclave) -> None:
    agent = enclave.agent()
    assert begin(agent) is None, "no key pair yet"
    agent.generate_random(8)
    first = begun(agent)
    assert begin(agent) is None, "no second connection yet"
    receive(first)
    assert len(first.result().content["Plaintext"]) == 8
    receive(begun(agent))
    assert len(enclave.dialer.dialed) == 1


def test_every_response_goes_to_its_call(enclave: Enclave) -> None:
    agent = enclave.agent()
    agent.generate_random(8)
    calls = {}
    for size in range(1, 16):
        if (call := begin(agent, size)) is not None:
            calls[size] = call
        else:
            agent.generate_random(size)  # on another connection, which is kept as well
    for size, call in calls.items():
        receive(call)
        assert len(call.result().content["Plaintext"]) == size


def test_calls_that_are_not_attested_are_begun_as_well(agent: Agent) -> None:
    call = agent.begin("ListKeys", {})
    assert call is not None
    receive(call)
    assert "Keys" in call.result().content


def test_no_document_is_waited_for(enclave: Enclave) -> None:
    clock = ManualClock()
    agent = enclave.agent(clock=clock)
    agent.generate_random(8)
    clock.elapsed += 1
    receive(begun(agent))
    clock.elapsed += REFRESH_AFTER
    assert begin(agent) is None
    assert begin(agent) is None


def test_no_credentials_are_waited_for(enclave: Enclave) -> None:
    agent = enclave.agent(credentials="unix:/nonexistent/credentials")
    agent._recipient = enclave.agent().recipient()
    assert begin(agent) is None


def test_call_goes_on_after_a_failed_attempt(enclave: Enclave, agent: Agent) -> None:
    enclave.kms.faults.inject("throttle:1")
    call = begun(agent)
    with pytest.raises(KmsRefusedError) as caught:
        receive(call)
    response = agent.call("GenerateRandom", {"NumberOfBytes": 8}, failed=caught.value)
    assert len(response.content["Plaintext"]) == 8


def test_call_renews_rejected_credentials_after_a_failed_attempt(enclave: Enclave) -> None:
    class Renewable:
        rejected: Credentials | None = None

        def credentials(
            self, *, timeout: float = 0, rejected: Credentials | None = None
        ) -> Credentials:
            assert timeout >= 0
            self.rejected = rejected or self.rejected
            return replace(SIMULATED, expiration=None if rejected is None else LATER)

    source = Renewable()
    agent = enclave.agent(credentials=source)
    agent.generate_random(8)
    enclave.kms.faults.inject("expired-token:1")
    call = begun(agent)
    with pytest.raises(KmsRefusedError) as caught:
        receive(call)
    response = agent.call("GenerateRandom", {"NumberOfBytes": 8}, failed=caught.value)
    assert len(response.content["Plaintext"]) == 8
    assert source.rejected == SIMULATED


def test_an_error_that_no_retry_mends_gets_its_hint_and_no_second_request(
    enclave: Enclave, agent: Agent
) -> None:
    enclave.kms.faults.inject("refuse:1")
    call = begun(agent)
    with pytest.raises(KmsRefusedError) as caught:
        receive(call)
    with pytest.raises(KmsRefusedError) as again:
        agent.call("GenerateRandom", {"NumberOfBytes": 8}, failed=caught.value)
    assert "enclave-parent key-policy explain" in again.value.hint


def test_a_response_that_does_not_fit_its_request_ends_its_connection(
    enclave: Enclave, agent: Agent
) -> None:
    enclave.kms.faults.inject("wrong-length:1")
    call = begun(agent)
    receive(call)
    with pytest.raises(KmsResponseError):
        call.result()
    agent.generate_random(8)
    assert len(enclave.dialer.dialed) == 2


def test_a_call_that_is_given_up_takes_its_connection_with_it(
    enclave: Enclave, agent: Agent
) -> None:
    error = begun(agent).expire()
    assert isinstance(error, KmsUnreachableError)
    assert "within 5 s" in str(error)
    agent.generate_random(8)
    begun(agent).close()
    agent.generate_random(8)
    assert len(enclave.dialer.dialed) == 3
