"""AWS credentials and their validation. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from enclave.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.clock import Clock

DEFAULT_TIMEOUT = 10.0
"""Seconds a provider may take, by default."""

MAX_VALUE = 16_384
"""Characters in one value; session tokens have no documented limit and stay far below this."""

_TEMPORARY = "ASIA"
"""How access keys of temporary credentials begin (IAM User Guide, "Unique identifiers")."""

_VALUE = re.compile(r"[!#-&(-~]*")
"""Printable ASCII without spaces and quotation marks, of which AWS gives out none."""

# RFC 3339, section 5.6, as AWS writes it.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credentials:
    """AWS credentials.

    Attributes:
        access_key_id: for example ``ASIA...``.
        secret_access_key: the secret.
        session_token: for temporary credentials, such as a role's.
        expiration: when temporary credentials expire; aware.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expiration: datetime | None = None

    def has_expired(self, clock: Clock) -> bool:
        """Return whether they are no longer valid."""
        return self.expiration is not None and self.expiration <= clock.now()


class CredentialsProvider(Protocol):
    """Source of credentials; called once per request, from many threads."""

    def credentials(
        self, *, timeout: float = DEFAULT_TIMEOUT, rejected: Credentials | None = None
    ) -> Credentials:
        """Return credentials that are valid now.

        Args:
            timeout: seconds this may take.
            rejected: credentials that KMS rejected; others are wanted. A provider that has no
                others returns the same ones.

        Raises:
            CredentialsError: there are none, half of them, or expired ones.
        """
        ...


class StaticCredentials:
    """Credentials given by the caller."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def credentials(
        self,
        *,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ARG002 (nothing to wait for)
        rejected: Credentials | None = None,  # noqa: ARG002 (there are no others)
    ) -> Credentials:
        """See `CredentialsProvider.credentials`."""
        return self._credentials


def whole_credentials(
    values: Mapping[str, str], names: tuple[str, str, str, str], *, now: datetime, hint: str
) -> Credentials:
    """Return credentials made from four named values; the last two may be missing or empty.

    Args:
        values: by name.
        names: of the access key id, the secret access key, the session token and the expiration.
        now: wall time, aware.
        hint: what to do about missing ones.

    Raises:
        CredentialsError: half of them, characters no key has, or expired.
    """
    key_id, secret, token, expires = (values.get(name, "") for name in names)
    for name, value in zip(names, (key_id, secret, token, expires), strict=True):
        # They go into an HTTP header: a line break in one would forge the next.
        if len(value) > MAX_VALUE or _VALUE.fullmatch(value) is None:
            raise CredentialsError(
                f"{name} is not what AWS gives out: it has characters or a length no key has",
                hint="was a line break, a space or a quotation mark copied with it?",
            )
    for name, value in zip(names, (key_id, secret), strict=False):
        if not value:
            raise CredentialsError(f"half of the AWS credentials: {name} is not set", hint=hint)
    if key_id.startswith(_TEMPORARY) and not token:
        raise CredentialsError(
            f"half of the AWS credentials: {names[2]} is not set, and an access key that begins "
            f"with {_TEMPORARY} is valid only with one",
            hint=hint,
        )
    expiration = _time(names[3], expires) if expires else None
    if expiration is not None and expiration <= now:
        raise CredentialsError(
            f"the AWS credentials expired at {expires} and it is {now:%Y-%m-%dT%H:%M:%SZ}",
            hint="renew them; if they are new, is the enclave's clock right?",
        )
    return Credentials(key_id, secret, token or None, expiration)


def _time(name: str, text: str) -> datetime:
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise CredentialsError(
        f"{name} is not a time: {text[:64]!r}", hint="AWS writes it as 2026-01-31T12:00:00Z"
    )
