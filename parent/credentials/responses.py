"""Responses of the credential service to enclaves. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parent.credentials.model import credentials_response
from parent.http_server.hosts import may_be_named
from parent.http_server.protocol import Request, Response, message

if TYPE_CHECKING:
    from collections.abc import Collection

    from parent.credentials.cache import Cache


def respond(request: Request, cache: Cache, cids: Collection[int] | None) -> Response:
    """Return the cached credentials, or an error; no request reaches their source.

    Args:
        request: the request.
        cache: the credentials.
        cids: the enclaves that get them, and no other client does; None for every client.
    """
    if cids is not None and request.cid not in cids:
        return message(403, f"CID {request.cid} is not among those that get credentials here")
    if not may_be_named(request.host, ()):
        return message(403, "the Host header is neither localhost nor an address")
    if request.path != "/":
        return message(404, "no such path")
    credentials = cache.current()
    if credentials is not None:
        return Response(200, credentials_response(credentials))
    if cache.failure is None:
        return message(503, "no credentials yet: the parent has just started")
    return message(503, f"the parent has no credentials ({cache.failure.kind}); see its log")
