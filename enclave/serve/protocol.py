"""KMS's protocol, the server's side: which call a request is, and how KMS words a response.

No I/O. Source: the KMS API Reference (JSON 1.1 protocol, "Common Error Types") and, for spellings
it does not give, what KMS was seen to send.
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

from enclave.errors import AgentError, KmsRefusedError, KmsUnreachableError
from enclave.recipient.exchange import SECRET_FIELD
from enclave.serve.outcomes import outcome_of
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONTENT_TYPE: Final = "application/x-amz-json-1.1"

_TARGET = re.compile(r"TrentService\.([A-Za-z0-9]{1,64})")
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,128}")
_HOST = re.compile(
    r"(localhost|\[[0-9A-F:.]{2,45}\]|[0-9.]{7,15})(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE
)
_MAX_HOST = 64
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        method: for example ``POST``.
        target: path and query as they came, for example ``/``.
        headers: those this endpoint uses, names in lower case; each was there once.
        body: without the frames of its chunks.
        keep_alive: whether the connection stays open for another.
        region: the region in the scope of its signature; None without such a signature.
        authorization: the header of that name, its beginning.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    keep_alive: bool = True
    region: str | None = None
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response; `body` may hold a secret."""

    status: int
    body: bytes = field(repr=False)
    request_id: str
    content_type: str = CONTENT_TYPE


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a KMS operation.

    Attributes:
        operation: as the KMS API names it.
        parameters: JSON types only.
        region: the region that the caller signed for; None if it did not sign.
    """

    operation: str
    parameters: dict[str, Any] = field(repr=False)
    region: str | None = None


class EndpointError(AgentError):
    """A request that this endpoint rejects itself, with an error worded as KMS words them.

    Attributes:
        type: as the KMS API Reference names it.
        status: the HTTP status.
    """

    def __init__(self, type: str, message: str, *, status: int = 400, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.type = type
        self.status = status


def check_host(host: str | None) -> None:
    """Reject a request that was not addressed to this machine.

    A web page can make a browser on the same machine call any name that its owner points at
    127.0.0.1 (DNS rebinding); Host then is that name.

    Raises:
        EndpointError: Host is missing, or is not ``localhost`` or a loopback address.
    """
    if host is None or len(host) > _MAX_HOST or not _is_loopback(host):
        raise EndpointError(
            "AccessDeniedException",
            "this endpoint accepts requests for localhost and loopback addresses only",
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


_decode: Final = json.JSONDecoder(parse_constant=_refuse_constant).decode


def read_call(request: Request) -> Call:
    """Return the KMS call that a request is.

    Its signature is not verified: who can connect may call, and the enclave's own credentials
    sign what goes to KMS.

    Raises:
        EndpointError: it is not a KMS request.
    """
    found = _TARGET.fullmatch(request.headers.get("x-amz-target", ""))
    if request.method != "POST" or request.target != "/" or found is None:
        raise _unknown_operation(request, is_kms=found is not None)
    operation = found[1]
    try:
        parameters = parse_json(request.body.decode(), _decode)
    except ValueError:
        parameters = None
    if not isinstance(parameters, dict):
        raise EndpointError("SerializationException", "the body is not a JSON object")
    if operation in SECRET_FIELD and "Recipient" in parameters:
        recipient = parameters["Recipient"]
        if recipient is None:
            del parameters["Recipient"]
        elif not isinstance(recipient, dict) or not recipient.get("AttestationDocument"):
            # KMS might take half a Recipient for none, and send the secret in the clear.
            raise EndpointError(
                "ValidationException",
                "Recipient has no AttestationDocument",
                hint="leave Recipient out: this endpoint adds it",
            )
    return Call(operation, parameters, request.region)


def _unknown_operation(request: Request, *, is_kms: bool) -> EndpointError:
    message = "this is not a KMS operation"
    hint = "POST to / with X-Amz-Target: TrentService.OPERATION; or GET /healthz, /readyz"
    if is_kms and request.method == "POST":
        # An SDK that was given a URL with a path, or takes this endpoint for a proxy.
        message = f"KMS is served at the path /, not at {request.target[:64]!r}"
        hint = "remove the path from the endpoint URL (AWS_ENDPOINT_URL_KMS, --endpoint-url)"
    return EndpointError("UnknownOperationException", message, status=404, hint=hint)


def pooled_bytes(call: Call, most: int) -> int | None:
    """Return how many random bytes a call requests, if a pool may serve it; otherwise None."""
    number = call.parameters.get("NumberOfBytes")
    if (
        call.operation == "GenerateRandom"
        and len(call.parameters) == 1
        and type(number) is int  # `isinstance` would take true for 1
        and 1 <= number <= most
    ):
        return number
    return None


# Responses


def call_response(content: Mapping[str, Any], request_id: str) -> Response:
    """Return the response with the content of `Agent.call`'s: bytes, the secrets, in base64."""
    body = json.dumps(content, default=_base64, separators=(",", ":")).encode()
    return Response(200, body, request_id)


