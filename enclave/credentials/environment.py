"""Credentials from the environment variables that every AWS SDK reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave.clock import Clock, SystemClock
from enclave.credentials.model import DEFAULT_TIMEOUT, Credentials, whole_credentials
from enclave.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping

# The last is what `aws configure export-credentials --format env` writes, and botocore reads.
NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CREDENTIAL_EXPIRATION",
)
_HINT = f"set {NAMES[0]}, {NAMES[1]} and, for a role, {NAMES[2]}"


def has_any(environ: Mapping[str, str]) -> bool:
    """Return whether the environment holds credentials, whole or in part."""
    return any(environ.get(name) for name in NAMES[:3])


class EnvironmentCredentials:
    """Provides AWS_ACCESS_KEY_ID and its companions."""

    def __init__(self, environ: Mapping[str, str], *, clock: Clock | None = None) -> None:
        self._environ = environ
        self._clock = clock or SystemClock()
        self._last: tuple[tuple[str | None, ...], Credentials] | None = None

    def credentials(
        self,
        *,
        timeout: float = DEFAULT_TIMEOUT,  # noqa: ARG002 (nothing to wait for)
        rejected: Credentials | None = None,  # noqa: ARG002 (others, if they were replaced)
    ) -> Credentials:
        """See `CredentialsProvider.credentials`; read each time, so that they can be replaced."""
        values = tuple(map(self._environ.get, NAMES))
        last = self._last
        if last is not None and last[0] == values and not last[1].has_expired(self._clock):
            return last[1]
        if not has_any(self._environ):
            raise CredentialsError("no AWS credentials", hint=_HINT)
        found = whole_credentials(self._environ, NAMES, now=self._clock.now(), hint=_HINT)
        self._last = values, found
        return found
