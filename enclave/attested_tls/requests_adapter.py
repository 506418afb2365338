"""A session of requests over attested TLS. Imported if requests is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

from enclave.errors import AttestedTlsError, ConfigurationError

if TYPE_CHECKING:
    from enclave.attested_tls.context import AttestedContext


def session(context: AttestedContext) -> requests.Session:
    """Return a session whose every request goes through attested TLS, or fails."""
    made = requests.Session()
    made.trust_env = False
    adapter = AttestedAdapter(context)
    made.mount("https://", adapter)
    made.mount("http://", adapter)
    return made


class AttestedAdapter(HTTPAdapter):
    """Makes connections with the context alone, whatever a request says of verification."""

    def __init__(self, context: AttestedContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See `HTTPAdapter.init_poolmanager`."""
        super().init_poolmanager(*args, ssl_context=self._context, assert_hostname=False, **options)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, _verify: Any, _cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `HTTPAdapter`. Without ``verify``: it would bring another context."""
        host, _ = super().build_connection_pool_key_attributes(request, verify=False)
        return host, {}

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        """See `HTTPAdapter`."""
        pool = super().get_connection_with_tls_context(*args, **options)
        pool.ConnectionCls = _verified(pool.ConnectionCls)
        return pool

    def cert_verify(self, conn: Any, _url: Any, _verify: Any, _cert: Any) -> None:
        """See `HTTPAdapter`: the context has it all."""
        conn.cert_reqs = "CERT_NONE"

    def proxy_manager_for(self, proxy: str, **_: Any) -> Any:  # noqa: ARG002 (of requests)
        """See `HTTPAdapter`: its connections would have another context."""
        raise ConfigurationError(
            "attested TLS does not go through proxies here", hint="leave out proxies="
        )

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        """See `HTTPAdapter.send`."""
        if not (request.url or "").lower().startswith("https://"):
            raise AttestedTlsError(
                "not an https URL: nothing would prove the server", hint="was it a redirect?"
            )
        return super().send(request, *args, **options)


class _VerifiedConnection:
    """Tells urllib3 that the server is verified, though by no certificate: it would warn."""

    is_verified: bool

    def connect(self) -> None:
        super().connect()  # type: ignore[misc] # of the other base
        self.is_verified = True


def _verified(connection: type) -> type:
    if issubclass(connection, _VerifiedConnection):
        return connection
    return type("AttestedConnection", (_VerifiedConnection, connection), {})
