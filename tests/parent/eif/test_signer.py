"""Signers: keys in files and in KMS, and certificates that no enclave starts with."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import ssl
import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from parent.eif import signature
from parent.eif.signer import FileKey, KmsKey, Signer, SigningError, load_key
from tests.parent.conftest import NOT_AFTER, NOT_BEFORE, WITHIN, Identity, make_identity
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PCR0 = bytes(range(48))
ARN = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
HASHES = {"ECDSA_SHA_256": hashes.SHA256(), "ECDSA_SHA_384": hashes.SHA384(),
          "ECDSA_SHA_512": hashes.SHA512()}  # fmt: skip


def test_keys_that_cannot_sign(identity: Identity) -> None:
    private = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    of_rsa = rsa.generate_private_key(65537, 2048).private_bytes(pem, private, plain)
    locked = identity.key.private_bytes(
        pem, private, serialization.BestAvailableEncryption(b"password")
    )
    other = make_identity(ec.SECP384R1()).key_pem
    koblitz = make_identity(ec.SECP256K1())
    for certificate, key, reason in (
        (b"", identity.key_pem, "signing certificate is not a certificate in PEM"),
        (of_version(4, identity.pem), identity.key_pem, "is not a certificate in PEM"),
        (koblitz.pem, identity.key_pem, "certificate's key is not on P-256, P-384 or P-521"),
        (identity.pem, b"-----BEGIN PRIVATE KEY-----\n", "not an unencrypted one in PEM"),
        (identity.pem, locked, "not an unencrypted one in PEM"),
        (identity.pem, of_rsa, "not on P-256, P-384 or P-521"),
        (identity.pem, other, "not that of the signing certificate"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            Signer(certificate, FileKey(key))


def test_the_first_of_several_certificates_counts(identity: Identity) -> None:
    issuer = make_identity(ec.SECP384R1()).pem
    section = Signer(identity.pem + issuer, FileKey(identity.key_pem)).sign(PCR0)
    assert list(signature.failures(signature.decode(section, offset=0), PCR0, at=WITHIN)) == []
    with pytest.raises(ConfigurationError, match="not that of the signing") as caught:
        Signer(issuer + identity.pem, FileKey(identity.key_pem))
    assert "the first one counts" in caught.value.hint


def of_version(number: int, pem: bytes) -> bytes:
    """Return a certificate that says to be of another version, and is as it was otherwise."""
    der = bytearray(ssl.PEM_cert_to_DER_cert(pem.decode()))
    der[der.index(b"\xa0\x03\x02\x01\x02\x02") + 4] = number - 1
    return ssl.DER_cert_to_PEM_cert(bytes(der)).encode()


def test_a_certificate_with_too_much_around_it(identity: Identity) -> None:
    # nitro-cli would write it, and the hypervisor not take it.
    with pytest.raises(ConfigurationError, match="the hypervisor takes 32768"):
        Signer(identity.pem + b"#" * 20_000, FileKey(identity.key_pem)).sign(PCR0)


@pytest.mark.parametrize(
    ("at", "warning"),
    [
        (WITHIN, ""),
        (NOT_BEFORE - timedelta(days=1), "is not valid before"),
        (NOT_AFTER - timedelta(days=1), "expires on"),
        (NOT_AFTER, "expires on"),
    ],
)
def test_certificates_that_are_not_valid_for_long(
    identity: Identity, at: datetime, warning: str
) -> None:
    told = Signer(identity.pem, FileKey(identity.key_pem)).check_validity(at)
    assert warning in told
    assert bool(warning) == bool(told)


def test_an_expired_certificate_does_not_sign(identity: Identity) -> None:
    signer = Signer(identity.pem, FileKey(identity.key_pem))
    with pytest.raises(ConfigurationError, match="the certificate expired on") as caught:
        signer.check_validity(NOT_AFTER + timedelta(seconds=1))
    assert "E59" in caught.value.hint


Answer = tuple[int, dict[str, Any]]


@contextlib.contextmanager
def kms(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A KMS that answers as told; its address, and the requests it got."""
    requests: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body["target"] = self.headers["X-Amz-Target"]
            body["authorization"] = self.headers["Authorization"]
            requests.append(body)
            status, document = answer(body)
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("x-amzn-RequestId", "some-request")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


