"""The credentials response: the JSON of AWS's container credentials endpoint. No I/O.

See "Container credential provider" in the AWS SDKs and Tools Reference Guide. The parent that
wrote it is not trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave.credentials.model import Credentials, whole_credentials
from enclave.errors import CredentialsError
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    from datetime import datetime

MAX_BODY = 65_536
"""Bytes of a credentials response: four values of the greatest length, and room around them."""

_NAMES = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")
_HINT = "the parent's credential service does not send whole credentials: see its log"
_MAX_MESSAGE = 200


def parse_credentials(body: bytes, *, now: datetime) -> Credentials:
    """Parse the credentials in a body.

    ``Token`` and ``Expiration`` may be missing, as they are of an IAM user's keys; but
    temporary credentials have both.

    Raises:
        CredentialsError: they are malformed, absent, half-written or expired.
    """
    values = _object(body)
    if values is None:
        raise CredentialsError("the parent's credentials are not a JSON object", hint=_HINT)
    texts = {}
    for name in _NAMES:
        value = values.get(name)
        if value is not None and not isinstance(value, str):
            raise CredentialsError(f"{name} of the parent's credentials is not text", hint=_HINT)
        texts[name] = value or ""
    if not any(texts.values()):
        raise CredentialsError("no AWS credentials in the parent's response", hint=_HINT)
    credentials = whole_credentials(texts, _NAMES, now=now, hint=_HINT)
    if credentials.session_token and credentials.expiration is None:
        raise CredentialsError(
            "half of the AWS credentials: there is a Token but no Expiration", hint=_HINT
        )
    return credentials


def refusal(status: int, body: bytes) -> CredentialsError:
    """Return the error for a status other than 200; redirects are not followed."""
    values = _object(body) or {}
    message = values.get("message") or values.get("Message") or ""
    text = f"the parent's credential service sent HTTP status {status}"
    if isinstance(message, str) and message:
        # The message may help, but it must not look like ours.
        text += f": {message[:_MAX_MESSAGE]!a}"
    return CredentialsError(
        text,
        hint="has the parent instance a role? See the log of its credential service",
        transient=status >= 500 or status == 429,
    )


def _object(body: bytes) -> dict[str, object] | None:
    try:
        values = parse_json(body)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None
