"""Errors of the HTTP client. Its users translate them into errors of their own service."""

from __future__ import annotations

from typing import Literal

from enclave.errors import AgentError

Stage = Literal["queue", "connect", "send", "response"]


class HttpError(AgentError):
    """No response to a request."""


class HttpTimeoutError(HttpError):
    """A deadline passed.

    Attributes:
        stage: waiting for a place in the pool, connecting (TLS included), sending, or receiving.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(f"timeout: {stage}")
        self.stage: Stage = stage


class ConnectionLostError(HttpError):
    """The connection broke, or the server closed it, before the response was complete."""


class TlsError(HttpError):
    """TLS failed: in the handshake, or later.

    Attributes:
        unverified: whether the server's certificate is the reason.
    """

    def __init__(self, message: str, *, unverified: bool = False) -> None:
        super().__init__(message)
        self.unverified = unverified


class HttpProtocolError(HttpError):
    """The server sent bytes that are not one HTTP/1.1 response to the request."""


class ResponseTooLargeError(HttpError):
    """The body of the response is longer than the caller takes."""


class PoolClosedError(HttpError):
    """The pool was closed."""
