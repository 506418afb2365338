"""A private stand-in for the AWS Nitro Enclaves public-key infrastructure.

Root, regional, zonal, instance and leaf certificates have the names, serials, validity, key
usages and extensions of the real ones in attestation documents of 2021 to 2025; only the
organization names the simulation. A verifier that pins the AWS root rejects them.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

LEAF_LIFETIME = timedelta(hours=3)
"""Lifetime of a leaf certificate, which signs documents; then the NSM gets another."""

_ROOT_VALID = datetime(2019, 10, 28, 13, 28, 5, tzinfo=UTC), datetime(2049, 10, 28, tzinfo=UTC)
_REGIONAL_LIFETIME = timedelta(days=20)
_ZONAL_LIFETIME = timedelta(days=6)
_INSTANCE_LIFETIME = timedelta(days=1)
_CURVE = ec.SECP384R1()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf certificate, its private key, and the certificates between it and the root.

    Attributes:
        certificate: DER.
        cabundle: DER certificates, the root first, the issuer of `certificate` last.
        key: the P-384 private key that signs documents.
        not_before: start of validity.
        not_after: end of validity.
    """

    certificate: bytes
    cabundle: tuple[bytes, ...]
    key: ec.EllipticCurvePrivateKey
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class _Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Authority:
    """A root certificate and the intermediates below it. `generate` creates one.

    Intermediates are issued when a leaf first needs them, and renewed when they no longer cover
    the leaf's time; so any `now` between 2019 and 2049 works, in any order.
    """

    def __init__(
        self, root: x509.Certificate, key: ec.EllipticCurvePrivateKey, region: str
    ) -> None:
        self._root = _Issuer(root, key)
        self._region = region
        self._chain: tuple[_Issuer, ...] = ()

    @classmethod
    def generate(cls, *, region: str = "us-east-1") -> Authority:
        """Create a root; the names below it have `region` in them."""
        key = ec.generate_private_key(_CURVE)
        name = _name(("C", "US"), ("O", _ORGANIZATION), ("OU", "AWS"), ("CN", _DOMAIN))
        builder = (
            _builder(name, name, key, *_ROOT_VALID, _serial(127))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_subject_key_identifier(key), critical=False)
            .add_extension(_AUTHORITY_USAGE, critical=True)
        )
        return cls(builder.sign(key, SHA384()), key, region)

    @property
    def root_der(self) -> bytes:
        """Return the root certificate, DER: also the first entry of every cabundle."""
        return self._root.certificate.public_bytes(Encoding.DER)

    @property
    def root_pem(self) -> bytes:
        """Return the root certificate, PEM."""
        return self._root.certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the root's DER, which verifiers pin, in lower-case hex."""
        return hashlib.sha256(self.root_der).hexdigest()

    def issue_leaf(self, module_id: str, now: datetime) -> Leaf:
        """Certify a new key for one NSM or NitroTPM, valid from 3 s before `now` for 3 hours.

        Args:
            module_id: ``i-INSTANCE-encENCLAVE``, as in DescribeNSM, or ``i-INSTANCE-tpmTPM``.
            now: aware; the time the certificate is issued.
        """
        now = now.astimezone(UTC).replace(microsecond=0)
        instance_id, _, module = module_id.rpartition("-")
        chain = self._chain_for(instance_id, now)
        issuer = chain[-1]
        key = ec.generate_private_key(_CURVE)
        not_before, not_after = now - timedelta(seconds=3), now + LEAF_LIFETIME
        builder = (
            _builder(
                _washington(f"{module_id}.{self._region}.aws"),
                issuer.certificate.subject,
                key,
                not_before,
                not_after,
                # Real serials are the id of enclave or TPM, then the time of issue, 64 bits each.
                (int(module[3:], 16) << 64) + int(now.timestamp()),
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_LEAF_USAGE, critical=False)
        )
        certificate = builder.sign(issuer.key, SHA384())
        return Leaf(
            certificate.public_bytes(Encoding.DER),
            tuple(i.certificate.public_bytes(Encoding.DER) for i in (self._root, *chain)),
            key,
            not_before,
            not_after,
        )

    def _chain_for(self, instance_id: str, now: datetime) -> tuple[_Issuer, ...]:
        name = f"{instance_id}.{self._region}.{_DOMAIN}"
        chain = self._chain  # one read: another thread may replace it
        if not chain or not _covers(chain[-1].certificate, name, now):
            regional = self._issue_regional(now)
            zonal = self._issue_zonal(regional, now)
            chain = self._chain = regional, zonal, _issue_instance(zonal, name, now)
        return chain

    def _issue_regional(self, now: datetime) -> _Issuer:
        name = f"{secrets.token_hex(8)}.{self._region}.{_DOMAIN}"
        subject = _name(("C", "US"), ("O", _ORGANIZATION), ("OU", "AWS"), ("CN", name))
        return _issue_intermediate(self._root, subject, 2, now, _REGIONAL_LIFETIME)

    def _issue_zonal(self, issuer: _Issuer, now: datetime) -> _Issuer:
        name = f"{secrets.token_hex(8)}.zonal.{self._region}.{_DOMAIN}"
        subject = _name(
            ("CN", name), ("OU", "AWS"), ("O", _ORGANIZATION),
            ("C", "US"), ("ST", "WA"), ("L", "Seattle"),
        )  # fmt: skip
        return _issue_intermediate(issuer, subject, 1, now, _ZONAL_LIFETIME)


