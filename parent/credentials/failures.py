"""What went wrong in botocore's chain, in words. No I/O."""

from __future__ import annotations

import json
from typing import Any, Final

from botocore import exceptions

from parent.credentials.model import CredentialsError

_MAX_TEXT: Final = 300

_FILES_HINT: Final = (
    "see ~/.aws/config and ~/.aws/credentials of this user, or what AWS_CONFIG_FILE and "
    "AWS_SHARED_CREDENTIALS_FILE name"
)
_SET_BY: Final = {
    "env": "AWS_CREDENTIAL_EXPIRATION is a time in UTC, such as 2026-01-31T12:00:00Z",
    "custom-process": "run the profile's credential_process by hand, as this user: it prints "
    '{"Version": 1, "AccessKeyId": "...", "SecretAccessKey": "...", "SessionToken": "...", '
    '"Expiration": "2026-01-31T12:00:00Z"}',
    "container-role": "AWS_CONTAINER_CREDENTIALS_FULL_URI is an https URL, or an http URL of "
    "loopback, 169.254.170.2 or 169.254.170.23; the token is one line",
    "assume-role": "see role_arn, region, duration_seconds, and source_profile or "
    "credential_source, of the profile",
    "assume-role-with-web-identity": "see AWS_ROLE_ARN, and whether there is a token in the file "
    "that AWS_WEB_IDENTITY_TOKEN_FILE names",
}
"""What sets a source, by botocore's name of it."""

_CLOCK_HINT: Final = "is the clock right? See timedatectl"
_REFUSED: Final = {
    "AccessDenied": "does the role's trust policy allow this caller?",
    "ExpiredToken": "what the role is assumed with has expired",
    "ExpiredTokenException": "what the role is assumed with has expired",
    "IDPCommunicationError": "STS could not reach the identity provider: try again",
    "InvalidClientTokenId": "the keys that the role is assumed with are not AWS's, or are turned "
    "off; or the Region is not enabled in their account",
    "InvalidIdentityToken": "is the cluster's OIDC provider in IAM, with the audience "
    "sts.amazonaws.com?",
    "RequestExpired": _CLOCK_HINT,
    "SignatureDoesNotMatch": "the secret key that the role is assumed with is not this one, or the "
    "clock is wrong: see timedatectl",
}
"""Hints, by STS's code (STS API Reference, "Common errors", and those of its actions)."""


def translated(error: Exception, source: str) -> CredentialsError:
    """Return the error for what botocore raised.

    Args:
        error: anything: files, HTTP, JSON and other programs are behind it.
        source: botocore's name of the source that it was asking; empty if that is not known.
    """
    text = str(error)[:_MAX_TEXT]
    named = f"the source {source}" if source else "the source of credentials"
    hint = _SET_BY.get(source, _FILES_HINT if not source else "")
    match error:
        case exceptions.ClientError():
            return _refused(error)
        case EOFError():
            # What a prompt reads without a terminal.
            return CredentialsError(
                "the profile asks for the code of an MFA device, and nobody is there to type it",
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
        case exceptions.ProfileNotFound() if not error.kwargs.get("profile"):
            return CredentialsError(
                "AWS_PROFILE or AWS_DEFAULT_PROFILE is set, and empty",
                kind="configuration",
                hint="unset it: botocore looks for a profile without a name",
            )
        case exceptions.MissingDependencyException():
            return CredentialsError(f"{text!a}", kind="configuration")
        case exceptions.InvalidIMDSEndpointError() | exceptions.InvalidIMDSEndpointModeError():
            return CredentialsError(
                f"{text!a}",
                kind="configuration",
                hint="see AWS_EC2_METADATA_SERVICE_ENDPOINT and ..._MODE, and what the profile has "
                "of them",
            )
        case (
            exceptions.ProfileNotFound()
            | exceptions.ConfigParseError()
            | exceptions.InvalidConfigError()
            | exceptions.InvalidRegionError()
        ):
            of_environment = source == "assume-role-with-web-identity"
            return CredentialsError(
                f"{text!a}", kind="configuration", hint=hint if of_environment else _FILES_HINT
            )
        case exceptions.PartialCredentialsError():
            return CredentialsError(
                f"{text!a}", kind="half-written", hint="set all of them, or none"
            )
        case exceptions.HTTPClientError() | exceptions.ConnectionError():
            return CredentialsError(
                f"{text!a}",
                kind="unreachable",
                hint="AWS_ENDPOINT_URL and its like, AWS_CA_BUNDLE, HTTPS_PROXY and NO_PROXY, and "
                "what the profile has of them, say how it is reached",
            )
        case exceptions.CredentialRetrievalError():
            return CredentialsError(f"{text!a}", kind="no-response", hint=hint)
        case KeyError():
            # A container endpoint's response without this field.
            return CredentialsError(f"a response without {text}", kind="half-written", hint=hint)
        case json.JSONDecodeError():
            return CredentialsError(f"what {named} gave is not JSON", kind="malformed", hint=hint)
        case FileNotFoundError() | PermissionError():
            # Of a program or a token: the text holds nothing of a file's content.
            return CredentialsError(f"{text!a}", kind="no-response", hint=hint)
        case RuntimeError() if "still expired" in text:
            return CredentialsError(
                f"{named} has none that have not expired", kind="expired", hint=_CLOCK_HINT
            )
        case ValueError() if text.startswith("Invalid endpoint: "):
            return CredentialsError(
                f"{text!a}",
                kind="configuration",
                hint="see AWS_ENDPOINT_URL and its like, and endpoint_url of the profile",
            )
    # Its text may hold what was read, and so a secret.
    return CredentialsError(
        f"{named} cannot be used: what it is set to, or what it gave, is not valid "
        f"({type(error).__name__})",
        kind="malformed",
        hint=hint,
    )


def _refused(error: exceptions.ClientError) -> CredentialsError:
    told: dict[str, Any] = error.response.get("Error", {})
    code = str(told.get("Code"))
    # Other operations than STS's are those of a login.
    by_sts = error.operation_name.startswith("AssumeRole")
    return CredentialsError(
        f"{error.operation_name} refused: {code[:_MAX_TEXT]}: "
        f"{str(told.get('Message'))[:_MAX_TEXT]!a}",
        kind="refused",
        hint=_REFUSED.get(code, "") if by_sts else "",
    )
