"""What every recipient must do, held over each implementation of `Recipient`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from enclave.attestation import parse
from enclave.errors import DecodingError, DecryptionError
from enclave.nsm import Nsm
from enclave.recipient import NsmRecipient, Recipient
from simulator.kms.cms import Enveloper
from tests.enclave.envelopes import Envelope

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.kms.cms import ContentForm
    from simulator.nsm import SimulatedNsm


def nsm_recipient(nsm: SimulatedNsm) -> Recipient:
    return NsmRecipient(Nsm(nsm))


RECIPIENTS: list[Callable[[SimulatedNsm], Recipient]] = [nsm_recipient]


@pytest.fixture(params=RECIPIENTS, ids=lambda make: make.__name__)
def recipient(request: pytest.FixtureRequest, simulated_nsm: SimulatedNsm) -> Recipient:
    made: Recipient = request.param(simulated_nsm)
    return made


def public_key(recipient: Recipient) -> rsa.RSAPublicKey:
    attested = parse(recipient.attestation_document()).public_key
    assert attested
    key = load_der_public_key(attested)
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def test_its_document_holds_an_rsa_2048_key(recipient: Recipient) -> None:
    assert public_key(recipient).key_size == 2048


@pytest.mark.parametrize("form", ["constructed", "primitive"])
@pytest.mark.parametrize("secret", [b"s", b"s" * 16, bytes(range(256)) * 4])
def test_it_opens_what_was_made_for_that_key(
    recipient: Recipient, form: ContentForm, secret: bytes
) -> None:
    envelope = Enveloper(public_key(recipient)).encrypt(secret, form)
    assert recipient.open(envelope) == secret


def test_it_opens_nothing_else(recipient: Recipient) -> None:
    with pytest.raises(DecryptionError) as caught:
        recipient.open(Envelope().der())
    assert str(caught.value) == str(DecryptionError())
    with pytest.raises(DecodingError):
        recipient.open(b"not an envelope")


def test_another_one_has_another_key(recipient: Recipient, simulated_nsm: SimulatedNsm) -> None:
    other = nsm_recipient(simulated_nsm)
    keys = [parse(each.attestation_document()).public_key or b"" for each in (recipient, other)]
    assert len({hashlib.sha256(key).digest() for key in keys}) == 2


def test_no_key_in_its_repr(recipient: Recipient) -> None:
    assert "PRIVATE" not in repr(recipient)
    assert str(public_key(recipient).public_numbers().n) not in repr(recipient)
