"""KMS's side of the conversation: what an HTTP request asks for, and how KMS words an answer.

Pure: no sockets, no threads, no clock. Source: the KMS API Reference (JSON 1.1 protocol, "Common
Error Types") and, for spellings it does not give, what KMS is seen to send.
"""

from __future__ import annotations

import base64
import functools
import ipaddress
import itertools
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from enclave.errors import (
    AgentError,
    AttestationError,
    AttesterError,
    ConfigurationError,
    CredentialsError,
    DecodingError,
    DecryptionError,
    KmsRefusedError,
    KmsResponseError,
    KmsUnreachableError,
)
from enclave.recipient.exchange import SECRET_FIELD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
PROBES: Final = frozenset({"/healthz", "/readyz"})

_TARGET = re.compile(r"TrentService\.([A-Za-z0-9]{1,64})")
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,128}")
_HOST = re.compile(
    r"(localhost|\[[0-9A-F:.]{2,45}\]|[0-9.]{7,15})(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE
)
_MAX_HOST = 64
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, read.

    Attributes:
        method: for example ``POST``.
        target: path and query as they came, for example ``/``.
        headers: those this endpoint uses, names in lower case; each was there once.
        body: as it came.
        keep_alive: whether the client means to send another.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    keep_alive: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `body` may hold a secret."""

    status: int
    body: bytes = field(repr=False)
    request_id: str
    content_type: str = CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a KMS operation, JSON types only."""

    operation: str
    parameters: dict[str, Any] = field(repr=False)


