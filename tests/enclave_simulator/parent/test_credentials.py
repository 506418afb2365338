"""The simulated credential service, asked as any HTTP client would."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.parent.credentials import CredentialServer, simulated_document
from enclave_simulator.parent.processes import Service
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = CredentialServer(listener)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield listener.getsockname()[1]
    server.shutdown()
    thread.join(TEST_TIMEOUT)
    server.server_close()


def get(port: int, path: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TEST_TIMEOUT)
    connection.request("GET", path)
    response = connection.getresponse()
    document: dict[str, str] = json.loads(response.read())
    connection.close()
    return response.status, document


def test_credentials_are_those_of_the_simulated_kms(port: int) -> None:
    status, document = get(port, "/")
    assert status == 200
    assert set(document) == {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}
    assert document["AccessKeyId"] == SIMULATED_CREDENTIALS.access_key_id
    assert document["Token"] == SIMULATED_CREDENTIALS.session_token


def test_other_paths_are_not_found(port: int) -> None:
    assert get(port, "/latest/meta-data") == (404, {"message": "no such path"})


def test_client_that_leaves_before_its_response_is_no_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def leave() -> dict[str, str]:
        client.close()
        return simulated_document()

    server = CredentialServer(socket.create_server(("127.0.0.1", 0)), leave)
    client, accepted = socket.socketpair()
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    server.process_request_thread(accepted, "")
    server.server_close()
    assert capfd.readouterr().err == ""


def test_credentials_have_the_lifetime_of_the_option() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    expiration = datetime.fromisoformat(simulated_document(90)["Expiration"])
    assert before + timedelta(seconds=90) <= expiration <= datetime.now(UTC) + timedelta(seconds=90)


def test_the_command_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "3_8002")
    with (
        Service("enclave_simulator.cli", ["credentials", "--listen", f"unix:{path}"]) as service,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        assert service.state["STATUS"] == f"listening on unix:{path}"
        connection.settimeout(TEST_TIMEOUT)
        connection.connect(path)
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        response = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b"200 OK" in response
    assert b'"AccessKeyId"' in response
