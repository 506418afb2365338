"""The bindings over this project's own stand-in library: ownership, errors, guards.

These tests show nothing about the C SDK: test_with_sdk.py does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enclave.errors import (
    ConfigurationError,
    DecodingError,
    DecryptionError,
    NsmResponseError,
    NsmUnavailableError,
)
from enclave.nsm import Nsm
from enclave.recipient.recipient import REFRESH_AFTER
from enclave.sdk.bindings import native as native_module
from enclave.sdk.bindings.attestation import Attestation, Sealed
from enclave.sdk.bindings.kms import ClientOptions, Kms
from enclave.sdk.bindings.native import MAX_INPUT, load
from enclave.sdk.errors import SdkCallError, SdkNotBuiltError
from enclave.sdk.recipient import SdkRecipient
from enclave_simulator.authority import Authority
from enclave_simulator.nsm import SimulatedNsm
from tests.doubles import ManualClock
from tests.enclave.recipient.envelopes import Envelope, private_key
from tests.enclave.sdk.conftest import MODULE, StandIn
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path


def envelope(key: bytes = b"k" * 32, iv: bytes = b"i" * 16, text: bytes = b"text") -> bytes:
    """In the stand-in's own form; see stand_in.c."""
    return b"P" + bytes([len(key), len(iv)]) + key + iv + text


def options(**changes: Any) -> ClientOptions:
    given: dict[str, Any] = {
        "region": "eu-central-1",
        "host_name": "kms.test",
        "domain": "VSOCK",
        "address": "3",
        "port": 8000,
        "access_key_id": "AKID",
        "secret_access_key": "SECRET",
    }
    return ClientOptions(**{**given, **changes})


