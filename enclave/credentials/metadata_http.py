"""The HTTP of botocore's metadata fetchers, by this project's own client.

botocore's own session reads a response of any length, without a deadline for the whole of it, and
for the instance metadata service obeys HTTP_PROXY.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from enclave.credentials.document import MAX_BODY
from enclave.errors import DialError
from enclave.http.client import open_plain, open_tls
from enclave.http.connection import HttpConnection
from enclave.http.errors import HttpError, HttpTimeoutError
from enclave.http.request import RequestWriter
from enclave.kms.tls import tls_context
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    from vsock_proxy.net.dialing import Dialer

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class MetadataResponse:
    """What botocore's fetchers use of a response."""

    url: str
    status_code: int
    content: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", "replace")


class MetadataHttp:
    """Takes the place of `botocore.httpsession.URLLib3Session`.

    Args:
        dialer: where connections come from.
        timeout: seconds for one request and its response.
        ca_bundle: file of CA certificates for https, as `tls_context` takes it.

    Attributes:
        last: method, path and outcome of the last request: a status, or the error.
    """

    def __init__(self, dialer: Dialer, *, timeout: float, ca_bundle: str | None = None) -> None:
        self._dialer = dialer
        self._timeout = timeout
        self._ca_bundle = ca_bundle
        self.last: tuple[str, str, int | Exception] | None = None

    def send(self, request: Any) -> MetadataResponse:
        """Send a botocore ``AWSPreparedRequest``; errors are botocore's.

        Raises:
            EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError, ConnectionClosedError
        """
        url = urlsplit(request.url)
        where = f"{url.scheme}://{url.netloc}"
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        try:
            response = self._exchange(request, path)
        except DialError as e:
            self.last = request.method, url.path, e
            raise EndpointConnectionError(endpoint_url=where, error=e) from e
        except HttpTimeoutError as e:
            self.last = request.method, url.path, e
            kind = ConnectTimeoutError if e.stage == "connect" else ReadTimeoutError
            raise kind(endpoint_url=where, error=e) from e
        except HttpError as e:
            self.last = request.method, url.path, e
            raise ConnectionClosedError(endpoint_url=where, request=request, error=e) from e
        self.last = request.method, url.path, response.status_code
        return response

    def _exchange(self, request: Any, path: str) -> MetadataResponse:
        url = urlsplit(request.url)
        host = url.hostname or ""
        address = TcpAddress(host, url.port or _PORTS[url.scheme])
        deadline = monotonic() + self._timeout
        # AWSRequest makes bytes of some values.
        headers = {
            name: value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        writer = RequestWriter(request.method, url.netloc, path, {"Connection": "close"})
        written = writer.write(headers)
        if url.scheme == "https":
            tls = tls_context(host, ca_bundle=self._ca_bundle)
            connection = HttpConnection(open_tls(self._dialer, address, tls, host, deadline))
        else:
            connection = HttpConnection(open_plain(self._dialer, address, deadline))
        try:
            response = connection.exchange(
                written,
                send_by=deadline,
                read_timeout=self._timeout,
                deadline=deadline,
                max_body=MAX_BODY,
            )
        finally:
            connection.close()
        return MetadataResponse(request.url, response.status, response.body)
