"""``--profile``: keys and region from the AWS CLI's files, where the enclave has them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.configloader import raw_config_parse
from botocore.exceptions import ConfigNotFound, ConfigParseError

from enclave.credentials import Credentials
from enclave.errors import ConfigurationError, CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Profile:
    """What a profile says, as far as an enclave can use it."""

    credentials: Credentials
    region: str | None


def load(name: str, environ: Mapping[str, str]) -> Profile:
    """Read a profile.

    Args:
        name: for example ``default``.
        environ: AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE name other files than those in
            ``~/.aws``.

    Raises:
        ConfigurationError: a file is malformed, or there is no such profile.
        CredentialsError: it has no keys, or half of them.
    """
    keys = _sections(environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    config = _sections(environ.get("AWS_CONFIG_FILE") or "~/.aws/config")
    section = name if name == "default" else f"profile {name}"
    if name not in keys and section not in config:
        raise ConfigurationError(
            f"there is no profile {name!r}",
            hint="an enclave has no ~/.aws but what its image brings; without --profile the "
            "agent uses the credentials it is given",
        )
    settings = {**config.get(section, {}), **keys.get(name, {})}
    access_key = settings.get("aws_access_key_id")
    secret_key = settings.get("aws_secret_access_key")
    if not access_key or not secret_key:
        raise CredentialsError(
            f"the profile {name!r} has no access key with its secret",
            hint="roles, SSO and credential programs of a profile are not followed here",
        )
    token = settings.get("aws_session_token")
    return Profile(Credentials(access_key, secret_key, token), settings.get("region"))


def _sections(path: str) -> dict[str, Any]:
    try:
        sections: dict[str, Any] = raw_config_parse(
            os.path.expandvars(path), parse_subsections=False
        )
    except ConfigNotFound:
        return {}
    except (ConfigParseError, OSError, ValueError) as e:
        raise ConfigurationError(f"cannot use {path!r}: it is not an AWS CLI file") from e
    return sections
