"""What is wrong with a source, in words that name it: people's mistakes are no internal error.

The values here are those that people and programs write; whatever the library makes of them.
"""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from parent.credentials.failures import translated
from parent.credentials.model import CredentialsError
from parent.credentials.source import load

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret/key"
ROLE = "role_arn = arn:aws:iam::111122223333:role/r\n"
WHOLE = {"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": SECRET}


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without credentials."""
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
        "AWS_CREDENTIAL_EXPIRATION", "AWS_DEFAULT_PROFILE", "AWS_ROLE_ARN",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ENDPOINT_URL_STS", "AWS_DEFAULT_REGION", "AWS_REGION",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("BOTO_CONFIG", str(tmp_path / "boto"))


def failure(profile: str | None = None) -> CredentialsError:
    with pytest.raises(CredentialsError) as caught:
        load(profile, now=datetime.now(UTC))
    assert SECRET not in str(caught.value) + caught.value.hint
    assert caught.value.kind != "internal"
    return caught.value


@pytest.mark.parametrize(
    ("printed", "kind"),
    [
        ("hello", "malformed"),
        ("null", "malformed"),
        ("[]", "malformed"),
        ("\\377", "malformed"),
        ("{}", "no-response"),
        (json.dumps({"Version": 2}), "no-response"),
        (json.dumps({"Version": 1}), "no-response"),
        (json.dumps({**WHOLE, "AccessKeyId": 5}), "malformed"),
        (json.dumps({**WHOLE, "Expiration": "soon"}), "malformed"),
        (json.dumps({**WHOLE, "Expiration": ""}), "malformed"),
        (json.dumps({**WHOLE, "Expiration": 1790000000}), "malformed"),
        (json.dumps({**WHOLE, "Expiration": "2101-01-01T00:00:00"}), "malformed"),
        (json.dumps({**WHOLE, "Expiration": "2001-01-01T00:00:00Z"}), "expired"),
    ],
)
def test_what_a_program_prints(printed: str, kind: str, tmp_path: Path) -> None:
    program = f"printf %b {shlex.quote(printed)}"
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    error = failure()
    assert error.kind == kind
    assert "custom-process" in str(error)


@pytest.mark.parametrize("program", ["", "false", "/no/such", "/etc/passwd", '"unclosed'])
def test_programs_that_print_nothing(program: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {program}\n")
    assert "run the profile's credential_process by hand" in failure().hint


BASE = "[profile base]\naws_access_key_id = AKIABASE\naws_secret_access_key = base\n"


@pytest.mark.parametrize(
    ("config", "kind", "reason"),
    [
        (f"[default]\n{ROLE}source_profile = base\nregion = eu central\n{BASE}", "configuration",
         "'eu central'"),
        (f"[default]\nrole_arn = r\nsource_profile = base\nregion = eu-central-1\n{BASE}",
         "malformed", "the source assume-role"),
        (f"[default]\n{ROLE}source_profile = base\nendpoint_url = nonsense\n{BASE}",
         "configuration", "nonsense"),
        (f"[default]\n{ROLE}credential_source = Nowhere\n", "configuration", "Nowhere"),
        (f"[default]\n{ROLE}", "half-written", "source_profile or credential_source"),
        ("[default\n", "configuration", "Unable to parse"),
    ],
)  # fmt: skip
def test_profiles(config: str, kind: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(config)
    error = failure()
    assert (error.kind, reason in str(error)) == (kind, True)
    assert error.hint


@pytest.mark.parametrize(
    ("variables", "kind", "hint"),
    [
        ({"AWS_PROFILE": ""}, "configuration", "unset it"),
        ({"AWS_PROFILE": "nobody"}, "configuration", "~/.aws/config"),
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, "half-written", "or none"),
        ({"AWS_ACCESS_KEY_ID": "ASIA", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": "t",
          "AWS_CREDENTIAL_EXPIRATION": "soon"}, "malformed", "AWS_CREDENTIAL_EXPIRATION"),
        ({"AWS_ACCESS_KEY_ID": "ASIA", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": "t",
          "AWS_CREDENTIAL_EXPIRATION": "2101-01-01T00:00:00"}, "malformed",
         "AWS_CREDENTIAL_EXPIRATION"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/x"}, "malformed",
         "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "nonsense"}, "malformed",
         "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/",
          "AWS_CONTAINER_AUTHORIZATION_TOKEN": f"{SECRET}\nx"}, "malformed", "one line"),
        ({"AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/r", "AWS_REGION": "eu-central-1",
          "AWS_WEB_IDENTITY_TOKEN_FILE": "/dev/null"}, "malformed", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/dev/null"}, "configuration", "AWS_ROLE_ARN"),
    ],
)  # fmt: skip
def test_variables(
    variables: dict[str, str], kind: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    error = failure()
    assert error.kind == kind
    assert hint in error.hint


@pytest.mark.parametrize(
    ("operation", "code", "hint"),
    [
        ("AssumeRole", "AccessDenied", "trust policy"),
        ("AssumeRole", "ExpiredToken", "has expired"),
        ("AssumeRole", "SignatureDoesNotMatch", "the clock is wrong"),
        ("AssumeRoleWithWebIdentity", "InvalidIdentityToken", "OIDC provider"),
        ("AssumeRole", "Throttling", ""),
        ("GetRoleCredentials", "AccessDenied", ""),
    ],
)
def test_the_hint_is_that_of_the_code(operation: str, code: str, hint: str) -> None:
    """A trust policy is not the cause of what has expired."""
    told: Any = {"Error": {"Code": code, "Message": "no"}}
    error = translated(ClientError(told, operation), "assume-role")
    assert (error.kind, hint in error.hint, bool(error.hint)) == ("refused", True, bool(hint))
