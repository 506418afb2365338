"""Writes KMS's requests as they go over the wire, signed. No I/O.

All of a request but its body is the same for calls of one operation within a second, the time of
signing included. That part is written and hashed once: a program that makes hundreds of calls a
second, such as the local endpoint, writes a body, one hash and one HMAC for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from enclave.http.request import RequestWriter
from enclave.kms.signing import Signing, begin_signing

if TYPE_CHECKING:
    from datetime import datetime

    from enclave.credentials import Credentials
    from enclave.kms.body import Body
    from enclave.kms.endpoint import Endpoint

_KEPT: Final = 8
"""Heads and requests that are kept: a client of the local endpoint can name any operation."""


class _Head(NamedTuple):
    """The start of requests, up to the signature."""

    signing: Signing
    start: bytes

    def __repr__(self) -> str:
        return "_Head(...)"


class _Kept(NamedTuple):
    """What serves for one second and one set of credentials: heads by operation, and whole
    requests with the same body, which have the same signature.

    It is dropped with the key and the token in it as soon as there are others.
    """

    second: datetime
    credentials: Credentials
    heads: dict[str, _Head]
    requests: dict[tuple[str, str], bytes]

    def __repr__(self) -> str:
        return "_Kept(...)"


class KmsRequestWriter:
    """Writes requests to one endpoint. Safe for many threads.

    Args:
        endpoint: where they go.
        region: AWS region of KMS.
    """

    def __init__(self, endpoint: Endpoint, region: str) -> None:
        self._writer = RequestWriter("POST", endpoint.authority, endpoint.path)
        self._url = endpoint.url
        self._region = region
        self._kept: _Kept | None = None  # replaced as a whole: threads need no lock

    def write(
        self, operation: str, body: Body, credentials: Credentials | None, at: datetime
    ) -> bytes:
        """Return a request.

        Args:
            operation: as the KMS API names it.
            body: its parameters.
            credentials: what it is signed with; None: it is not signed.
            at: time of signing, UTC.

        Raises:
            ConfigurationError: the operation's name, or the credentials, have characters that no
                header has.
        """
        if credentials is None:
            return self._writer.write(_headers(operation), body.data)
        second = at.replace(microsecond=0)
        kept = self._kept
        if kept is None or kept.second != second or kept.credentials is not credentials:
            kept = self._kept = _Kept(second, credentials, {}, {})
        repeated = (operation, body.digest) if body.is_repeated else None
        if repeated is not None and (request := kept.requests.get(repeated)) is not None:
            return request
        head = kept.heads.get(operation)
        if head is None:
            head = self._head(operation, credentials, second)
            if len(kept.heads) < _KEPT:
                kept.heads[operation] = head
        signature = head.signing.signature(body.digest)
        length = f"{signature}\r\nContent-Length: {len(body.data)}\r\n\r\n"
        request = b"".join((head.start, length.encode(), body.data))
        if repeated is not None and len(kept.requests) < _KEPT:
            kept.requests[repeated] = request
        return request

    def _head(self, operation: str, credentials: Credentials, at: datetime) -> _Head:
        signing = begin_signing(
            url=self._url,
            headers=_headers(operation),
            credentials=credentials,
            region=self._region,
            at=at,
        )
        start = self._writer.begin({**signing.headers, "Authorization": signing.authorization})
        return _Head(signing, start.removesuffix(b"\r\n"))


def _headers(operation: str) -> dict[str, str]:
    return {
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": f"TrentService.{operation}",
    }
