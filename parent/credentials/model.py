"""AWS credentials, their validation, and the JSON sent to enclaves. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from vsock_proxy.errors import AgentError

MAX_VALUE: Final = 16_384
"""Characters of one value; the enclave's agent has the same limit."""

UNKNOWN_LIFETIME: Final = timedelta(minutes=15)
"""Lifetime given out for a session token whose end is unknown. Enclaves renew it by then."""

_TEMPORARY: Final = "ASIA"
"""How access keys of temporary credentials begin (IAM User Guide, "Unique identifiers")."""


class CredentialsError(AgentError):
    """The source gave no credentials, or invalid ones.

    Attributes:
        kind: a word for it without details; the only thing that enclaves are told.
    """

    def __init__(self, message: str, *, kind: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Credentials:
    """AWS credentials.

    Attributes:
        access_key_id: ``AKIA...`` or ``ASIA...``.
        secret_access_key: its secret.
        session_token: of temporary credentials; None for an IAM user's keys.
        expiration: when they expire, aware; None for an IAM user's keys.
        source: botocore's name of their source, such as ``iam-role``.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expiration: datetime | None = None
    source: str = ""

    def valid(self, now: datetime) -> bool:
        """Return whether they have not expired."""
        return self.expiration is None or now < self.expiration


def checked_credentials(
    access_key_id: str | None,
    secret_access_key: str | None,
    session_token: str | None,
    expiration: datetime | None,
    *,
    source: str,
    now: datetime,
) -> Credentials:
    """Return credentials made of what the source gave.

    Raises:
        CredentialsError: half-written, expired, or not of a form that AWS gives out.
    """
    named = {
        "the access key": access_key_id,
        "the secret key": secret_access_key,
        "the session token": session_token,
    }
    for name, value in named.items():
        # Some Python programs send None for what they do not have.
        # A program of a profile may print numbers.
        if value and not isinstance(value, str):
            raise CredentialsError(f"{name} from {source} is no text", kind="malformed")
        if value and (not value.isascii() or not value.isprintable() or len(value) > MAX_VALUE):
            raise CredentialsError(
                f"{name} from {source} has characters or a length that no key has",
                kind="malformed",
            )
    if (
        not access_key_id
        or not secret_access_key
        or (access_key_id.startswith(_TEMPORARY) and not session_token)
    ):
        missing = [name for name, value in named.items() if not value]
        raise CredentialsError(
            f"the credentials from {source} are half-written: without {' and '.join(missing)}",
            kind="half-written",
        )
    if session_token and expiration is None:
        expiration = now + UNKNOWN_LIFETIME
    if expiration is not None:
        try:
            expiration = expiration.astimezone(UTC)
        except OverflowError:  # 9999-12-31T23:59:59-01:00
            raise CredentialsError(
                f"the credentials from {source} expire at a time that is none", kind="malformed"
            ) from None
    if expiration is not None and expiration <= now:
        raise CredentialsError(
            f"the credentials from {source} expired on {expiration:%Y-%m-%d at %H:%M:%SZ}",
            kind="expired",
            hint="is the clock right? See timedatectl",
        )
    return Credentials(access_key_id, secret_access_key, session_token or None, expiration, source)


def credentials_response(credentials: Credentials) -> bytes:
    """Return the container-credentials JSON (docs/credentials.md)."""
    values = {
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key,
    }
    if credentials.session_token is not None:
        values["Token"] = credentials.session_token
    if credentials.expiration is not None:
        values["Expiration"] = credentials.expiration.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(values).encode()
