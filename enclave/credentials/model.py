"""AWS credentials of the enclave: what KMS requests are signed with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from enclave.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ACCESS_KEY, _SECRET_KEY, _TOKEN = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
_MAX = 16_384
"""Characters in one value; session tokens have no documented limit and stay far below this."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key, its secret, and the session token of a role's credentials."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


class CredentialsProvider(Protocol):
    """Where credentials come from; asked once per request."""

    def credentials(self) -> Credentials:
        """Credentials that are good now.

        Raises:
            CredentialsError: there are none, or half of them.
        """
        ...


class StaticCredentials:
    """Credentials the caller has."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def credentials(self) -> Credentials:
        """See `CredentialsProvider.credentials`."""
        return self._credentials


class EnvironmentCredentials:
    """The variables every AWS SDK reads: AWS_ACCESS_KEY_ID and its companions."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def credentials(self) -> Credentials:
        """See `CredentialsProvider.credentials`; read anew each time, so they can be replaced."""
        access_key = self._environ.get(_ACCESS_KEY, "")
        secret_key = self._environ.get(_SECRET_KEY, "")
        token = self._environ.get(_TOKEN, "")
        if not access_key and not secret_key:
            raise CredentialsError(
                "no AWS credentials",
                hint=f"set {_ACCESS_KEY}, {_SECRET_KEY} and, for a role, {_TOKEN}",
            )
        for name, value in ((_ACCESS_KEY, access_key), (_SECRET_KEY, secret_key)):
            if not value:
                raise CredentialsError(
                    f"half of the AWS credentials: {name} is not set",
                    hint=f"set {_ACCESS_KEY} and {_SECRET_KEY} together",
                )
        for name, value in ((_ACCESS_KEY, access_key), (_SECRET_KEY, secret_key), (_TOKEN, token)):
            # They go into an HTTP header: a line break in one would forge the next.
            if len(value) > _MAX or not value.isascii() or not value.isprintable():
                raise CredentialsError(
                    f"{name} is not what AWS gives out: it has characters or a length no key has",
                    hint="was a line break or a quotation mark copied with it?",
                )
        return Credentials(access_key, secret_key, token or None)
