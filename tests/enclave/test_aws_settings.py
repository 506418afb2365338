"""AWS's variables and profile files, beside botocore where it does the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.session import Session

from enclave.aws_settings import AwsSettings
from enclave.errors import ConfigurationError, CredentialsError

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[default]
region = eu-west-1
output = text
aws_access_key_id = DEFAULT
aws_secret_access_key = secret
[profile full]
region = eu-west-2
output = yaml
use_fips_endpoint = true
use_dualstack_endpoint = True
max_attempts = 7
retry_mode = standard
ca_bundle = /ca.pem
endpoint_url = https://all.example
services = mine
cli_binary_format = raw-in-base64-out
[services mine]
kms =
  endpoint_url = https://kms.example
[profile plain]
endpoint_url = https://all.example
[profile role]
role_arn = arn:aws:iam::111122223333:role/x
region = eu-west-3
[profile sso]
sso_session = x
[profile half]
aws_access_key_id = HALF
[profile bad]
use_fips_endpoint = maybe
max_attempts = many
retry_mode = adaptive
"""
KEYS = """
[full]
aws_access_key_id = FULL
aws_secret_access_key = hush
aws_session_token = token
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIG)
    (tmp_path / ".aws" / "credentials").write_text(KEYS)
    return {"HOME": str(tmp_path)}


def test_nothing_is_set() -> None:
    settings = AwsSettings({})
    values = [settings.region, settings.output, settings.endpoint_url, settings.ca_bundle]
    assert [*values, settings.max_attempts, settings.cli_binary_format] == [None] * 6
    assert settings.credentials() is None
    assert (settings.fips, settings.dual_stack) == (False, False)


def test_a_profile_has_it_all(environ: dict[str, str]) -> None:
    settings = AwsSettings(environ, profile="full")
    assert (settings.region, settings.output) == ("eu-west-2", "yaml")
    assert (settings.fips, settings.dual_stack, settings.max_attempts) == (True, True, 7)
    assert (settings.ca_bundle, settings.endpoint_url) == ("/ca.pem", "https://kms.example")
    assert settings.cli_binary_format == "raw-in-base64-out"
    credentials = settings.credentials()
    assert credentials is not None
    assert "hush" not in repr(credentials)
    assert "FULL" in repr(vars(settings)["_section"])


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({}, "eu-west-1"),
        ({"AWS_PROFILE": "full"}, "eu-west-2"),
        ({"AWS_DEFAULT_PROFILE": "full"}, "eu-west-2"),
        ({"AWS_PROFILE": "role", "AWS_DEFAULT_PROFILE": "full"}, "eu-west-3"),
        ({"AWS_PROFILE": "full", "AWS_DEFAULT_REGION": "us-east-2"}, "us-east-2"),
        ({"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-2"}, "us-east-1"),
    ],
)
def test_variables_before_the_profile(
    environ: dict[str, str], variables: dict[str, str], region: str
) -> None:
    assert AwsSettings({**environ, **variables}).region == region


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({"AWS_PROFILE": "plain"}, "https://all.example"),
        ({"AWS_PROFILE": "full"}, "https://kms.example"),
        ({"AWS_PROFILE": "full", "AWS_ENDPOINT_URL": "https://x"}, "https://x"),
        ({"AWS_ENDPOINT_URL_KMS": "https://y", "AWS_ENDPOINT_URL": "https://x"}, "https://y"),
        ({"AWS_PROFILE": "full", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None),
    ],
)
def test_endpoint_urls_are_found_as_botocore_finds_them(
    environ: dict[str, str],
    variables: dict[str, str],
    url: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert AwsSettings({**environ, **variables}).endpoint_url == url
    for name, value in {**environ, **variables}.items():
        monkeypatch.setenv(name, value)
    client = Session().create_client(
        "kms", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    if url is None:
        assert "amazonaws" in client.meta.endpoint_url or "api.aws" in client.meta.endpoint_url
    else:
        assert client.meta.endpoint_url == url
    client.close()


@pytest.mark.parametrize(
    ("variables", "profile", "key"),
    [
        ({}, None, None),  # the profile `default` counts only if somebody names it
        ({}, "default", "DEFAULT"),
        ({"AWS_PROFILE": "full"}, None, "FULL"),
        ({"AWS_PROFILE": "full", "AWS_ACCESS_KEY_ID": "ENV"}, None, None),
        ({"AWS_ACCESS_KEY_ID": "ENV"}, "full", "FULL"),
        ({"AWS_PROFILE": "plain"}, None, None),
    ],
)
def test_whose_keys_are_used(
    environ: dict[str, str], variables: dict[str, str], profile: str | None, key: str | None
) -> None:
    credentials = AwsSettings({**environ, **variables}, profile=profile).credentials()
    assert (credentials and next(iter(fields(credentials)))) == key


def fields(credentials: Any) -> list[str]:
    return [getattr(credentials, name) for name in credentials.__dataclass_fields__]


@pytest.mark.parametrize(
    ("profile", "named"), [("role", "role_arn"), ("sso", "sso_session"), ("half", "half")]
)
def test_sources_of_keys_that_are_not_followed_are_named(
    environ: dict[str, str], profile: str, named: str
) -> None:
    with pytest.raises(CredentialsError, match=named) as caught:
        AwsSettings(environ, profile=profile).credentials()
    assert caught.value.hint


@pytest.mark.parametrize("variables", [{"AWS_PROFILE": "none"}, {"AWS_DEFAULT_PROFILE": "none"}])
def test_a_profile_that_does_not_exist(environ: dict[str, str], variables: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="there is no profile 'none'"):
        AwsSettings({**environ, **variables})


@pytest.mark.parametrize(
    ("variables", "attribute", "message"),
    [
        ({"AWS_USE_FIPS_ENDPOINT": "1"}, "fips", "AWS_USE_FIPS_ENDPOINT is '1'"),
        ({"AWS_USE_DUALSTACK_ENDPOINT": "y"}, "dual_stack", "AWS_USE_DUALSTACK_ENDPOINT is 'y'"),
        ({"AWS_MAX_ATTEMPTS": "0"}, "max_attempts", "AWS_MAX_ATTEMPTS is '0'"),
        ({"AWS_MAX_ATTEMPTS": "1.5"}, "max_attempts", "AWS_MAX_ATTEMPTS is '1.5'"),
        ({"AWS_MAX_ATTEMPTS": "9" * 5000}, "max_attempts", "AWS_MAX_ATTEMPTS is '9"),
        ({"AWS_MAX_ATTEMPTS": "000000005" + "0" * 9}, "max_attempts", "AWS_MAX_ATTEMPTS is '0"),
        ({"AWS_RETRY_MODE": "legacy"}, "max_attempts", "AWS_RETRY_MODE is 'legacy'"),
        ({"AWS_RETRY_MODE": "adaptive"}, "max_attempts", "AWS_RETRY_MODE is 'adaptive'"),
        ({"AWS_PROFILE": "bad"}, "fips", "use_fips_endpoint of the profile bad is 'maybe'"),
        ({"AWS_PROFILE": "bad"}, "max_attempts", "retry_mode of the profile bad is 'adaptive'"),
    ],
)
def test_values_that_cannot_be_honoured_are_named(
    environ: dict[str, str], variables: dict[str, str], attribute: str, message: str
) -> None:
    settings = AwsSettings({**environ, **variables})
    with pytest.raises(ConfigurationError, match=message) as caught:
        getattr(settings, attribute)
    assert caught.value.hint


@pytest.mark.parametrize("value", ["true", "True", "TRUE", "false", "False"])
def test_booleans_are_botocores(value: str) -> None:
    settings = AwsSettings({"AWS_USE_FIPS_ENDPOINT": value})
    assert settings.fips == (value.lower() == "true")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"no section", b"[a]\nx = 1\n[a]\ny = 2\n[", b"\0"]
)
def test_malformed_files_are_errors_that_name_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="config'") as caught:
        AwsSettings({"AWS_CONFIG_FILE": str(path)})
    assert caught.value.hint


@pytest.mark.parametrize("path", ["/nonexistent", "", "~/none", "a\0b", "x" * 5000])
def test_files_that_are_not_there(path: str) -> None:
    try:
        settings = AwsSettings({"AWS_CONFIG_FILE": path, "AWS_SHARED_CREDENTIALS_FILE": path})
    except ConfigurationError:
        return
    assert settings.region is None
