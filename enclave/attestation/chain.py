"""The certificate chain of an attestation document (RFC 5280, as far as AWS's chain goes). No I/O.

The chain is not searched for but given, root first. A failure names a certificate by its place in
the document: ``cabundle[0]`` to ``cabundle[3]``, then ``certificate``. docs/trust.md compares
the checks with AWS's own text, point by point. Revocation is not checked: AWS's text says so, and
the certificates that sign live for hours.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

E = TypeVar("E", bound=x509.ExtensionType)
_CHECKED_EXTENSIONS = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE)


def read(certificates: Sequence[bytes]) -> tuple[list[x509.Certificate | None], list[str]]:
    """Read DER certificates, the root first and the leaf last; None for an unreadable one.

    Returns:
        The certificates, and the failures.
    """
    _raise_warnings()
    chain: list[x509.Certificate | None] = []
    failures = []
    for name, der in zip(names(len(certificates)), certificates, strict=True):
        try:
            certificate = x509.load_der_x509_certificate(der)
            # Decoded only on access: do it here, where a failure has a name.
            _ = certificate.extensions, certificate.public_key(), certificate.issuer
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        except Exception as e:  # noqa: BLE001 (the library documents no list of what it raises)
            chain.append(None)
            failures.append(f"{name}: not a readable certificate ({e!s:.100})")
        else:
            chain.append(certificate)
    return chain, failures


def _raise_warnings() -> None:
    """Have `cryptography` raise what it would only warn about, if it is called from this module.

    It warns of certificates that RFC 5280 forbids, and that it will reject one day; this verifier
    rejects them now. The filter applies to this module alone, so that it can stay: one that is
    taken back, as by `warnings.catch_warnings`, is every thread's for a moment.
    """
    if not any(getattr(each[3], "pattern", None) == _THIS_MODULE for each in warnings.filters):
        warnings.filterwarnings("error", module=_THIS_MODULE)


_THIS_MODULE = __name__.replace(".", r"\.") + "$"


def names(count: int) -> list[str]:
    """Return what the certificates of a chain are called in failures."""
    return [f"cabundle[{index}]" for index in range(count - 1)] + ["certificate"]


def check(chain: Sequence[x509.Certificate | None], at: datetime) -> Iterator[str]:
    """Yield every failure of a chain: links, validity at `at`, keys, and permitted uses.

    Whether the first certificate is the trusted one is for the caller to check.
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


def is_p384(key: PublicKeyTypes | None) -> TypeGuard[ec.EllipticCurvePublicKey]:
    """Return whether a public key is on P-384, as every key of AWS's PKI for Nitro is."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether the names match and the signature holds."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _authority(certificate: x509.Certificate, authorities_below: int) -> Iterator[str]:
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        yield "not a certificate authority"
    else:
        if not constraints.critical:
            yield "its BasicConstraints are not critical"
        limit = constraints.value.path_length
        if limit is not None and limit < authorities_below:
            yield f"may not have {authorities_below} authorities below it"
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None:
        yield "no KeyUsage"
    elif not usage.value.key_cert_sign:
        yield "may not sign certificates"
    if not is_p384(certificate.public_key()):
        yield "its key is not on P-384"


def _leaf(certificate: x509.Certificate) -> Iterator[str]:
    """Yield the failures of the leaf but its key's, which is checked with the signature."""
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        yield "a certificate authority, where a leaf belongs"
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None:
        yield "no KeyUsage"
    elif not usage.value.digital_signature:
        yield "may not sign documents"


def _extension(certificate: x509.Certificate, kind: type[E]) -> x509.Extension[E] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
