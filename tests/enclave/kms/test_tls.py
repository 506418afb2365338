"""TLS to KMS: which CAs are trusted for which host, and that nothing of a connection leaks."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from enclave.errors import ConfigurationError
from enclave.kms import roots
from enclave.kms.regions import regional_endpoint
from enclave.kms.tls import is_amazons, tls_context

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "kms.us-east-1.amazonaws.com"
NOW = datetime.now(UTC)

KEYS = {
    # SHA-256 of each SubjectPublicKeyInfo, as Amazon Trust Services publishes it ("Repository").
    "Amazon Root CA 1": "fbe3018031f9586bcbf41727e417b7d1c45c2f47f93be372a17b96b50757d5a2",
    "Amazon Root CA 2": "7f4296fc5b6a4e3b35d3c369623e364ab1af381d8fa7121533c9d6c633ea2461",
    "Amazon Root CA 3": "36abc32656acfc645c61b71613c4bf21c787f5cabbee48348d58597803d7abc9",
    "Amazon Root CA 4": "f7ecded5c66047d28ed6466b543c40e0743abe81d109254dcf845d4c2c7853c5",
    "Starfield Services Root Certificate Authority - G2": (
        "2b071c59a0a0ae76b0eadb2bad23bad4580b69c3601b630c2eaf0613afa83f92"
    ),
}


@dataclass
class Party:
    """A name and its key; certificates for it are made by whoever signs them."""

    name: str
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, name: str) -> Party:
        return cls(name, ec.generate_private_key(ec.SECP256R1()))

    def certify(
        self, subject: Party, *, ca: bool = True, names: tuple[x509.GeneralName, ...] = ()
    ) -> x509.Certificate:
        own, issuer = subject.key.public_key(), self.key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject.name))
            .issuer_name(_name(self.name))
            .public_key(own)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False
            )
        )
        if ca:
            usage = dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "key_agreement",
                 "data_encipherment", "crl_sign", "encipher_only", "decipher_only"), False,
            )  # fmt: skip
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, **usage), True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def serving(
    folder: Path, key: ec.EllipticCurvePrivateKey, *chain: x509.Certificate
) -> ssl.SSLContext:
    """A server's context with a chain, the leaf first."""
    file = folder / "server.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(secret + _pem(*chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str = HOST) -> None:
    """A handshake in memory; raises what the client raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    # DeadlineTlsSocket is for sockets.
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        if ours.version() and theirs.version():
            return


def trusted(context: ssl.SSLContext) -> int:
    return context.cert_store_stats()["x509_ca"]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where roots would be ready, with nothing remembered of them."""
    monkeypatch.setattr(roots, "READY", tmp_path / "roots.pem")
    roots.amazon_roots.cache_clear()
    yield tmp_path / "roots.pem"
    roots.amazon_roots.cache_clear()


# Starfield's root has the serial number 0, as old roots may.
@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_the_pinned_certificates_have_the_keys_that_amazon_publishes() -> None:
    found = roots.picked(Path(roots.public_bundle()).read_bytes())
    certificates = [x509.load_der_x509_certificate(der) for der in found]
    keys = {}
    for each in certificates:
        (name,) = each.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        spki = each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        keys[str(name.value)] = hashlib.sha256(spki).hexdigest()
    assert keys == KEYS
    assert keys.keys() == roots.FINGERPRINTS.keys()


@pytest.mark.parametrize(
    ("region", "amazon"),
    [
        ("us-east-1", True),
        ("us-gov-west-1", True),
        ("eusc-de-east-1", True),
        ("cn-north-1", False),
        ("us-iso-east-1", False),
        ("us-isob-east-1", False),
        ("eu-isoe-west-1", False),
        ("us-isof-south-1", False),
    ],
)
def test_the_partitions(region: str, amazon: bool) -> None:
    assert is_amazons(regional_endpoint(region).host) is amazon


@pytest.mark.parametrize(
    ("host", "amazon"),
    [
        ("KMS.us-east-1.AmazonAWS.com", True),
        ("kms-fips.us-west-2.amazonaws.com", True),
        ("kms.eu-west-1.api.aws", True),
        ("kms.eusc-de-east-1.api.amazonwebservices.eu", True),
        ("vpce-0a-1b.kms.us-east-1.vpce.amazonaws.com", True),
        ("kms.us-east-1.amazonaws.com.", True),
        ("amazonaws.com", False),
        ("evilamazonaws.com", False),
        ("kms.us-east-1.amazonaws.com.example", False),
        ("kms.cn-north-1.api.amazonwebservices.com.cn", False),
        ("127.0.0.1", False),
    ],
)
def test_who_is_trusted_for_which_host(host: str, amazon: bool) -> None:
    assert is_amazons(host) is amazon
    assert (trusted(tls_context(host)) == 5) is amazon
    assert trusted(tls_context(host, trust="public")) > 100


