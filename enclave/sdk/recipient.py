"""A recipient whose key pair, document and decryption are AWS's C code, behind the same seam."""

from __future__ import annotations

import hashlib
from hmac import compare_digest
from typing import TYPE_CHECKING

from enclave.attestation import parse
from enclave.clock import Clock, SystemClock
from enclave.clock_watch import ClockWatch
from enclave.errors import DecodingError, DecryptionError, NsmResponseError, NsmUnavailableError
from enclave.recipient.cms import parse_enveloped_data
from enclave.recipient.recipient import YoungDocument, log_opened
from enclave.sdk.bindings.attestation import Attestation, Sealed
from enclave.sdk.bindings.native import load
from enclave.sdk.errors import SdkCallError

if TYPE_CHECKING:
    from enclave.sdk.bindings.native import Native


class SdkRecipient:
    """An RSA-2048 key pair of AWS-LC's, attested through libnsm, which opens ``/dev/nsm`` itself.

    The private key never leaves the C side. Safe for many threads.

    Args:
        native: the C library, for tests.
        clock: time, for tests.
        watch: compares the clocks each time the document is renewed.

    Raises:
        SdkNotBuiltError: there is no C library.
        SdkCallError: it made no key pair.
    """

    def __init__(
        self,
        native: Native | None = None,
        *,
        clock: Clock | None = None,
        watch: ClockWatch | None = None,
    ) -> None:
        self._sdk = Attestation(native or load())
        self._key_pair = self._sdk.new_key_pair()
        self._key_identifier = b""
        watch = watch or ClockWatch(clock)
        self._document = YoungDocument(lambda: watch.fetch(self._attest), clock or SystemClock())

    def attestation_document(self) -> bytes:
        """See `enclave.recipient.recipient.Recipient`; renewed about every two minutes."""
        return self._document.get()

    def document_now(self) -> bytes | None:
        """See `enclave.recipient.recipient.Recipient`."""
        return self._document.get_now()

    def document_rejected(self, document: bytes) -> None:
        """See `enclave.recipient.recipient.Recipient.document_rejected`."""
        self._document.rejected(document)

    @property
    def document_age(self) -> float | None:
        """See `enclave.recipient.recipient.AttestedRecipient`."""
        return self._document.age

    def open(self, ciphertext_for_recipient: bytes) -> bytes:
        """See `enclave.recipient.recipient.Recipient`; indefinite-length BER only, as KMS sends it.

        Our own parser reads the envelope first: the C parser checks neither the algorithms nor the
        key identifier nor trailing bytes, and may silently truncate the content. So both must
        return the same parts.
        """
        envelope = parse_enveloped_data(ciphertext_for_recipient)
        if not compare_digest(envelope.key_identifier, self._key_identifier):
            raise DecryptionError
        try:
            sealed = self._sdk.parse_enveloped_data(ciphertext_for_recipient)
        except SdkCallError as e:
            raise DecodingError(
                "CiphertextForRecipient", "not the indefinite-length BER that the C SDK reads"
            ) from e
        if sealed != Sealed(envelope.encrypted_key, envelope.iv, envelope.ciphertext):
            raise DecodingError("CiphertextForRecipient", "the C SDK reads other parts from it")
        try:
            secret = self._sdk.open(self._key_pair, sealed)
        except SdkCallError:
            # Without `from`: which step failed must stay inside.
            raise DecryptionError from None
        log_opened(ciphertext_for_recipient, secret)
        return secret

    def _attest(self) -> bytes:
        try:
            document = self._sdk.attestation_document(self._key_pair)
        except SdkCallError as e:
            raise NsmUnavailableError(
                "the C SDK got no attestation document",
                hint="it gives no reason; is there /dev/nsm? --engine python says more",
            ) from e
        try:
            public_key = parse(document).public_key
        except DecodingError as e:
            raise NsmResponseError(f"the C SDK's attestation document: {e}") from e
        if public_key is None:
            raise NsmResponseError("the C SDK's attestation document holds no public key")
        # No other function of the C API returns the public key.
        self._key_identifier = hashlib.sha256(public_key).digest()
        return document
