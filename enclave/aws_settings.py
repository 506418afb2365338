"""AWS's variables and profile files: region, endpoints, retries, output and static keys.

Variables win over the profile, as in AWS's tools. A value that cannot be honoured here is an error
that names it: a setting that is ignored in silence, such as FIPS endpoints, is worse than none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from enclave.credentials import Credentials
from enclave.errors import ConfigurationError, CredentialsError
from vsock_proxy.service.quantities import whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_ATTEMPTS = 100
"""Attempts of one call that may be asked for; its deadline ends most calls sooner."""

_RETRY_MODE = "standard"

_NOT_FOLLOWED = ("credential_process", "login_session", "role_arn", "web_identity_token_file")
_NOT_FOLLOWED_PREFIX = "sso_"


class AwsSettings:
    """The settings of one process. They are checked when they are read from here, not before.

    Args:
        environ: AWS's variables. AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name other
            files than those in ``~/.aws``.
        profile: its name; else AWS_PROFILE, AWS_DEFAULT_PROFILE, or ``default``, which need not
            exist.

    Raises:
        ConfigurationError: a file is malformed, or there is no such profile.
    """

    def __init__(self, environ: Mapping[str, str], *, profile: str | None = None) -> None:
        self._environ = environ
        self._is_argument = profile is not None
        self._name = profile or environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
        self._section, self._services = _read_profile(self._name, environ)

    @property
    def region(self) -> str | None:
        """AWS_REGION, AWS_DEFAULT_REGION, or the profile's."""
        return self._text("region", "AWS_REGION", "AWS_DEFAULT_REGION")

    @property
    def ca_bundle(self) -> str | None:
        """AWS_CA_BUNDLE, or the profile's."""
        return self._text("ca_bundle", "AWS_CA_BUNDLE")

    @property
    def output(self) -> str | None:
        """AWS_DEFAULT_OUTPUT, or the profile's."""
        return self._text("output", "AWS_DEFAULT_OUTPUT")

    @property
    def cli_binary_format(self) -> str | None:
        """The profile's."""
        return self._text("cli_binary_format")

    @property
    def endpoint_url(self) -> str | None:
        """AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL, or the profile's."""
        if self._boolean("ignore_configured_endpoint_urls", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
            return None
        for variable in ("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"):
            if url := self._environ.get(variable):
                return url
        kms = self._services.get("kms")
        url = kms.get("endpoint_url") if isinstance(kms, dict) else None
        return url or self._text("endpoint_url")

    @property
    def fips(self) -> bool:
        """Whether FIPS endpoints are wanted."""
        return self._boolean("use_fips_endpoint", "AWS_USE_FIPS_ENDPOINT")

    @property
    def dual_stack(self) -> bool:
        """Whether endpoints that have IPv6 addresses are wanted."""
        return self._boolean("use_dualstack_endpoint", "AWS_USE_DUALSTACK_ENDPOINT")

    @property
    def max_attempts(self) -> int | None:
        """Attempts of one call, the first included; None if nothing says."""
        mode = self._find("retry_mode", "AWS_RETRY_MODE")
        if mode is not None and mode[0] != _RETRY_MODE:
            raise ConfigurationError(
                f"{mode[1]} is {mode[0]!r}, which is not implemented here",
                hint=f"unset it, or set it to {_RETRY_MODE}",
            )
        found = self._find("max_attempts", "AWS_MAX_ATTEMPTS")
        if found is None:
            return None
        value, where = found
        attempts = whole_number(value, 1, MOST_ATTEMPTS)
        if attempts is None:
            raise ConfigurationError(
                f"{where} is {value!r}", hint=f"a whole number, 1 to {MOST_ATTEMPTS}"
            )
        return attempts

    def credentials(self) -> Credentials | None:
        """Return the profile's keys if they are to be used.

        Keys of a profile that an argument names come before AWS_ACCESS_KEY_ID; those of a profile
        that a variable names come after it. Keys of the profile ``default`` are not used unless
        somebody names it.

        Raises:
            CredentialsError: the keys are incomplete, or come from a source that is not followed.
        """
        if self._name is None:
            return None
        if not self._is_argument and self._environ.get("AWS_ACCESS_KEY_ID"):
            return None
        access_key = self._section.get("aws_access_key_id")
        secret_key = self._section.get("aws_secret_access_key")
        if access_key and secret_key:
            return Credentials(access_key, secret_key, self._section.get("aws_session_token"))
        if access_key or secret_key:
            raise CredentialsError(
                f"the profile {self._name!r} has half of its keys",
                hint="aws_access_key_id and aws_secret_access_key go together",
            )
        for key in sorted(self._section):
            if key in _NOT_FOLLOWED or key.startswith(_NOT_FOLLOWED_PREFIX):
                raise CredentialsError(
                    f"the profile {self._name!r} gets its keys by {key}: not followed here",
                    hint="roles, SSO and credential programs need what an enclave does not have: "
                    "use the parent's credential service, or static keys",
                )
        return None

    def _find(self, key: str, *variables: str) -> tuple[str, str] | None:
        """Return the value and where it was found."""
        for variable in variables:
            if value := self._environ.get(variable):
                return value, variable
        value = self._section.get(key)
        if not value or not isinstance(value, str):
            return None
        return value, f"{key} of the profile {self._name or 'default'}"

    def _text(self, key: str, *variables: str) -> str | None:
        found = self._find(key, *variables)
        return found[0] if found else None

    def _boolean(self, key: str, variable: str) -> bool:
        """Read ``true`` or ``false``; AWS's tools take everything else for false, in silence."""
        found = self._find(key, variable)
        if found is None:
            return False
        value, where = found
        if value.lower() not in ("true", "false"):
            raise ConfigurationError(f"{where} is {value!r}", hint="write true or false")
        return value.lower() == "true"


def _read_profile(
    name: str | None, environ: Mapping[str, str]
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return the profile's settings, and those of the services section that it names."""
    config = _sections("config", environ.get("AWS_CONFIG_FILE"), environ)
    keys = _sections("credentials", environ.get("AWS_SHARED_CREDENTIALS_FILE"), environ)
    wanted = name or "default"
    titles = (f"profile {wanted}", "default") if wanted == "default" else (f"profile {wanted}",)
    found = [config[title] for title in titles if title in config]
    found += [keys[wanted]] if wanted in keys else []
    if name is not None and not found:
        raise ConfigurationError(
            f"there is no profile {name!r}",
            hint="an enclave has no ~/.aws but what its image brings; without --profile and "
            "AWS_PROFILE the agent uses the credentials it is given",
        )
    section: dict[str, Any] = {}
    for each in found:
        section |= each
    return section, config.get(f"services {section.get('services')}", {})


def _sections(name: str, given: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """Read one of the two files; a file that does not exist has no sections."""
    home = environ.get("HOME")
    if given is None and home is None:
        return {}
    path = given or f"{home}/.aws/{name}"
    if path.startswith("~/") and home is not None:
        path = f"{home}{path[1:]}"
    try:
        if not Path(path).exists():
            return {}
        # An enclave seldom has such a file, and botocore takes a while to load.
        from botocore.configloader import raw_config_parse  # noqa: PLC0415
        from botocore.exceptions import ConfigNotFound, ConfigParseError  # noqa: PLC0415
    except (OSError, ValueError) as e:
        raise _unusable(path, getattr(e, "strerror", None) or str(e)) from e
    try:
        sections: dict[str, Any] = raw_config_parse(path)
    except ConfigNotFound:
        return {}
    except (ConfigParseError, OSError, ValueError) as e:
        raise _unusable(path, "it is not an AWS CLI file") from e
    return sections


def _unusable(path: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"cannot use {path!r}: {reason}",
        hint="AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name files in the form of the AWS "
        "CLI's ~/.aws/config and ~/.aws/credentials",
    )