def _issue_intermediate(
    issuer: _Issuer, subject: x509.Name, path_length: int, now: datetime, lifetime: timedelta
) -> _Issuer:
    key = ec.generate_private_key(_CURVE)
    start = now - timedelta(hours=1)
    crl = x509.UniformResourceIdentifier(f"http://crl.simulator.invalid/crl/{uuid.uuid4()}.crl")
    builder = (
        _builder(
            subject,
            issuer.certificate.subject,
            key,
            start,
            start + lifetime,
            _serial(127),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_authority_key_identifier(issuer), critical=False)
        .add_extension(_subject_key_identifier(key), critical=False)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(
            x509.CRLDistributionPoints([x509.DistributionPoint([crl], None, None, None)]),
            critical=False,
        )
    )
    return _Issuer(builder.sign(issuer.key, SHA384()), key)


def _issue_instance(issuer: _Issuer, name: str, now: datetime) -> _Issuer:
    key = ec.generate_private_key(_CURVE)
    start = now - timedelta(minutes=10)
    builder = (
        _builder(
            _washington(name),
            issuer.certificate.subject,
            key,
            start,
            start + _INSTANCE_LIFETIME,
            _serial(159),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_INSTANCE_USAGE, critical=True)
        .add_extension(_subject_key_identifier(key), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
    )
    return _Issuer(builder.sign(issuer.key, SHA384()), key)


def _covers(certificate: x509.Certificate, name: str, now: datetime) -> bool:
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return (
        common == name
        and certificate.not_valid_before_utc < now
        and now + LEAF_LIFETIME < certificate.not_valid_after_utc
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_before: datetime,
    not_after: datetime,
    serial: int,
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=serial,
        not_valid_before=not_before,
        not_valid_after=not_after,
    )


def _serial(bits: int) -> int:
    return secrets.randbits(bits) | 1  # never 0, which X.509 forbids


_ORGANIZATION = "Enclave Simulator"
_DOMAIN = "aws.nitro-enclaves"
_OIDS = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
}


def _name(*parts: tuple[str, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(_OIDS[kind], value) for kind, value in parts])


def _washington(common_name: str) -> x509.Name:
    """Return the name of an instance or a leaf as AWS has it: state in full, common name last."""
    return _name(
        ("C", "US"), ("ST", "Washington"), ("L", "Seattle"),
        ("O", _ORGANIZATION), ("OU", "AWS"), ("CN", common_name),
    )  # fmt: skip


def _usage(
    *,
    signature: bool = False,
    commitment: bool = False,
    certificates: bool = False,
    crl: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        content_commitment=commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=crl,
        encipher_only=False,
        decipher_only=False,
    )


_AUTHORITY_USAGE = _usage(signature=True, certificates=True, crl=True)
_INSTANCE_USAGE = _usage(certificates=True)
_LEAF_USAGE = _usage(signature=True, commitment=True)


def _subject_key_identifier(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _authority_key_identifier(issuer: _Issuer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