def with_key(key: ec.EllipticCurvePrivateKey) -> Callable[[dict[str, Any]], Answer]:
    def answer(request: dict[str, Any]) -> Answer:
        digest = base64.b64decode(request["Message"])
        algorithm = HASHES[request["SigningAlgorithm"]]
        signed = key.sign(digest, ec.ECDSA(Prehashed(algorithm)))
        return 200, {"KeyId": request["KeyId"], "Signature": base64.b64encode(signed).decode()}

    return answer


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    return monkeypatch


@pytest.mark.parametrize(
    ("curve", "algorithm"),
    [
        (ec.SECP256R1(), "ECDSA_SHA_256"),
        (ec.SECP384R1(), "ECDSA_SHA_384"),
        (ec.SECP521R1(), "ECDSA_SHA_512"),
    ],
)
def test_a_key_in_kms_signs(
    curve: ec.EllipticCurve, algorithm: str, credentials: pytest.MonkeyPatch
) -> None:
    identity = make_identity(curve)
    with kms(with_key(identity.key)) as (address, requests):
        credentials.setenv("AWS_ENDPOINT_URL_KMS", address)
        section = Signer(identity.pem, KmsKey(ARN)).sign(PCR0)
    read = signature.decode(section, offset=0)
    assert list(signature.failures(read, PCR0, at=WITHIN)) == []
    (request,) = requests
    assert request["target"] == "TrentService.Sign"
    assert (request["KeyId"], request["MessageType"]) == (ARN, "DIGEST")
    assert request["SigningAlgorithm"] == algorithm
    assert "/eu-central-1/kms/" in request["authorization"]  # The ARN's region, not the default.


def test_another_key_in_kms_is_noticed(credentials: pytest.MonkeyPatch) -> None:
    identity, other = make_identity(ec.SECP384R1()), make_identity(ec.SECP384R1())
    with kms(with_key(other.key)) as (address, _):
        credentials.setenv("AWS_ENDPOINT_URL_KMS", address)
        with pytest.raises(ConfigurationError, match="not that of the signing certificate"):
            Signer(identity.pem, KmsKey(ARN)).sign(PCR0)


@pytest.mark.parametrize(
    ("status", "document", "reason", "hint"),
    [
        (400, {"__type": "AccessDeniedException", "Message": "no"},
         "AccessDeniedException: no .request some-request", "kms:Sign"),
        (400, {"__type": "NotFoundException", "message": "where"}, "NotFoundException", "ARN"),
        (400, {"__type": "InvalidKeyUsageException"}, "InvalidKeyUsageException", "SIGN_VERIFY"),
        (200, {}, "no signature", ""),
        (200, {"Signature": ""}, "no signature", ""),
    ],
)  # fmt: skip
def test_kms_does_not_sign(
    identity: Identity, credentials: pytest.MonkeyPatch,
    status: int, document: dict[str, Any], reason: str, hint: str,
) -> None:  # fmt: skip
    with kms(lambda _: (status, document)) as (address, _):
        credentials.setenv("AWS_ENDPOINT_URL_KMS", address)
        with pytest.raises(SigningError, match=reason) as caught:
            Signer(identity.pem, KmsKey(ARN)).sign(PCR0)
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value)


def test_no_credentials(identity: Identity, credentials: pytest.MonkeyPatch) -> None:
    credentials.delenv("AWS_ACCESS_KEY_ID")
    credentials.delenv("AWS_SECRET_ACCESS_KEY")
    credentials.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(SigningError, match="Unable to locate credentials"):
        Signer(identity.pem, KmsKey(ARN)).sign(PCR0)


@pytest.mark.parametrize(
    "arn",
    [
        ARN,
        "arn:aws:kms:us-east-1:123456789012:key:1234abcd",  # As nitro-cli takes it.
        "arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-1234",
        "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/abcd",
    ],
)
def test_arns(arn: str) -> None:
    assert isinstance(load_key(arn, lambda _: b""), KmsKey)


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:kms::123456789012:key/abcd", "arn:aws:kms:us-east-1:12345678901:key/abcd",
        "arn:aws:s3:us-east-1:123456789012:key/abcd", "arn:aws:kms:us-east-1:123456789012:key/",
        "arn:aws:kms:us-east-1:123456789012:alias/a", "arn:aws:kms:us-east-1:123456789012:key/a@",
    ],
)  # fmt: skip
def test_what_is_no_arn_of_a_key(arn: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the ARN of a key in KMS"):
        load_key(arn, lambda _: b"")
