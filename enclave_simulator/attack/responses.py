"""Attacks with a valid certificate for KMS: the content of responses. No I/O."""

from __future__ import annotations

import base64
import functools
import gzip
from dataclasses import replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa

from enclave_simulator.attack.envelopes import (
    AES_128_CBC,
    AES_256_GCM,
    OAEP_SHA1,
    OVERPADDED,
    PKCS1,
    RAGGED,
    SHORT_IV,
    SHORT_KEY,
    UNPADDED,
    cut,
    deep,
    envelope,
    in_the_clear,
    key_identifier,
)
from enclave_simulator.attack.model import (
    SECRET_FIELDS,
    Act,
    Attack,
    Exchange,
    Place,
    Send,
    Success,
    encode_http,
)
from enclave_simulator.kms.cms import Enveloper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from enclave_simulator.attack.envelopes import ContentCipher
    from enclave_simulator.kms.messages import Response

    OnRequest = Callable[[Exchange], Iterable[Act]]

ATTACKERS_HOST = "kms.attacker.invalid"
"""Where a redirect leads; the attacker has a valid certificate for it."""

_DEEP = 100_000
_INFLATED = 16 << 20
_LARGE = 12 << 20
FIELD = "CiphertextForRecipient"


def _content(response: Response) -> list[Act]:
    return [Send(encode_http(response))]


def _plaintext(exchange: Exchange, envelope: str | None) -> list[Act]:
    secret = base64.b64encode(exchange.planted).decode()
    field = SECRET_FIELDS[exchange.operation]
    return _content(exchange.with_content(**{field: secret, FIELD: envelope}))


def with_envelope(exchange: Exchange, envelope: str | None) -> list[Act]:
    """Return the response with another envelope, or without one."""
    return _content(exchange.with_content(**{FIELD: envelope}))


@functools.cache
def _attackers_key() -> rsa.RSAPublicKey:
    return rsa.generate_private_key(65537, 2048).public_key()


def _other_key_pair(exchange: Exchange) -> list[Act]:
    other = Enveloper(_attackers_key()).encrypt(exchange.planted, "primitive")
    return with_envelope(exchange, base64.b64encode(other).decode())


def _damaged(exchange: Exchange) -> list[Act]:
    damaged = bytearray(base64.b64decode(exchange.content()[FIELD]))
    # In the encrypted content key, where OAEP detects it; CBC itself detects nothing.
    damaged[200] ^= 1
    return with_envelope(exchange, base64.b64encode(damaged).decode())


def _other_keys_response(exchange: Exchange) -> list[Act]:
    if "KeyId" not in exchange.content():
        return [Send(exchange.honest())]
    forged = exchange.forge(exchange.planted)
    return _content(exchange.with_content(KeyId=exchange.other_key, **{FIELD: forged}))


def _key_id_elsewhere(exchange: Exchange) -> list[Act]:
    key_id = exchange.content().get("KeyId")
    if key_id is None:
        return [Send(exchange.honest())]
    parts = key_id.split(":")
    parts[4] = "999999999999"
    forged = exchange.forge(exchange.planted)
    return _content(exchange.with_content(KeyId=":".join(parts), **{FIELD: forged}))


def _no_key_id(exchange: Exchange) -> list[Act]:
    if "KeyId" not in exchange.content():
        return [Send(exchange.honest())]
    forged = exchange.forge(exchange.planted)
    return _content(exchange.with_content(KeyId=None, **{FIELD: forged}))


def _replayed(exchange: Exchange) -> list[Act]:
    if exchange.recorded is None:
        return [Send(exchange.honest())]
    return with_envelope(exchange, exchange.recorded.envelope)


def _wrong_length(exchange: Exchange) -> list[Act]:
    if exchange.operation not in ("GenerateRandom", "GenerateDataKey"):
        return [Send(exchange.honest())]
    return with_envelope(exchange, exchange.forge(exchange.planted[:8]))


def _error_with_secret(exchange: Exchange) -> list[Act]:
    forged = exchange.with_content(**{FIELD: exchange.forge(exchange.planted)})
    return _content(replace(forged, status=500))


def _redirect(exchange: Exchange) -> list[Act]:
    if exchange.redirected:
        return with_envelope(exchange, exchange.forge(exchange.planted))
    response = replace(exchange.response, status=307, body=b"{}")
    return [Send(encode_http(response, f"Location: https://{ATTACKERS_HOST}/"))]


def _deep(exchange: Exchange) -> list[Act]:
    lists = b"[" * _DEEP + b"]" * _DEEP
    body = b'{"x": ' + lists + b", " + exchange.response.body[1:]
    return [Send(encode_http(replace(exchange.response, body=body)))]


@functools.cache
def _sequences() -> str:
    return deep()


@functools.cache
def _white_space() -> bytes:
    return gzip.compress(b" " * _INFLATED, mtime=0)


def _compressed(exchange: Exchange) -> list[Act]:
    # Two members of gzip: their contents follow each other (RFC 1952, section 2.2).
    body = _white_space() + gzip.compress(exchange.response.body, mtime=0)
    return [Send(encode_http(replace(exchange.response, body=body), "Content-Encoding: gzip"))]


def _response(
    name: str, effect: str, on_request: OnRequest, success: Success = Success.NONE
) -> Attack:
    return Attack(name, Place.RESPONSE, effect, success, on_request=on_request)


