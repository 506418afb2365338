"""AWS Signature Version 4 of one KMS request (AWS, "Create a signed AWS API request"). No I/O.

The project's own rather than botocore's: see docs/adr/0005-own-sigv4.md. A property test holds
every signature to botocore's.
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from hashlib import _Hash

    from enclave.credentials import Credentials

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "kms"

_UNSIGNED: Final = frozenset(
    {
        "baggage",
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-amzn-trace-id",
    }
)
"""Headers that something between us and KMS may change; botocore signs none of them either."""


class Signing(NamedTuple):
    """What requests have in common that differ in their bodies alone: their hash, up to the body's.

    Attributes:
        headers: to send, apart from Authorization.
        authorization: the value of Authorization, up to the signature.
    """

    headers: dict[str, str]
    authorization: str
    key: bytes
    text: str
    hashed: _Hash

    def __repr__(self) -> str:
        return "Signing(...)"

    def signature(self, digest: str) -> str:
        """Return the signature of the request whose body has this SHA-256, in hex."""
        hashed = self.hashed.copy()
        hashed.update(digest.encode())
        return hmac.digest(self.key, f"{self.text}{hashed.hexdigest()}".encode(), "sha256").hex()


def begin_signing(
    *,
    url: str,
    headers: Mapping[str, str],
    credentials: Credentials,
    region: str,
    at: datetime,
) -> Signing:
    """Return what is needed to sign POSTs of the same second.

    Args:
        url: where the requests go; its host and path are signed. It has no query.
        headers: content type and target; each name once.
        credentials: of the enclave's role.
        region: the region KMS runs in.
        at: time of signing, UTC; KMS allows it to be five minutes off.
    """
    timestamp = at.strftime("%Y%m%dT%H%M%SZ")
    to_send = {**headers, "X-Amz-Date": timestamp}
    if credentials.session_token:
        to_send["X-Amz-Security-Token"] = credentials.session_token
    host, path = _host_and_path(url)
    to_sign = {"host": host}
    for name, value in to_send.items():
        if (lower := name.lower()) not in _UNSIGNED:
            to_sign[lower] = " ".join(value.split())
    names = ";".join(sorted(to_sign))
    canonical = "".join(f"{name}:{to_sign[name]}\n" for name in sorted(to_sign))
    date = timestamp[:8]
    scope = f"{date}/{region}/{_SERVICE}/aws4_request"
    return Signing(
        to_send,
        f"{_ALGORITHM} Credential={credentials.access_key_id}/{scope}, "
        f"SignedHeaders={names}, Signature=",
        _signing_key(credentials.secret_access_key, date, region),
        f"{_ALGORITHM}\n{timestamp}\n{scope}\n",
        # The empty line is the query's; the body's digest follows.
        sha256(f"POST\n{path}\n\n{canonical}\n{names}\n".encode()),
    )


# One secret and its successor, on either side of midnight: old secrets do not pile up here.
@lru_cache(maxsize=4)
def _signing_key(secret: str, date: str, region: str) -> bytes:
    """Derive the key that signs for a day: four HMACs that need not be done for each request."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, _SERVICE, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


@lru_cache(maxsize=16)
def _host_and_path(url: str) -> tuple[str, str]:
    """Return a URL's host as it stands in ``Host``, and its path in canonical form."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port not in (None, 443):
        host = f"{host}:{parts.port}"
    # AWS encodes the path once more than it is on the wire, for every service but S3.
    return host, quote(_without_dots(parts.path), safe="/~")


def _without_dots(path: str) -> str:
    """Resolve ``.`` and ``..`` and drop empty segments, as AWS's services do before they check."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments) + ("/" if segments and path.endswith("/") else "")
