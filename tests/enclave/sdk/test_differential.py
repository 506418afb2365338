"""The same envelopes, sound and mutated, through our CMS parser and the C SDK's.

Parsing needs the SDK; decryption needs an NSM too, because the C code gives its public key only to
the NSM: tests/enclave/sdk/test_with_sdk.py runs that half under the launcher.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.attestation import parse
from enclave.errors import DecodingError, DecryptionError, NsmUnavailableError
from enclave.nsm import DevNsm
from enclave.recipient.cms import open_enveloped_data, parse_enveloped_data
from enclave.sdk.bindings.attestation import Attestation, KeyPair
from enclave.sdk.errors import SdkCallError
from tests.enclave.recipient.envelopes import Envelope, key_identifier, private_key, rebuilt
from tests.enclave.sdk.differences import AGREE, CUT, LENGTHS, UNREAD, compare, unread
from tests.vectors import vector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enclave.sdk.bindings.native import Native

Change = tuple[str, int, bytes]
"""What to do, where (counted from the end where negative), and with which bytes."""

# Most of an envelope is ciphertext, where a change changes nothing else: the ends have the rest.
_PLACES = st.integers(0, 126) | st.integers(-80, -1) | st.integers(0, 700)
_TAGS = b"\x00\x02\x04\x05\x06\x24\x30\x31\x80\x81\x82\xa0"
_BYTES = st.binary(max_size=4) | st.lists(st.sampled_from(_TAGS), max_size=4).map(bytes)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["flip", "set", "cut", "grow"]), _PLACES, _BYTES), max_size=3
)


_PIECES = (None, 1, 3)


@cache
def sound_envelopes() -> list[bytes]:
    """In KMS's lengths, and two in others."""
    return [
        *(rebuilt(Envelope(), indefinite=True, pieces=pieces) for pieces in _PIECES),
        *(rebuilt(Envelope(), indefinite=False, pieces=pieces) for pieces in (None, 3)),
    ]


def mutated(data: bytes, changes: Iterable[Change]) -> bytes:
    changed = bytearray(data)
    for kind, place, new in changes:
        at = place % max(len(changed), 1)
        match kind:
            case "flip":
                for offset, octet in enumerate(new[: len(changed) - at]):
                    changed[at + offset] ^= octet
            case "set":
                changed[at : at + len(new)] = new
            case "cut":
                del changed[at : at + len(new)]
            case "grow":
                changed[at:at] = new
    return bytes(changed) or b"\0"


@pytest.fixture(scope="module")
def sdk(built: Native) -> Attestation:
    return Attestation(built)


@pytest.mark.parametrize("pieces", [None, 1, 2, 7])
@pytest.mark.parametrize("size", [1, 16, 100, 1024])
def test_what_kms_sends_is_parsed_alike(sdk: Attestation, pieces: int | None, size: int) -> None:
    envelope = rebuilt(Envelope(plaintext=bytes(size)), indefinite=True, pieces=pieces)
    assert sdk.parse_enveloped_data(envelope).ciphertext
    assert compare(sdk, envelope) == AGREE


@pytest.mark.parametrize(
    "name",
    ["edgebit-cms.ber", "ethsigner-cms.ber", "sdkc-input_ber.bin", "sdkc-input_ber_w_ctx.bin"],
)
def test_real_responses_of_kms_are_parsed_alike(sdk: Attestation, name: str) -> None:
    data = vector(f"cms/{name}")
    assert sdk.parse_enveloped_data(data).ciphertext
    assert compare(sdk, data) == AGREE


@settings(max_examples=2000, deadline=None)
@given(which=st.integers(0, 4), changes=CHANGES)
def test_every_difference_in_parsing_has_a_known_reason(
    sdk: Attestation, which: int, changes: list[Change]
) -> None:
    compare(sdk, mutated(sound_envelopes()[which], changes))


