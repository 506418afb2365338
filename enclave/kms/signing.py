"""AWS Signature Version 4 of one KMS request, by botocore's own steps.

Taken step by step rather than through `SigV4Auth.add_auth`, which reads the clock itself and logs
the canonical request, session token included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from enclave.credentials import Credentials


class _Key(NamedTuple):
    """Credentials by botocore's names; the token is signed as the header it is."""

    access_key: str
    secret_key: str
    token: None = None


def signed_headers(
    *,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    credentials: Credentials,
    region: str,
    at: datetime,
) -> dict[str, str]:
    """Headers to send with a POST of `body`: those given, and the ones that sign them.

    Args:
        url: where the request goes; its host and path are signed.
        headers: content type and target.
        body: signed by its SHA-256.
        credentials: of the enclave's role.
        region: the region KMS runs in.
        at: time of signing, UTC; KMS allows it to be five minutes off.
    """
    timestamp = at.strftime(SIGV4_TIMESTAMP)
    to_send = {**headers, "X-Amz-Date": timestamp}
    if credentials.session_token:
        to_send["X-Amz-Security-Token"] = credentials.session_token
    request = AWSRequest("POST", url, headers=to_send, data=body)
    request.context["timestamp"] = timestamp
    signer = SigV4Auth(
        _Key(credentials.access_key_id, credentials.secret_access_key), "kms", region
    )
    signature = signer.signature(
        signer.string_to_sign(request, signer.canonical_request(request)), request
    )
    names = signer.signed_headers(signer.headers_to_sign(request))
    to_send["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return to_send
