"""What counts as credentials, and which provider a program gets: the pure parts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.credentials import (
    Credentials,
    EnvironmentCredentials,
    ParentCredentials,
    StaticCredentials,
    choose_provider,
)
from enclave.credentials.document import parse_credentials, refusal
from enclave.errors import ConfigurationError, CredentialsError
from tests.doubles import ManualClock

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WHOLE = {
    "AccessKeyId": "ASIA0123",
    "SecretAccessKey": "hush",
    "Token": "secret-token",
    "Expiration": "2026-01-02T09:04:05Z",
}
ENDS = datetime(2026, 1, 2, 9, 4, 5, tzinfo=UTC)


def changed(**changes: Any) -> bytes:
    values = {**WHOLE, **changes}
    return json.dumps({name: value for name, value in values.items() if value != "-"}).encode()


# The parent's document.


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (changed(), Credentials("ASIA0123", "hush", "secret-token", ENDS)),
        (
            changed(Code="Success", RoleArn="arn", LastUpdated=7),
            Credentials("ASIA0123", "hush", "secret-token", ENDS),
        ),
        (
            changed(Expiration="2026-01-02T10:04:05.000000000+01:00"),
            Credentials("ASIA0123", "hush", "secret-token", ENDS),
        ),
        # An IAM user's keys have neither token nor end.
        (changed(AccessKeyId="AK", Token="-", Expiration="-"), Credentials("AK", "hush")),
        (changed(AccessKeyId="AK", Token=None, Expiration=None), Credentials("AK", "hush")),
    ],
)
def test_credentials_are_read(body: bytes, expected: Credentials) -> None:
    assert parse_credentials(body, now=NOW) == expected


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"[" * 60_000, "not a JSON object"),
        (b"\x1f\x8b\x08\x00", "not a JSON object"),
        (b"{}", "no AWS credentials"),
        (changed(SecretAccessKey="-"), "SecretAccessKey is not set"),
        (changed(AccessKeyId=""), "AccessKeyId is not set"),
        (changed(Token="-"), "Token is not set"),
        (changed(Expiration="-"), "no Expiration"),
        (changed(AccessKeyId=7), "AccessKeyId of the parent's credentials is not text"),
        (changed(Token=["secret-token"]), "Token of the parent's credentials is not text"),
        (changed(Token="a\r\nX-Evil: 1"), "Token is not what AWS gives out"),
        (changed(SecretAccessKey="hush\x00"), "SecretAccessKey is not what AWS gives out"),
        (changed(AccessKeyId="ÀSIA"), "AccessKeyId is not what AWS gives out"),
        (changed(Token="x" * 16_385), "Token is not what AWS gives out"),
        (changed(Expiration="2026-01-02T03:04:05Z"), "expired at 2026-01-02T03:04:05Z"),
        (changed(Expiration="0001-01-01T00:00:00+14:00"), "Expiration is not a time"),
        (changed(Expiration="9999-12-31T23:59:59-14:00"), "Expiration is not a time"),
        (changed(Expiration="2026-13-02T03:04:05Z"), "Expiration is not a time"),
        (changed(Expiration="2026-01-02T09:04:05"), "Expiration is not a time"),
        (changed(Expiration="tomorrow"), "Expiration is not a time"),
        (changed(Expiration=1767337445), "Expiration of the parent's credentials is not text"),
    ],
)
def test_what_is_no_credentials_is_one_clear_error(body: bytes, text: str) -> None:
    with pytest.raises(CredentialsError, match=text) as caught:
        parse_credentials(body, now=NOW)
    assert caught.value.hint
    assert "hush" not in f"{caught.value} {caught.value.hint}"
    assert "secret-token" not in f"{caught.value} {caught.value.hint}"


@given(
    st.binary()
    | st.dictionaries(
        st.sampled_from([*WHOLE, "x"]), st.none() | st.integers() | st.text() | st.just("ASIA")
    ).map(lambda values: json.dumps(values).encode())
)
def test_whatever_the_parent_answers(body: bytes) -> None:
    try:
        credentials = parse_credentials(body, now=NOW)
    except CredentialsError:
        return
    assert (credentials.access_key_id + credentials.secret_access_key).isprintable()
    assert credentials.expiration is None or credentials.expiration > NOW


@pytest.mark.parametrize(
    ("status", "transient"), [(302, False), (403, False), (404, False), (429, True), (503, True)]
)
def test_a_refusal_says_why_in_its_own_words(status: int, transient: bool) -> None:
    error = refusal(status, json.dumps({"message": "no role\r\nroot:"}).encode())
    assert str(error) == (
        f"the parent's credential service sent HTTP status {status}: 'no role\\r\\nroot:'"
    )
    assert error.transient is transient
    assert len(str(refusal(status, json.dumps({"message": "\U0001f600" * 9999}).encode()))) < 3000


# The environment.

ENVIRON = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "hush"}


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({}, "no AWS credentials"),
        ({"AWS_ACCESS_KEY_ID": "AKID"}, "AWS_SECRET_ACCESS_KEY is not set"),
        ({"AWS_SECRET_ACCESS_KEY": "hush"}, "AWS_ACCESS_KEY_ID is not set"),
        ({"AWS_SESSION_TOKEN": "hush"}, "AWS_ACCESS_KEY_ID is not set"),
        ({**ENVIRON, "AWS_ACCESS_KEY_ID": "ASIA0123"}, "AWS_SESSION_TOKEN is not set"),
        ({**ENVIRON, "AWS_SECRET_ACCESS_KEY": "hush\n"}, "AWS_SECRET_ACCESS_KEY is not what"),
        ({**ENVIRON, "AWS_SECRET_ACCESS_KEY": " hush"}, "AWS_SECRET_ACCESS_KEY is not what"),
        ({**ENVIRON, "AWS_SECRET_ACCESS_KEY": '"hush"'}, "AWS_SECRET_ACCESS_KEY is not what"),
        ({**ENVIRON, "AWS_SESSION_TOKEN": "'hush'"}, "AWS_SESSION_TOKEN is not what"),
        ({**ENVIRON, "AWS_ACCESS_KEY_ID": "AK ID"}, "AWS_ACCESS_KEY_ID is not what"),
        ({**ENVIRON, "AWS_ACCESS_KEY_ID": "A\r\nX: y"}, "AWS_ACCESS_KEY_ID is not what"),
        ({**ENVIRON, "AWS_ACCESS_KEY_ID": "A" * 99_999}, "AWS_ACCESS_KEY_ID is not what"),
        ({**ENVIRON, "AWS_CREDENTIAL_EXPIRATION": "2026-01-02T03:04:04+00:00"}, "expired at 2026"),
        ({**ENVIRON, "AWS_CREDENTIAL_EXPIRATION": "soon"}, "AWS_CREDENTIAL_EXPIRATION is not a"),
    ],
)
def test_an_environment_without_whole_credentials(environ: dict[str, str], text: str) -> None:
    with pytest.raises(CredentialsError, match=text) as caught:
        EnvironmentCredentials(environ, clock=ManualClock(NOW)).credentials()
    assert caught.value.hint
    assert "hush" not in f"{caught.value} {caught.value.hint}"


def test_credentials_hide_their_secrets() -> None:
    credentials = EnvironmentCredentials({**ENVIRON, "AWS_SESSION_TOKEN": "tok3n"}).credentials()
    assert credentials == Credentials("AKID", "hush", "tok3n")
    assert "hush" not in repr(credentials)
    assert "tok3n" not in repr(credentials)


def test_the_environment_is_read_anew() -> None:
    environ = dict(ENVIRON)
    provider = EnvironmentCredentials(environ)
    provider.credentials()
    environ["AWS_ACCESS_KEY_ID"] = "AKID2"
    assert provider.credentials().access_key_id == "AKID2"


# Which provider.


@pytest.mark.parametrize(
    ("asked", "environ", "provider"),
    [
        ("auto", ENVIRON, EnvironmentCredentials),
        ("auto", {"AWS_SESSION_TOKEN": "only"}, EnvironmentCredentials),
        ("auto", {"AWS_ACCESS_KEY_ID": "", "AWS_REGION": "x"}, ParentCredentials),
        ("auto", {}, ParentCredentials),
        ("environment", {}, EnvironmentCredentials),
        ("vsock://3:9", ENVIRON, ParentCredentials),
        (Credentials("a", "b"), ENVIRON, StaticCredentials),
    ],
)
def test_the_word_decides(asked: Any, environ: dict[str, str], provider: type) -> None:
    assert type(choose_provider(asked, environ=environ)) is provider


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("tcp://127.0.0.1:0", "port 0 stands for any free port"),
        ("vsock://any:8002", "`any` is for listening"),
        ("vsock://3", "'' is not a number"),
    ],
)
def test_an_address_that_is_wrong_is_called_so(word: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        choose_provider(word, environ=ENVIRON)


def test_a_provider_of_ones_own_is_taken_as_it_is() -> None:
    own = StaticCredentials(Credentials("a", "b"))
    assert choose_provider(own, environ=ENVIRON) is own


@pytest.mark.parametrize("word", ["", "parent", "Environment", "http://169.254.170.2/"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(ConfigurationError, match="no such source of credentials"):
        choose_provider(word, environ={})
