"""Connections through the parent's egress proxy, for Python code that makes them itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from enclave.errors import ConfigurationError
from enclave.network.options import DEFAULT_PROXY
from vsock_proxy.net.addresses import ConnectProxy, TcpAddress, parse_via
from vsock_proxy.net.dialing import ConnectDialer, Dialer

if TYPE_CHECKING:
    import socket

    import httpx
    import urllib3
    from requests.adapters import HTTPAdapter

TIMEOUT: Final = 60.0
"""Seconds for a connection, if the caller gives none: every wait ends here."""


class EgressDialer:
    """Connects to hosts through the egress proxy of the parent. Safe for many threads.

    TLS is the caller's, and stays end to end. No listener is needed in the enclave, and no proxy
    variable is read. The parent's allowlist decides; the image's own, of ``serve --egress-allow``,
    is not asked: the code that calls this is part of the image itself.

        egress = EgressDialer()
        session.mount("https://", egress.requests_adapter())
        client = httpx.Client(transport=egress.httpx_transport())
        pools = egress.pool_manager()

    Args:
        proxy: where the parent's egress proxy listens.
        dialer: connects to it, for tests. Default: vsock, TCP and UNIX sockets.

    Raises:
        ConfigurationError: the address is invalid.
    """

    def __init__(self, proxy: str = DEFAULT_PROXY, *, dialer: Dialer | None = None) -> None:
        self._dialer = ConnectDialer(ConnectProxy(parse_via(proxy)), dialer)

    def connect(self, host: str, port: int, timeout: float | None = TIMEOUT) -> socket.socket:
        """Return a socket that is connected to a host, with `timeout` as its timeout.

        Args:
            host: a name, which the parent looks up, or an IP address.
            port: 1..65535.
            timeout: seconds; None for 60.

        Raises:
            DialError: no connection, or the parent refuses it; the message says why.
        """
        return self._dialer.dial(TcpAddress(host, port), TIMEOUT if timeout is None else timeout)

    def pool_manager(self, **options: Any) -> urllib3.PoolManager:
        """Return urllib3's ``PoolManager`` with these options. ``https://`` only.

        Raises:
            ConfigurationError: urllib3 is not installed.
        """
        manager: urllib3.PoolManager = _module("urllib3", "urllib3_pools").manager(self, options)
        return manager

    def requests_adapter(self, **options: Any) -> HTTPAdapter:
        """Return an ``HTTPAdapter`` of requests with these options, to mount at ``https://``.

        Raises:
            ConfigurationError: requests is not installed.
        """
        adapter: HTTPAdapter = _module("requests", "requests_adapter").EgressAdapter(
            self, **options
        )
        return adapter

    def httpx_transport(self, **options: Any) -> httpx.HTTPTransport:
        """Return a transport for ``httpx.Client(transport=...)``. ``https://`` only.

        Args:
            options: ``verify``, ``cert`` and ``limits``, as httpx takes them.

        Raises:
            ConfigurationError: httpx is not installed.
        """
        transport: httpx.HTTPTransport = _module("httpx", "httpx_transport").EgressTransport(
            self, **options
        )
        return transport


def _module(library: str, name: str) -> Any:
    """Import what needs a library that may not be there."""
    try:
        return import_module(f"enclave.network.{name}")
    except ModuleNotFoundError as e:
        raise ConfigurationError(
            f"{library} is not installed", hint=f"add {library} to the image: pip install {library}"
        ) from e
