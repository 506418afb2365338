"""Attested TLS for the HTTP clients of Python: requests and httpx, both optional."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vsock_proxy.service.extras import require

if TYPE_CHECKING:
    import httpx
    import requests

    from enclave.attested_tls.context import AttestedContext


def requests_session(context: AttestedContext) -> requests.Session:
    """Return a session of requests that talks to the enclave image of `context`, and to no other.

    ``http://`` URLs, proxies and ``verify=`` have no way around it: the first two are rejected, the
    last is ignored. Variables such as HTTPS_PROXY are not read.

    Raises:
        ConfigurationError: requests is not installed.
    """
    require("requests", "requests")
    from enclave.attested_tls.requests_adapter import session  # noqa: PLC0415 (optional)

    return session(context)


def httpx_transport(context: AttestedContext) -> httpx.HTTPTransport:
    """Return a transport for `httpx.Client`; ``http://`` URLs are rejected.

    Raises:
        ConfigurationError: httpx is not installed.
    """
    require("httpx", "httpx")
    from enclave.attested_tls.httpx_transport import AttestedTransport  # noqa: PLC0415 (as above)

    return AttestedTransport(context)


def httpx_async_transport(context: AttestedContext) -> httpx.AsyncHTTPTransport:
    """Return a transport for `httpx.AsyncClient`; ``http://`` URLs are rejected.

    Raises:
        ConfigurationError: httpx is not installed.
    """
    require("httpx", "httpx")
    from enclave.attested_tls.httpx_transport import (  # noqa: PLC0415 (as above)
        AttestedAsyncTransport,
    )

    return AttestedAsyncTransport(context)
