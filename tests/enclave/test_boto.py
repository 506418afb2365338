"""A botocore client, attached: what it keeps, and the errors that only attestation can cause."""

from __future__ import annotations

import base64
import gc
import json
import logging
import pickle
import traceback
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import botocore.client
import botocore.exceptions
import pytest
from botocore.config import Config
from botocore.session import Session
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

import enclave as public
from enclave.boto import AttachedConnectionError, attach
from enclave.errors import (
    AgentError,
    ConfigurationError,
    DecryptionError,
    KmsResponseError,
    KmsUnreachableError,
    NsmRefusedError,
)
from tests.enclave.conftest import SIMULATED
from vsock_proxy.net.addresses import UnixAddress, VsockAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.enclave.conftest import Enclave

ENDPOINT = "https://kms.eu-central-1.amazonaws.com"


@pytest.fixture(scope="module")
def session() -> Session:
    """Loading botocore's models takes half a second, once."""
    return Session()


@pytest.fixture
def make(session: Session, enclave: Enclave) -> Iterator[Any]:
    """Makes clients that are not attached."""
    made: list[Any] = []

    def make(service: str = "kms", *, retries: str = "standard", **changes: Any) -> Any:
        settings: dict[str, Any] = {
            "region_name": "eu-central-1",
            "aws_access_key_id": SIMULATED.access_key_id,
            "aws_secret_access_key": SIMULATED.secret_access_key,
            "aws_session_token": SIMULATED.session_token,
            "config": Config(
                retries={"mode": retries, "max_attempts": 3}, connect_timeout=5, read_timeout=5
            ),
        }
        made.append(session.create_client(service, **{**settings, **changes}))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def kms(make: Any, enclave: Enclave) -> Any:
    """A client that is attached."""
    return attach(make(), agent=enclave.agent())


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """botocore's pauses between attempts, which are skipped."""
    pauses: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", types.SimpleNamespace(sleep=pauses.append))
    return pauses


def test_type_checkers_keep_the_type_of_the_client() -> None:
    """For those who annotate clients with mypy-boto3-kms or types of their own."""
    hints = get_type_hints(attach)
    assert isinstance(hints["client"], TypeVar)
    assert hints["return"] is hints["client"]


def test_the_response_is_as_without_attestation(kms: Any, enclave: Enclave) -> None:
    response = kms.generate_random(NumberOfBytes=32)
    assert isinstance(response["Plaintext"], bytes)
    assert len(response["Plaintext"]) == 32
    assert set(response) == {"Plaintext", "ResponseMetadata"}
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert response["ResponseMetadata"]["RequestId"]
    assert enclave.nsm.calls["Attestation"] == 1
    assert enclave.dialer.dialed == [VsockAddress(3, 8000)]


def test_boto3_too(enclave: Enclave) -> None:
    boto3 = pytest.importorskip("boto3", reason="boto3 is optional: pip install boto3")
    client = boto3.client(
        "kms",
        region_name="eu-central-1",
        aws_access_key_id=SIMULATED.access_key_id,
        aws_secret_access_key=SIMULATED.secret_access_key,
        aws_session_token=SIMULATED.session_token,
    )
    kms = public.attach(client, agent=enclave.agent())
    assert kms is client
    assert len(kms.generate_random(NumberOfBytes=1024)["Plaintext"]) == 1024
    kms.close()


def test_one_client_serves_many_threads(kms: Any, enclave: Enclave) -> None:
    with ThreadPoolExecutor(8) as threads:
        plaintexts = list(
            threads.map(lambda _: kms.generate_random(NumberOfBytes=16)["Plaintext"], range(32))
        )
    assert len(set(plaintexts)) == 32
    assert enclave.nsm.calls["Attestation"] == 1
    assert len(enclave.dialer.dialed) <= 10, "max_pool_connections of the client"


def test_its_endpoint_and_region_are_kept(make: Any, enclave: Enclave) -> None:
    client = make(region_name="us-west-2", endpoint_url=enclave.kms.endpoint_url)
    attach(client, agent=enclave.agent())
    assert len(client.generate_random(NumberOfBytes=8)["Plaintext"]) == 8


def test_a_recipient_of_the_callers_own_passes_through(kms: Any, enclave: Enclave) -> None:
    document = enclave.agent().recipient().attestation_document()
    response = kms.generate_random(
        NumberOfBytes=8,
        Recipient={
            "AttestationDocument": document,
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        },
    )
    assert response["CiphertextForRecipient"]
    assert not response.get("Plaintext")
    assert enclave.nsm.calls["Attestation"] == 1


def test_other_operations_pass_through_the_proxy(kms: Any, enclave: Enclave) -> None:
    with pytest.raises(botocore.exceptions.ClientError):
        kms.describe_key(KeyId="11111111-2222-3333-4444-555555555555")
    assert enclave.dialer.dialed == [VsockAddress(3, 8000)]
    assert not enclave.nsm.calls["Attestation"]