def _content_cipher(name: str, effect: str, cipher: ContentCipher) -> Attack:
    return _response(
        name,
        effect,
        lambda e: with_envelope(e, envelope(e.planted, e.enveloper.key, content_cipher=cipher)),
    )


RESPONSES: tuple[Attack, ...] = (
    _response("plaintext", "a secret in the clear, and no envelope", lambda e: _plaintext(e, None)),
    _response(
        "plaintext-beside-envelope",
        "another secret in the clear, beside the true envelope",
        lambda e: _plaintext(e, e.content()[FIELD]),
    ),
    _response("no-envelope", "no CiphertextForRecipient", lambda e: with_envelope(e, None)),
    _response(
        "other-key-pair", "an envelope for another key pair than the document's", _other_key_pair
    ),
    _response(
        "envelope-in-the-clear",
        "CMS that encrypts nothing, in place of an envelope",
        lambda e: with_envelope(e, in_the_clear(e.planted)),
    ),
    _response(
        "envelope-old-padding",
        "an envelope by PKCS #1 v1.5 in place of OAEP",
        lambda e: with_envelope(e, envelope(e.planted, e.enveloper.key, key_cipher=PKCS1)),
    ),
    _response(
        "envelope-oaep-sha1",
        "an envelope by OAEP with SHA-1 in place of SHA-256",
        lambda e: with_envelope(e, envelope(e.planted, e.enveloper.key, key_cipher=OAEP_SHA1)),
    ),
    _content_cipher("envelope-aes-128", "an envelope by AES-128 in place of AES-256", AES_128_CBC),
    _content_cipher("envelope-gcm", "an envelope by AES-GCM in place of AES-CBC", AES_256_GCM),
    _response(
        "envelope-shared",
        "an envelope for the document's key pair, and for the attacker's as well",
        lambda e: with_envelope(e, envelope(e.planted, e.enveloper.key, _attackers_key())),
    ),
    _response(
        "envelope-twice",
        "an envelope that has the document's key pair as recipient twice",
        lambda e: with_envelope(e, envelope(e.planted, e.enveloper.key, e.enveloper.key)),
    ),
    _response(
        "envelope-misaddressed",
        "an envelope for the document's key pair that names another as its recipient",
        lambda e: with_envelope(
            e, envelope(e.planted, e.enveloper.key, names=[key_identifier(_attackers_key())])
        ),
    ),
    _content_cipher(
        "envelope-short-key",
        "an envelope by AES-256, as it says, with a key of 128 bits",
        SHORT_KEY,
    ),
    _content_cipher(
        "envelope-short-iv",
        "an envelope with an initialisation vector of 8 bytes, encrypted with 8 zeros after it",
        SHORT_IV,
    ),
    _content_cipher(
        "envelope-ragged", "an envelope whose content ends within a block of AES", RAGGED
    ),
    _content_cipher(
        "envelope-unpadded", "an envelope whose content ends with 0 in place of a padding", UNPADDED
    ),
    _content_cipher(
        "envelope-overpadded", "an envelope whose padding is longer than its content", OVERPADDED
    ),
    _response(
        "envelope-cut",
        "an envelope that ends within a length",
        lambda e: with_envelope(e, cut(e.forge(e.planted))),
    ),
    _response(
        "envelope-deep",
        "4 Mi sequences in each other in place of an envelope",
        lambda e: with_envelope(e, _sequences()),
    ),
    _response(
        "envelope-large",
        "an envelope with 12 MiB in it",
        lambda e: with_envelope(e, e.forge(e.planted * (_LARGE // len(e.planted)))),
    ),
    _response("damaged-envelope", "the true envelope with one bit flipped", _damaged),
    _response(
        "empty-secret", "an envelope with nothing in it", lambda e: with_envelope(e, e.forge(b""))
    ),
    _response(
        "other-keys-response",
        "a response for another key, which its KeyId tells",
        _other_keys_response,
        Success.RIGHT,
    ),
    _response(
        "key-id-elsewhere",
        "a response for the key of that name in another account",
        _key_id_elsewhere,
        Success.RIGHT,
    ),
    _response("no-key-id", "a forged response that names no key", _no_key_id, Success.RIGHT),
    _response(
        "replayed-envelope", "an envelope that an earlier run of the program received", _replayed
    ),
    _response(
        "wrong-length",
        "8 random bytes, whatever number was requested",
        _wrong_length,
        Success.RIGHT,
    ),
    _response("error-with-secret", "HTTP 500 around a response with a secret", _error_with_secret),
    _response("redirect", "HTTP 307 to a host of the attacker's", _redirect),
    _response("deep-json", "100,000 lists in each other, beside the true response", _deep),
    _response(
        "json-list",
        "a list with the true response in it",
        lambda e: _content(replace(e.response, body=b"[" + e.response.body + b"]")),
    ),
    _response(
        "json-types",
        "numbers in place of strings",
        lambda e: _content(e.with_content(**dict.fromkeys(e.content(), 7))),
    ),
    _response(
        "empty-body",
        "HTTP 200 and no body",
        lambda e: _content(replace(e.response, body=b"")),
    ),
    _response(
        "compressed",
        "16 MiB of white space before the true response, compressed to 16 KiB",
        _compressed,
    ),
)
