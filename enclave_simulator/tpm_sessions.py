"""Authorization of a simulated TPM's commands: passwords, HMAC sessions, encrypted parameters.

TCG TPM 2.0 Library, Part 1, "Session-Based Authorizations", "Session-based encryption" and Annex B,
"RSA". No I/O but random nonces.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from enclave_simulator.tpm_wire import (
    RC_ALL_SIZE,
    RC_AUTH_FAIL,
    RC_AUTHSIZE,
    RC_BAD_AUTH,
    RC_SESSION_HANDLES,
    RC_SIZE,
    RC_VALUE,
    RefusedError,
    sized,
    take,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HASHES = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
FIRST_SESSION, _MOST_SESSIONS = 0x02000000, 16
NULL = 0x40000007
_PASSWORD = 0x40000009
_HMAC_SESSION, _NO_ALGORITHM, _AES = 0x00, 0x0010, 0x0006
_CONTINUE, _DECRYPT, _ENCRYPT = 0x01, 0x20, 0x40


def kdfa(algorithm: str, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Return key material (Part 1, "KDFa"): SP 800-108 in counter mode, with HMAC."""
    made, counter = b"", 0
    while len(made) * 8 < bits:
        counter += 1
        block = struct.pack(">I", counter) + label + b"\0" + context + struct.pack(">I", bits)
        made += hmac.digest(key, block, algorithm)
    return made[: bits // 8]


def cfb(key: bytes, vector: bytes, data: bytes, *, decrypt: bool) -> bytes:
    """Return data encrypted or decrypted in AES-CFB, which `cryptography` is about to drop."""
    block = Cipher(AES(key), ECB()).encryptor()  # noqa: S305 (of which CFB is made)
    done = b""
    for offset in range(0, len(data), 16):
        piece = data[offset : offset + 16]
        made = bytes(a ^ b for a, b in zip(piece, block.update(vector), strict=False))
        done += made
        vector = piece if decrypt else made
    return done


@dataclass
class Session:
    """An HMAC session.

    Attributes:
        algorithm: its hash.
        key: the session key; empty without a salt.
        nonce: the TPM's last one.
        aes_bits: of the keys for parameters; 0: they are not encrypted.
    """

    algorithm: str
    key: bytes = field(repr=False)
    nonce: bytes
    aes_bits: int


@dataclass
class Used:
    """One authorization of a command."""

    handle: int
    session: Session | None
    nonce: bytes
    attributes: int
    proof: bytes = field(repr=False)
    auth: bytes = field(default=b"", repr=False)

    def crypt(self, data: bytes, newer: bytes, older: bytes, *, decrypt: bool) -> bytes:
        """Return a parameter encrypted or decrypted."""
        assert self.session is not None  # noqa: S101 (a password has no such attributes)
        bits, key = self.session.aes_bits, self.session.key + self.auth
        made = kdfa(self.session.algorithm, key, b"CFB", newer + older, bits + 128)
        return cfb(made[: bits // 8], made[bits // 8 :], data, decrypt=decrypt)


class Sessions:
    """The sessions of a TPM.

    Args:
        decrypt_salt: decrypts a salt with the key of a handle.
    """

    def __init__(self, decrypt_salt: Callable[[int, bytes], bytes]) -> None:
        self.known: dict[int, Session] = {}
        self._decrypt_salt = decrypt_salt

    def start(self, body: bytes) -> tuple[int, bytes]:
        """TPM2_StartAuthSession: return the handle of a session, and the response's parameters."""
        if len(body) < 8:
            raise RefusedError(RC_SIZE)
        key_handle, bind = struct.unpack_from(">II", body)
        nonce, rest = take(body[8:])
        encrypted, rest = take(rest)
        if bind != NULL or len(rest) < 5 or rest[0] != _HMAC_SESSION or len(nonce) < 16:
            raise RefusedError(RC_VALUE)
        (symmetric,) = struct.unpack_from(">H", rest, 1)
        aes_bits = 0
        if symmetric == _AES and len(rest) == 9:
            (aes_bits,) = struct.unpack_from(">H", rest, 3)
        algorithm = HASHES.get(int.from_bytes(rest[-2:], "big"))
        if (
            algorithm is None
            or symmetric not in (_AES, _NO_ALGORITHM)
            or aes_bits not in (0, 128, 256)
        ):
            raise RefusedError(RC_VALUE)
        free = range(FIRST_SESSION, FIRST_SESSION + _MOST_SESSIONS)
        handle = next((each for each in free if each not in self.known), None)
        if handle is None:
            raise RefusedError(RC_SESSION_HANDLES)
        own, key = os.urandom(len(nonce)), b""
        if key_handle != NULL:
            salt = self._decrypt_salt(key_handle, encrypted)
            size = hashlib.new(algorithm).digest_size
            key = kdfa(algorithm, salt, b"ATH", own + nonce, 8 * size)
        self.known[handle] = Session(algorithm, key, own, aes_bits)
        return handle, sized(own)

    def read(self, data: bytes) -> tuple[list[Used], bytes]:
        """Return the authorizations at the start, and the parameters that follow them."""
        if len(data) < 4:
            raise RefusedError(RC_AUTHSIZE)
        (size,) = struct.unpack_from(">I", data)
        if size < 9:
            raise RefusedError(RC_AUTHSIZE)
        if size > len(data) - 4:
            raise RefusedError(RC_ALL_SIZE)
        area, used = data[4 : 4 + size], list[Used]()
        while area:
            if len(area) < 9 or len(used) == 3:
                raise RefusedError(RC_AUTHSIZE)
            (handle,) = struct.unpack_from(">I", area)
            try:
                nonce, rest = take(area[4:])
                proof, area = take(rest[1:])
            except RefusedError:
                raise RefusedError(RC_AUTHSIZE) from None
            session = self.known.get(handle)
            if session is None and (handle != _PASSWORD or nonce):
                raise RefusedError(RC_AUTHSIZE)
            used.append(Used(handle, session, nonce, rest[0] if rest else 0, proof))
        return used, data[4 + size :]

    def check(
        self, used: Sequence[Used], auth: bytes | None, hashed: bytes, *, owner: bool
    ) -> None:
        """Check the authorizations of a command.

        Args:
            used: as they came.
            auth: what authorizes the command's first handle; None: nothing has to.
            hashed: command code, names and parameters, of which cpHash is made.
            owner: whether that handle is the owner's, for the response code.
        """
        for number, each in enumerate(used):
            each.auth = (auth or b"").rstrip(b"\0") if number == 0 and auth is not None else b""
            if each.session is None:
                is_right = each.proof.rstrip(b"\0") == each.auth
            else:
                digest = hashlib.new(each.session.algorithm, hashed).digest()
                text = digest + each.nonce + each.session.nonce
                if number == 0:
                    text += self._others(used)
                text += bytes([each.attributes])
                wanted = hmac.digest(each.session.key + each.auth, text, each.session.algorithm)
                is_right = hmac.compare_digest(wanted, each.proof)
            if not is_right:
                raise RefusedError(RC_BAD_AUTH if owner else RC_AUTH_FAIL)

    @staticmethod
    def _others(used: Sequence[Used]) -> bytes:
        """Return the nonces of sessions after the first that encrypt: it vouches for them."""
        nonces, seen = b"", {used[0].handle}
        for attribute in (_DECRYPT, _ENCRYPT):
            for each in used:
                if each.attributes & attribute and each.session and each.handle not in seen:
                    nonces += each.session.nonce
                    seen.add(each.handle)
        return nonces

    @staticmethod
    def decrypted(used: Sequence[Used], parameters: bytes) -> bytes:
        """Return the parameters with the first one decrypted, if a session says so."""
        for each in used:
            if each.session and each.session.aes_bits and each.attributes & _DECRYPT:
                first, rest = take(parameters)
                clear = each.crypt(first, each.nonce, each.session.nonce, decrypt=True)
                return sized(clear) + rest
        return parameters

    def finish(self, used: Sequence[Used], code: int, parameters: bytes) -> bytes:
        """Return the response's parameters, encrypted if a session says so, and authorizations."""
        for each in used:
            if each.session:
                each.session.nonce = os.urandom(len(each.session.nonce))
        for each in used:
            if each.session and each.session.aes_bits and each.attributes & _ENCRYPT and parameters:
                first, rest = take(parameters)
                made = each.crypt(first, each.session.nonce, each.nonce, decrypt=False)
                parameters = sized(made) + rest
        areas = b""
        for each in used:
            if each.session is None:
                areas += b"\0\0\1\0\0"  # no nonce, continueSession, no HMAC
                continue
            session = each.session
            hashed = struct.pack(">II", 0, code) + parameters
            text = hashlib.new(session.algorithm, hashed).digest() + session.nonce + each.nonce
            text += bytes([each.attributes])
            proof = hmac.digest(session.key + each.auth, text, session.algorithm)
            areas += sized(session.nonce) + bytes([each.attributes]) + sized(proof)
            if not each.attributes & _CONTINUE:
                self.known.pop(each.handle, None)
        return struct.pack(">I", len(parameters)) + parameters + areas
