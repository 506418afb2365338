"""The certificate chain of an attestation document (RFC 5280, as far as AWS's chain goes).

The chain is not looked for but given, root first, and each certificate is named in failures by
where it stands in the document: ``cabundle[0]`` to ``cabundle[3]``, then ``certificate``.
Revocation is not looked at: AWS's text says so (aws-nitro-enclaves-nsm-api,
``docs/attestation_process.md``), and the certificates that sign live for hours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

E = TypeVar("E", bound=x509.ExtensionType)
_CHECKED_EXTENSIONS = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE)


def read(certificates: Sequence[bytes]) -> tuple[list[x509.Certificate | None], list[str]]:
    """Read DER certificates, the root first and the leaf last; None where one is unreadable.

    Returns:
        The certificates, and the failures.
    """
    chain: list[x509.Certificate | None] = []
    failures = []
    for name, der in zip(names(len(certificates)), certificates, strict=True):
        try:
            certificate = x509.load_der_x509_certificate(der)
            # Decoded only when asked for: ask here, where failing has a name.
            _ = certificate.extensions, certificate.public_key()
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except Exception as e:  # noqa: BLE001 (what the library raises for bad DER is no fixed list)
            chain.append(None)
            failures.append(f"{name}: not a readable certificate ({e!s:.100})")
        else:
            chain.append(certificate)
    return chain, failures


def names(count: int) -> list[str]:
    """What the certificates of a chain are called in failures."""
    return [f"cabundle[{index}]" for index in range(count - 1)] + ["certificate"]


def check(chain: Sequence[x509.Certificate | None], at: datetime) -> Iterator[str]:
    """Yield every failure of a chain: links, validity at `at`, and what each may sign.

    That the first certificate is the one trusted is for the caller to say.
    """
    named = list(zip(names(len(chain)), chain, strict=True))
    for (issuer_name, issuer), (name, certificate) in pairwise(named):
        if issuer and certificate and not _issued(certificate, issuer):
            yield f"{name}: not issued by {issuer_name}"
    for index, (name, certificate) in enumerate(named):
        if certificate is None:
            continue
        if at < certificate.not_valid_before_utc:
            yield f"{name}: not valid before {certificate.not_valid_before_utc:%F %TZ}"
        if at > certificate.not_valid_after_utc:
            yield f"{name}: expired on {certificate.not_valid_after_utc:%F %TZ}"
        is_leaf = index == len(named) - 1
        problems = (
            _leaf(certificate) if is_leaf else _authority(certificate, len(named) - 2 - index)
        )
        for problem in problems:
            yield f"{name}: {problem}"
        for extension in certificate.extensions:
            if extension.critical and extension.oid not in _CHECKED_EXTENSIONS:
                yield f"{name}: unknown critical extension {extension.oid.dotted_string}"


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the names match and the signature holds."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _authority(certificate: x509.Certificate, authorities_below: int) -> Iterator[str]:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        yield "not a certificate authority"
    elif constraints.path_length is not None and constraints.path_length < authorities_below:
        yield f"may not have {authorities_below} authorities below it"
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        yield "may not sign certificates"


def _leaf(certificate: x509.Certificate) -> Iterator[str]:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        yield "a certificate authority, where a leaf belongs"
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        yield "may not sign documents"


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
