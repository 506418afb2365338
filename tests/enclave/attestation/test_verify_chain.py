"""The certificates of a document: the root, the chain, the leaf's key and its validity."""

from __future__ import annotations

import warnings
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.attestation.verify import CLOCK_ALLOWANCE, verify
from enclave.errors import AttestationError, DecodingError
from tests.enclave.nitro import LEAF, NOW, Certificate, Document, chain, key

if TYPE_CHECKING:
    from collections.abc import Callable
from tests.enclave.attestation.verifying import CHAIN, HOUR, SECOND, failures_of, verified


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
        verified(document)
        return
    got = [failure for failure in failures_of(document) if not failure.startswith("timestamp")]
    assert got == failures


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_intermediate(missing: int) -> None:
    certificates = chain()
    del certificates[missing]
    name = "certificate" if missing == 3 else f"cabundle[{missing}]"
    assert failures_of(Document(certificates)) == (
        f"{name}: not issued by cabundle[{missing - 1}]",
    )


def test_the_order_of_the_cabundle_counts() -> None:
    root, one, two, three, leaf = chain()
    failures = failures_of(Document([root, two, one, three, leaf]))
    assert "cabundle[1]: not issued by cabundle[0]" in failures
    assert "cabundle[2]: not issued by cabundle[1]" in failures
    # Leaf side first: then not even the root is where it belongs.
    failures = failures_of(
        Document([three, two, one, root, leaf]), root_fingerprint=Document().root_fingerprint
    )
    assert failures[0].startswith("root:")


def test_a_root_alone_may_sign_the_leaf() -> None:
    root = chain()[0]
    leaf = Certificate(
        key(LEAF), "ca0", key(0), "leaf", ca=False, key_cert_sign=False, digital_signature=True
    )
    assert verified(Document([root, leaf.der()])).cabundle == (root,)


@pytest.mark.parametrize("place", range(LEAF + 1))
def test_a_certificate_that_cannot_be_read(place: int) -> None:
    certificates = chain()
    certificates[place] = certificates[place][:-20]
    name = "certificate" if place == LEAF else f"cabundle[{place}]"
    failures = failures_of(Document(certificates))
    assert failures[0].startswith(f"{name}: not a readable certificate")
    assert len(failures) == (2 if place == LEAF else 1)  # No leaf: no key to check with.


def test_a_document_from_as_far_ahead_as_is_allowed_is_judged_at_its_own_time() -> None:
    document = Document(chain({LEAF: {"not_before": NOW}}))
    verified(document, at=NOW - CLOCK_ALLOWANCE, max_age=timedelta(0))  # It passes.
    later = chain({LEAF: {"not_before": NOW - HOUR}, 2: {"not_after": NOW - SECOND}})
    assert "cabundle[2]: expired on 2025-06-01 11:59:59Z" in failures_of(
        Document(later), at=NOW - CLOCK_ALLOWANCE
    )


@pytest.mark.parametrize(("place", "name"), [(LEAF, "certificate"), (1, "cabundle[1]")])
def test_a_certificate_that_has_expired_since_the_document_was_made(place: int, name: str) -> None:
    document = Document(chain({place: {"not_after": NOW + SECOND}}))
    verified(document, at=NOW + SECOND)
    assert failures_of(document, at=NOW + 2 * SECOND) == (
        f"{name}: expired on 2025-06-01 12:00:01Z",
    )


def test_what_follows_a_certificate_that_cannot_be_read_is_checked() -> None:
    certificates = chain({3: {"not_after": NOW - SECOND}})
    certificates[1] = certificates[1][:-20]
    failures = failures_of(Document(certificates))
    assert failures[0].startswith("cabundle[1]: not a readable certificate")
    assert failures[1:] == ("cabundle[3]: expired on 2025-06-01 11:59:59Z",)


def test_only_this_modules_warnings_become_errors() -> None:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        verified(Document())
        verified(Document())
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
    assert failures_of(Document(certificates))[0].startswith(f"{name}: not a readable certificate")


P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
"""FIPS 186-5, SP 800-186, section 3.2.1.4."""


@pytest.mark.parametrize("other", [ec.SECP256R1(), ec.SECP521R1(), ec.BrainpoolP384R1()])
def test_the_leafs_key_must_be_on_p384(other: ec.EllipticCurve) -> None:
    document = Document(chain({LEAF: {"key": ec.generate_private_key(other)}}))
    assert failures_of(document) == ("signature: no P-384 key in the certificate to check it with",)


def test_a_key_and_the_one_with_the_other_y_are_told_apart() -> None:
    """Two points have one x: those of the private keys d and -d, modulo the curve's order."""
    one, other = (ec.derive_private_key(d, ec.SECP384R1()) for d in (7, P384_ORDER - 7))
    points = [each.public_key().public_numbers() for each in (one, other)]
    assert points[0].x == points[1].x
    assert {point.y % 2 for point in points} == {0, 1}
    for own in (one, other):
        certificates = chain({LEAF: {"key": own}})
        verified(Document(certificates, signer=own))
        (not_its_own,) = {one, other} - {own}
        assert failures_of(Document(certificates, signer=not_its_own)) == (
            "signature: not made over this payload by the certificate's key",
        )


@pytest.mark.parametrize("place", range(LEAF))
def test_an_authoritys_key_must_be_on_p384(place: int) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    changes = {place: {"key": other}, place + 1: {"issuer_key": other}}
    if place == 0:
        changes[0]["issuer_key"] = other
    assert failures_of(Document(chain(changes))) == (f"cabundle[{place}]: its key is not on P-384",)


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
        [failure] = failures_of(Document(certificates))
    assert failure.startswith("cabundle[1]: not a readable certificate (")
    assert not caught


def test_an_rsa_leaf() -> None:
    rsa_key = rsa.generate_private_key(65537, 1024)  # noqa: S505 (fast, and refused)
    assert failures_of(Document(chain({LEAF: {"key": rsa_key}}))) == (
        "signature: no P-384 key in the certificate to check it with",
    )


def test_a_leaf_made_a_moment_before_a_document_from_the_near_future() -> None:
    document = Document(chain({LEAF: {"not_before": NOW - SECOND}}))
    verified(document, at=NOW - 30 * SECOND)


@pytest.mark.parametrize("change", [{"not_before": NOW + SECOND}, {"not_after": NOW - SECOND}])
def test_a_timestamp_outside_the_leafs_validity(change: dict[str, datetime]) -> None:
    assert "timestamp: 2025-06-01 12:00:00Z is outside the certificate's validity" in failures_of(
        Document(chain({LEAF: change}))
    )


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
        verified(document)
    except (AttestationError, DecodingError):
        return
    # It verifies only where the bytes drawn were those that stood there, or in the root: that
    # one is believed for its fingerprint, which is taken from the changed one here.
    assert place == 0 or changed == certificates
