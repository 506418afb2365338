"""A private certificate authority, and a certificate for each KMS host name a client asks for."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enclave_simulator.kms.names import DEFAULT_NAME, is_kms_name

if TYPE_CHECKING:
    from enclave_simulator.kms.faults import FaultQueue

_LIFETIME = timedelta(days=30)
_MOST_CONTEXTS = 64


class CertificateAuthority:
    """Issues the server's certificates, by the name the client sends in its handshake (SNI).

    For a name that is not KMS's, or for none, the certificate is for `DEFAULT_NAME` and the
    loopback addresses: rejecting it is the client's part. It is not for ``localhost``, a name
    that the real KMS never has.
    """

    def __init__(
        self, faults: FaultQueue | None = None, *, key: ec.EllipticCurvePrivateKey | None = None
    ) -> None:
        """Create an authority; with the `key` of an earlier one, clients that trust it still do."""
        self._faults = faults
        self._key = key or generate_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Simulated KMS CA")])
        self._certificate = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_AUTHORITY_USAGE, critical=True)
            .sign(self._key, SHA256())
        )
        self._contexts: dict[str, ssl.SSLContext] = {}

    @property
    def certificate_pem(self) -> bytes:
        """Return the certificate that clients must trust."""
        return self._certificate.public_bytes(Encoding.PEM)

    def server_context(self) -> ssl.SSLContext:
        """Return the context to listen with."""
        context = self._context_for(DEFAULT_NAME)
        context.sni_callback = self._choose
        return context

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext
    ) -> None:
        if self._faults is not None and self._faults.take_for_handshake() == "wrong-host":
            connection.context = self._context_for("wrong.host.invalid")
        elif name is not None and is_kms_name(name):
            connection.context = self._context_for(name)

    def _context_for(self, name: str) -> ssl.SSLContext:
        context = self._contexts.get(name)
        if context is None:
            if len(self._contexts) >= _MOST_CONTEXTS:
                self._contexts.pop(next(iter(self._contexts)))
            context = self._contexts[name] = self._issue(name)
        return context

    def _issue(self, name: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if name == DEFAULT_NAME:
            names += _LOOPBACK_NAMES
        certificate = (
            _builder(x509.Name([]), self._name, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, SHA256())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        # The ssl module loads keys from files only.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "server.pem")
            path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
            context.load_cert_chain(path)
        return context


def generate_key() -> ec.EllipticCurvePrivateKey:
    """Generate an authority's key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Encode a key as PEM, in the clear: nothing real trusts it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Decode what `key_pem` encoded.

    Raises:
        ValueError: it is not a P-256 key, or is encrypted.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (TypeError, UnsupportedAlgorithm) as e:
        raise ValueError("not a private key, or an encrypted one") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a P-256 key")  # noqa: TRY004 (the caller's value, not its type)
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        # Clients' clocks may be off, and tests move them.
        not_valid_before=now - _LIFETIME,
        not_valid_after=now + _LIFETIME,
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_LOOPBACK_NAMES: list[x509.GeneralName] = [
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
]
