"""An image, described and checked as ``nitro-cli describe-eif`` does it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from parent.eif import image, metadata, signature
from parent.eif.errors import EifError
from parent.eif.layout import HEADER_SIZE, SectionType
from parent.eif.measurement import PLAIN_RULE

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from cryptography import x509

    from parent.eif.image import Image
    from parent.eif.measurement import Digests
    from parent.eif.metadata import Metadata
    from parent.eif.signature import Signature

HASH_ALGORITHM = "Sha384 { ... }"
"""What ``nitro-cli`` calls it."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an image says and measures.

    Attributes:
        image: its structure.
        pcrs: what an enclave started from it has in PCR0, 1 and 2, and in PCR8 if it is signed:
            48 bytes each.
        is_whole: the CRC is right. It guards against accidents, not against attackers.
        signature: what the signature section says, or None.
        signature_failures: why the signature does not vouch for this image; validity of the
            certificate aside.
        metadata: what the metadata section says, or None.
        pcr0_rule: how PCR0 was computed: `PLAIN_RULE`, or with the header's flags.
    """

    image: Image
    pcrs: dict[int, bytes] = field(hash=False)
    is_whole: bool
    signature: Signature | None
    signature_failures: tuple[str, ...]
    metadata: Metadata | None
    pcr0_rule: str = PLAIN_RULE

    def validity(self, at: datetime) -> tuple[str, ...]:
        """Return why the signing certificate, if there is one, is not valid at a time.

        Args:
            at: aware.
        """
        return tuple(signature.validity(self.signature.certificate, at)) if self.signature else ()

    def failures(self, at: datetime) -> tuple[str, ...]:
        """Return each reason not to start an enclave from it.

        Args:
            at: the present, aware.
        """
        found = [] if self.is_whole else ["the CRC is wrong: the file was damaged"]
        if self.signature:
            found += signature.failures(self.signature, self.pcrs[0], at=at)
        return tuple(found)


def describe(stream: IO[bytes], *, progress: Callable[[int], None] | None = None) -> Description:
    """Read all of an image.

    Args:
        stream: seekable, from its start.
        progress: called with the number of bytes of each piece read.

    Raises:
        EifError: it is not an image, or has flags whose measurement is not published. A wrong CRC
            or signature is reported in the result.
    """
    read = image.read(stream)
    about = read.small(stream, SectionType.METADATA)
    signed = read.small(stream, SectionType.SIGNATURE)
    about_image = metadata.decode(about[0], offset=about[1]) if about else None
    vouched = signature.decode(signed[0], offset=signed[1]) if signed else None
    digests = image.digest(stream, read, progress=progress)
    rule, pcr0 = _pcr0(read, digests, vouched)
    pcrs = {0: pcr0, 1: digests.pcr1, 2: digests.pcr2}
    doubts: tuple[str, ...] = ()
    if vouched:
        pcrs[8] = vouched.pcr8
        doubts = tuple(signature.failures(vouched, pcr0, at=None))
    return Description(
        read, pcrs, digests.crc == read.header.crc, vouched, doubts, about_image, rule
    )


def _pcr0(read: Image, digests: Digests, vouched: Signature | None) -> tuple[str, bytes]:
    """Return how PCR0 is computed, and PCR0.

    The published rule leaves the header out. For an image with flags that this rule reserves, the
    signature shows how the builder counted them, as the hypervisor must: it compares the two.

    Raises:
        EifError: there is no signature, or it fits no rule.
    """
    if not read.header.reserved_flags:
        return PLAIN_RULE, digests.pcr0
    for rule, pcr0 in (*digests.with_flags.items(), (PLAIN_RULE, digests.pcr0)):
        if vouched and vouched.is_over(pcr0):
            return rule, pcr0
    why = "its signature fits none of the likely ways" if vouched else "it is not signed"
    raise EifError(
        f"PCR0 is unknown: the header has the flags {read.header.flags:#06x}, how these are "
        f"measured is not published, and {why}",
        offset=0,
        hint="Bottlerocket's eif-builder writes such images; ask its launcher for the PCRs",
    )


def check(
    stream: IO[bytes], *, at: datetime, progress: Callable[[int], None] | None = None
) -> Description:
    """Read all of an image that is to be used.

    Args:
        stream: seekable, from its start.
        at: the present, aware: when the signing certificate, if any, must be valid.
        progress: called with the number of bytes of each piece read.

    Raises:
        EifError: it is not an image, its CRC is wrong, or its signature does not vouch for it.
    """
    description = describe(stream, progress=progress)
    failures = description.failures(at)
    if failures:
        raise EifError("; ".join(failures), offset=HEADER_SIZE)
    return description


def as_nitro_cli(description: Description) -> dict[str, Any]:
    """Return the JSON of ``nitro-cli describe-eif``: its names, in its order.

    Source: aws-nitro-enclaves-cli, ``EifDescribeInfo`` and ``describe_eif``. Where a signature
    is wrong this has ``"SignatureCheck": false``; ``nitro-cli`` ends with an error.
    """
    told = description.metadata
    document: dict[str, Any] = {
        "EifVersion": description.image.header.version,
        "Measurements": measurements(description.pcrs),
        "IsSigned": description.signature is not None,
    }
    if description.signature:
        document["SigningCertificate"] = _certificate(description.signature.certificate)
    document["CheckCRC"] = description.is_whole
    if description.signature:
        document["SignatureCheck"] = not description.signature_failures
    if description.pcr0_rule != PLAIN_RULE:
        document["Pcr0Rule"] = description.pcr0_rule  # An entry of ours.
    if told:
        document["ImageName"] = told.name
        document["ImageVersion"] = told.version
        document["Metadata"] = {**told.build, "DockerInfo": told.docker}
        # serde's `flatten`: the entries stand beside the others, whose names they cannot take.
        custom = told.custom if isinstance(told.custom, dict) else {"CustomMetadata": told.custom}
        for name, value in custom.items():
            if value is not None or custom is told.custom:
                document["Metadata"].setdefault(name, value)
    return document


def measurements(pcrs: dict[int, bytes]) -> dict[str, str]:
    """Return the ``Measurements`` of ``nitro-cli``."""
    named = {f"PCR{index}": value.hex() for index, value in sorted(pcrs.items())}
    return {"HashAlgorithm": HASH_ALGORITHM, **named}


def _certificate(certificate: x509.Certificate) -> dict[str, Any]:
    issuer = {}
    for attribute in certificate.issuer:
        value = attribute.value
        text = value if isinstance(value, str) else "non-UTF8-string"
        # nitro-cli quotes the text as Rust does, then takes every quotation mark away.
        quoted = text.replace("\\", "\\\\").replace('"', "\\")
        issuer[_NAMES.get(attribute.oid.dotted_string, attribute.oid.dotted_string)] = quoted
    algorithm = certificate.signature_algorithm_oid.dotted_string
    return {
        "IssuerName": dict(sorted(issuer.items())),
        "Algorithm": _SIGNATURES.get(algorithm, algorithm),
        "NotBefore": _time(certificate.not_valid_before_utc),
        "NotAfter": _time(certificate.not_valid_after_utc),
        "Signature": certificate.signature.hex(":").upper(),
    }


def _time(moment: datetime) -> str:
    """Write a time as OpenSSL does (``ASN1_TIME_print``), whatever the locale."""
    month = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * moment.month - 3 : 3 * moment.month]
    return f"{month} {moment.day:2} {moment:%H:%M:%S} {moment.year} GMT"


# OpenSSL's long names; it prints numbers for what it has no name for, and so do we.
_NAMES = {
    NameOID.COMMON_NAME.dotted_string: "commonName",
    NameOID.COUNTRY_NAME.dotted_string: "countryName",
    NameOID.DOMAIN_COMPONENT.dotted_string: "domainComponent",
    NameOID.EMAIL_ADDRESS.dotted_string: "emailAddress",
    NameOID.LOCALITY_NAME.dotted_string: "localityName",
    NameOID.ORGANIZATION_IDENTIFIER.dotted_string: "organizationIdentifier",
    NameOID.ORGANIZATION_NAME.dotted_string: "organizationName",
    NameOID.ORGANIZATIONAL_UNIT_NAME.dotted_string: "organizationalUnitName",
    NameOID.SERIAL_NUMBER.dotted_string: "serialNumber",
    NameOID.STATE_OR_PROVINCE_NAME.dotted_string: "stateOrProvinceName",
    NameOID.STREET_ADDRESS.dotted_string: "streetAddress",
    NameOID.USER_ID.dotted_string: "userId",
}
_SIGNATURES = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256.dotted_string: "ecdsa-with-SHA256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384.dotted_string: "ecdsa-with-SHA384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512.dotted_string: "ecdsa-with-SHA512",
    SignatureAlgorithmOID.RSA_WITH_SHA256.dotted_string: "sha256WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA384.dotted_string: "sha384WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA512.dotted_string: "sha512WithRSAEncryption",
}
