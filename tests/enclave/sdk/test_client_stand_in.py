"""The agent's side of the worker processes, over this project's own stand-in library.

Deadlines, deaths and replacement do not depend on the C code. These tests show nothing about the C
SDK: test_with_sdk.py does.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave.credentials import Credentials, StaticCredentials
from enclave.errors import (
    AgentError,
    ConfigurationError,
    KmsRefusedError,
    KmsResponseError,
    KmsUnreachableError,
)
from enclave.kms.endpoint import Endpoint
from enclave.sdk import client as client_module
from enclave.sdk import frames, process
from enclave.sdk.client import MAX_ATTEMPTS, SdkClient
from enclave.sdk.errors import SdkConnectionEndedError, SdkNotBuiltError, SdkWorkerError
from enclave.sdk.process import Worker
from tests.enclave.sdk.conftest import stand_in_worker
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import parse_address

SECRET = "SECRET-that-must-not-leak"

Make = Callable[..., SdkClient]


class Rotating:
    """A provider whose credentials a test changes."""

    def __init__(self) -> None:
        self.now = Credentials("AKID", SECRET)

    def credentials(self, **_: Any) -> Credentials:
        return self.now


@pytest.fixture
def make(worker_command: tuple[str, ...]) -> Iterator[Make]:
    made = []

    def make(host: str = "kms.test", **changes: Any) -> SdkClient:
        settings: dict[str, Any] = {
            "region": "eu-central-1",
            "endpoint": Endpoint(host, 443, "/"),
            "proxy": parse_address("vsock://3:8000"),
            "ca_bundle": "/ca.pem",
            "credentials": StaticCredentials(Credentials("AKID", SECRET)),
            "seconds": TEST_TIMEOUT,
            "environ": os.environ,
            "max_workers": 1,
            "command": worker_command,
        }
        made.append(SdkClient(**{**settings, **changes}))
        return made[-1]

    yield make
    for client in made:
        client.close()


def random(client: SdkClient, number: int = 32) -> bytes:
    plaintext: bytes = client.call("GenerateRandom", {"NumberOfBytes": number}).content["Plaintext"]
    assert len(plaintext) == number
    return plaintext


def pid(client: SdkClient, number: int = 32) -> int:
    """Of the worker that makes the call."""
    return int.from_bytes(random(client, number)[:4], sys.byteorder)


def gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


def test_one_worker_makes_the_calls(make: Make) -> None:
    client = make()
    worker = pid(client)
    assert pid(client) == worker
    client.close()
    assert gone(worker)


@pytest.mark.parametrize(
    ("number", "text", "hint"),
    [
        (902, "was killed by SIGABRT", "crashes on a response"),
        (910, "exited with 3", "stand_in_worker.py"),
    ],
)
def test_a_death_is_one_error_and_a_new_worker(
    make: Make, number: int, text: str, hint: str
) -> None:
    client = make()
    worker = pid(client)
    with pytest.raises(SdkWorkerError, match=text) as caught:
        random(client, number)
    assert hint in caught.value.hint
    assert gone(worker)
    assert pid(client) != worker


def test_a_hang_ends_by_the_deadline(make: Make) -> None:
    client = make()
    worker = pid(client)
    client._seconds = 0.5  # it is started: only the hang is to be short
    with pytest.raises(SdkWorkerError, match="no response from the SDK's client within") as caught:
        random(client, 901)
    assert gone(worker)
    assert caught.value.transient
    client._seconds = TEST_TIMEOUT
    assert pid(client) != worker


def test_a_client_that_never_connects_ends_by_the_deadline(make: Make) -> None:
    with pytest.raises(SdkWorkerError, match="no response from the SDK's client within"):
        random(make("hang.test", seconds=0.5))


def test_a_worker_whose_agent_is_gone_ends_itself(worker_command: tuple[str, ...]) -> None:
    """The agent's own deadline is far off: SIGALRM ends the worker, in the middle of C code."""
    options = {
        "region": "r",
        "host_name": "kms.test",
        "domain": "VSOCK",
        "address": "3",
        "port": 8000,
        "access_key_id": "AKID",
        "secret_access_key": SECRET,
    }
    request = {"operation": "GenerateRandom", "parameters": {"NumberOfBytes": 901}}
    worker = Worker(options, environ=os.environ, seconds=TEST_TIMEOUT, command=worker_command)
    try:
        assert worker._process.stdin
        worker._process.stdin.write(frames.encode({**request, "seconds": 0.1}))
        with pytest.raises(SdkWorkerError, match="SIGALRM"):
            worker._read(frames.HEAD, time.monotonic() + TEST_TIMEOUT, TEST_TIMEOUT)
    finally:
        worker.kill()


