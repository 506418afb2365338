"""Verify an attestation document (AWS, "Verifying the root of trust"). No I/O, and no clock.

Nothing here is secret, so comparisons need not take constant time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pycose.keys.curves import P384
from pycose.keys.ec2 import EC2Key
from pycose.messages.sign1message import Sign1Message

from enclave.attestation import chain
from enclave.attestation.document import (
    NITROTPM_PCR_COUNT,
    PCR_COUNT,
    PCR_SIZE,
    PROTECTED_HEADER,
    AttestationDocument,
    parse,
)
from enclave.errors import AttestationError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from cryptography import x509

AWS_ROOT_FINGERPRINT = bytes.fromhex(
    "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
)
"""SHA-256 of the DER of AWS Nitro Enclaves Root G1, which each document carries."""

CLOCK_ALLOWANCE = timedelta(minutes=1)
"""How far a document may be from the future: its clock and the verifier's differ."""

_HINTS = {
    "platform": "an enclave and an instance are not trusted alike: expect the other one only if "
    "you mean it (--platform, platform=), with its own PCRs",
    "root": "not from AWS: a simulated document verifies only against its simulator's root",
    "debug mode": "start the enclave without debug mode",
}
_NITROTPM_MODULE = re.compile(r"-tpm[0-9a-f]*$")
_BYTES = "give bytes, not hex: bytes.fromhex(...)"


def verify(
    document: AttestationDocument | bytes,
    *,
    at: datetime,
    max_age: timedelta | None,
    pcrs: Mapping[int, bytes | Collection[bytes]] | None,
    platform: str = "enclave",
    nonce: bytes | None = None,
    user_data: bytes | None = None,
    public_key: bytes | None = None,
    allow_debug: bool = False,
    root_fingerprint: bytes = AWS_ROOT_FINGERPRINT,
) -> AttestationDocument:
    """Verify a document: signature, certificate chain, times, and its fields.

    Args:
        document: the document; a parsed one is parsed again from `raw`, the signed bytes.
        at: the present, aware.
        max_age: how old it may be; None: as old as its certificate, which lives three hours,
            lets it be.
        pcrs: what PCRs must be, by index in 0..31 (of an instance 0..23), 48 bytes each; several
            values for one PCR mean one of these, as while a new image is rolled out: compare
            PCR0 then, for PCR1 of one image and PCR2 of another would pass. None: not checked,
            which proves that an enclave or instance runs, not what runs in it.
        platform: what must have been attested: ``enclave``, by an NSM; ``sandbox``, a Nitro
            Sandbox, by an NSM too; or ``instance``, by a NitroTPM (docs/platforms.md). PCRs are
            compared with those of this platform. A sandbox is told by its PCR17, which must be
            among `pcrs`: AWS documents nothing else, and an enclave can extend PCR17 by itself.
        nonce: what it must be; None: not looked at.
        user_data: what it must be; None: not looked at.
        public_key: what it must be; None: not looked at.
        allow_debug: take documents of an enclave in debug mode, whose PCR0-2 are zero.
        root_fingerprint: SHA-256 of the root certificate's DER. Other than AWS's only where
            the whole of Nitro is simulated.

    Returns:
        The document, parsed.

    Raises:
        DecodingError: it is not an attestation document.
        AttestationError: it proves too little; its `failures` list everything that is wrong.
        ConfigurationError: `at` is not aware, or something is expected that no document has.
    """
    given = {"nonce": nonce, "user_data": user_data, "public_key": public_key}
    expected_pcrs: dict[int, tuple[bytes, ...]] = {
        index: alternatives(values) for index, values in (pcrs or {}).items()
    }
    _check_expectations(at, platform, expected_pcrs, given, root_fingerprint)
    document = parse(document if isinstance(document, bytes) else document.raw)
    certificates, failures = chain.read([*document.cabundle, document.certificate])
    leaf = certificates[-1]
    failures += _platform(document, platform)
    failures += _signature(document, leaf)
    failures += _root(document, root_fingerprint)
    # A document from the near future is judged at its own time: its certificate may be a moment
    # old, and would not be valid yet.
    is_ahead = timedelta(0) < document.timestamp - at <= CLOCK_ALLOWANCE
    failures += chain.check(certificates, document.timestamp if is_ahead else at)
    failures += _times(document, leaf, at, max_age)
    if document.platform == _DOCUMENTS[platform]:  # the other one's PCRs mean something else
        # Of a sandbox PCR0 to PCR2 are zero if nothing extends them.
        failures += _pcrs(document, expected_pcrs, allow_debug=allow_debug or platform == "sandbox")
    for name, expected in given.items():
        got = getattr(document, name)
        if expected is not None and got != expected:
            failures.append(f"{name}: expected {_show(expected)}, got {_show(got)}")
            if got == expected.hex().encode():
                failures[-1] += ", which is the text of it in hex"
    if failures:
        hints = (hint for word, hint in _HINTS.items() if any(f.startswith(word) for f in failures))
        raise AttestationError(tuple(failures), hint=next(hints, ""))
    return document


