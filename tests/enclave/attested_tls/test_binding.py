"""What user_data says, and which nonces are taken."""

from __future__ import annotations

import hashlib

import pytest

from enclave.attested_tls.binding import (
    expected_user_data,
    key_user_data,
    parse_nonce,
    session_user_data,
)
from enclave.errors import ConfigurationError


def test_the_formats_are_as_documented() -> None:
    """Other implementations build on these bytes."""
    key, session = hashlib.sha256(b"key").digest(), hashlib.sha256(b"finished").digest()
    assert key_user_data(b"key") == b"nitro-attested-tls/1 key:" + key
    expected = b"nitro-attested-tls/1 session:" + key + session
    assert session_user_data(b"key", b"finished") == expected
    assert len(expected) < 512  # the smaller of AWS's two limits


def test_what_is_expected_follows_the_form_and_never_the_digests() -> None:
    ours = key_user_data(b"key")
    for got in (None, b"", b"anything", key_user_data(b"other")):
        assert expected_user_data(got, b"key", b"finished") == ours
    session = session_user_data(b"key", b"finished")
    other = session_user_data(b"other", b"other")
    assert expected_user_data(other, b"key", b"finished") == session != other


def test_a_session_is_never_taken_for_a_key_where_finished_is_unknown() -> None:
    for unknown in (None, b""):
        with pytest.raises(ConfigurationError, match="Finished"):
            expected_user_data(session_user_data(b"key", b"f"), b"key", unknown)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_nonces_of_16_to_64_bytes(size: int) -> None:
    assert parse_nonce("aB" * size) == bytes([0xAB]) * size


@pytest.mark.parametrize(
    "text",
    [
        "", "ab" * 15, "ab" * 65, "a" * 33, "zz" * 16, "ab" * 16 + "\n", "+" + "a" * 31,
        "\u0660" * 32, "0x" + "ab" * 16, "ab " * 11,
    ],
)  # fmt: skip
def test_other_nonces_are_rejected(text: str) -> None:
    assert parse_nonce(text) is None
