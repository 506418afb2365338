"""Verifying: one thing wrong, one failure; several things wrong, all of them listed."""

from __future__ import annotations

import warnings
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.attestation import AttestationDocument, parse
from enclave.attestation.verify import CLOCK_ALLOWANCE, verify
from enclave.errors import AttestationError, ConfigurationError, DecodingError
from tests.enclave.nitro import LEAF, NOW, Certificate, Document, chain, key

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
CHAIN = chain()


def _verify(document: Document, **expectations: Any) -> AttestationDocument:
    standard: dict[str, Any] = {
        "at": NOW,
        "max_age": timedelta(minutes=5),
        "pcrs": None,
        "root_fingerprint": document.root_fingerprint,
    }
    return verify(document.encode(), **(standard | expectations))


def _failures(document: Document, **expectations: Any) -> tuple[str, ...]:
    with pytest.raises(AttestationError) as caught:
        _verify(document, **expectations)
    return caught.value.failures


def test_a_good_document() -> None:
    document = Document(payload={"nonce": b"n", "user_data": b"", "public_key": b"k"})
    proven = _verify(
        document,
        pcrs={0: bytes(48), 1: b"\1" * 48},
        nonce=b"n",
        user_data=b"",
        public_key=b"k",
    )
    assert proven.nonce == b"n"
    assert proven.pcrs[1] == b"\1" * 48


def test_only_the_bytes_count() -> None:
    """A parsed document whose fields were changed afterwards proves what its bytes say."""
    document = Document(payload={"nonce": b"true"})
    forged = replace(parse(document.encode()), nonce=b"forged", timestamp=NOW + HOUR)
    proven = verify(
        forged, at=NOW, max_age=SECOND, pcrs=None, root_fingerprint=document.root_fingerprint
    )
    assert proven.nonce == b"true"


def test_every_failure_is_listed_at_once() -> None:
    document = Document(signer=key(0), payload={"nonce": b"other"})
    failures = _failures(
        document,
        at=NOW + HOUR,
        pcrs={3: b"\1" * 48, 16: b"\2" * 48},
        nonce=b"mine",
        root_fingerprint=bytes(32),
    )
    assert [failure.split(":")[0] for failure in failures] == [
        "signature",
        "root",
        "timestamp",
        "PCR3",
        "PCR16",
        "nonce",
    ]
    assert failures[3] == f"PCR3: expected {'01' * 48}, got {'03' * 48}"
    assert "locked PCRs only" in failures[4]
    assert failures[5] == f"nonce: expected {b'mine'.hex()}, got {b'other'.hex()}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("module_id", "i-0-enc0"),
        ("timestamp", int(NOW.timestamp() * 1000) + 1),
        ("pcrs", dict.fromkeys(range(16), b"\xff" * 48)),
        ("public_key", b"k"),
        ("user_data", b""),
        ("nonce", b"n"),
    ],
)
def test_a_field_changed_after_signing(field: str, value: object) -> None:
    document = Document()
    signature = document.sign(cbor2.dumps(document.payload))
    changed = cbor2.dumps(document.payload | {field: value})
    with pytest.raises(AttestationError) as caught:
        verify(
            cbor2.dumps([document.protected, {}, changed, signature]),
            at=NOW,
            max_age=None,
            pcrs=None,
            root_fingerprint=document.root_fingerprint,
        )
    assert caught.value.failures == (
        "signature: not made over this payload by the certificate's key",
    )


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, bytes(95) + b"\1"])
def test_signatures_that_are_none(signature: bytes) -> None:
    document = Document()
    raw = document.encode()[:-96] + signature
    with pytest.raises(AttestationError, match="signature"):
        verify(raw, at=NOW, max_age=None, pcrs=None, root_fingerprint=document.root_fingerprint)