def alternatives(values: Any) -> tuple[Any, ...]:
    """Return the values that a PCR may have; what is not bytes is for `check_pcrs`."""
    is_one = isinstance(values, bytes | str) or not isinstance(values, Collection)
    return (values,) if is_one else tuple(values)


def _check_expectations(
    at: datetime,
    platform: str,
    pcrs: Mapping[int, tuple[bytes, ...]],
    given: Mapping[str, bytes | None],
    root_fingerprint: bytes,
) -> None:
    """Reject expectations that no document can meet, above all hex in place of bytes."""
    if at.utcoffset() is None:
        raise ConfigurationError(
            "the time to verify at has no time zone", hint="use datetime.now(UTC)"
        )
    if not _is_bytes(root_fingerprint, 32):
        raise ConfigurationError("root_fingerprint is not 32 bytes", hint=_BYTES)
    if platform not in _NAMES:
        raise ConfigurationError(
            f"no such platform: {platform!r}", hint="there are " + ", ".join(_NAMES)
        )
    if platform == "sandbox" and SANDBOX_PCR not in pcrs:
        raise ConfigurationError(
            f"a sandbox is told by PCR{SANDBOX_PCR}, and no value of it is expected",
            hint="eks-nitro-sandbox-genpolicy prints the value that a pod's policy leads to",
        )
    check_pcrs(pcrs, platform)
    for name, expected in given.items():
        if expected is not None and not _is_bytes(expected):
            raise ConfigurationError(f"the expected {name} is not bytes", hint=_BYTES)


def names_image(pcrs: Mapping[int, Collection[Any]]) -> bool:
    """Return whether PCRs of an enclave are those of one image: others can have any of the rest.

    Args:
        pcrs: the values that each may have.
    """
    # PCR8 of every image without a signature is zero.
    given = {index for index, values in pcrs.items() if index != 8 or bytes(PCR_SIZE) not in values}
    return any(these <= given for these in _IMAGE_PCRS)


_IMAGE_PCRS = (frozenset({0}), frozenset({1, 2}), frozenset({8}))
"""PCRs that name what runs in an enclave: the image, its two parts, or who signed it. PCR3 and PCR4
are the parent's own, and a program can extend PCR16 and those above to anything."""


def check_pcrs(pcrs: Mapping[int, Collection[Any]], platform: str) -> None:
    """Check the values that PCRs may have.

    Raises:
        ConfigurationError: there is no such PCR, or a value that no PCR can have.
    """
    count = NITROTPM_PCR_COUNT if platform == "instance" else PCR_COUNT
    for index, values in pcrs.items():
        if type(index) is not int or index not in range(count):
            raise ConfigurationError(
                f"there is no PCR{index}" if type(index) is int else f"not a PCR: {index!r}",
                hint=f"the PCRs of {_NAMES[platform]} are 0 to {count - 1}",
            )
        if not all(_is_bytes(value, PCR_SIZE) for value in values):
            raise ConfigurationError(
                f"a value of PCR{index} that is not {PCR_SIZE} bytes", hint=_BYTES
            )
        if not values:
            raise ConfigurationError(f"no value for PCR{index}: no document has none")


