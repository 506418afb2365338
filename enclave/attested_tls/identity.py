"""The TLS key of an enclave: made here, in memory, with a certificate that it signs itself."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import ssl
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enclave.cut_off import report_cut_offs

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

log = logging.getLogger(__name__)

RENEW_AFTER: Final = 86_400.0
"""Seconds after which new connections get a new key."""

VALIDITY: Final = timedelta(days=7)
"""Of a certificate that is renewed daily. Clients of this project do not look at it."""

LONG_VALIDITY: Final = timedelta(days=3650)
"""Of a certificate that the program was given: an enclave ends before it."""

_RETRY: Final = 60.0
"""Seconds after which renewing is tried again."""

_CLOCK_ALLOWANCE: Final = timedelta(days=1)
_MAX_COMMON_NAME: Final = 64  # RFC 5280, ub-common-name


@dataclass(frozen=True, slots=True)
class Identity:
    """A key pair with its certificate.

    Attributes:
        public_key: SubjectPublicKeyInfo, DER.
        certificate: PEM.
        private_key: PEM, not encrypted.
    """

    public_key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    private_key: bytes = field(repr=False)


def make_identity(name: str, now: datetime, *, validity: timedelta = VALIDITY) -> Identity:
    """Make a key on P-256 and a certificate for `name`, a DNS name or an IP address."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_MAX_COMMON_NAME])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_ALLOWANCE)
        .not_valid_after(now + validity)
        .add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, SHA256())
    )
    return Identity(
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def server_context(identity: Identity) -> ssl.SSLContext:
    """Return a context that ends TLS 1.3 with this key, without session tickets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    report_cut_offs(context)
    # A resumed session would not prove the key again.
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    # `ssl` takes files only. This one has no name in any file system, and ends here.
    file = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(file, identity.certificate + identity.private_key)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context


class CurrentIdentity:
    """The identity that new connections get, renewed daily.

    Connections keep the one that they began with.

    Args:
        name: of the certificates.
        now: returns the time, for the certificates.
        monotonic: returns seconds, for the renewal.
    """

    def __init__(
        self, name: str, *, now: Callable[[], datetime], monotonic: Callable[[], float]
    ) -> None:
        self._name = name
        self._now = now
        self._monotonic = monotonic
        self._renew()

    def get(self) -> tuple[Identity, ssl.SSLContext]:
        """Return the identity and its context."""
        if self._monotonic() - self._made >= RENEW_AFTER:
            try:
                self._renew()
            except OSError as e:  # no file descriptor is left, for example
                log.warning("attested TLS: no new key, going on with the last one: %s", e.strerror)
                self._made += _RETRY
        return self._current

    def _renew(self) -> None:
        identity = make_identity(self._name, self._now())
        self._current = identity, server_context(identity)
        self._made = self._monotonic()
