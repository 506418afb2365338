"""What goes in and out of the service: one HTTP request, one answer, or one of KMS's errors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        method: for example ``POST``.
        target: path and query, for example ``/``.
        headers: names in lower case; where a name came twice, the values joined with commas.
        body: as it came.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer.

    Attributes:
        status: HTTP status.
        body: as it goes out.
        content_type: MIME type of the body.
        request_id: what goes into ``x-amzn-RequestId``; empty for none.
        delivery: name of a fault of the transport (`faults.DELIVERY_FAULTS`), or empty.
    """

    status: int
    body: bytes
    content_type: str = "application/x-amz-json-1.1"
    request_id: str = ""
    delivery: str = ""


class KmsError(Exception):
    """An error that KMS itself answers with.

    Attributes:
        type: KMS's name for it, for example ``ValidationException``.
        message: KMS's text, or None where KMS gives none.
        status: 400 for the caller's faults, 500 for KMS's own: its JSON protocol knows no other.
    """

    def __init__(self, type: str, message: str | None = None, *, status: int = 400) -> None:
        super().__init__(type, message)
        self.type = type
        self.message = message
        self.status = status

    def document(self) -> dict[str, str]:
        """Return the answer's JSON."""
        if self.message is None:
            return {"__type": self.type}
        # KMS's own inconsistency: authorization capitalizes "Message".
        key = "Message" if self.type == "AccessDeniedException" else "message"
        return {"__type": self.type, key: self.message}
