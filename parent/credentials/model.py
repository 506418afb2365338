"""What credentials are, what is none, and the document that enclaves get. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from vsock_proxy.errors import AgentError

MAX_VALUE: Final = 16_384
"""Characters of one value: as many as the enclave's agent takes."""

UNKNOWN_LIFETIME: Final = timedelta(minutes=15)
"""What is said of a session token whose end nobody knows. Enclaves ask again by then."""

_TEMPORARY: Final = "ASIA"
"""How access keys of temporary credentials begin (IAM User Guide, "Unique identifiers")."""


class CredentialsError(AgentError):
    """There are no credentials to be had where they should come from.

    Attributes:
        kind: a word for it without details; all that enclaves are told.
    """

    def __init__(self, message: str, *, kind: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Credentials:
    """AWS credentials.

    Attributes:
        access_key: ``AKIA...`` or ``ASIA...``.
        secret_key: its secret.
        token: the session token of temporary ones; None for an IAM user's keys.
        expiration: when they end, aware; None for an IAM user's keys.
        source: botocore's word for where they are from, such as ``iam-role``.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expiration: datetime | None = None
    source: str = ""

    def valid(self, now: datetime) -> bool:
        """Whether they have not expired."""
        return self.expiration is None or now < self.expiration


def whole_credentials(
    access_key: str | None,
    secret_key: str | None,
    token: str | None,
    expiration: datetime | None,
    *,
    source: str,
    now: datetime,
) -> Credentials:
    """Make credentials of what was found, or say what is wrong with it.

    Raises:
        CredentialsError: half-written, expired, or nothing that AWS gives out.
    """
    named = {"the access key": access_key, "the secret key": secret_key, "the token": token}
    for name, value in named.items():
        # Python programs write None of what they do not have, and some send it.
        if value and (not value.isascii() or not value.isprintable() or len(value) > MAX_VALUE):
            raise CredentialsError(
                f"{name} from {source} has characters or a length that no key has",
                kind="malformed",
            )
    if not access_key or not secret_key or (access_key.startswith(_TEMPORARY) and not token):
        missing = [name for name, value in named.items() if not value]
        raise CredentialsError(
            f"the credentials from {source} are half-written: without {' and '.join(missing)}",
            kind="half-written",
        )
    if token and expiration is None:
        expiration = now + UNKNOWN_LIFETIME
    if expiration is not None and expiration <= now:
        raise CredentialsError(
            f"the credentials from {source} expired on {expiration:%Y-%m-%d at %H:%M:%SZ}",
            kind="expired",
            hint="is the clock right? See timedatectl",
        )
    return Credentials(access_key, secret_key, token or None, expiration, source)


def document(credentials: Credentials) -> bytes:
    """Write the container-credentials JSON (docs/credentials.md)."""
    values = {"AccessKeyId": credentials.access_key, "SecretAccessKey": credentials.secret_key}
    if credentials.token is not None:
        values["Token"] = credentials.token
    if credentials.expiration is not None:
        values["Expiration"] = credentials.expiration.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(values).encode()
