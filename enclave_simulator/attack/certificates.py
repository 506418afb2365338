"""TLS contexts of a hostile server: each kind of certificate that a client must reject."""

from __future__ import annotations

import ssl
import tempfile
import threading
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enclave_simulator.attack.responses import ATTACKERS_HOST
from enclave_simulator.kms.names import DEFAULT_NAME, is_kms_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enclave_simulator.attack.model import CertificateKind

_DAY = timedelta(days=1)
_VALID = (-30 * _DAY, 30 * _DAY)
_MOST_CONTEXTS = 64


class _Identity:
    """A certificate, its key, and the certificates above it that a server sends."""

    def __init__(
        self,
        common_name: str,
        issuer: _Identity | None = None,
        *,
        ca: bool = False,
        names: Sequence[str] = (),
        valid: tuple[timedelta, timedelta] = _VALID,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
        only: str = "",
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        above = issuer or self
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            subject_name=subject,
            issuer_name=issuer.certificate.subject if issuer else subject,
            public_key=self.key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now + valid[0],
            not_valid_after=now + valid[1],
        )
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
        )
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key()),
            critical=False,
        )
        builder = builder.add_extension(_usage(ca=ca), critical=True)
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        if only:
            constraints = x509.NameConstraints([x509.DNSName(only)], None)
            builder = builder.add_extension(constraints, critical=True)
        self.certificate: x509.Certificate = builder.sign(above.key, SHA256())
        self.sent_above: tuple[_Identity, ...] = ()

    def load_into(self, context: ssl.SSLContext) -> None:
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = [each.certificate for each in (self, *self.sent_above)]
        # The ssl module loads keys from files only.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "server.pem")
            path.write_bytes(key + b"".join(each.public_bytes(Encoding.PEM) for each in chain))
            context.load_cert_chain(path)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


class Certificates:
    """The trusted CA, and contexts with certificates under it or beside it. Thread-safe.

    Attributes:
        ca_pem: the certificate that clients must trust, and no other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trusted = _Identity("Simulated KMS CA", ca=True)
        self._other = _Identity("Simulated KMS CA", ca=True)
        self._contexts: dict[tuple[CertificateKind, str, str], ssl.SSLContext] = {}
        self.ca_pem = self._trusted.certificate.public_bytes(Encoding.PEM)

    def server_context(self, kind: CertificateKind, protocol: str = "http/1.1") -> ssl.SSLContext:
        """Return a context to accept connections with: its certificate follows the client's SNI.

        Args:
            kind: of the certificate.
            protocol: chosen of those that a client offers (RFC 7301); else none is.
        """
        context = self._make(kind, DEFAULT_NAME, protocol)

        def choose(
            connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext
        ) -> None:
            if name == ATTACKERS_HOST:
                connection.context = self._context("valid", name, protocol)
            elif name is not None and name != DEFAULT_NAME and is_kms_name(name):
                connection.context = self._context(kind, name, protocol)

        context.sni_callback = choose
        return context

    def _context(self, kind: CertificateKind, name: str, protocol: str) -> ssl.SSLContext:
        key = (kind, name, protocol)
        with self._lock:
            context = self._contexts.get(key)
            if context is None:
                if len(self._contexts) >= _MOST_CONTEXTS:
                    self._contexts.clear()
                context = self._contexts[key] = self._make(*key)
            return context

    def _make(self, kind: CertificateKind, name: str, protocol: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([protocol])
        if kind == "anonymous":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("aNULL:@SECLEVEL=0")
            return context
        if kind == "downgrade":
            _allow_old(context)
        if kind == "weak-key":
            context.set_ciphers("ALL:@SECLEVEL=0")
        self._identity(kind, name).load_into(context)
        return context

    def _identity(self, kind: CertificateKind, name: str) -> _Identity:
        trusted = self._trusted
        match kind:
            case "valid" | "downgrade":
                return _Identity("KMS", trusted, names=[name])
            case "other-ca":
                return _Identity("KMS", self._other, names=[name])
            case "self-signed":
                return _Identity(name, names=[name])
            case "expired":
                return _Identity("KMS", trusted, names=[name], valid=(-30 * _DAY, -_DAY))
            case "not-yet-valid":
                return _Identity("KMS", trusted, names=[name], valid=(_DAY, 30 * _DAY))
            case "wrong-name":
                return _Identity("KMS", trusted, names=[ATTACKERS_HOST])
            case "common-name":
                return _Identity(name, trusted)
            case "wildcard":
                return _Identity("KMS", trusted, names=["*." + name.split(".", 2)[2]])
            case "client-only":
                purpose = ExtendedKeyUsageOID.CLIENT_AUTH
                return _Identity("KMS", trusted, names=[name], purpose=purpose)
            case "under-leaf":
                leaf = _Identity("attacker", trusted, names=[ATTACKERS_HOST])
                found = _Identity("KMS", leaf, names=[name])
                found.sent_above = (leaf,)
                return found
            case "constrained":
                above = _Identity("attacker's CA", trusted, ca=True, only=ATTACKERS_HOST)
                found = _Identity("KMS", above, names=[name])
                found.sent_above = (above,)
                return found
            case "weak-key":
                key = rsa.generate_private_key(65537, 1024)  # noqa: S505 (that is the attack)
                return _Identity("KMS", trusted, names=[name], key=key)
            case "anonymous" | "none":
                raise ValueError(f"no certificate is {kind}")
            case _:
                assert_never(kind)


def _allow_old(context: ssl.SSLContext) -> None:
    """Have a context speak TLS 1.1 at most, which OpenSSL does at its lowest security level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