def test_a_ca_bundle_is_trusted_alone(tmp_path: Path) -> None:
    own = Party.new("a private CA")
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(_pem(own.certify(own)))
    for trust in ("amazon", "public"):
        for host in (HOST, "kms.example"):
            context = tls_context(host, ca_bundle=str(bundle), trust=trust)
            assert trusted(context) == 1


@pytest.mark.parametrize("trust", ["", "Amazon", "none"])
def test_an_unknown_trust_is_rejected(trust: str) -> None:
    with pytest.raises(ConfigurationError, match="no such trust") as caught:
        tls_context(HOST, trust=trust)
    assert caught.value.hint == "there are amazon, public"


def test_a_bundle_can_add_nothing_to_the_pinned_roots(fresh: Path) -> None:
    forger = Party.new("Amazon Root CA 1")
    forged = _pem(forger.certify(forger))
    assert roots.picked(forged + b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----") == []
    real = Path(roots.public_bundle()).read_bytes()
    fresh.write_bytes(forged + real)
    assert trusted(tls_context(HOST)) == 5
    roots.amazon_roots.cache_clear()
    fresh.write_bytes(forged)
    with pytest.raises(ConfigurationError, match="no root of Amazon Trust Services"):
        tls_context(HOST)


def test_the_roots_made_ready_are_the_same(fresh: Path) -> None:
    picked = roots.amazon_roots()
    roots.amazon_roots.cache_clear()
    roots.write_ready(fresh)
    assert fresh.read_bytes().count(b"BEGIN CERTIFICATE") == 5
    assert roots.amazon_roots() == picked


def test_amazons_chains_verify_whatever_end_the_server_sends(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Amazon's hierarchy: roots, cross-signed by Starfield G2, which Starfield Class 2 signs."""
    class2, g2, root, issuing, leaf = (
        Party.new(name) for name in ("Class 2", "G2", "Root CA 1", "Amazon RSA 2048 M01", HOST)
    )
    own_roots = [root.certify(root), g2.certify(g2)]
    pinned = [each.fingerprint(hashes.SHA256()).hex() for each in own_roots]
    monkeypatch.setattr(roots, "FINGERPRINTS", dict(enumerate(pinned)))
    fresh.write_bytes(_pem(*own_roots, class2.certify(class2)))
    client = tls_context(HOST)
    assert trusted(client) == 2
    end = [issuing.certify(leaf, ca=False, names=(x509.DNSName(HOST),)), root.certify(issuing)]
    for rest in (
        [],
        [g2.certify(root)],
        [g2.certify(root), class2.certify(g2)],
        [g2.certify(root), class2.certify(g2), class2.certify(class2)],
    ):
        shake_hands(client, serving(fresh.parent, leaf.key, *end, *rest))
    # Any other public CA's, and one that Class 2 has signed beside Amazon's.
    other = [class2.certify(leaf, ca=False, names=(x509.DNSName(HOST),)), class2.certify(class2)]
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, serving(fresh.parent, leaf.key, *other))


@pytest.mark.parametrize(
    ("names", "host", "accepted"),
    [
        ((x509.DNSName(HOST),), HOST, True),
        ((x509.DNSName("*.us-east-1.amazonaws.com"),), HOST, True),
        ((x509.DNSName("kms.us-east-2.amazonaws.com"),), HOST, False),
        ((), HOST, False),
        ((x509.IPAddress(ipaddress.ip_address("127.0.0.1")),), "127.0.0.1", True),
        ((x509.IPAddress(ipaddress.ip_address("127.0.0.1")),), HOST, False),
    ],
)
def test_the_subject_alternative_name_decides(
    tmp_path: Path, names: tuple[x509.GeneralName, ...], host: str, accepted: bool
) -> None:
    """The common name is the host's throughout, and means nothing."""
    ca, leaf = Party.new("a private CA"), Party.new(HOST)
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(_pem(ca.certify(ca)))
    client = tls_context(host, ca_bundle=str(bundle))
    server = serving(tmp_path, leaf.key, ca.certify(leaf, ca=False, names=names))
    if accepted:
        shake_hands(client, server, host)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
            shake_hands(client, server, host)


def test_no_file_gets_the_secrets_of_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_log = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(key_log))
    ca, leaf = Party.new("a private CA"), Party.new(HOST)
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(_pem(ca.certify(ca)))
    for options in ({"ca_bundle": str(bundle)}, {}, {"trust": "public"}):
        client = tls_context(HOST, **options)
        assert client.keylog_filename is None
    client = tls_context(HOST, ca_bundle=str(bundle))
    names = (x509.DNSName(HOST),)
    shake_hands(client, serving(tmp_path, leaf.key, ca.certify(leaf, ca=False, names=names)))
    assert not key_log.exists()


def test_old_tls_is_rejected() -> None:
    assert tls_context(HOST).minimum_version == ssl.TLSVersion.TLSv1_2
