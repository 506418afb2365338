"""Where KMS is: an https URL. `enclave.kms.regions` makes one from a region."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from enclave.errors import ConfigurationError
from vsock_proxy.net.addresses import is_host

_HINT = "write https://HOST[:PORT][/PATH]"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The host that TLS must prove, its port, and the path to post to."""

    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The host with the port, as the Host header has it: without the default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL, as it is signed."""
        return f"https://{self.authority}{self.path}"


def parse_endpoint(url: str) -> Endpoint:
    """Parse an endpoint URL.

    Raises:
        ConfigurationError: it is not https, or not a plain URL of a host.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise ConfigurationError(f"not an endpoint URL: {url!r}: {e}", hint=_HINT) from e
    if parts.scheme != "https":
        raise ConfigurationError(
            f"the endpoint {url!r} is not https",
            hint="TLS must end, verified, inside the enclave: name an https:// endpoint",
        )
    if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(f"not an endpoint URL: {url!r}", hint=_HINT)
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(
            f"not an endpoint URL: {url!r}: it has characters that no URL has",
            hint="percent-encode them in the path; write the host's name in ASCII",
        )
    if not is_host(parts.hostname) or not all(
        0 < len(label) <= 63 for label in parts.hostname.rstrip(".").split(".")
    ):
        raise ConfigurationError(
            f"not an endpoint URL: {url!r}: {parts.hostname!r} is not a host", hint=_HINT
        )
    return Endpoint(parts.hostname, 443 if port is None else port, parts.path or "/")
