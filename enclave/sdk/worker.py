"""The worker: a process with one KMS client of the C SDK, killed if it hangs.

It reads frames on standard input: first where KMS is and what to sign with, then requests, each
with its timeout. It writes responses to what was its standard output, and nothing else: what C
prints goes to standard error, which the agent reads.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from enclave.errors import AgentError
from enclave.process import protect_memory
from enclave.sdk import frames
from enclave.sdk.bindings.kms import Client, ClientOptions, Kms
from enclave.sdk.bindings.native import Native, load

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE = 1.0
"""Seconds after its deadline at which a worker that was not killed ends itself."""


def main(load_native: Callable[[], Native] = load) -> None:
    """Serve until the agent closes standard input."""
    responses = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        opening = _read(sys.stdin.buffer)
        if opening is not None:
            _limit(opening)
            kms = Kms(load_native())
            client = kms.new_client(ClientOptions(**opening["client"]))
            responses.write(frames.encode({"ready": True}))
            _serve(kms, client, responses)
    except AgentError as e:
        responses.write(frames.encode(_failure(e)))
    # Neither Python's nor C's clean-up: the SDK's frees what its own threads still use.
    os._exit(0)


def _serve(kms: Kms, client: Client, responses: BinaryIO) -> None:
    while (request := _read(sys.stdin.buffer)) is not None:
        _limit(request)
        try:
            blobs = _OPERATIONS[request["operation"]](kms, client, request["parameters"])
            message: dict[str, Any] = {
                "content": {name: base64.b64encode(blob).decode() for name, blob in blobs.items()}
            }
        except AgentError as e:
            message = _failure(e)
        signal.setitimer(signal.ITIMER_REAL, 0)
        responses.write(frames.encode(message))


def _limit(message: dict[str, Any]) -> None:
    """Have SIGALRM end this process, whatever C function it is in.

    The agent kills it earlier; this is for a worker whose agent is gone.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, message["seconds"] + GRACE)


def _read(stream: BinaryIO) -> dict[str, Any] | None:
    head = stream.read(frames.HEAD)
    if len(head) < frames.HEAD:
        return None
    return frames.decode(stream.read(frames.body_length(head)))


def _failure(error: AgentError) -> dict[str, Any]:
    return {"error": str(error), "hint": error.hint, "type": type(error).__name__}


def _generate_random(kms: Kms, client: Client, parameters: dict[str, Any]) -> dict[str, bytes]:
    return {"Plaintext": kms.generate_random(client, parameters["NumberOfBytes"])}


def _generate_data_key(kms: Kms, client: Client, parameters: dict[str, Any]) -> dict[str, bytes]:
    plaintext, blob = kms.generate_data_key(client, parameters["KeyId"], parameters["KeySpec"])
    return {"Plaintext": plaintext, "CiphertextBlob": blob}


def _decrypt(kms: Kms, client: Client, parameters: dict[str, Any]) -> dict[str, bytes]:
    plaintext = kms.decrypt(
        client,
        base64.b64decode(parameters["CiphertextBlob"]),
        key_id=parameters.get("KeyId"),
        encryption_algorithm=parameters.get("EncryptionAlgorithm", "SYMMETRIC_DEFAULT"),
        encryption_context=_context(parameters),
    )
    return {"Plaintext": plaintext}


def _encrypt(kms: Kms, client: Client, parameters: dict[str, Any]) -> dict[str, bytes]:
    plaintext = base64.b64decode(parameters["Plaintext"])
    context = _context(parameters)
    blob = kms.encrypt(client, parameters["KeyId"], plaintext, encryption_context=context)
    return {"CiphertextBlob": blob}


def _context(parameters: dict[str, Any]) -> str | None:
    context = parameters.get("EncryptionContext")
    return json.dumps(context) if context else None


_OPERATIONS = {
    "Decrypt": _decrypt,
    "Encrypt": _encrypt,
    "GenerateDataKey": _generate_data_key,
    "GenerateRandom": _generate_random,
}


if __name__ == "__main__":
    protect_memory()  # the SDK's key pair and every secret are in this process
    main()