def test_the_stand_in_is_never_loaded_as_the_sdk(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stand_in.native.stand_in
    assert "STAND-IN-FOR-TESTS" in stand_in.native.build
    monkeypatch.setattr(native_module, "MODULE", MODULE)
    monkeypatch.setattr(native_module, "_loaded", None)
    monkeypatch.syspath_prepend(str(stand_in.module.parent))
    with pytest.raises(SdkNotBuiltError, match="stand-in"):
        load()


def test_the_library_is_initialised_once_for_all_threads(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Once(native_module.Native):
        def __init__(self, module: Any) -> None:
            super().__init__(module)
            self.stand_in = False

    monkeypatch.setattr(native_module, "Native", Once)
    monkeypatch.setattr(native_module, "MODULE", MODULE)
    monkeypatch.setattr(native_module, "_loaded", None)
    monkeypatch.syspath_prepend(str(stand_in.module.parent))
    before = stand_in.counters.stand_in_inits()
    loaded = []
    threads = [threading.Thread(target=lambda: loaded.append(load())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TEST_TIMEOUT)
    assert len(loaded) == 8
    assert len(set(map(id, loaded))) == 1
    assert stand_in.counters.stand_in_inits() == before + 1


def test_bindings_that_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_module, "MODULE", "enclave.sdk._there_is_none")
    monkeypatch.setattr(native_module, "_loaded", None)
    with pytest.raises(SdkNotBuiltError) as caught:
        load()
    assert "enclave.sdk.build" in caught.value.hint
    with pytest.raises(SdkNotBuiltError):
        native_module.check_built()


def test_a_key_pair_is_freed_with_its_last_reference(balanced: StandIn) -> None:
    pair = Attestation(balanced.native).new_key_pair()
    live = balanced.live()
    del pair
    assert balanced.live() == live - 1


def test_garbage_that_another_test_left_is_not_counted(stand_in: StandIn) -> None:
    before = stand_in.live()
    cycle: list[Any] = [Attestation(stand_in.native).new_key_pair()]
    cycle.append(cycle)
    del cycle
    assert stand_in.live() == before


def test_parsing(balanced: StandIn) -> None:
    sdk = Attestation(balanced.native)
    assert sdk.parse_enveloped_data(envelope()) == Sealed(b"k" * 32, b"i" * 16, b"text")
    assert "kkk" not in repr(sdk.parse_enveloped_data(envelope()))
    assert sdk.parse_enveloped_data(envelope(text=b"")).ciphertext == b""


@pytest.mark.parametrize(
    ("data", "function", "reason"),
    [
        (b"E", "aws_cms_parse_enveloped_data", ""),
        (b"D" + envelope()[1:], "aws_cms_parse_enveloped_data", ""),
        (envelope(key=b"\xff" * 32), "aws_attestation_rsa_decrypt", "STAND_IN_ERROR"),
        (envelope(text=b"\xff"), "aws_cms_cipher_decrypt", ""),
        # The stand-in aborts on these, as the SDK reads out of bounds.
        (envelope(iv=b"i" * 15), "aws_cms_cipher_decrypt", "a part has the wrong length"),
        (envelope(text=b""), "aws_cms_cipher_decrypt", "a part has the wrong length"),
        (envelope(key=b"k" * 31), "aws_cms_cipher_decrypt", "the content key has the wrong length"),
    ],
    ids=["no-envelope", "half-parsed", "key", "content", "short-iv", "no-text", "short-key"],
)
def test_each_step_that_fails_is_named_and_leaks_nothing(
    stand_in: StandIn, data: bytes, function: str, reason: str
) -> None:
    sdk = Attestation(stand_in.native)
    pair = sdk.new_key_pair()
    before = stand_in.live()
    with pytest.raises(SdkCallError) as caught:
        sdk.open(pair, sdk.parse_enveloped_data(data))
    assert (caught.value.function, caught.value.reason) == (function, reason)
    assert "kkk" not in str(caught.value)
    assert stand_in.live() == before


def test_opening(balanced: StandIn) -> None:
    sdk = Attestation(balanced.native)
    assert sdk.open(sdk.new_key_pair(), Sealed(b"k" * 32, b"i" * 16, b"text")) == b"text"


@pytest.mark.parametrize("size", [0, MAX_INPUT + 1])
def test_inputs_are_bounded(balanced: StandIn, size: int) -> None:
    with pytest.raises(ConfigurationError):
        Attestation(balanced.native).parse_enveloped_data(bytes(size))


def test_seeding_entropy(balanced: StandIn) -> None:
    sdk = Attestation(balanced.native)
    sdk.seed_entropy(512)
    with pytest.raises(SdkCallError, match="STAND_IN_ERROR"):
        sdk.seed_entropy(13)
    for number in (0, -1, 65_537):
        with pytest.raises(ConfigurationError):
            sdk.seed_entropy(number)


@pytest.mark.parametrize("token", ["", "TOKEN"])
def test_the_client_receives_its_options(stand_in: StandIn, token: str) -> None:
    kms = Kms(stand_in.native)
    client = kms.new_client(options(session_token=token))
    before = stand_in.live()
    given = f"eu-central-1|kms.test|3|3|8000|AKID|SECRET|{token}"
    assert kms.decrypt(client, b"blob") == f"{given}|-|SYMMETRIC_DEFAULT|-|blob".encode()
    decrypted = kms.decrypt(
        client, b"blob", key_id="K", encryption_algorithm="A", encryption_context='{"a":"b"}'
    )
    assert decrypted == f'{given}|K|A|{{"a":"b"}}|blob'.encode()
    assert kms.encrypt(client, "K", b"plain") == f"{given}|K|-|-|plain".encode()
    assert kms.generate_data_key(client, "K", "AES_128") == (bytes(16), b"K")
    assert kms.generate_data_key(client, "K", "AES_256") == (bytes(32), b"K")
    assert len(kms.generate_random(client, 1024)) == 1024
    assert stand_in.live() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"port": 65_536},
        {"port": -1},
        {"address": "/" * 108},
        {"address": "3\0"},
        {"region": "a\0b"},
        {"host_name": "a\0b"},
    ],
    ids=["port", "negative-port", "long-address", "address-nul", "region-nul", "host-nul"],
)
def test_options_that_c_cannot_hold_are_rejected(
    balanced: StandIn, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Kms(balanced.native).new_client(options(**changes))
    assert caught.value.hint


def test_failures_leak_nothing(stand_in: StandIn) -> None:
    kms = Kms(stand_in.native)
    before = stand_in.live()
    for changes in ({"host_name": "refuse.test"}, {"access_key_id": ""}):
        with pytest.raises(SdkCallError):
            kms.new_client(options(**changes))
    assert stand_in.live() == before
    client = kms.new_client(options())
    before = stand_in.live()
    with pytest.raises(SdkCallError, match="STAND_IN_ERROR"):
        kms.generate_random(client, 906)  # it fails after it has filled its output
    for number in (0, 1025):
        with pytest.raises(ConfigurationError):
            kms.generate_random(client, number)
    assert stand_in.live() == before


def test_an_older_error_is_not_reported_again(balanced: StandIn) -> None:
    sdk = Attestation(balanced.native)
    with pytest.raises(SdkCallError, match="STAND_IN_ERROR"):
        sdk.seed_entropy(13)
    with pytest.raises(SdkCallError) as caught:
        sdk.parse_enveloped_data(b"E")
    assert caught.value.reason == ""


class TestRecipient:
    """`SdkRecipient` over the bindings."""

    @pytest.fixture
    def document(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "document"
        monkeypatch.setenv("STAND_IN_DOCUMENT", str(path))
        return path

    def _write(self, path: Path, public_key: bytes | None) -> None:
        path.write_bytes(Nsm(SimulatedNsm(Authority.generate())).attest(public_key=public_key))

    def test_no_nsm(self, stand_in: StandIn, document: Path) -> None:
        assert not document.exists()
        with pytest.raises(NsmUnavailableError, match="C SDK"):
            SdkRecipient(stand_in.native).attestation_document()

    def test_malformed_documents_are_rejected(self, stand_in: StandIn, document: Path) -> None:
        document.write_bytes(b"\xa0")
        with pytest.raises(NsmResponseError):
            SdkRecipient(stand_in.native).attestation_document()
        self._write(document, None)
        with pytest.raises(NsmResponseError, match="public key"):
            SdkRecipient(stand_in.native).attestation_document()

    def test_the_document_is_renewed(self, stand_in: StandIn, document: Path) -> None:
        clock = ManualClock()
        recipient = SdkRecipient(stand_in.native, clock=clock)
        self._write(document, _public_key())
        first = recipient.attestation_document()
        self._write(document, _public_key())
        assert recipient.attestation_document() == first
        clock.sleep(REFRESH_AFTER)
        assert recipient.attestation_document() == document.read_bytes() != first

    def test_envelopes_that_c_must_not_see_are_rejected_first(
        self, stand_in: StandIn, document: Path
    ) -> None:
        recipient = SdkRecipient(stand_in.native)
        with pytest.raises(DecryptionError):  # before the public key is known
            recipient.open(Envelope().der())
        self._write(document, _public_key())
        recipient.attestation_document()
        with pytest.raises(DecryptionError):
            recipient.open(Envelope(identifier=bytes(32)).der())
        with pytest.raises(DecodingError, match="bytes follow its end"):
            recipient.open(Envelope().der() + b"\0")
        with pytest.raises(DecodingError, match="indefinite"):
            recipient.open(Envelope().der())  # the stand-in, as the SDK, does not read DER


def _public_key() -> bytes:
    return private_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
