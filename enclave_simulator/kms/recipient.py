"""The Recipient of a request: its attestation document verified, and CMS encrypted to its key."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from enclave_simulator.kms.cms import Enveloper
from enclave_simulator.kms.messages import KmsError

MAX_DOCUMENT_AGE = timedelta(minutes=5)
"""How old a document may be. AWS documents no figure; users report five minutes."""

_CACHED_DOCUMENTS = 256
_TRAIL_ENCLAVE = (0, 1, 2, 3, 4, 8)
_TRAIL_TPM = (4, 7, 8, 9, 16, 23)
_THIS_MODULE = re.escape(__name__)

_PROTECTED_HEADER = bytes.fromhex("a1013822")  # {1: -35}: alg ES384


@dataclass(frozen=True, slots=True)
class Attested:
    """The content of a verified attestation document.

    Attributes:
        module_id: of the NSM or NitroTPM that signed it.
        pcrs: by index: an NSM's locked ones, all of a NitroTPM.
        is_tpm: a NitroTPM signed it.
        enveloper: encrypts to the document's public key.
        timestamp: when the document was made.
        not_after: when the first certificate under it expires.
    """

    module_id: str
    pcrs: dict[int, bytes]
    is_tpm: bool
    enveloper: Enveloper
    timestamp: datetime
    not_after: datetime

    def condition_keys(self) -> dict[str, tuple[str, ...]]:
        """Return the condition keys of the document's platform, in lower case."""
        prefix = "kms:recipientattestation:" + ("nitrotpm" if self.is_tpm else "")
        keys: dict[str, tuple[str, ...]] = {
            f"{prefix}pcr{index}": (pcr.hex(),) for index, pcr in self.pcrs.items()
        }
        if not self.is_tpm and 0 in self.pcrs:
            keys[f"{prefix}imagesha384"] = (self.pcrs[0].hex(),)
        return keys

    def trail(self) -> dict[str, str]:
        """Return the ``recipient`` field of CloudTrail events.

        Names: KMS Developer Guide, "Monitoring attested requests". That values are base64, not
        the hex of policies, is recorded from events of 2025.
        """
        fields = {"attestationDocumentModuleId": self.module_id}
        for index in _TRAIL_TPM if self.is_tpm else _TRAIL_ENCLAVE:
            name = f"NitroTPMPCR{index}" if self.is_tpm else f"EnclavePCR{index}"
            if index == 0:
                name = "EnclaveImageDigest"
            if index in self.pcrs:
                value = base64.b64encode(self.pcrs[index]).decode()
                fields[f"attestationDocument{name}"] = value
        return fields


class DocumentVerifier:
    """Verifies documents under one root, and caches the verified ones.

    A client sends one document with many requests; only its age is checked each time.
    """

    def __init__(self, root_pem: bytes, *, max_age: timedelta = MAX_DOCUMENT_AGE) -> None:
        root = x509.load_pem_x509_certificate(root_pem)
        self._root_der = root.public_bytes(Encoding.DER)
        self._max_age = max_age
        self._verified: OrderedDict[bytes, Attested] = OrderedDict()

    def verify(self, document: bytes, now: datetime) -> Attested:
        """Verify a document: form, signature, chain, validity, age, and its RSA-2048 key.

        Raises:
            KmsError: ValidationException. That KMS responds with this type is reported; its text
                is not known, and the simulator's says what failed.
        """
        digest = hashlib.sha256(document).digest()
        attested = self._verified.get(digest)
        if attested is None:
            attested = self._parse(document, now)
            self._verified[digest] = attested
            if len(self._verified) > _CACHED_DOCUMENTS:
                self._verified.popitem(last=False)
        if abs(now - attested.timestamp) > self._max_age:
            raise _invalid(f"it was made at {attested.timestamp.isoformat()}, too far from now")
        if now > attested.not_after:
            raise _invalid("a certificate has expired")
        return attested

    def _parse(self, document: bytes, now: datetime) -> Attested:
        _raise_warnings()
        try:
            header, unprotected, payload, signature = cbor2.loads(document, max_depth=16)
            fields = cbor2.loads(payload, max_depth=16)
            timestamp = datetime.fromtimestamp(fields["timestamp"] / 1000, UTC)
            chain = [_certificate(der) for der in (*fields["cabundle"], fields["certificate"])]
            root_der, public_key = fields["cabundle"][0], fields["public_key"]
            module_id = str(fields["module_id"])
            is_tpm = "nitrotpm_pcrs" in fields
            pcrs = dict(fields["nitrotpm_pcrs" if is_tpm else "pcrs"])
        except Exception as e:  # cryptography documents no list of what it raises
            raise _invalid("it cannot be parsed") from e
        if header != _PROTECTED_HEADER or unprotected != {}:
            raise _invalid("it is not signed with ES384, or has other headers")
        if root_der != self._root_der:
            raise _invalid("its root certificate is not the trusted one")
        _check_chain(chain, now)
        _check_signature(chain[-1], header, payload, signature)
        return Attested(
            module_id,
            pcrs,
            is_tpm,
            Enveloper(_load_rsa(public_key)),
            timestamp,
            min(certificate.not_valid_after_utc for certificate in chain),
        )


def _certificate(der: bytes) -> x509.Certificate:
    """Return a certificate of which every part that is used later can be read."""
    certificate = x509.load_der_x509_certificate(der)
    # Decoded only on access: do it here, where a failure has a name.
    _ = certificate.extensions, certificate.public_key(), certificate.issuer
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate


def _raise_warnings() -> None:
    """Have `cryptography` raise what it would only warn about: certificates against RFC 5280."""
    if not any(getattr(each[3], "pattern", None) == _THIS_MODULE for each in warnings.filters):
        warnings.filterwarnings("error", module=_THIS_MODULE)


def _check_chain(chain: list[x509.Certificate], now: datetime) -> None:
    for certificate in chain:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise _invalid("a certificate is not valid now")
    for issuer, issued in itertools.pairwise(chain):
        try:
            issued.verify_directly_issued_by(issuer)
            constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as e:
            raise _invalid("its certificate chain does not verify") from e
        if not constraints.ca:
            raise _invalid("its certificate chain does not verify")


def _check_signature(leaf: x509.Certificate, header: bytes, payload: Any, signature: Any) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(signature, bytes):
        raise _invalid("its signature does not verify")
    signed = cbor2.dumps(["Signature1", header, b"", payload])
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA384()))
    except InvalidSignature as e:
        raise _invalid("its signature does not verify") from e


def _load_rsa(der: Any) -> rsa.RSAPublicKey:
    if not isinstance(der, bytes):
        raise _invalid("it has no public key")
    try:
        key = load_der_public_key(der)
    except Exception as e:  # UnsupportedAlgorithm and ValueError, by what is wrong with it
        raise _invalid("its public key cannot be parsed") from e
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 2048:
        raise _invalid("its public key is not RSA-2048")
    return key


def _invalid(reason: str) -> KmsError:
    return KmsError("ValidationException", f"The attestation document is not valid: {reason}.")
