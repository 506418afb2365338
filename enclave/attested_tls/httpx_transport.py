"""Transports of httpx over attested TLS. Imported if httpx is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from enclave.errors import AttestedTlsError

if TYPE_CHECKING:
    from enclave.attested_tls.context import AttestedContext


class AttestedTransport(httpx.HTTPTransport):
    """HTTP/1.1 over attested TLS."""

    def __init__(self, context: AttestedContext) -> None:
        super().__init__(verify=context, trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.BaseTransport`."""
        require_https(str(request.url))
        return super().handle_request(request)


class AttestedAsyncTransport(httpx.AsyncHTTPTransport):
    """The same for `httpx.AsyncClient`."""

    def __init__(self, context: AttestedContext) -> None:
        super().__init__(verify=context, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        require_https(str(request.url))
        return await super().handle_async_request(request)


def require_https(url: str) -> None:
    """Reject a URL that would go out in the clear.

    Raises:
        AttestedTlsError: it is not https.
    """
    if not url.lower().startswith("https://"):
        raise AttestedTlsError(
            "not an https URL: nothing would prove the server", hint="was it a redirect?"
        )