@settings(max_examples=500, deadline=None)
@given(data=st.binary(min_size=1, max_size=700))
def test_random_bytes_are_rejected_by_both(sdk: Attestation, data: bytes) -> None:
    assert compare(sdk, data) == AGREE


@cache
def known() -> dict[str, bytes]:
    """One envelope for each reason, in the order of `UNREAD`."""
    sound = rebuilt(Envelope(), indefinite=True, pieces=1)
    iv_end = sound.index(b"\x04\x10" + b"\x07" * 16) + 18

    def but(**changes: object) -> bytes:
        return rebuilt(Envelope().but(**changes), indefinite=True, pieces=1)

    envelopes = (
        but(oaep_hash="sha1"),
        sound.replace(b"\x80\x20", b"\x81\x20", 1),
        sound + b"\0",
        b"\x30\x00" + sound[2:],
        sound[:iv_end] + sound[iv_end:].replace(b"\xa0\x80", b"\x30\x80", 1),
        but(iv=b"8 bytes."),
        but(ciphertext=b"8 bytes."),
    )
    whole = rebuilt(Envelope(), indefinite=True, pieces=None)
    return {
        LENGTHS: Envelope().der(),
        # 0x81: one octet of length follows, where the octet itself could have been it.
        CUT: whole.replace(b"\x80\x40", b"\x80\x81\x40", 1),
        **dict(zip(UNREAD, envelopes, strict=True)),
    }


@pytest.mark.parametrize("why", [LENGTHS, CUT, *UNREAD])
def test_each_known_difference_is_one(sdk: Attestation, why: str) -> None:
    """No reason in the list is out of date."""
    assert compare(sdk, known()[why]) == why


class Opener:
    """The C key pair, and envelopes made out to it."""

    def __init__(self, sdk: Attestation) -> None:
        self._sdk = sdk
        self._pair: KeyPair = sdk.new_key_pair()
        public_key = parse(sdk.attestation_document(self._pair)).public_key
        assert public_key
        key = load_der_public_key(public_key)
        assert isinstance(key, rsa.RSAPublicKey)
        self.public_key = key

    def open(self, data: bytes) -> bytes:
        return self._sdk.open(self._pair, self._sdk.parse_enveloped_data(data))


@pytest.fixture(scope="module")
def opener(sdk: Attestation) -> Opener:
    try:
        DevNsm().close()
    except NsmUnavailableError as e:
        pytest.skip(f"{e} ({e.hint})")
    return Opener(sdk)


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(1, 80),
    form=st.tuples(st.booleans(), st.sampled_from(_PIECES)),
    changes=CHANGES,
)
def test_every_difference_in_opening_has_a_known_reason(
    sdk: Attestation,
    opener: Opener,
    size: int,
    form: tuple[bool, int | None],
    changes: list[Change],
) -> None:
    """Twins: the same choices and changes, made out once to our key and once to C's."""
    indefinite, pieces = form
    envelope = Envelope(plaintext=bytes(size))
    twin = envelope.but(recipient=opener.public_key)
    ours = mutated(rebuilt(envelope, indefinite=indefinite, pieces=pieces), changes)
    theirs = mutated(rebuilt(twin, indefinite=indefinite, pieces=pieces), changes)
    key = private_key()
    refusal: DecodingError | DecryptionError | None = None
    opened = b""
    try:
        opened = open_enveloped_data(ours, key, key_identifier(key))
    except (DecodingError, DecryptionError) as e:
        refusal = e
    try:
        opened_by_c = opener.open(theirs)
    except SdkCallError:
        assert refusal or compare(sdk, theirs) in (LENGTHS, CUT)
        return
    match refusal:
        case None:
            # By chance what is left ends in something like padding.
            assert opened_by_c == opened or compare(sdk, theirs) == CUT
        case DecodingError():
            unread(str(refusal), ours)
        case DecryptionError():
            # C does not read whose key it is.
            assert parse_enveloped_data(ours).key_identifier != key_identifier(key)
