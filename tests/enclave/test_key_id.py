"""A Decrypt without a key id is logged once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import boto3
import pytest

from enclave import attach, key_id
from enclave.key_id import note_key_id
from tests.enclave.serve.serving import Kms, request, served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.enclave.conftest import Enclave

PREFIX = "Decrypt without a key id"


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    key_id._log_once.cache_clear()
    yield
    key_id._log_once.cache_clear()


def said(caplog: pytest.LogCaptureFixture) -> int:
    return sum(line.startswith(PREFIX) for line in caplog.messages)


def test_only_a_decrypt_without_a_key_is_logged_and_once(caplog: pytest.LogCaptureFixture) -> None:
    note_key_id("Decrypt", {"CiphertextBlob": "", "KeyId": "k"})
    note_key_id("GenerateRandom", {"NumberOfBytes": 1})
    assert said(caplog) == 0
    for _ in range(3):
        note_key_id("Decrypt", {"CiphertextBlob": ""})
    assert said(caplog) == 1


def test_the_agent_says_it(enclave: Enclave, caplog: pytest.LogCaptureFixture) -> None:
    agent = enclave.agent()
    key = agent.call("CreateKey", {}).content["KeyMetadata"]["Arn"]
    made = agent.generate_data_key(key, number_of_bytes=16)
    agent.decrypt(made.ciphertext_blob, key_id=key)
    assert said(caplog) == 0
    agent.decrypt(made.ciphertext_blob)
    agent.decrypt(made.ciphertext_blob)
    assert said(caplog) == 1


def test_an_attached_client_says_it(enclave: Enclave, caplog: pytest.LogCaptureFixture) -> None:
    client = boto3.session.Session().client(
        "kms",
        region_name="eu-central-1",
        aws_access_key_id="AKID",
        aws_secret_access_key="anything",
    )
    attach(client, agent=enclave.agent())
    with pytest.raises(client.exceptions.ClientError):
        client.decrypt(CiphertextBlob=b"x")
    assert said(caplog) == 1


def test_the_endpoint_says_it(caplog: pytest.LogCaptureFixture) -> None:
    data = request(json.dumps({"CiphertextBlob": "aa"}).encode()).replace(
        b"GenerateRandom", b"Decrypt"
    )
    with served(Kms()) as endpoint:
        for _ in range(2):
            assert endpoint.exchange(data).status == 200
    assert said(caplog) == 1