def test_a_connection_that_ended_is_not_used_again(make: Make) -> None:
    client = make()
    worker = pid(client, 904)  # prints "Disconnected."
    assert pid(client) != worker
    assert gone(worker)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Every worker that a client starts."""
    workers: list[Worker] = []

    class Counted(Worker):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            workers.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(client_module, "Worker", Counted)
    return workers


@pytest.mark.parametrize("number", [912, 914], ids=["disconnected", "no-response"])
def test_a_call_whose_connection_ends_is_retried_by_a_new_worker(make: Make, number: int) -> None:
    client = make()
    worker = pid(client, number)
    assert pid(client, number) != worker
    assert gone(worker)


@pytest.mark.parametrize("number", [911, 915], ids=["minus-1", "0"])
def test_retries_for_ended_connections_are_bounded(
    make: Make, started: list[Worker], number: int
) -> None:
    client = make()
    with pytest.raises(SdkConnectionEndedError, match="no HTTP response") as caught:
        random(client, number)
    assert len(started) == MAX_ATTEMPTS
    assert caught.value.transient
    assert "close connections" in caught.value.hint
    random(client)


def test_no_retry_after_the_deadline(make: Make, started: list[Worker]) -> None:
    client = make()
    random(client)
    client._seconds = 0.0  # the deadline has passed when the connection ends
    with pytest.raises(SdkWorkerError):
        random(client, 913)
    assert len(started) == 1


def test_a_retry_does_not_use_another_worker_whose_connection_may_have_ended(
    make: Make, started: list[Worker]
) -> None:
    """Both idle workers' connections have ended, and neither worker has printed it."""
    client = make(max_workers=2)
    slots = [client._slots.get_nowait(), client._slots.get_nowait()]
    assert slots == [None, None]
    for _ in range(2):
        client._slots.put(None)
        assert random(client, 914)
        slot = client._slots.get_nowait()
        slots.append(slot)
    for slot in slots[2:]:
        client._slots.put(slot)
    assert len(started) == 2
    assert random(client, 914)
    assert len(started) == 3


def test_no_long_wait_for_a_response_on_a_connection_that_ended(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_RESPONSE_GRACE", 0.1)
    client = make()  # its deadline is far off
    with pytest.raises(SdkConnectionEndedError):
        random(client, 913)
    random(client)


def test_other_credentials_get_a_new_worker(make: Make) -> None:
    provider = Rotating()
    client = make(credentials=provider)
    worker = pid(client)
    provider.now = Credentials("OTHER", SECRET, "token")
    assert pid(client) != worker
    given = client.call("Decrypt", {"CiphertextBlob": "eA=="}).content["Plaintext"]
    assert given.decode().split("|")[5:8] == ["OTHER", SECRET, "token"]


@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (903, KmsRefusedError, "HTTP status 400"),
        (905, KmsResponseError, "904 bytes, not the expected 905"),
        (906, KmsUnreachableError, "STAND_IN_ERROR"),
        (908, KmsUnreachableError, "aws_kms_generate_random_blocking failed"),
        (909, KmsResponseError, "cannot read or decrypt"),
    ],
)
def test_what_c_prints_becomes_one_typed_error(
    make: Make, number: int, error: type[AgentError], text: str
) -> None:
    client = make()
    with pytest.raises(error, match=text) as caught:
        client.call("GenerateRandom", {"NumberOfBytes": number})
    assert type(caught.value) is error
    assert caught.value.hint
    random(client)


def test_bindings_that_do_not_load_in_the_worker_are_a_local_error(
    make: Make, tmp_path: Path
) -> None:
    module = tmp_path / "_native.so"
    module.write_bytes(b"not an ELF file")
    with pytest.raises(SdkNotBuiltError, match="do not load") as caught:
        random(make(command=stand_in_worker(module)))
    assert "python -m enclave.sdk.build" in caught.value.hint


def test_what_the_bindings_reject_is_a_local_error_and_keeps_the_worker(
    make: Make, started: list[Worker]
) -> None:
    client = make()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="zero byte") as caught:
            client.call("GenerateDataKey", {"KeyId": "a\0b", "KeySpec": "AES_128"})
        assert caught.value.hint
    assert len(started) == 1