def test_all_five_operations(kms: Any) -> None:
    key = kms.create_key()["KeyMetadata"]["Arn"]
    data_key = kms.generate_data_key(KeyId=key, KeySpec="AES_256")
    assert len(data_key["Plaintext"]) == 32
    assert "CiphertextForRecipient" not in data_key
    opened = kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"], KeyId=key)
    assert opened["Plaintext"] == data_key["Plaintext"]
    pair = kms.generate_data_key_pair(KeyId=key, KeyPairSpec="ECC_NIST_P256")
    private = load_der_private_key(pair["PrivateKeyPlaintext"], None)
    public_key = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert pair["PublicKey"] == public_key
    agreement = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")
    shared = kms.derive_shared_secret(
        KeyId=agreement["KeyMetadata"]["KeyId"],
        KeyAgreementAlgorithm="ECDH",
        PublicKey=pair["PublicKey"],
    )
    assert len(shared["SharedSecret"]) == 32
    assert shared["KeyId"].endswith(agreement["KeyMetadata"]["KeyId"])


def test_a_key_by_its_alias(kms: Any) -> None:
    kms.create_alias(AliasName="alias/app", TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    assert len(kms.generate_data_key(KeyId="alias/app", NumberOfBytes=7)["Plaintext"]) == 7


def test_its_own_validation_is_kept(kms: Any, enclave: Enclave) -> None:
    with pytest.raises(botocore.exceptions.ParamValidationError):
        kms.generate_random(NumberOfBytes="many")
    with pytest.raises(botocore.exceptions.ClientError, match="ValidationException"):
        kms.generate_random(NumberOfBytes=1025)


def test_the_secret_is_in_no_log(kms: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = kms.generate_random(NumberOfBytes=32)["Plaintext"]
    assert "CiphertextForRecipient" in caplog.text, "botocore logs whole responses"
    for form in (repr(secret)[2:-1], secret.hex(), base64.b64encode(secret).decode()):
        assert form not in caplog.text


def test_other_handlers_see_the_request(kms: Any) -> None:
    sent: list[dict[str, Any]] = []

    def look(request: Any, **_: Any) -> None:
        sent.append(json.loads(request.body))

    kms.meta.events.register("before-send.kms", look)
    kms.generate_random(NumberOfBytes=8)
    (body,) = sent
    assert body["NumberOfBytes"] == 8
    assert len(base64.b64decode(body["Recipient"]["AttestationDocument"])) > 4000


# What KMS refuses is a ClientError with KMS's message; botocore retries transient faults.


def test_a_refusal_keeps_the_message_of_kms(kms: Any, enclave: Enclave) -> None:
    enclave.kms.faults.inject("refuse:1")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        kms.generate_random(NumberOfBytes=32)
    response = caught.value.response
    assert response["Error"]["Code"] == "AccessDeniedException"
    assert "is not authorized to perform: kms:GenerateRandom" in response["Error"]["Message"]
    assert response["ResponseMetadata"]["RequestId"]
    assert response["ResponseMetadata"]["RetryAttempts"] == 0


def test_modelled_exceptions_are_kept(kms: Any, enclave: Enclave, slept: list[float]) -> None:
    enclave.kms.faults.inject("dependency-timeout")
    with pytest.raises(kms.exceptions.DependencyTimeoutException):
        kms.generate_random(NumberOfBytes=32)
    assert len(slept) == 3


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
@pytest.mark.parametrize("fault", ["throttle", "unavailable", "cut", "reset"])
def test_botocore_retries_transient_faults(
    make: Any, enclave: Enclave, slept: list[float], fault: str, mode: str
) -> None:
    kms = attach(make(retries=mode), agent=enclave.agent())
    enclave.kms.faults.inject(f"{fault}:2")
    response = kms.generate_random(NumberOfBytes=32)
    assert len(response["Plaintext"]) == 32
    assert response["ResponseMetadata"]["RetryAttempts"] == 2
    assert len(slept) == 2


@pytest.mark.parametrize("mode", ["legacy", "standard"])
def test_unreachable_kms_is_botocores_connection_error(
    make: Any, enclave: Enclave, slept: list[float], mode: str, tmp_path: Path
) -> None:
    enclave.dialer.target = UnixAddress(str(tmp_path / "none"))
    kms = attach(make(retries=mode), agent=enclave.agent())
    with pytest.raises(botocore.exceptions.ConnectionError, match="No such file") as caught:
        kms.generate_random(NumberOfBytes=32)
    assert isinstance(caught.value, AttachedConnectionError)
    assert isinstance(caught.value.__cause__, KmsUnreachableError)
    assert caught.value.hint == caught.value.__cause__.hint != ""
    assert "\n" not in str(caught.value)
    (only,) = pickle.loads(pickle.dumps([caught.value]))  # noqa: S301 (our own)
    for error in (caught.value, only):
        assert f"hint: {error.hint}" in "".join(traceback.format_exception_only(error))
    assert len(enclave.dialer.dialed) == len(slept) + 1 > 1


def test_silence_ends_at_the_clients_own_timeout(
    make: Any, enclave: Enclave, slept: list[float]
) -> None:
    enclave.kms.faults.inject("stall")
    config = Config(read_timeout=0.2, retries={"mode": "standard", "total_max_attempts": 2})
    kms = attach(make(config=config), agent=enclave.agent())
    with pytest.raises(botocore.exceptions.ConnectionError, match=r"within 0\.2 s"):
        kms.generate_random(NumberOfBytes=32)
    assert len(slept) == 1


# Errors that only attestation can cause are AgentErrors, raised at once.

FAULTS: dict[str, tuple[type[AgentError], str]] = {
    "plaintext": (KmsResponseError, "Plaintext in the open"),
    "no-ciphertext": (KmsResponseError, "no CiphertextForRecipient"),
    "wrong-key": (DecryptionError, "does not open with this key"),
    "wrong-length": (KmsResponseError, "31 bytes where 32"),
    "extra-length": (KmsResponseError, "33 bytes where 32"),
    "garbage": (KmsResponseError, "not a JSON object"),
    "huge": (KmsResponseError, "longer than"),
    "wrong-host": (KmsUnreachableError, "does not prove to be KMS"),
}


@pytest.mark.parametrize("mode", ["legacy", "standard"])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_error_and_is_not_retried(
    make: Any, enclave: Enclave, slept: list[float], fault: str, mode: str
) -> None:
    error, text = FAULTS[fault]
    kms = attach(make(retries=mode), agent=enclave.agent())
    enclave.kms.faults.inject(fault)
    with pytest.raises(error, match=text) as caught:
        kms.generate_random(NumberOfBytes=32)
    assert type(caught.value) is error
    assert caught.value.hint
    assert f"hint: {caught.value.hint}" in caught.value.__notes__
    assert not slept
    assert len(enclave.dialer.dialed) == 1


def test_no_document_no_call(kms: Any, enclave: Enclave) -> None:
    enclave.nsm.fail_with("InternalError")
    with pytest.raises(NsmRefusedError) as caught:
        kms.generate_random(NumberOfBytes=32)
    assert f"hint: {caught.value.hint}" in caught.value.__notes__
    assert not enclave.dialer.dialed


# What cannot be attached.


class AsynchronousClient(botocore.client.BaseClient):  # type: ignore[misc] # botocore has no types
    async def close(self) -> None:  # as aiobotocore's, whose clients are botocore's by class too
        pass


def test_asynchronous_clients_are_rejected() -> None:
    with pytest.raises(ConfigurationError, match="asynchronous") as caught:
        attach(object.__new__(AsynchronousClient))
    assert "to_thread" in caught.value.hint


def test_other_objects_are_rejected(make: Any, enclave: Enclave) -> None:
    for other in (None, "kms", object(), botocore.client.BaseClient):
        with pytest.raises(ConfigurationError, match="not a boto3 or botocore client") as caught:
            attach(other)
        assert caught.value.hint
    with pytest.raises(ConfigurationError, match="'sts'") as caught:
        attach(make("sts"), agent=enclave.agent())
    assert caught.value.hint


def test_tls_must_end_in_the_enclave(make: Any, enclave: Enclave) -> None:
    with pytest.raises(ConfigurationError, match="not https"):
        attach(make(endpoint_url="http://127.0.0.1:8009"), agent=enclave.agent())


def test_attaching_twice_is_rejected(kms: Any, enclave: Enclave) -> None:
    with pytest.raises(ConfigurationError, match="attached already"):
        attach(kms, agent=enclave.agent())
    assert len(kms.generate_random(NumberOfBytes=8)["Plaintext"]) == 8


def test_a_request_for_another_host_is_not_sent(kms: Any, enclave: Enclave) -> None:
    def redirect(params: dict[str, Any], **_: Any) -> None:
        params["url"] = "https://kms.eu-central-1.example.org/"

    kms.meta.events.register("before-call.kms", redirect)
    with pytest.raises(ConfigurationError, match="was attached for"):
        kms.generate_random(NumberOfBytes=8)
    assert not enclave.dialer.dialed


def test_verification_cannot_be_turned_off(make: Any, enclave: Enclave) -> None:
    kms = attach(make(verify=False), agent=enclave.agent(ca_bundle=None))
    with pytest.raises(KmsUnreachableError, match="does not prove to be KMS"):
        kms.generate_random(NumberOfBytes=8)


def test_an_agent_of_its_own_is_closed_with_the_client(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    monkeypatch.setattr("enclave.agent.Agent.close", lambda _: closed.append(True))
    client = session.create_client(
        "kms", region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    attach(client)
    gone = weakref.ref(client)
    client.close()
    del client
    gc.collect()
    assert gone() is None
    assert closed