def _is_bytes(value: object, size: int | None = None) -> bool:
    return isinstance(value, bytes) and size in (None, len(value))


def _platform(document: AttestationDocument, expected: str) -> Iterator[str]:
    if document.platform != _DOCUMENTS[expected]:
        yield (
            f"platform: expected {_NAMES[expected]}, got the document of "
            f"{_NAMES[document.platform]}"
        )
    elif (_NITROTPM_MODULE.search(document.module_id) is not None) != (expected == "instance"):
        yield f"platform: {document.module_id} is not the module of {_NAMES[expected]}"


_NAMES = {
    "enclave": "an enclave",
    "sandbox": "a Nitro Sandbox",
    "instance": "an EC2 instance (NitroTPM)",
}
_DOCUMENTS = {"enclave": "enclave", "sandbox": "enclave", "instance": "instance"}
"""Whose documents a platform's look like: AWS documents no field that identifies a sandbox."""

SANDBOX_PCR = 17
"""What a sandbox's policy is measured into (EKS User Guide, "Run a pod in confidential mode")."""


def _signature(document: AttestationDocument, leaf: x509.Certificate | None) -> Iterator[str]:
    key = leaf.public_key() if leaf else None
    if not chain.is_p384(key):
        yield "signature: no P-384 key in the certificate to check it with"
        return
    point = key.public_numbers()
    message = Sign1Message(phdr_encoded=PROTECTED_HEADER, payload=document.payload)
    message.signature = document.signature
    message.key = EC2Key(crv=P384, x=point.x.to_bytes(48, "big"), y=point.y.to_bytes(48, "big"))
    if not message.verify_signature():
        yield "signature: not made over this payload by the certificate's key"


def _root(document: AttestationDocument, root_fingerprint: bytes) -> Iterator[str]:
    got = hashlib.sha256(document.cabundle[0]).digest()
    if got != root_fingerprint:
        yield f"root: expected the SHA-256 {root_fingerprint.hex()}, got {got.hex()}"


def _times(
    document: AttestationDocument,
    leaf: x509.Certificate | None,
    at: datetime,
    max_age: timedelta | None,
) -> Iterator[str]:
    made = document.timestamp
    if leaf and not leaf.not_valid_before_utc <= made <= leaf.not_valid_after_utc:
        yield f"timestamp: {made:%F %TZ} is outside the certificate's validity"
    if made - at > CLOCK_ALLOWANCE:
        yield f"timestamp: {made:%F %TZ} is in the future of {at:%F %T%z}"
    elif max_age is not None and at - made > max_age:
        yield f"timestamp: {at - made} old, over {max_age}"


def _pcrs(
    document: AttestationDocument, expected: Mapping[int, tuple[bytes, ...]], *, allow_debug: bool
) -> Iterator[str]:
    if document.is_debug and not allow_debug:
        yield "debug mode: PCR0, PCR1 and PCR2 are zero, so nothing says what runs in there"
    for index, values in sorted(expected.items()):
        got = (document.pcrs or document.nitrotpm_pcrs).get(index)
        if got not in values:
            wanted = " or ".join(value.hex() for value in values)
            absent = "none (documents list locked PCRs only)" if document.pcrs else "none"
            shown = absent if got is None else got.hex()
            yield f"PCR{index}: expected {wanted}, got {shown}"


def _show(value: bytes | None) -> str:
    if value is None:
        return "none"
    if not value:
        return "0 bytes"
    return value.hex() if len(value) <= 64 else f"{value[:64].hex()}... ({len(value)} bytes)"
