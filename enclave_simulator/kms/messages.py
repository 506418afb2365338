"""The service's input and output: one HTTP request, one response, or one of KMS's errors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        method: for example ``POST``.
        target: path and query, for example ``/``.
        headers: names in lower case; the values of a repeated name are joined with commas.
        body: as received.
        peer: IP address of the client; empty if unknown.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response.

    Attributes:
        status: HTTP status.
        body: as sent.
        content_type: MIME type of the body.
        request_id: value of ``x-amzn-RequestId``; empty for none.
        delivery: name of a transport fault (`faults.DELIVERY_FAULTS`), or empty.
    """

    status: int
    body: bytes
    content_type: str = "application/x-amz-json-1.1"
    request_id: str = ""
    delivery: str = ""


class KmsError(Exception):
    """An error that KMS itself responds with.

    Attributes:
        type: KMS's name for it, for example ``ValidationException``.
        message: KMS's text, or None if KMS gives none.
        status: 400 for the caller's faults, 500 for KMS's own: its JSON protocol has no other.
        reasons: what the simulator knows beyond that, for its own standard error only.
    """

    def __init__(
        self,
        type: str,
        message: str | None = None,
        *,
        status: int = 400,
        reasons: tuple[str, ...] = (),
    ) -> None:
        super().__init__(type, message)
        self.type = type
        self.message = message
        self.status = status
        self.reasons = reasons

    def document(self) -> dict[str, str]:
        """Return the response's JSON."""
        if self.message is None:
            return {"__type": self.type}
        # KMS's own inconsistency: authorization capitalizes "Message".
        key = "Message" if self.type == "AccessDeniedException" else "message"
        return {"__type": self.type, key: self.message}
