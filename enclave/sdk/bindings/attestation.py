"""Attestation, CMS and entropy in C: bytes in, bytes out. Safe for many threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NewType

from enclave.errors import ConfigurationError
from enclave.sdk.errors import SdkCallError

if TYPE_CHECKING:
    from enclave.sdk.bindings.native import Native

MAX_SEED = 65_536
"""Bytes of entropy in one call: at 256 per request to the NSM."""

_IV, _CONTENT_KEY = 16, 32  # bytes, of AES-256-CBC

KeyPair = NewType("KeyPair", object)
"""An RSA key pair in C; freed with the last reference."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """The parts of an envelope as the C parser reads them: ciphertext, except for the IV."""

    encrypted_key: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


class Attestation:
    """`attestation.h`, `internal/cms.h` and the entropy of `nitro_enclaves.h`."""

    def __init__(self, native: Native) -> None:
        self._native = native

    def new_key_pair(self) -> KeyPair:
        """Make an RSA-2048 key pair; this takes 50 ms or more."""
        lib, ffi = self._native.lib, self._native.ffi
        made = lib.aws_attestation_rsa_keypair_new(self._native.allocator, lib.AWS_RSA_2048)
        if made == ffi.NULL:
            raise self._native.error("aws_attestation_rsa_keypair_new")
        return KeyPair(ffi.gc(made, lib.aws_attestation_rsa_keypair_destroy))

    def attestation_document(self, key_pair: KeyPair) -> bytes:
        """Have the NSM attest the public key.

        Raises:
            SdkCallError: no NSM, or it refused; the SDK does not say which.
        """
        with self._native.output() as document:
            self._native.call("aws_attestation_request", self._native.allocator, key_pair, document)
            return self._native.bytes_of(document)

    def parse_enveloped_data(self, envelope: bytes) -> Sealed:
        """Parse CiphertextForRecipient without decrypting it.

        The C code does not report whether it has read all of the input or whether the lengths are
        right.

        Raises:
            SdkCallError: the input is not the indefinite-length BER that KMS sends.
        """
        with (
            self._native.input(envelope) as data,
            self._native.output() as encrypted_key,
            self._native.output() as iv,
            self._native.output() as ciphertext,
        ):
            self._native.call("aws_cms_parse_enveloped_data", data, encrypted_key, iv, ciphertext)
            return Sealed(*map(self._native.bytes_of, (encrypted_key, iv, ciphertext)))

    def open(self, key_pair: KeyPair, sealed: Sealed) -> bytes:
        """Decrypt what `parse_enveloped_data` returned; the content key never leaves the C side.

        Raises:
            SdkCallError: `function` names the step that failed. Do not show it to untrusted
                clients: it would be an oracle.
        """
        # The C code reads 16 bytes of an IV, also past the end of a shorter one.
        if not sealed.encrypted_key or len(sealed.iv) != _IV or not sealed.ciphertext:
            raise SdkCallError("aws_cms_cipher_decrypt", "a part has the wrong length")
        with (
            self._native.input(sealed.encrypted_key) as encrypted_key,
            self._native.input(sealed.iv) as iv,
            self._native.input(sealed.ciphertext) as ciphertext,
            self._native.output() as content_key,
            self._native.output() as plaintext,
        ):
            self._native.call(
                "aws_attestation_rsa_decrypt",
                self._native.allocator, key_pair, encrypted_key, content_key,
            )  # fmt: skip
            if content_key.len != _CONTENT_KEY:
                raise SdkCallError("aws_cms_cipher_decrypt", "the content key has the wrong length")
            self._native.call("aws_cms_cipher_decrypt", ciphertext, content_key, iv, plaintext)
            return self._native.bytes_of(plaintext)

    def seed_entropy(self, number_of_bytes: int) -> None:
        """Mix 1..65536 bytes from the NSM into the kernel's entropy pool, credited in full.

        Raises:
            ConfigurationError: the number is out of range.
            SdkCallError: no NSM, or no permission (CAP_SYS_ADMIN); the SDK does not say which.
        """
        if not 0 < number_of_bytes <= MAX_SEED:
            raise ConfigurationError(
                f"{number_of_bytes} bytes of entropy, not 1..{MAX_SEED}",
                hint="call it again for more",
            )
        self._native.call("aws_nitro_enclaves_library_seed_entropy", number_of_bytes)