def test_no_connection(make: Make) -> None:
    with pytest.raises(KmsUnreachableError, match="AWS_IO_SOCKET_CONNECTION_REFUSED"):
        random(make("refuse.test"))


def test_what_c_prints_on_standard_output_does_no_harm(make: Make) -> None:
    client = make()
    random(client, 907)
    random(client)


def test_credentials_are_not_in_argv_or_environ(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    worker = pid(make())
    for name in ("cmdline", "environ"):
        data = Path(f"/proc/{worker}/{name}").read_bytes()
        assert data
        assert SECRET.encode() not in data
    assert b"SSL_CERT_FILE=/ca.pem" in Path(f"/proc/{worker}/environ").read_bytes()


def test_threads_share_the_workers(make: Make) -> None:
    client = make(max_workers=2)
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(pid(client) for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT)
    assert len(seen) == 20
    assert len(set(seen)) <= 2
    client.close()
    assert all(map(gone, seen))


def test_every_operation(make: Make) -> None:
    client = make()
    decrypted = client.call(
        "Decrypt",
        {
            "CiphertextBlob": "YmxvYg==",
            "KeyId": "K",
            "EncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "EncryptionContext": {"a": "b"},
        },
    ).content
    assert decrypted["Plaintext"].endswith(b'|K|RSAES_OAEP_SHA_256|{"a": "b"}|blob')
    assert decrypted["KeyId"] == "K"
    encrypted = client.call("Encrypt", {"KeyId": "K", "Plaintext": "eA=="}).content
    assert sorted(encrypted) == ["CiphertextBlob", "EncryptionAlgorithm", "KeyId"]
    made = client.call("GenerateDataKey", {"KeyId": "K", "KeySpec": "AES_128"}).content
    assert made == {"Plaintext": bytes(16), "CiphertextBlob": "Sw==", "KeyId": "K"}


@pytest.mark.parametrize(
    ("operation", "parameters", "text"),
    [
        ("GenerateDataKeyPair", {}, "has no GenerateDataKeyPair"),
        ("GenerateRandom", {"NumberOfBytes": 1, "CustomKeyStoreId": "x"}, "CustomKeyStoreId"),
        ("GenerateRandom", {"NumberOfBytes": 1, "Recipient": {}}, "Recipient"),
        ("GenerateRandom", {}, "without NumberOfBytes"),
        ("GenerateRandom", {"NumberOfBytes": 1025}, "1025"),
        ("GenerateRandom", {"NumberOfBytes": True}, "True"),
        ("GenerateDataKey", {"KeyId": "K", "KeySpec": "RSA_2048"}, "RSA_2048"),
        ("GenerateDataKey", {"KeyId": "K"}, "without KeySpec"),
        ("Decrypt", {"CiphertextBlob": "!"}, "not base64"),
        ("Decrypt", {"CiphertextBlob": ""}, "empty"),
        ("Decrypt", {"CiphertextBlob": "eA==", "EncryptionAlgorithm": "x"}, "algorithm"),
        ("Decrypt", {"CiphertextBlob": "eA==", "EncryptionContext": {"a": 1}}, "context"),
    ],
)
def test_requests_that_the_sdk_cannot_make_are_rejected_by_name(
    make: Make, operation: str, parameters: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        make().call(operation, parameters)
    assert caught.value.hint


def test_a_request_longer_than_a_frame(make: Make) -> None:
    client = make()
    with pytest.raises(AgentError, match="more than"):
        client.call("Decrypt", {"CiphertextBlob": "AAAA" * 20_000})
    random(client)


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": Endpoint("kms.test", 8443, "/")},
        {"endpoint": Endpoint("kms.test", 443, "/path")},
        {"proxy": parse_address("vsock://3:70000")},
    ],
    ids=["port", "path", "vsock-port"],
)
def test_endpoints_and_proxies_that_the_sdk_cannot_use(make: Make, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        make(**changes)


def test_a_missing_program(make: Make) -> None:
    with pytest.raises(SdkWorkerError, match="cannot start"):
        random(make(command=["/nonexistent/worker"]))


@pytest.mark.parametrize("text", [r"\0\0\0\5hello", r"\377\377\377\377", r"\0\0\0\2[]"])
def test_invalid_messages_of_a_worker(make: Make, text: str) -> None:
    with pytest.raises(SdkWorkerError, match="invalid message from the SDK worker"):
        random(make(command=["/bin/sh", "-c", f"printf '{text}'; cat >/dev/null"]))
