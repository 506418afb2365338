"""What an enclave is answered. Does no I/O."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from parent.credentials.model import document
from parent.http_server.protocol import Request, Response, message

if TYPE_CHECKING:
    from collections.abc import Collection

    from parent.credentials.cache import Cache


def answer(request: Request, cache: Cache, cids: Collection[int] | None) -> Response:
    """Answer from what is at hand: nobody's question reaches the source of the credentials.

    Args:
        request: the question.
        cache: what is at hand.
        cids: the enclaves that get an answer, and then nobody else does; None for everybody.
    """
    if cids is not None and request.cid not in cids:
        return message(403, f"CID {request.cid} is not among those that get credentials here")
    if not _is_local(request.host):
        # A web page on this machine, whose name leads here (DNS rebinding).
        return message(403, "the Host header is neither localhost nor an address")
    if request.path != "/":
        return message(404, "no such path")
    credentials = cache.current()
    if credentials is not None:
        return Response(200, document(credentials))
    if cache.failure is None:
        return message(503, "no credentials yet: the parent has just started")
    return message(503, f"the parent has no credentials ({cache.failure.kind}); see its log")


def _is_local(host: str) -> bool:
    """Whether a Host header, with or without a port, names no name but ``localhost``."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
