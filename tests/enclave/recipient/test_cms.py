"""CMS EnvelopedData: what is parsed, and every malformed input that is rejected."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from asn1crypto import cms as asn1
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from hypothesis import example, given
from hypothesis import strategies as st

from enclave.errors import DecodingError, DecryptionError
from enclave.recipient import cms
from enclave.recipient.cms import (
    MAX_ENVELOPE,
    EnvelopedData,
    open_enveloped_data,
    parse_enveloped_data,
)
from tests.enclave.recipient.envelopes import Envelope, key_identifier, private_key, rebuilt
from tests.vectors import vector
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path


def opened(der: bytes) -> bytes:
    key = private_key()
    return open_enveloped_data(der, key, key_identifier(key))


@pytest.mark.parametrize("indefinite", [True, False])
@pytest.mark.parametrize("pieces", [None, 1, 3])
def test_every_form_opens(indefinite: bool, pieces: int | None) -> None:
    envelope = Envelope(plaintext=bytes(range(200)))
    assert opened(rebuilt(envelope, indefinite=indefinite, pieces=pieces)) == bytes(range(200))


@pytest.mark.parametrize("form", [None, 1])
def test_openssl_opens_what_we_open(form: int | None, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl program: apt-get install openssl")
    der = rebuilt(Envelope(), indefinite=True, pieces=form)
    (tmp_path / "in").write_bytes(der)
    (tmp_path / "key").write_bytes(
        private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    command = [openssl, "cms", "-decrypt", "-inform", "DER", "-in", "in", "-inkey", "key"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, check=False, timeout=TEST_TIMEOUT
    )
    assert done.stdout == Envelope().plaintext == opened(der), done.stderr


@pytest.mark.parametrize(
    ("name", "key"),
    [("edgebit", "edgebit-key.pkcs8.der"), ("ethsigner", "ethsigner-key.pkcs1.der")],
)
def test_real_kms_answers_open(name: str, key: str) -> None:
    private = load_der_private_key(vector(f"cms/{key}"), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    plaintext = open_enveloped_data(vector(f"cms/{name}-cms.ber"), private, key_identifier(private))
    assert plaintext == vector(f"cms/{name}-plaintext.bin")


@pytest.mark.parametrize("suffix", ["", "_w_ctx"])
def test_real_kms_answers_of_the_c_sdk_parse(suffix: str) -> None:
    envelope = parse_enveloped_data(vector(f"cms/sdkc-input_ber{suffix}.bin"))
    assert envelope.encrypted_key == vector(f"cms/sdkc-encrypted_key_out{suffix}.bin")
    assert envelope.iv == vector(f"cms/sdkc-iv_out{suffix}.bin")
    assert envelope.ciphertext == vector(f"cms/sdkc-ciphertext_out{suffix}.bin")


MALFORMED: dict[str, tuple[dict[str, object], str]] = {
    "another content type": ({"content_type": "signed_data"}, "contentType"),
    "another inner type": ({"inner_type": "digested_data"}, "type of the encrypted content"),
    "version 0": ({"version": "v0"}, "EnvelopedData version"),
    "recipient version 0": ({"recipient_version": "v0"}, "KeyTransRecipientInfo version"),
    "two recipients": ({"recipients": 2}, "recipientInfos goes on"),
    "no recipient": ({"recipients": 0}, "KeyTransRecipientInfo is missing"),
    "PKCS 1 v1.5": ({"transport": "rsaes_pkcs1v15"}, "keyEncryptionAlgorithm"),
    "OAEP with SHA-1": ({"oaep_hash": "sha1"}, "OAEP hashAlgorithm"),
    "OAEP with SHA-512": ({"oaep_hash": "sha512"}, "OAEP hashAlgorithm"),
    "MGF1 with SHA-1": ({"mgf_hash": "sha1"}, "OAEP maskGenAlgorithm"),
    "MGF1 with SHA-384": ({"mgf_hash": "sha384"}, "MGF1 hash"),
    "an OAEP label": ({"label": b"x"}, "RSAES-OAEP-params goes on"),
    "AES-128": ({"cipher": "aes128_cbc"}, "contentEncryptionAlgorithm"),
    "a short IV": ({"iv": b"8 bytes."}, "initialisation vector of 8"),
    "a long IV": ({"iv": b"7" * 17}, "initialisation vector of 17"),
    "a key identifier of SHA-1": ({"identifier": b"i" * 20}, "subjectKeyIdentifier of 20"),
    "half a block": ({"ciphertext": b"8 bytes."}, "encrypted content of 8"),
    "no content": ({"ciphertext": b""}, "encrypted content of 0"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_kms_never_sends_is_refused_by_name(case: str) -> None:
    changes, message = MALFORMED[case]
    with pytest.raises(DecodingError, match=message) as caught:
        opened(Envelope().but(**changes).der())
    assert caught.value.format == "CiphertextForRecipient"


@pytest.mark.parametrize(("which", "what"), [(0, "OAEP hashAlgorithm"), (1, "MGF1 hash")])
def test_what_is_wrong_with_a_hash_is_reported_by_its_name(which: int, what: str) -> None:
    der = bytearray(Envelope().der())
    at = -1
    for _ in range(which + 1):
        at = der.index(bytes.fromhex("0609608648016503040201"), at + 1)
    parameters = bytearray(der)
    parameters[at + 11] = 0x04  # in place of NULL
    with pytest.raises(DecodingError, match=f"malformed [A-Za-z]+: {what} goes on"):
        parse_enveloped_data(bytes(parameters))
    der[at - 2] = 0x31  # in place of SEQUENCE
    with pytest.raises(DecodingError, match=f"malformed [A-Za-z]+: {what} has tag 0x31"):
        parse_enveloped_data(bytes(der))


CLOSED: dict[str, dict[str, bytes]] = {
    "another recipient": {"identifier": b"3" * 32},
    "a content key of 16 bytes": {"content_key": b"k" * 16},
    "content that ends in no padding": {"ciphertext": b"\x11" * 32},
}


@pytest.mark.parametrize("case", CLOSED)
def test_what_does_not_open_says_only_that(case: str) -> None:
    with pytest.raises(DecryptionError) as caught:
        opened(Envelope().but(**CLOSED[case]).der())
    assert str(caught.value) == str(DecryptionError())
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("size", [16, 24])
def test_content_that_a_shorter_key_opens_is_refused(size: int) -> None:
    """Sound but for the length of its key: AES-256 is what the envelope says."""
    content_key, iv = b"k" * size, b"\x07" * 16
    encryptor = Cipher(algorithms.AES(content_key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(b"secret" + bytes([10]) * 10) + encryptor.finalize()
    with pytest.raises(DecryptionError):
        opened(Envelope(content_key=content_key, iv=iv, ciphertext=ciphertext).der())


@pytest.mark.parametrize("form", [None, 1])
def test_nothing_may_follow(form: int | None) -> None:
    der = rebuilt(Envelope(), indefinite=True, pieces=form)
    with pytest.raises(DecodingError, match="bytes follow"):
        opened(der + b"\0")


def test_too_long() -> None:
    with pytest.raises(DecodingError, match="6145 bytes, more than 6144"):
        opened(b"0" * 6145)
    with pytest.raises(DecodingError, match=r"contentType|ContentInfo"):
        opened(b"0" * 6144)
    assert MAX_ENVELOPE == 6144


@given(st.binary(max_size=700))
@example(b"\x30\x80" * 3000)
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\x30\x80\x06\x80")
def test_whatever_the_bytes_only_decoding_errors_leave(data: bytes) -> None:
    with pytest.raises(DecodingError):
        parse_enveloped_data(data)


@given(st.data())
def test_a_changed_envelope_fails_with_one_of_two_errors_or_opens(data: st.DataObject) -> None:
    """It may open: the IV and the content are not authenticated by CMS (TLS does that), and a BER
    length can be written in several ways.
    """
    pieces = data.draw(st.sampled_from([None, 1]))
    der = bytearray(rebuilt(Envelope(), indefinite=data.draw(st.booleans()), pieces=pieces))
    at = data.draw(st.integers(0, len(der) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "grow"])):
        case "flip":
            der[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del der[at : at + data.draw(st.integers(1, 8))]
        case _:
            der[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    try:
        plaintext = opened(bytes(der))
    except (DecodingError, DecryptionError):
        return
    # Padding is at least one byte: nothing was made up beyond what the envelope holds.
    assert len(plaintext) < len(parse_enveloped_data(bytes(der)).ciphertext)


@given(st.data())
def test_it_reads_no_more_than_asn1crypto(data: st.DataObject) -> None:
    """What we take, the independent reader takes too, and finds the same in it."""
    der = bytearray(
        rebuilt(Envelope(), indefinite=True, pieces=data.draw(st.sampled_from([None, 1])))
    )
    for _ in range(data.draw(st.integers(0, 2))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        ours = parse_enveloped_data(bytes(der))
    except DecodingError:
        return
    theirs = asn1.ContentInfo.load(bytes(der), strict=True)["content"]
    recipient = theirs["recipient_infos"][0].chosen
    encrypted = theirs["encrypted_content_info"]
    assert ours.key_identifier == recipient["rid"].chosen.native
    assert ours.encrypted_key == recipient["encrypted_key"].native
    assert ours.iv == encrypted["content_encryption_algorithm"]["parameters"].native
    assert ours.ciphertext == encrypted["encrypted_content"].native


@given(st.data())
def test_the_layout_that_is_kept_changes_no_outcome(data: st.DataObject) -> None:
    """An envelope parses as it would alone, whatever valid envelope came before it."""
    before = Envelope(plaintext=bytes(data.draw(st.sampled_from([16, 32, 1024])))).der()
    der = bytearray(Envelope(iv=bytes(range(16))).der())
    for _ in range(data.draw(st.integers(0, 2))):
        der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    cms._known = ()
    alone = outcome(bytes(der))
    for earlier in (before, Envelope().der()):
        parse_enveloped_data(earlier)
        assert outcome(bytes(der)) == alone


def test_four_layouts_are_kept_and_the_last_is_looked_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cms, "_known", ())
    envelopes = [Envelope(plaintext=bytes(16 * size)).der() for size in range(6)]
    for envelope in envelopes:
        parse_enveloped_data(envelope)
    assert [layout.size for layout in cms._known] == [len(each) for each in envelopes[:1:-1]]


def outcome(der: bytes) -> EnvelopedData | str:
    try:
        return parse_enveloped_data(der)
    except DecodingError as e:
        return str(e)


@pytest.mark.parametrize("at", ["first", "last", "between"])
def test_a_byte_outside_the_parts_is_always_compared(at: str) -> None:
    der = Envelope().der()
    kept = cms._parse_layout(der)
    assert sum(len(value) for _, value in kept.fixed) == len(der) - 256 - 16 - 64
    position = {"first": 0, "last": len(der) - 1 - 64, "between": kept.iv.start - 1}[at]
    changed = bytearray(der)
    changed[position] ^= 0x01
    assert kept.fits(der)
    assert not kept.fits(bytes(changed))


def test_no_secret_in_the_repr() -> None:
    envelope = parse_enveloped_data(Envelope().der())
    assert envelope.iv.hex() not in repr(envelope)
    assert str(envelope.ciphertext) not in repr(envelope)
