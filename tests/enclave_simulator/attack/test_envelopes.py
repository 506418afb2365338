"""Envelopes of attacks: in KMS's own form, and wrong in one thing."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from asn1crypto import cms
from cryptography.hazmat.primitives.asymmetric import rsa

from enclave.errors import DecodingError, DecryptionError
from enclave.recipient.cms import open_enveloped_data
from enclave_simulator.attack import envelopes
from enclave_simulator.attack.envelopes import (
    cut,
    deep,
    envelope,
    in_the_clear,
    key_identifier,
)
from enclave_simulator.kms.cms import Enveloper

if TYPE_CHECKING:
    from enclave_simulator.attack.envelopes import ContentCipher

SECRET = bytes(range(32))
KEY = rsa.generate_private_key(65537, 2048)
PUBLIC = KEY.public_key()
SAMPLES = 12


def opened(text: str) -> bytes:
    return open_enveloped_data(base64.b64decode(text), KEY, key_identifier(PUBLIC))


def test_an_envelope_has_the_form_of_kms() -> None:
    """A reader that takes this form alone must come to what is attacked."""
    honest = [Enveloper(PUBLIC).encrypt(SECRET, "constructed") for _ in range(SAMPLES)]
    forged = base64.b64decode(envelope(SECRET, PUBLIC))
    assert len(forged) == len(honest[0])
    fixed = [at for at, values in enumerate(zip(*honest, strict=True)) if len(set(values)) == 1]
    assert len(fixed) > 150  # all but key, initialisation vector and content
    assert [forged[at] for at in fixed] == [honest[0][at] for at in fixed]
    assert opened(envelope(SECRET, PUBLIC)) == SECRET


@pytest.mark.parametrize(
    ("cipher", "why"),
    [
        (envelopes.SHORT_KEY, DecryptionError),
        (envelopes.SHORT_IV, DecodingError),
        (envelopes.RAGGED, DecodingError),
        (envelopes.UNPADDED, DecryptionError),
        (envelopes.OVERPADDED, DecryptionError),
        (envelopes.AES_128_CBC, DecodingError),
        (envelopes.AES_256_GCM, DecodingError),
    ],
)
def test_one_thing_in_it_is_wrong(cipher: ContentCipher, why: type[Exception]) -> None:
    with pytest.raises(why):
        opened(envelope(SECRET, PUBLIC, content_cipher=cipher))


def test_one_that_encrypts_nothing_is_data_in_the_form_of_kms() -> None:
    data = base64.b64decode(in_the_clear(SECRET))
    assert data[:2] == Enveloper(PUBLIC).encrypt(SECRET, "constructed")[:2]
    whole = cms.ContentInfo.load(data)
    assert (whole["content_type"].native, whole["content"].native) == ("data", SECRET)
    with pytest.raises(DecodingError, match="contentType"):
        opened(in_the_clear(SECRET))


def test_one_that_ends_within_a_length_ends_after_its_first_byte() -> None:
    whole = envelope(SECRET, PUBLIC)
    ended = base64.b64decode(cut(whole))
    assert base64.b64decode(whole).startswith(ended)
    assert ended.endswith(b"\x82")
    with pytest.raises(DecodingError):
        opened(cut(whole))


def test_a_deep_one_is_refused_for_its_size() -> None:
    with pytest.raises(DecodingError):
        opened(deep())
