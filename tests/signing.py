"""Signs one request, for clients that are not the agent's."""

from __future__ import annotations

from typing import Any

from enclave.kms.signing import begin_signing


def signed_headers(*, digest: str, **request: Any) -> dict[str, str]:
    """Return the headers to send with a POST: those given, and the ones that sign them.

    Args:
        digest: SHA-256 of the body, in hex.
        request: see `begin_signing`.
    """
    signing = begin_signing(**request)
    authorization = signing.authorization + signing.signature(digest)
    return {**signing.headers, "Authorization": authorization}
