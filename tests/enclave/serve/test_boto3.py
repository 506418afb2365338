"""boto3, unmodified, through the endpoint, an agent, and a simulated KMS."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

from enclave.nsm import Nsm
from tests.enclave.serve.serving import Served, served
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.enclave.conftest import Enclave


@pytest.fixture
def endpoint(enclave: Enclave) -> Iterator[Served]:
    agent = enclave.agent()
    with served(agent.call, probe=lambda: agent.generate_random(1)) as made:
        yield made


MakeClient = Callable[..., Any]


@pytest.fixture
def make_client(endpoint: Served) -> Iterator[MakeClient]:
    clients = []

    def make(port: int = endpoint.port, **retries: Any) -> Any:
        client = boto3.session.Session().client(
            "kms",
            region_name="eu-central-1",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="anything",  # the endpoint signs for itself
            aws_secret_access_key="anything",
            config=Config(
                retries=retries or {"total_max_attempts": 1},
                proxies={},
                connect_timeout=TEST_TIMEOUT,  # a slow machine's response is not asked for twice
                read_timeout=TEST_TIMEOUT,
            ),
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client: MakeClient) -> Any:
    return make_client()


def test_random_bytes_are_attested_and_carry_the_request_id(client: Any, enclave: Enclave) -> None:
    response = client.generate_random(NumberOfBytes=32)
    assert len(response["Plaintext"]) == 32
    assert "CiphertextForRecipient" not in response
    assert len(response["ResponseMetadata"]["RequestId"]) == 36
    assert enclave.nsm.calls["Attestation"] == 1


def test_every_operation_that_takes_a_recipient(client: Any) -> None:
    key = client.create_key()["KeyMetadata"]["Arn"]
    context = {"tenant": "7"}
    made = client.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
    assert len(made["Plaintext"]) == 32
    opened = client.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context)
    assert (opened["Plaintext"], opened["KeyId"]) == (made["Plaintext"], key)

    pair = client.generate_data_key_pair(KeyId=key, KeyPairSpec="ECC_NIST_P256")
    public = load_der_private_key(pair["PrivateKeyPlaintext"], None).public_key()
    as_der = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public.public_bytes(*as_der) == pair["PublicKey"]

    own = ec.generate_private_key(ec.SECP256R1())
    agree = client.create_key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")
    shared = client.derive_shared_secret(
        KeyId=agree["KeyMetadata"]["Arn"],
        KeyAgreementAlgorithm="ECDH",
        PublicKey=own.public_key().public_bytes(*as_der),
    )
    assert len(shared["SharedSecret"]) == 32


def test_what_is_not_attested_passes_through(client: Any) -> None:
    key = client.create_key()["KeyMetadata"]["KeyId"]
    sealed = client.encrypt(KeyId=key, Plaintext=b"\0secret")
    assert client.decrypt(CiphertextBlob=sealed["CiphertextBlob"])["Plaintext"] == b"\0secret"
    assert client.describe_key(KeyId=key)["KeyMetadata"]["Enabled"]


def test_a_recipient_of_the_callers_is_passed_through_untouched(
    client: Any, enclave: Enclave
) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    document = Nsm(enclave.nsm).attest(
        public_key=other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    recipient = {
        "AttestationDocument": document,
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
    }
    with pytest.raises(ClientError) as e:  # KMS looked into it: the key is no RSA key
        client.generate_random(NumberOfBytes=8, Recipient=recipient)
    assert e.value.response["Error"]["Code"] == "ValidationException"
    assert enclave.kms.service.requests["GenerateRandom"] == 1


def test_errors_of_kms_keep_type_message_and_request_id(client: Any, enclave: Enclave) -> None:
    enclave.kms.faults.inject("refuse:1")
    with pytest.raises(ClientError) as e:
        client.generate_random(NumberOfBytes=8)
    error, metadata = e.value.response["Error"], e.value.response["ResponseMetadata"]
    assert error["Code"] == "AccessDeniedException"
    assert "is not authorized to perform: kms:GenerateRandom" in error["Message"]
    assert metadata["HTTPStatusCode"] == 400
    assert len(metadata["RequestId"]) == 36
    with pytest.raises(client.exceptions.NotFoundException, match="alias/none"):
        client.generate_data_key(KeyId="alias/none", KeySpec="AES_256")


def test_errors_of_the_agents_have_a_type_and_say_what_to_do(client: Any, enclave: Enclave) -> None:
    enclave.kms.faults.inject("plaintext:1")
    with pytest.raises(ClientError, match="the response is not trusted") as e:
        client.generate_random(NumberOfBytes=8)
    assert e.value.response["Error"]["Code"] == "EnclaveUntrustedResponseException"


@pytest.mark.parametrize("fault", ["throttle:4", "unavailable:4", "reset:4"])
def test_the_sdk_tries_again_where_the_agent_gave_up(
    make_client: MakeClient, enclave: Enclave, fault: str
) -> None:
    client = make_client(mode="standard", total_max_attempts=3)
    enclave.kms.faults.inject(fault)
    response = client.generate_random(NumberOfBytes=8)
    assert len(response["Plaintext"]) == 8
    assert response["ResponseMetadata"]["RetryAttempts"] == 1  # 3 attempts of the agent's, then 2


def test_the_sdk_does_not_try_again_where_that_cannot_help(
    make_client: MakeClient, enclave: Enclave
) -> None:
    client = make_client(mode="standard", total_max_attempts=3)
    enclave.kms.faults.inject("wrong-key")
    with pytest.raises(ClientError):
        client.generate_random(NumberOfBytes=8)
    assert enclave.kms.service.requests["GenerateRandom"] == 1


def test_with_a_pool_many_requests_are_one_call(enclave: Enclave, make_client: MakeClient) -> None:
    agent = enclave.agent()
    with served(agent.call, fetch=agent.generate_random) as pooled:
        client = make_client(port=pooled.port)
        seen = {client.generate_random(NumberOfBytes=32)["Plaintext"] for _ in range(64)}
        large = client.generate_random(NumberOfBytes=1024)["Plaintext"]
    assert len(seen) == 64
    assert len(large) == 1024
    assert pooled.calls.counts.pooled == 64


def test_a_large_request_fits(client: Any) -> None:
    with pytest.raises(ClientError) as e:
        client.generate_random(
            NumberOfBytes=8,
            Recipient={
                "AttestationDocument": os.urandom(262_144),
                "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            },
        )
    assert e.value.response["Error"]["Code"] == "ValidationException"
    assert len(base64.b64encode(bytes(262_144))) < 524_288
