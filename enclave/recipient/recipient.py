"""The recipient: an RSA key pair made here, and the document that attests it."""

from __future__ import annotations

import hashlib
import logging
import threading
from typing import TYPE_CHECKING, Protocol

from enclave import forking
from enclave.attestation import parse
from enclave.clock import Clock, SystemClock
from enclave.clock_watch import ClockWatch
from enclave.errors import AttesterError
from enclave.recipient.cms import open_enveloped_data
from enclave.recipient.keypair import new_private_key, subject_public_key_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.attester import Attester
    from enclave.recipient.keypair import KeyPairAhead

log = logging.getLogger(__name__)

REFRESH_AFTER = 120.0
"""Seconds after which a document is renewed. KMS is reported to reject documents older than five
minutes; AWS documents no figure."""

RENEWABLE_AFTER = 10.0
"""Seconds after which a document that KMS may have rejected is renewed: KMS rejects a caller's own
parameters by the same error, and not every one of these is worth a request to the attester."""

USABLE_FOR = 240.0
"""Seconds a document may be used while the attester fails to give a new one."""


class Recipient(Protocol):
    """Holds a key pair and its attestation document, and decrypts CiphertextForRecipient."""

    def attestation_document(self) -> bytes:
        """Return a document for this recipient's public key, young enough for KMS.

        Raises:
            AttesterError: the NSM or NitroTPM did not give one.
        """
        ...

    def document_now(self) -> bytes | None:
        """Return the document if the attester need not be asked for it, which takes a while."""
        ...

    def document_rejected(self, document: bytes) -> None:
        """Note that KMS may have rejected this document: the next call has a new one.

        The clock that counts its age stands still while the enclave does.
        """
        ...

    def open(self, ciphertext_for_recipient: bytes) -> bytes:
        """Decrypt CiphertextForRecipient.

        Raises:
            DecodingError: it is malformed.
            DecryptionError: it was not made for this recipient.
        """
        ...


class YoungDocument:
    """An attestation document, renewed about every two minutes. Safe for many threads."""

    def __init__(self, fetch: Callable[[], bytes], clock: Clock) -> None:
        """Take how to get one; `fetch` raises `AttesterError`."""
        self._fetch = fetch
        self._clock = clock
        self._refreshing = threading.Lock()
        forking.register(self)
        self._document = b""
        self._fetched = float("-inf")

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: another thread may have been in the middle of a renewal."""
        self._refreshing = threading.Lock()

    @property
    def age(self) -> float | None:
        """Seconds since the document was fetched; None before the first."""
        return self._clock.monotonic() - self._fetched if self._document else None

    def get(self) -> bytes:
        """Return the document, young enough for KMS; see `Recipient.attestation_document`."""
        age = self._clock.monotonic() - self._fetched
        if age < REFRESH_AFTER:
            return self._document
        # One thread asks; the others go on with the old document as long as it serves.
        if not self._refreshing.acquire(blocking=age >= USABLE_FOR):
            return self._document
        try:
            now = self._clock.monotonic()
            if now - self._fetched >= REFRESH_AFTER:
                self._refresh(now)
            return self._document
        finally:
            self._refreshing.release()

    def get_now(self) -> bytes | None:
        """Return the document if it need not be renewed."""
        is_young = self._clock.monotonic() - self._fetched < REFRESH_AFTER
        return self._document if is_young else None

    def rejected(self, document: bytes) -> None:
        """Have a document renewed before its next use, if it is still the one and not new."""
        now = self._clock.monotonic()
        if document is self._document and now - self._fetched >= RENEWABLE_AFTER:
            self._fetched = min(self._fetched, now - REFRESH_AFTER)

    def _refresh(self, now: float) -> None:
        try:
            document = self._fetch()
        except AttesterError as e:
            if now - self._fetched >= USABLE_FOR:
                raise
            log.warning("no fresh attestation document, going on with the last one: %s", e)
            return
        # Order matters to a thread that reads without the lock: never an old document as new.
        self._document = document
        self._fetched = now
        if log.isEnabledFor(logging.INFO):
            _log_document(document)


class AttestedRecipient:
    """An RSA-2048 key pair made here by `cryptography`, attested by an NSM or a NitroTPM.

    The private key never leaves this object. Safe for many threads.

    Args:
        attester: attests the public key.
        clock: time.
        key_pair: made ahead; None: one is made now.
        watch: compares the clocks each time the document is renewed.
    """

    def __init__(
        self,
        attester: Attester,
        *,
        clock: Clock | None = None,
        key_pair: KeyPairAhead | None = None,
        watch: ClockWatch | None = None,
    ) -> None:
        watch = watch or ClockWatch(clock)
        self._key = key_pair.private_key() if key_pair else new_private_key()
        public_key = subject_public_key_info(self._key.public_key())
        self._key_identifier = hashlib.sha256(public_key).digest()
        self._document = YoungDocument(
            lambda: watch.fetch(lambda: attester.attest(public_key=public_key)),
            clock or SystemClock(),
        )

    def attestation_document(self) -> bytes:
        """See `Recipient.attestation_document`; the attester is asked about every two
        minutes.
        """
        return self._document.get()

    def document_now(self) -> bytes | None:
        """See `Recipient.document_now`."""
        return self._document.get_now()

    def document_rejected(self, document: bytes) -> None:
        """See `Recipient.document_rejected`."""
        self._document.rejected(document)

    @property
    def document_age(self) -> float | None:
        """Seconds since the document was fetched; None before the first."""
        return self._document.age

    def open(self, ciphertext_for_recipient: bytes) -> bytes:
        """See `Recipient.open`."""
        secret = open_enveloped_data(ciphertext_for_recipient, self._key, self._key_identifier)
        log_opened(ciphertext_for_recipient, secret)
        return secret


def log_opened(envelope: bytes, secret: bytes) -> None:
    """Log the sizes, which are not secret."""
    log.info(
        "CiphertextForRecipient of %d bytes opened: %d bytes inside", len(envelope), len(secret)
    )


def _log_document(document: bytes) -> None:
    parsed = parse(document)
    # The PCR that says most about what runs: the enclave's image, the instance's boot code.
    # In a sandbox there is no enclave image, and PCR17 has its policy.
    index, pcrs = (0, parsed.pcrs) if parsed.pcrs else (4, parsed.nitrotpm_pcrs)
    if parsed.is_debug and 17 in parsed.pcrs:
        index = 17
    log.info(
        "attested by %s, PCR%d %s: attestation document of %d bytes",
        parsed.module_id,
        index,
        pcrs[index].hex() if index in pcrs else "not in it",
        len(document),
    )