def test_the_root_is_pinned_to_aws_unless_said_otherwise() -> None:
    document = Document()
    with pytest.raises(AttestationError) as caught:
        verify(document.encode(), at=NOW, max_age=None, pcrs=None)
    [failure] = caught.value.failures
    assert failure.startswith("root: expected the SHA-256 641a0321a3e2")
    assert "simulator" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "failures"),
    [
        ({LEAF: {"issuer": "other"}}, ["certificate: not issued by cabundle[3]"]),
        ({LEAF: {"issuer_key": key(1)}}, ["certificate: not issued by cabundle[3]"]),
        ({2: {"issuer_key": key(0)}}, ["cabundle[2]: not issued by cabundle[1]"]),
        # Valid from the first second to the last.
        ({LEAF: {"not_after": NOW}}, []),
        ({LEAF: {"not_before": NOW}}, []),
        ({0: {"not_after": NOW}}, []),
        ({2: {"not_before": NOW}}, []),
        ({LEAF: {"not_after": NOW - SECOND}}, ["certificate: expired on 2025-06-01 11:59:59Z"]),
        ({0: {"not_after": NOW - SECOND}}, ["cabundle[0]: expired on 2025-06-01 11:59:59Z"]),
        (
            {1: {"not_before": NOW + SECOND}},
            ["cabundle[1]: not valid before 2025-06-01 12:00:01Z"],
        ),
        ({3: {"ca": False, "path_length": None}}, ["cabundle[3]: not a certificate authority"]),
        ({1: {"ca": None}}, ["cabundle[1]: not a certificate authority"]),
        ({0: {"path_length": 2}}, ["cabundle[0]: may not have 3 authorities below it"]),
        ({2: {"path_length": 0}}, ["cabundle[2]: may not have 1 authorities below it"]),
        ({2: {"key_cert_sign": False}}, ["cabundle[2]: may not sign certificates"]),
        ({2: {"key_cert_sign": None}}, ["cabundle[2]: no KeyUsage"]),
        ({0: {"ca_critical": False}}, ["cabundle[0]: its BasicConstraints are not critical"]),
        ({3: {"ca_critical": False}}, ["cabundle[3]: its BasicConstraints are not critical"]),
        ({LEAF: {"ca_critical": False}}, []),
        ({LEAF: {"digital_signature": False}}, ["certificate: may not sign documents"]),
        ({LEAF: {"key_cert_sign": None}}, ["certificate: no KeyUsage"]),
        ({LEAF: {"ca": True}}, ["certificate: a certificate authority, where a leaf belongs"]),
        ({LEAF: {"ca": None}}, []),
        (
            {1: {"extra": x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")}},
            ["cabundle[1]: unknown critical extension 1.2.3.4"],
        ),
    ],
)
def test_one_thing_wrong_with_the_chain(
    changes: dict[int, dict[str, Any]], failures: list[str]
) -> None:
    document = Document(chain(changes))
    # A leaf that has expired by now had expired by the timestamp, too: not what is looked at.
    if not failures:
        _verify(document)
        return
    got = [failure for failure in _failures(document) if not failure.startswith("timestamp")]
    assert got == failures


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_intermediate(missing: int) -> None:
    certificates = chain()
    del certificates[missing]
    name = "certificate" if missing == 3 else f"cabundle[{missing}]"
    assert _failures(Document(certificates)) == (f"{name}: not issued by cabundle[{missing - 1}]",)


def test_the_order_of_the_cabundle_counts() -> None:
    root, one, two, three, leaf = chain()
    failures = _failures(Document([root, two, one, three, leaf]))
    assert "cabundle[1]: not issued by cabundle[0]" in failures
    assert "cabundle[2]: not issued by cabundle[1]" in failures
    # Leaf side first: then not even the root is where it belongs.
    failures = _failures(
        Document([three, two, one, root, leaf]), root_fingerprint=Document().root_fingerprint
    )
    assert failures[0].startswith("root:")


def test_a_root_alone_may_sign_the_leaf() -> None:
    root = chain()[0]
    leaf = Certificate(
        key(LEAF), "ca0", key(0), "leaf", ca=False, key_cert_sign=False, digital_signature=True
    )
    assert _verify(Document([root, leaf.der()])).cabundle == (root,)


@pytest.mark.parametrize("place", range(LEAF + 1))
def test_a_certificate_that_cannot_be_read(place: int) -> None:
    certificates = chain()
    certificates[place] = certificates[place][:-20]
    name = "certificate" if place == LEAF else f"cabundle[{place}]"
    failures = _failures(Document(certificates))
    assert failures[0].startswith(f"{name}: not a readable certificate")
    assert len(failures) == (2 if place == LEAF else 1)  # No leaf: no key to check with.


def test_a_document_from_as_far_ahead_as_is_allowed_is_judged_at_its_own_time() -> None:
    document = Document(chain({LEAF: {"not_before": NOW}}))
    _verify(document, at=NOW - CLOCK_ALLOWANCE, max_age=timedelta(0))  # It passes.
    later = chain({LEAF: {"not_before": NOW - HOUR}, 2: {"not_after": NOW - SECOND}})
    assert "cabundle[2]: expired on 2025-06-01 11:59:59Z" in _failures(
        Document(later), at=NOW - CLOCK_ALLOWANCE
    )


@pytest.mark.parametrize(("place", "name"), [(LEAF, "certificate"), (1, "cabundle[1]")])
def test_a_certificate_that_has_expired_since_the_document_was_made(place: int, name: str) -> None:
    document = Document(chain({place: {"not_after": NOW + SECOND}}))
    _verify(document, at=NOW + SECOND)
    assert _failures(document, at=NOW + 2 * SECOND) == (f"{name}: expired on 2025-06-01 12:00:01Z",)


@pytest.mark.parametrize(("size", "shown"), [(64, "61" * 64), (65, "61" * 64 + "... (65 bytes)")])
def test_a_long_value_is_shown_in_part(size: int, shown: str) -> None:
    document = Document(payload={"nonce": b"a" * size})
    assert _failures(document, nonce=b"b") == (f"nonce: expected 62, got {shown}",)


def test_an_enclave_has_32_pcrs_and_an_instance_24() -> None:
    [failure] = _failures(Document(), pcrs={31: bytes(48)})
    assert failure.startswith("PCR31: expected")
    with pytest.raises(ConfigurationError, match=r"PCR32 is not one of 0\.\.31"):
        _verify(Document(), pcrs={32: bytes(48)})
    with pytest.raises(ConfigurationError, match=r"PCR24 is not one of 0\.\.23"):
        _verify(Document.of_an_instance(), platform="instance", pcrs={24: bytes(48)})


def test_what_follows_a_certificate_that_cannot_be_read_is_checked() -> None:
    certificates = chain({3: {"not_after": NOW - SECOND}})
    certificates[1] = certificates[1][:-20]
    failures = _failures(Document(certificates))
    assert failures[0].startswith("cabundle[1]: not a readable certificate")
    assert failures[1:] == ("cabundle[3]: expired on 2025-06-01 11:59:59Z",)


def test_only_this_modules_warnings_become_errors() -> None:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        _verify(Document())
        _verify(Document())
        errors = [each for each in warnings.filters if each[0] == "error"]
        assert [getattr(each[3], "pattern", None) for each in errors] == [
            r"enclave\.attestation\.chain$"
        ]
        warnings.simplefilter("ignore", append=True)
        warnings.warn("of another module", stacklevel=1)


@pytest.mark.parametrize("place", [1, LEAF])
@pytest.mark.parametrize("time", [b"259901000000Z", b"250001000000Z", b"25060112000xZ"])
def test_a_certificate_whose_times_cannot_be_read(place: int, time: bytes) -> None:
    certificates = chain()
    der = certificates[place]
    at = der.index(b"\x17\x0d")
    certificates[place] = der[: at + 2] + time + der[at + 15 :]
    name = "certificate" if place == LEAF else f"cabundle[{place}]"
    assert _failures(Document(certificates))[0].startswith(f"{name}: not a readable certificate")


@pytest.mark.parametrize("other", [ec.SECP256R1(), ec.SECP521R1(), ec.BrainpoolP384R1()])
def test_the_leafs_key_must_be_on_p384(other: ec.EllipticCurve) -> None:
    document = Document(chain({LEAF: {"key": ec.generate_private_key(other)}}))
    assert _failures(document) == ("signature: no P-384 key in the certificate to check it with",)


@pytest.mark.parametrize("place", range(LEAF))
def test_an_authoritys_key_must_be_on_p384(place: int) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    changes = {place: {"key": other}, place + 1: {"issuer_key": other}}
    if place == 0:
        changes[0]["issuer_key"] = other
    assert _failures(Document(chain(changes))) == (f"cabundle[{place}]: its key is not on P-384",)


def _tlv(tag: int, *contents: bytes) -> bytes:
    body = b"".join(contents)
    assert len(body) < 128
    return bytes([tag, len(body)]) + body


def _with_a_negative_serial() -> bytes:
    der = bytearray(chain()[1])
    der[der.index(bytes.fromhex("a003020102")) + 7] = 0x80  # the INTEGER after the version
    return bytes(der)


def _with_utf8_in_a_visible_string() -> bytes:
    """Its certificate policies have a user notice that is no VisibleString, as its tag says."""
    notice = _tlv(0x30, _tlv(0x1A, "é".encode()))
    qualifier = _tlv(0x30, bytes.fromhex("06082b06010505070202"), notice)
    policies = _tlv(0x30, _tlv(0x30, bytes.fromhex("06022a03"), _tlv(0x30, qualifier)))
    extra = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.32"), policies)
    return chain({1: {"extra": extra, "extra_critical": False}})[1]


@pytest.mark.parametrize("make", [_with_a_negative_serial, _with_utf8_in_a_visible_string])
def test_a_certificate_that_cryptography_warns_about(make: Callable[[], bytes]) -> None:
    certificates = chain()
    certificates[1] = make()
    with pytest.warns(Warning, match=r"disallowed|Invalid ASN\.1"):
        _ = x509.load_der_x509_certificate(certificates[1]).extensions
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        [failure] = _failures(Document(certificates))
    assert failure.startswith("cabundle[1]: not a readable certificate (")
    assert not caught


def test_an_rsa_leaf() -> None:
    rsa_key = rsa.generate_private_key(65537, 1024)  # noqa: S505 (fast, and refused)
    assert _failures(Document(chain({LEAF: {"key": rsa_key}}))) == (
        "signature: no P-384 key in the certificate to check it with",
    )


@pytest.mark.parametrize(
    ("at", "max_age", "failures"),
    [
        (NOW, timedelta(0), []),
        (NOW + 5 * SECOND, 5 * SECOND, []),
        (NOW + 6 * SECOND, 5 * SECOND, ["timestamp: 0:00:06 old, over 0:00:05"]),
        (NOW + HOUR, None, []),
        (NOW - CLOCK_ALLOWANCE, timedelta(0), []),
        (
            NOW - CLOCK_ALLOWANCE - SECOND,
            None,
            ["timestamp: 2025-06-01 12:00:00Z is in the future of 2025-06-01 11:58:59+0000"],
        ),
    ],
)
def test_age(at: datetime, max_age: timedelta | None, failures: list[str]) -> None:
    document = Document()
    if failures:
        assert list(_failures(document, at=at, max_age=max_age)) == failures
    else:
        _verify(document, at=at, max_age=max_age)


def test_a_leaf_made_a_moment_before_a_document_from_the_near_future() -> None:
    document = Document(chain({LEAF: {"not_before": NOW - SECOND}}))
    _verify(document, at=NOW - 30 * SECOND)


@pytest.mark.parametrize("change", [{"not_before": NOW + SECOND}, {"not_after": NOW - SECOND}])
def test_a_timestamp_outside_the_leafs_validity(change: dict[str, datetime]) -> None:
    assert "timestamp: 2025-06-01 12:00:00Z is outside the certificate's validity" in _failures(
        Document(chain({LEAF: change}))
    )


@pytest.mark.parametrize("form", [list, tuple, set, frozenset])
def test_one_of_several_values(form: Any) -> None:
    """As a rolling update needs: the old image's or the new one's."""
    old, new = b"\1" * 48, b"\x10" * 48
    pcrs = {index: bytes([index]) * 48 for index in range(16)}
    document = Document(payload={"pcrs": pcrs})
    assert _verify(document, pcrs={1: form([new, old]), 2: [b"\2" * 48]}).pcrs[1] == old
    [failure] = _failures(document, pcrs={1: form([new])})
    assert failure == f"PCR1: expected {new.hex()}, got {old.hex()}"
    [failure] = _failures(document, pcrs={1: [new, bytes(48)]})
    assert failure == f"PCR1: expected {new.hex()} or {'00' * 48}, got {old.hex()}"


def test_a_document_of_an_instance() -> None:
    document = Document.of_an_instance(nonce=b"n")
    proven = _verify(document, platform="instance", pcrs={4: b"\4" * 48, 23: [b"\x17" * 48]})
    assert proven.platform == "instance"
    assert proven.nitrotpm_pcrs[12] == b"\x0c" * 48
    assert not proven.pcrs
    assert not proven.is_debug
    [failure] = _failures(document, platform="instance", pcrs={7: bytes(48)})
    assert failure == f"PCR7: expected {'00' * 48}, got {'07' * 48}"
    few = Document.of_an_instance(nitrotpm_pcrs={4: b"\4" * 48})
    [failure] = _failures(few, platform="instance", pcrs={7: bytes(48)})
    assert failure == f"PCR7: expected {'00' * 48}, got none"


def test_an_instance_whose_first_pcrs_are_zero_is_not_in_debug_mode() -> None:
    """PCR0 to PCR2 are firmware's there; a debug mode is an enclave's."""
    pcrs = dict.fromkeys(range(24), bytes(48))
    assert not _verify(Document.of_an_instance(nitrotpm_pcrs=pcrs), platform="instance").is_debug


@pytest.mark.parametrize("expectations", [{}, {"platform": "enclave"}, {"allow_debug": True}])
def test_who_expects_an_enclave_takes_no_instance(expectations: dict[str, Any]) -> None:
    """Nor are an instance's PCRs compared with those of an enclave, whose numbers they share."""
    [failure] = _failures(Document.of_an_instance(), pcrs={4: b"\4" * 48}, **expectations)
    assert failure == (
        "platform: expected an enclave, got the document of an EC2 instance (NitroTPM)"
    )


def test_who_expects_an_instance_takes_no_enclave() -> None:
    [failure] = _failures(Document(), platform="instance", pcrs={4: b"\4" * 48})
    assert failure == (
        "platform: expected an EC2 instance (NitroTPM), got the document of an enclave"
    )


@pytest.mark.parametrize(
    ("document", "platform"),
    [
        (Document(payload={"module_id": "i-0123456789abcdef0-tpm0000000000000000"}), "enclave"),
        (Document.of_an_instance(module_id="i-0123456789abcdef0-enc0123456789abcdef"), "instance"),
        (Document.of_an_instance(module_id="i-0123456789abcdef0"), "instance"),
    ],
)
def test_a_module_id_of_another_platform(document: Document, platform: str) -> None:
    [failure] = _failures(document, platform=platform)
    assert failure.startswith(f"platform: {document.payload['module_id']} is not the module of")


@pytest.mark.parametrize("tpm", [{0: bytes(48)}, {}, None, 0])
def test_pcrs_of_both_platforms(tpm: object) -> None:
    raw = Document(payload={"nitrotpm_pcrs": tpm}).encode()
    with pytest.raises(DecodingError, match="has both pcrs and nitrotpm_pcrs"):
        parse(raw)


def test_pcrs_of_neither_platform() -> None:
    document = Document()
    del document.payload["pcrs"]
    with pytest.raises(DecodingError, match="has neither pcrs nor nitrotpm_pcrs"):
        parse(document.encode())


@pytest.mark.parametrize(
    "pcrs", [None, {}, [], {24: bytes(48)}, {-1: bytes(48)}, {"0": bytes(48)}, {0: bytes(32)}]
)
def test_nitrotpm_pcrs_that_are_none(pcrs: object) -> None:
    with pytest.raises(DecodingError):
        parse(Document.of_an_instance(nitrotpm_pcrs=pcrs).encode())


def test_debug_mode_is_refused_unless_allowed() -> None:
    document = Document(payload={"pcrs": {0: bytes(48), 1: bytes(48), 2: bytes(48)}})
    [failure] = _failures(document, pcrs={0: bytes(48)})
    assert failure.startswith("debug mode")
    assert _verify(document, allow_debug=True).is_debug


@pytest.mark.parametrize("name", ["nonce", "user_data", "public_key"])
def test_what_was_expected_is_not_there(name: str) -> None:
    assert _failures(Document(), **{name: b""}) == (f"{name}: expected , got none",)
    long = Document(payload={name: b"\1" * 1024})
    [failure] = _failures(long, **{name: b"\2"})
    assert failure == f"{name}: expected 02, got {'01' * 64}... (1024 bytes)"


@pytest.mark.parametrize(
    "impossible",
    [
        {"at": NOW.replace(tzinfo=None)},
        {"platform": "sandbox"},
        {"platform": "instance", "pcrs": {24: bytes(48)}},
        {"pcrs": {32: bytes(48)}},
        {"pcrs": {-1: bytes(48)}},
        {"pcrs": {0: bytes(32)}},
        {"pcrs": {0: "00" * 24}},
        {"pcrs": {0: []}},
        {"pcrs": {0: [bytes(48), bytes(32)]}},
        {"pcrs": {0: ["00" * 48]}},
        {"pcrs": {0: bytearray(48)}},
        {"pcrs": {0: 0}},
        {"nonce": "00"},
        {"user_data": "00"},
        {"public_key": "00"},
        {"root_fingerprint": "00" * 16},
        {"root_fingerprint": bytes(31)},
    ],
)
def test_expectations_nothing_could_meet(impossible: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        _verify(Document(), **impossible)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_the_certificates_only_attestation_errors_leave(data: st.DataObject) -> None:
    certificates = CHAIN
    place = data.draw(st.integers(0, LEAF))
    der = bytearray(certificates[place])
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    changed = [*certificates]
    changed[place] = bytes(der)
    document = Document(changed)
    try:
        _verify(document)
    except (AttestationError, DecodingError):
        return
    # It verifies only where the bytes drawn were those that stood there, or in the root: that
    # one is believed for its fingerprint, which is taken from the changed one here.
    assert place == 0 or changed == certificates
