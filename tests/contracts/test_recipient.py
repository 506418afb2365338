"""What every recipient must do, held over each implementation of `Recipient`.

The C SDK opens ``/dev/nsm`` by itself: its half runs in an enclave or under the launcher, where
tests/enclave/sdk/test_with_sdk.py starts it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave.attestation import parse
from enclave.errors import DecodingError, DecryptionError, NsmUnavailableError
from enclave.nsm import DevNsm, Nsm
from enclave.recipient.cms import MAX_ENVELOPE
from enclave.recipient.recipient import REFRESH_AFTER, AttestedRecipient, Recipient
from enclave.sdk.bindings.native import load
from enclave.sdk.errors import SdkNotBuiltError
from enclave.sdk.recipient import SdkRecipient
from enclave_simulator.authority import Authority
from enclave_simulator.kms.cms import Enveloper
from enclave_simulator.nsm import SimulatedNsm
from tests.doubles import ManualClock
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.clock import Clock
    from enclave_simulator.kms.cms import ContentForm

FORMS: tuple[ContentForm, ...] = ("constructed", "primitive")


def nsm_recipient(clock: Clock) -> Recipient:
    return AttestedRecipient(Nsm(SimulatedNsm(Authority.generate())), clock=clock)


def sdk_recipient(clock: Clock) -> Recipient:
    load()
    DevNsm().close()
    return SdkRecipient(clock=clock)


RECIPIENTS: list[Callable[[Clock], Recipient]] = [nsm_recipient, sdk_recipient]


@pytest.fixture(scope="module", params=RECIPIENTS, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[[Clock], Recipient]:
    made: Callable[[Clock], Recipient] = request.param
    try:
        made(ManualClock())
    except (SdkNotBuiltError, NsmUnavailableError) as e:
        pytest.skip(f"{e} ({e.hint})")
    return made


@pytest.fixture(scope="module")
def recipient(make: Callable[[Clock], Recipient]) -> Recipient:
    return make(ManualClock())


@pytest.fixture(scope="module")
def enveloper(recipient: Recipient) -> Enveloper:
    return Enveloper(public_key(recipient))


def public_key(recipient: Recipient) -> rsa.RSAPublicKey:
    attested = parse(recipient.attestation_document()).public_key
    assert attested
    key = load_der_public_key(attested)
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def test_its_document_holds_an_rsa_2048_key(recipient: Recipient) -> None:
    key = public_key(recipient)
    assert (key.key_size, key.public_numbers().e) == (2048, 65537)


def test_another_one_has_another_key(make: Callable[[Clock], Recipient]) -> None:
    keys = {public_key(make(ManualClock())).public_numbers().n for _ in range(2)}
    assert len(keys) == 2


def test_its_document_is_kept_and_asked_for_anew(make: Callable[[Clock], Recipient]) -> None:
    clock = ManualClock()
    recipient = make(clock)
    first = recipient.attestation_document()
    clock.sleep(REFRESH_AFTER - 1)
    assert recipient.attestation_document() == recipient.document_now() == first
    clock.sleep(1)
    assert recipient.document_now() is None, "the attester is not asked"
    second = recipient.attestation_document()
    assert second != first
    assert parse(second).public_key == parse(first).public_key


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 15, 16, 32, 1024, 4096])
def test_both_forms_that_kms_sends_open(
    recipient: Recipient, enveloper: Enveloper, form: ContentForm, size: int
) -> None:
    secret = (bytes(range(256)) * 16)[:size]
    assert recipient.open(enveloper.encrypt(secret, form)) == secret


def test_another_keys_envelope(recipient: Recipient, make: Callable[[Clock], Recipient]) -> None:
    other = Enveloper(public_key(make(ManualClock())))
    with pytest.raises(DecryptionError):
        recipient.open(other.encrypt(b"secret", "constructed"))


def test_an_altered_key_or_padding_says_only_that(
    recipient: Recipient, enveloper: Enveloper
) -> None:
    envelope = enveloper.encrypt(bytes(15), "primitive")
    last_of_the_iv = len(envelope) - 8 - 16 - 2 - 1  # ends of contents; one block and its head
    for position in (200, last_of_the_iv):  # 200 is inside the encrypted key
        altered = bytearray(envelope)
        altered[position] ^= 0x10
        with pytest.raises(DecryptionError) as caught:
            recipient.open(bytes(altered))
        assert str(caught.value) == str(DecryptionError())
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "data",
    [b"", b"\x30", b"\x30\x80", bytes(MAX_ENVELOPE + 1), b"not an envelope"],
    ids=["nothing", "tag", "head", "too-long", "text"],
)
def test_what_is_no_envelope(recipient: Recipient, data: bytes) -> None:
    with pytest.raises(DecodingError):
        recipient.open(data)


def test_nothing_may_follow(recipient: Recipient, enveloper: Enveloper) -> None:
    with pytest.raises(DecodingError):
        recipient.open(enveloper.encrypt(b"secret", "constructed") + b"\0")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_whatever_is_altered_only_two_errors_leave(
    recipient: Recipient, enveloper: Enveloper, data: st.DataObject
) -> None:
    envelope = bytearray(enveloper.encrypt(bytes(40), data.draw(st.sampled_from(FORMS))))
    position = data.draw(st.integers(0, len(envelope) - 1))
    envelope[position] ^= data.draw(st.integers(1, 255))
    try:
        opened = recipient.open(bytes(envelope))
    except (DecodingError, DecryptionError):
        return
    assert len(opened) <= 48  # CBC has no integrity: an altered block may pass


def test_many_threads_open_their_own(recipient: Recipient, enveloper: Enveloper) -> None:
    wrong: list[object] = []

    def open_some(secret: bytes) -> None:
        try:
            for form in FORMS * 5:
                opened = recipient.open(enveloper.encrypt(secret, form))
                wrong.extend([opened] if opened != secret else [])
        except Exception as e:  # noqa: BLE001 (whatever it is, the test must hear of it)
            wrong.append(e)

    threads = [threading.Thread(target=open_some, args=(bytes([n]) * 32,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT)
        assert not thread.is_alive()
    assert wrong == []


def test_no_key_in_its_repr(recipient: Recipient) -> None:
    assert "PRIVATE" not in repr(recipient)
    assert str(public_key(recipient).public_numbers().n) not in repr(recipient)
