"""boto3 as ``enclave-simulator attack`` runs it: attached to the agent, or on its own.

    python -m tests.programs.attacked.boto attached
    python -m tests.programs.attacked.boto public

``public`` is what instructions for Python amount to: boto3 with `Recipient`, its connections
led to vsock-proxy. HTTP, TLS and retries are botocore's and urllib3's, and nothing compares the
response with the request. Key pair, document and the opening of the envelope are this project's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import boto3
import urllib3.util.connection
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

import enclave
from enclave.nsm import DevNsm, Nsm
from enclave.recipient.recipient import AttestedRecipient
from vsock_proxy.net.addresses import parse_address
from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    import socket

SETTINGS = Config(connect_timeout=5, read_timeout=5, retries={"total_max_attempts": 1})


def dial(*_: Any, **__: Any) -> socket.socket:
    connection = SocketDialer().dial(parse_address("vsock://3:8000"), 5)
    connection.settimeout(5)
    return connection


def call_public(client: Any, recipient: AttestedRecipient, operation: str, **given: Any) -> bytes:
    response = getattr(client, operation)(
        **given,
        Recipient={
            "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            "AttestationDocument": recipient.attestation_document(),
        },
    )
    return recipient.open(response["CiphertextForRecipient"])


def main() -> None:
    client = boto3.client("kms", config=SETTINGS)
    recipient = None
    if sys.argv[1:] == ["attached"]:
        enclave.attach(client)
    else:
        urllib3.util.connection.create_connection = dial
        recipient = AttestedRecipient(Nsm(DevNsm()))

    def call(operation: str, **given: Any) -> bytes:
        if recipient is not None:
            return call_public(client, recipient, operation, **given)
        return getattr(client, operation)(**given)["Plaintext"]  # type: ignore[no-any-return]

    def report(operation: str, **given: Any) -> None:
        try:
            secret = call(operation, **given)
        except (ClientError, BotoCoreError, enclave.AgentError, LookupError, ValueError) as e:
            print(f"ATTACK-RESULT refused: {type(e).__name__}: {e}".replace("\n", " "))
        else:
            print("ATTACK-RESULT sha256:" + hashlib.sha256(secret).hexdigest())

    for text in os.environ["ATTACK_CIPHERTEXTS"].split():
        report(
            "decrypt",
            CiphertextBlob=base64.b64decode(text),
            KeyId=os.environ["ATTACK_KEY_ID"],
            EncryptionContext=json.loads(os.environ["ATTACK_CONTEXT"]),
        )
    report("generate_random", NumberOfBytes=32)


if __name__ == "__main__":
    main()
