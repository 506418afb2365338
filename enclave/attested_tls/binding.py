"""What an attestation document holds so that it vouches for a TLS connection. No I/O.

`user_data` is a label and one or two SHA-256 digests, so that no document that was made for another
purpose passes for one of these, and a later version cannot be taken for this one:

    key       LABEL "key:"      SHA-256(SubjectPublicKeyInfo)
    session   LABEL "session:"  SHA-256(SubjectPublicKeyInfo)  SHA-256(client's Finished)

`nonce` is the client's. `public_key` stays empty: KMS rejects such a document as a Recipient.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from enclave.errors import ConfigurationError

PATH: Final = "/.well-known/nitro-attestation"
"""The path of documents; RFC 8615 has the form, IANA no entry."""

LABEL: Final = b"nitro-attested-tls/1 "
_KEY: Final = LABEL + b"key:"
_SESSION: Final = LABEL + b"session:"

MIN_NONCE: Final = 16
MAX_NONCE: Final = 64
"""Bytes of a nonce. Below 16 an attacker could collect documents for many; the NSM takes 1024."""

_NONCE: Final = re.compile(r"(?:[0-9a-fA-F]{2})+", re.ASCII)


def key_user_data(public_key: bytes) -> bytes:
    """Return the user_data that names a TLS key.

    Args:
        public_key: SubjectPublicKeyInfo, DER.
    """
    return _KEY + hashlib.sha256(public_key).digest()


def session_user_data(public_key: bytes, finished: bytes) -> bytes:
    """Return the user_data that names a TLS key and one TLS 1.3 connection.

    Args:
        public_key: SubjectPublicKeyInfo, DER.
        finished: the client's Finished message of this connection, its verify_data.
    """
    digests = hashlib.sha256(public_key).digest() + hashlib.sha256(finished).digest()
    return _SESSION + digests


def expected_user_data(got: bytes | None, public_key: bytes, finished: bytes | None) -> bytes:
    """Return the user_data that a document must have, given the form of the one it has.

    A server that ends TLS in the program gives documents of the form ``key``, as it does not know
    the connection. The measured image decides which form its enclave gives.

    Args:
        got: what the document has; not trusted.
        public_key: of this connection.
        finished: of this connection; None if the TLS library does not have it.

    Raises:
        ConfigurationError: the form needs a Finished message.
    """
    if got is None or not got.startswith(_SESSION):
        return key_user_data(public_key)
    if not finished:
        raise ConfigurationError(
            "the TLS library of this Python does not expose the Finished message of a connection",
            hint="use a Python that is built with OpenSSL",
        )
    return session_user_data(public_key, finished)


def parse_nonce(text: str) -> bytes | None:
    """Return the nonce of a query, given in hex; None if it is not 16 to 64 bytes in hex."""
    if not 2 * MIN_NONCE <= len(text) <= 2 * MAX_NONCE or not _NONCE.fullmatch(text):
        return None
    return bytes.fromhex(text)
