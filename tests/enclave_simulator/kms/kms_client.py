"""A plain KMS client: requests signed by botocore, sent to the service or over HTTPS."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Any, Protocol, Self

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enclave_simulator.kms.messages import Request
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS, Credentials
from tests.enclave_simulator.documents import rsa_key
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    from enclave_simulator.kms.service import KmsService

REGION = "eu-west-1"
HOST = f"kms.{REGION}.amazonaws.com"
ACCOUNT = SIMULATED_CREDENTIALS.principal.split(":")[4]
PREFIX = f"arn:aws:kms:{REGION}:{ACCOUNT}:"
"""How the ARNs of keys and aliases begin."""


def signed(
    operation: str,
    parameters: Any,
    *,
    credentials: Credentials = SIMULATED_CREDENTIALS,
    service: str = "kms",
    region: str = REGION,
) -> Request:
    """A request as botocore signs it now."""
    body = parameters if isinstance(parameters, bytes) else json.dumps(parameters).encode()
    request = AWSRequest(
        "POST",
        f"https://{HOST}/",
        headers={
            "Host": HOST,
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{operation}",
        },
        data=body,
    )
    SigV4Auth(
        BotocoreCredentials(
            credentials.access_key_id, credentials.secret_access_key, credentials.session_token
        ),
        service,
        region,
    ).add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Request("POST", "/", headers, body)


def ask(service: KmsService, request: Request) -> tuple[int, dict[str, Any]]:
    """What the service responses, without any network."""
    response = service.handle(request)
    document = json.loads(response.body)
    assert isinstance(document, dict)
    return response.status, document


class Endpoint(Protocol):
    """Where to connect on 127.0.0.1, and what to trust: a `KmsSimulator`, or a process."""

    port: int
    ca_pem: bytes


def connect(simulator: Endpoint, host: str = HOST) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=simulator.ca_pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python's default from 3.13 on
    context.set_alpn_protocols(["h2", "http/1.1"])
    raw = socket.create_connection(("127.0.0.1", simulator.port), timeout=TEST_TIMEOUT)
    try:
        return context.wrap_socket(raw, server_hostname=host)
    except BaseException:
        raw.close()
        raise


class Client:
    """One connection of Python's own HTTP client, verified against the simulator's CA."""

    def __init__(self, simulator: Endpoint) -> None:
        self.connection = http.client.HTTPConnection(HOST, simulator.port)
        self.connection.sock = connect(simulator)
        self.connection.auto_open = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def start(self, request: Request) -> http.client.HTTPResponse:
        """Send, and read the head of the response."""
        self.connection.request(request.method, request.target, request.body, request.headers)
        return self.connection.getresponse()

    def call(self, operation: str, parameters: Any) -> tuple[int, dict[str, Any]]:
        response = self.start(signed(operation, parameters))
        document = json.loads(response.read())
        assert isinstance(document, dict)
        return response.status, document


def refusal(kms: Any, operation: str, **parameters: Any) -> tuple[str, str]:
    """The name and text of the error that a client of botocore's meets."""
    with pytest.raises(ClientError) as refused:
        getattr(kms, operation)(**parameters)
    error = refused.value.response["Error"]
    return error["Code"], error.get("Message", "")


def recipient(document: bytes) -> dict[str, str]:
    return {
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        "AttestationDocument": base64.b64encode(document).decode(),
    }


def openssl_decrypt(ciphertext: bytes, folder: Path) -> bytes | None:
    """Open an envelope with a program that shares no code with the simulator; None: it will not."""
    key = folder / "key.pem"
    key.write_bytes(rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    opened = subprocess.run(
        ["openssl", "cms", "-decrypt", "-inform", "DER", "-inkey", str(key)],
        input=ciphertext,
        capture_output=True,
        check=False,
        timeout=TEST_TIMEOUT,
    )
    return opened.stdout if opened.returncode == 0 else None
