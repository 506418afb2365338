"""The source of the credentials: botocore's chain, a new one for each request.

Environment, web identity (IRSA), assume-role and process profiles, shared credentials, container
endpoint (ECS, EKS Pod Identity), instance metadata (IMDSv2 only), in botocore's order. A new one
each time, so that a changed file, profile or role is seen, and that nothing here depends on when
botocore renews its own.

    python -m parent.credentials.source [PROFILE]

prints what it found as JSON: secrets, on a pipe to the daemon (`source_process`).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import botocore.session
from botocore import exceptions
from botocore.config import Config

from parent.credentials.metadata import diagnose
from parent.credentials.model import Credentials, CredentialsError, checked_credentials

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

# No call waits for it; but a source that hangs must not prevent the next attempt.
_STS: Final = Config(
    connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3}
)
_IMDS: Final = {
    "metadata_service_timeout": 2,
    "metadata_service_num_attempts": 3,
    # IMDSv1 gives credentials to any proxy or server that can be made to fetch a URL.
    "ec2_metadata_v1_disabled": True,
}
_MAX_TEXT: Final = 300

LONGEST: Final = 90
"""Seconds after which the process ends itself, if the daemon that would kill it is gone."""

_ROLE_HINT: Final = (
    "give the instance a role (instance profile), or set AWS_PROFILE or the variables with "
    "credentials"
)


def load(profile: str | None, *, now: datetime) -> Credentials:
    """Return credentials from the chain; this may take a minute.

    Args:
        profile: of AWS's configuration file; None for what AWS_PROFILE says.
        now: wall time, aware.

    Raises:
        CredentialsError: there are none, or invalid ones.
    """
    try:
        return _ask(profile, now)
    except CredentialsError:
        raise
    except Exception as e:  # noqa: BLE001 (files, HTTP, JSON, other programs: anything can come)
        raise _translated(e) from None


def _ask(profile: str | None, now: datetime) -> Credentials:
    session = botocore.session.Session(profile=profile)
    for name, value in _IMDS.items():
        session.set_config_variable(name, value)
    session.set_default_client_config(_STS)
    try:
        found = session.get_credentials()
    except exceptions.MetadataRetrievalError as e:
        if "IMDSv2" not in str(e):
            raise
        raise _no_metadata(session) from e
    if found is None:
        raise _no_credentials(session)
    frozen = found.get_frozen_credentials()
    return checked_credentials(
        frozen.access_key,
        frozen.secret_key,
        frozen.token,
        # Not public, but it is where AWS's own CLI has it from.
        getattr(found, "_expiry_time", None),
        source=found.method,
        now=now,
    )


def _no_metadata(session: botocore.session.Session) -> CredentialsError:
    return diagnose(session) or CredentialsError(
        "the instance metadata service gives no token", kind="no-metadata"
    )


def _no_credentials(session: botocore.session.Session) -> CredentialsError:
    # Not if the metadata service is turned off for botocore.
    found = None
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        found = diagnose(session)
    return found or CredentialsError(
        "no credentials anywhere in botocore's chain", kind="none", hint=_ROLE_HINT
    )


def _translated(error: Exception) -> CredentialsError:
    text = str(error)[:_MAX_TEXT]
    match error:
        case exceptions.ClientError():
            refused: dict[str, Any] = error.response.get("Error", {})
            return CredentialsError(
                f"{error.operation_name} refused: {refused.get('Code')}: "
                f"{str(refused.get('Message'))[:_MAX_TEXT]!a}",
                kind="refused",
                hint="does the role's trust policy allow this caller?",
            )
        case EOFError():
            # What a prompt reads without a terminal.
            return CredentialsError(
                "the profile asks for the code of an MFA device, which a daemon cannot type",
                kind="interactive",
                hint="use a role without mfa_serial, such as that of the instance",
            )
        case exceptions.SSOError() | exceptions.LoginError() | exceptions.TokenRetrievalError():
            return CredentialsError(
                f"not logged in: {text!a}",
                kind="interactive",
                hint="a login ends within hours, and takes a person (aws sso login, as this user); "
                "give the instance a role instead",
            )
        case (
            exceptions.ProfileNotFound()
            | exceptions.ConfigParseError()
            | exceptions.InvalidConfigError()
        ):
            return CredentialsError(f"{text!a}", kind="configuration", hint="see ~/.aws/config")
        case exceptions.PartialCredentialsError():
            return CredentialsError(f"{text!a}", kind="half-written")
        case exceptions.HTTPClientError() | exceptions.EndpointConnectionError():
            return CredentialsError(f"{text!a}", kind="unreachable")
        case exceptions.CredentialRetrievalError():
            return CredentialsError(f"{text!a}", kind="no-response")
        case KeyError():
            # A container endpoint's response without this field.
            return CredentialsError(f"a response without {text}", kind="half-written")
        case json.JSONDecodeError():
            return CredentialsError("a response that is not JSON", kind="malformed")
        case FileNotFoundError() | PermissionError():
            # Of a program or a token: the text holds nothing of a file's content.
            return CredentialsError(f"{text!a}", kind="no-response")
        case RuntimeError() if "still expired" in text:
            return CredentialsError("the credentials have expired", kind="expired")
    # Its text may hold what was read, and so a secret.
    return CredentialsError(f"internal error: {type(error).__name__}", kind="internal")


def main(arguments: Sequence[str]) -> int:
    """Print credentials, or an error, as JSON."""
    signal.alarm(LONGEST)
    output: dict[str, str | None]
    try:
        found = load(arguments[0] if arguments else None, now=datetime.now(UTC))
    except CredentialsError as e:
        output = {"error": str(e), "kind": e.kind, "hint": e.hint}
    else:
        output = {
            "access_key_id": found.access_key_id,
            "secret_access_key": found.secret_access_key,
            "session_token": found.session_token,
            "expiration": found.expiration.isoformat() if found.expiration else None,
            "source": found.source,
        }
    sys.stdout.write(json.dumps(output))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
