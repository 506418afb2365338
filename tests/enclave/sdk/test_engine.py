"""`Agent(engine=...)`: errors before any C code runs, and alike for both C engines."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest

from enclave import Agent, attach
from enclave.cli.errors import EXIT_USAGE, exit_code
from enclave.credentials import Credentials
from enclave.errors import ConfigurationError
from enclave.sdk.bindings import native
from enclave.sdk.client import SdkClient
from enclave.sdk.errors import SdkNotBuiltError
from enclave_simulator.authority import Authority
from enclave_simulator.nsm import SimulatedNsm
from tests.enclave.sdk.conftest import stand_in_worker
from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS: dict[str, Any] = {
    "region": "eu-central-1",
    "credentials": Credentials("AKID", "SECRET"),
    "environ": {},
}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the bindings were built; no C code is loaded before a call."""
    monkeypatch.setattr(native, "check_built", lambda: None)


@pytest.fixture
def client_agent(built: None) -> Iterator[Agent]:
    with Agent(engine="sdk-client", **SETTINGS) as agent:
        yield agent


@pytest.mark.parametrize("engine", ["sdk", "sdk-client"])
def test_an_engine_that_is_not_built(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "MODULE", "enclave.sdk._there_is_none")
    with pytest.raises(ConfigurationError, match="not built") as caught:
        Agent(engine=engine, **SETTINGS)
    assert "python -m enclave.sdk.build" in caught.value.hint


def test_an_unknown_engine() -> None:
    with pytest.raises(ConfigurationError, match="no such engine"):
        Agent(engine="rust", **SETTINGS)


def test_python_is_the_default() -> None:
    with Agent(device=SimulatedNsm(Authority.generate()), **SETTINGS) as agent:
        assert type(agent.recipient()).__name__ == "AttestedRecipient"


@pytest.mark.parametrize(
    ("engine", "changes", "text"),
    [
        ("sdk", {"device": SimulatedNsm(Authority.generate())}, "by itself"),
        ("sdk-client", {"device": SimulatedNsm(Authority.generate())}, "by itself"),
        ("sdk-client", {"dialer": SocketDialer()}, "by itself"),
        ("sdk-client", {"sign_requests": False}, "signs every request"),
        ("sdk-client", {"endpoint_url": "https://kms.test:8443"}, "cannot post to"),
    ],
)
def test_options_that_the_c_code_cannot_take(
    built: None, engine: str, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Agent(engine=engine, **SETTINGS, **changes)


def test_the_sdks_client_has_no_recipient_for_others(client_agent: Agent) -> None:
    with pytest.raises(ConfigurationError, match="to itself"):
        client_agent.recipient()
    client = botocore.session.get_session().create_client("kms", region_name="eu-central-1")
    with pytest.raises(ConfigurationError, match="whole calls"):
        attach(client, agent=client_agent)


@pytest.mark.parametrize("operation", ["GenerateDataKeyPair", "DeriveSharedSecret"])
def test_operations_that_the_sdks_client_lacks_are_rejected(
    client_agent: Agent, operation: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"has no {operation}"):
        client_agent.call(operation, {})


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [("DescribeKey", {"KeyId": "K"}), ("GenerateRandom", {"Recipient": {}})],
)
def test_calls_that_are_not_attested_are_the_agents_own(
    client_agent: Agent, operation: str, parameters: dict[str, Any]
) -> None:
    assert client_agent._sdk_client
    assert not client_agent._sdk_client.is_for(operation, parameters)
    assert client_agent._sdk_client.is_for("Encrypt", {})


@pytest.mark.parametrize("engine", ["sdk", "sdk-client"])
def test_bindings_that_do_not_load_are_one_error_with_one_exit_code(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In this process with `sdk`, in a worker with `sdk-client`."""
    broken = tmp_path / "_broken_for_tests.so"
    broken.write_bytes(b"not an ELF file")
    monkeypatch.setattr(native, "MODULE", "_broken_for_tests")
    monkeypatch.setattr(native, "_loaded", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        "enclave.sdk.client.SdkClient", partial(SdkClient, command=stand_in_worker(broken))
    )
    settings = {**SETTINGS, "environ": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}}
    with Agent(engine=engine, **settings) as agent, pytest.raises(SdkNotBuiltError) as caught:
        agent.generate_random(8)
    assert "do not load" in str(caught.value)
    assert "python -m enclave.sdk.build" in caught.value.hint
    assert exit_code(caught.value) == EXIT_USAGE