def random_response(secret: bytes, request_id: str) -> Response:
    """Return KMS's response to GenerateRandom; the same as `call_response`'s, and faster."""
    return Response(200, b'{"Plaintext":"%s"}' % base64.b64encode(secret), request_id)


def _base64(value: object) -> str:
    if not isinstance(value, bytes | bytearray):
        raise TypeError(f"{type(value).__name__} in a response of KMS's")
    return base64.b64encode(value).decode()


def error_response(error: AgentError, request_id: str) -> Response:
    """Return an error as KMS words it, such that SDKs retry exactly if that may help.

    Args:
        error: the error of a call or of a request.
        request_id: ours, used if KMS gave none.
    """
    message = f"{error} ({error.hint})" if error.hint else str(error)
    _, type_, status = outcome_of(error)
    match error:
        case EndpointError():
            type_, status = error.type, error.status
        case KmsRefusedError():
            # As it came; of a response that was not KMS's own only the status is known.
            type_, message, status = error.type, error.kms_message, error.status
            request_id = usable_request_id(error.request_id, request_id)
            if " " in type_ or not 400 <= status <= 599:
                type_, message, status = "ServiceUnavailable", str(error), 503
        case KmsUnreachableError(transient=True):
            type_, status = "ServiceUnavailable", 503
    fields = {"__type": type_}
    if message:
        # KMS's own inconsistency: authorization capitalizes "Message". SDKs read both.
        fields["Message" if type_ == "AccessDeniedException" else "message"] = message
    return Response(status, json.dumps(fields).encode(), request_id)


def usable_request_id(given: str | None, ours: str) -> str:
    """Return KMS's request id if it is a valid header value, otherwise ours."""
    return given if given and _REQUEST_ID.fullmatch(given) else ours


def request_ids(seed: bytes) -> Callable[[], str]:
    """Return a maker of request ids for responses that are not KMS's: they look alike, and count.

    Args:
        seed: 10 bytes that distinguish this process from others; not secret.
    """
    head = f"{seed[:4].hex()}-{seed[4:6].hex()}-{seed[6:8].hex()}-{seed[8:10].hex()}-"
    counter = itertools.count(1)
    return lambda: f"{head}{next(counter):012x}"


def http_bytes(response: Response, *, date: str, close: bool) -> bytes:
    """Return a response as it goes over the wire.

    Args:
        response: with a status of `_REASONS`, or any of KMS's.
        date: for the Date header (RFC 9110, section 6.6.1).
        close: whether this is the connection's last.
    """
    head = (
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}\r\n"
        f"Date: {date}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        f"Cache-Control: no-cache, no-store\r\n"
        f"x-amzn-RequestId: {response.request_id}\r\n"
        f"{'Connection: close' if close else 'Connection: keep-alive'}\r\n\r\n"
    )
    return head.encode("latin-1") + response.body
