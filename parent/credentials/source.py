"""Where the credentials are from: botocore's chain, asked anew each time.

Environment, web identity (IRSA), assume-role and process profiles, shared credentials, container
endpoint (ECS, EKS Pod Identity), instance metadata (IMDSv2 only), in botocore's order. Asked anew,
so that a changed file, profile or role is seen, and that nothing here hinges on botocore's own
times of renewal.

    python -m parent.credentials.source [PROFILE]

prints what it found as JSON: secrets, on a pipe to the daemon (`asking`).
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import botocore.session
from botocore import exceptions
from botocore.config import Config

from parent.credentials.model import Credentials, CredentialsError, whole_credentials

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

# Nobody waits for it; but a source that hangs must not keep the next attempt from being made.
_STS: Final = Config(
    connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3}
)
_IMDS: Final = {
    "metadata_service_timeout": 2,
    "metadata_service_num_attempts": 3,
    # What it gives to any proxy or server that can be made to fetch a URL.
    "ec2_metadata_v1_disabled": True,
}
_MAX_TEXT: Final = 300

LONGEST: Final = 90
"""Seconds after which the process ends itself, should the daemon be gone that would end it."""

_ROLE_HINT: Final = (
    "give the instance a role (instance profile), or set AWS_PROFILE or the variables with "
    "credentials"
)
_HOP_HINT: Final = (
    "is this an EC2 instance? In a container its answer to IMDSv2 gets lost unless "
    "HttpPutResponseHopLimit is 2 or more: aws ec2 modify-instance-metadata-options "
    "--instance-id ID --http-put-response-hop-limit 2"
)


def load(profile: str | None, *, now: datetime) -> Credentials:
    """Ask the chain; this may take a minute.

    Args:
        profile: of AWS's configuration file; None for what AWS_PROFILE says.
        now: wall time, aware.

    Raises:
        CredentialsError: there are none, or none that are good.
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
    found = session.get_credentials()
    if found is None:
        raise CredentialsError(
            "no credentials anywhere in botocore's chain", kind="none", hint=_ROLE_HINT
        )
    frozen = found.get_frozen_credentials()
    return whole_credentials(
        frozen.access_key,
        frozen.secret_key,
        frozen.token,
        # Not public, but it is where AWS's own CLI has it from.
        getattr(found, "_expiry_time", None),
        source=found.method,
        now=now,
    )


def _translated(error: Exception) -> CredentialsError:
    text = str(error)[:_MAX_TEXT]
    match error:
        case exceptions.MetadataRetrievalError() if "IMDSv2" in text:
            return CredentialsError(
                "the instance metadata service gives no token", kind="no-metadata", hint=_HOP_HINT
            )
        case exceptions.ClientError():
            refused: dict[str, Any] = error.response.get("Error", {})
            return CredentialsError(
                f"{error.operation_name} refused: {refused.get('Code')}: "
                f"{str(refused.get('Message'))[:_MAX_TEXT]!a}",
                kind="refused",
                hint="does the role trust who asks? See its trust policy",
            )
        case EOFError():
            # What a prompt reads where there is no terminal.
            return CredentialsError(
                "the profile asks for the code of an MFA device, and nobody is there to type it",
                kind="interactive",
                hint="take a role without mfa_serial, such as that of the instance",
            )
        case exceptions.SSOError() | exceptions.LoginError() | exceptions.TokenRetrievalError():
            return CredentialsError(
                f"nobody is logged in: {text!a}",
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
            return CredentialsError(f"{text!a}", kind="no-answer")
        case KeyError():
            # A container endpoint's document without this field.
            return CredentialsError(f"an answer without {text}", kind="half-written")
        case json.JSONDecodeError():
            return CredentialsError("an answer that is no JSON", kind="malformed")
        case FileNotFoundError() | PermissionError():
            # Of a program, or of a token: none of its text comes from within a file.
            return CredentialsError(f"{text!a}", kind="no-answer")
        case RuntimeError() if "still expired" in text:
            return CredentialsError("the credentials have expired", kind="expired")
    # Its text may hold what was read, and so a secret.
    return CredentialsError(f"internal error: {type(error).__name__}", kind="internal")


def main(arguments: Sequence[str]) -> int:
    """Ask, and print the answer."""
    signal.alarm(LONGEST)
    answer: dict[str, str | None]
    try:
        found = load(arguments[0] if arguments else None, now=datetime.now(UTC))
    except CredentialsError as e:
        answer = {"error": str(e), "kind": e.kind, "hint": e.hint}
    else:
        answer = {
            "access_key": found.access_key,
            "secret_key": found.secret_key,
            "token": found.token,
            "expiration": found.expiration.isoformat() if found.expiration else None,
            "source": found.source,
        }
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
