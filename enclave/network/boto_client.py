"""A botocore client of any service, whose connections leave through the egress proxy.

Only the sockets of its HTTP session are exchanged: signing, retries, TLS, timeouts and responses
are the client's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSHTTPSConnection, AWSHTTPSConnectionPool
from botocore.httpsession import ProxyConfiguration, URLLib3Session

from enclave.errors import ConfigurationError
from enclave.network.urllib3_pools import pool_classes

if TYPE_CHECKING:
    from enclave.network.dialer import EgressDialer


def send_through(client: Any, dialer: EgressDialer) -> None:
    """Make the client's connections through the dialer.

    Raises:
        ConfigurationError: its endpoint is not https, or its HTTP session is not botocore's own.
    """
    if not client.meta.endpoint_url.startswith("https://"):
        raise ConfigurationError(
            f"the client sends to {client.meta.endpoint_url}, which is not https",
            hint="plain http:// could be read on the parent",
        )
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    manager = getattr(session, "_manager", None)
    if not isinstance(session, URLLib3Session) or not hasattr(manager, "pool_classes_by_scheme"):
        raise ConfigurationError(
            "the client's HTTP session is not one that is known here",
            hint="use HTTPS_PROXY (enclave-agent serve --egress), which botocore reads",
        )
    manager.pool_classes_by_scheme = pool_classes(  # type: ignore[union-attr]
        dialer, AWSHTTPSConnectionPool, AWSHTTPSConnection
    )
    session._proxy_config = ProxyConfiguration()  # noqa: SLF001 (checked above)