class EndpointError(AgentError):
    """A request that this endpoint answers itself, with an error worded as KMS words them.

    Attributes:
        type: as the KMS API Reference names it.
        status: the HTTP status.
    """

    def __init__(self, type: str, message: str, *, status: int = 400, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.type = type
        self.status = status


def check_host(host: str | None) -> None:
    """Take only requests that were meant for this machine itself.

    A web page can make a browser on the same machine call any name that its owner points at
    127.0.0.1 (DNS rebinding); Host then says that name.

    Raises:
        EndpointError: Host is missing, or is not ``localhost`` or a loopback address.
    """
    if host is None or len(host) > _MAX_HOST or not _is_loopback(host):
        raise EndpointError(
            "AccessDeniedException",
            "this endpoint answers to localhost and loopback addresses only",
            hint="name it as http://127.0.0.1:PORT",
        )


@functools.lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    if found[1].lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(found[1].strip("[]")).is_loopback
    except ValueError:
        return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


_JSON: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def called(request: Request) -> Call:
    """What a request that is no probe asks KMS for. Its signature is not looked at: whoever can
    connect may call, and the enclave's own credentials sign what goes to KMS.

    Raises:
        EndpointError: it is not a KMS request.
    """
    found = _TARGET.fullmatch(request.headers.get("x-amz-target", ""))
    if request.method != "POST" or request.target != "/" or found is None:
        raise EndpointError(
            "UnknownOperationException",
            "this is no KMS operation",
            status=404,
            hint="POST to / with X-Amz-Target: TrentService.OPERATION; or GET /healthz, /readyz",
        )
    operation = found[1]
    try:
        parameters = _JSON.decode(request.body.decode())
    except (ValueError, RecursionError):
        parameters = None
    if not isinstance(parameters, dict):
        raise EndpointError("SerializationException", "the body is not a JSON object")
    if operation in SECRET_FIELD and "Recipient" in parameters:
        recipient = parameters["Recipient"]
        if recipient is None:
            del parameters["Recipient"]
        elif not isinstance(recipient, dict) or not recipient.get("AttestationDocument"):
            # Half a Recipient might bring the secret in the clear, as if there were none.
            raise EndpointError(
                "ValidationException",
                "Recipient has no AttestationDocument",
                hint="leave Recipient out: this endpoint adds it",
            )
    return Call(operation, parameters)


def pooled_bytes(call: Call, most: int) -> int | None:
    """How many random bytes a call asks for, where a pool may answer it; else None."""
    number = call.parameters.get("NumberOfBytes")
    if (
        call.operation == "GenerateRandom"
        and len(call.parameters) == 1
        and type(number) is int  # `isinstance` would take true for 1
        and 1 <= number <= most
    ):
        return number
    return None


# Answers


def call_answer(content: Mapping[str, Any], request_id: str) -> Answer:
    """A good answer of `Agent.call`'s: bytes, the secrets, as base64."""
    body = json.dumps(content, default=_base64, separators=(",", ":")).encode()
    return Answer(200, body, request_id)


def random_answer(secret: bytes, request_id: str) -> Answer:
    """KMS's answer to GenerateRandom; the same as `call_answer`, and faster."""
    return Answer(200, b'{"Plaintext":"%s"}' % base64.b64encode(secret), request_id)


def _base64(value: object) -> str:
    if not isinstance(value, bytes | bytearray):
        raise TypeError(f"{type(value).__name__} in an answer of KMS's")
    return base64.b64encode(value).decode()


_OWN_ERRORS: Final[tuple[tuple[type[AgentError], str, int], ...]] = (
    (AttesterError, "EnclaveAttestationException", 400),
    (CredentialsError, "EnclaveCredentialsException", 400),
    (KmsUnreachableError, "EnclaveUntrustedPeerException", 400),
    (KmsResponseError, "EnclaveUntrustedAnswerException", 400),
    (DecodingError, "EnclaveUntrustedAnswerException", 400),
    (DecryptionError, "EnclaveUntrustedAnswerException", 400),
    (AttestationError, "EnclaveAttestationException", 400),
    (ConfigurationError, "ValidationException", 400),
)
"""Errors on this side of KMS that a second try does not mend. SDKs try again after statuses 500,
502, 503 and 504 and after the types they know, so that these have another status and other types.
"""


def error_answer(error: AgentError, request_id: str) -> Answer:
    """An error as KMS words it, and such that SDKs try again exactly where that may help.

    Args:
        error: what a call failed with.
        request_id: ours, for where KMS gave none.
    """
    message = f"{error} ({error.hint})" if error.hint else str(error)
    type_, status = "InternalFailure", 500
    match error:
        case EndpointError():
            type_, status = error.type, error.status
        case KmsRefusedError():
            # As it came; of an answer that was not KMS's own only the status is known.
            type_, message, status = error.type, error.kms_message, error.status
            request_id = usable_request_id(error.request_id, request_id)
            if " " in type_ or not 400 <= status <= 599:
                type_, message, status = "ServiceUnavailable", str(error), 503
        case KmsUnreachableError(transient=True):
            type_, status = "ServiceUnavailable", 503
        case _:
            for kind, name, code in _OWN_ERRORS:
                if isinstance(error, kind):
                    type_, status = name, code
                    break
    fields = {"__type": type_}
    if message:
        # KMS's own inconsistency: authorization capitalizes "Message". SDKs read both.
        fields["Message" if type_ == "AccessDeniedException" else "message"] = message
    return Answer(status, json.dumps(fields).encode(), request_id)


def usable_request_id(given: str | None, ours: str) -> str:
    """KMS's request id, if it may go into a header as it is, else ours."""
    return given if given and _REQUEST_ID.fullmatch(given) else ours


def request_ids(seed: bytes) -> Callable[[], str]:
    """Make request ids for answers that KMS has no part in: they look like KMS's, and count.

    Args:
        seed: 10 bytes that tell this process from others; no secret.
    """
    head = f"{seed[:4].hex()}-{seed[4:6].hex()}-{seed[6:8].hex()}-{seed[8:10].hex()}-"
    counter = itertools.count(1)
    return lambda: f"{head}{next(counter):012x}"


def http_bytes(answer: Answer, *, date: str, close: bool) -> bytes:
    """An answer as it goes over the wire.

    Args:
        answer: with a status of `_REASONS`, or any of KMS's.
        date: for the Date header (RFC 9110, section 6.6.1).
        close: whether this is the connection's last.
    """
    head = (
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, '')}\r\n"
        f"Date: {date}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        f"Cache-Control: no-cache, no-store\r\n"
        f"x-amzn-RequestId: {answer.request_id}\r\n"
        f"{'Connection: close' if close else 'Connection: keep-alive'}\r\n\r\n"
    )
    return head.encode("latin-1") + answer.body
