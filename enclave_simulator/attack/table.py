"""Every attack, by name, and what no client can refuse. No I/O."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import cbor2

from enclave_simulator.attack.connections import CONNECTIONS, FLOOD, TRICKLE
from enclave_simulator.attack.model import (
    Act,
    Attack,
    CredentialsExchange,
    Cut,
    Ignore,
    Place,
    Repeat,
    Send,
    Stall,
    Success,
    encode_http,
)
from enclave_simulator.attack.responses import ATTACKERS_HOST, RESPONSES, with_envelope
from enclave_simulator.kms.messages import Response
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from enclave_simulator.attack.model import CertificateKind, InputKind

INJECTED: Final = "X-Injected"
"""The header that credentials with line ends would add to a request."""


def _input(name: str, kind: InputKind, effect: str) -> Attack:
    # Random bytes are as good from any key and account: a program may have them.
    return Attack(name, Place.INPUT, effect, success=Success.RIGHT, answers="program", input=kind)


_INPUTS = (
    _input(
        "swapped-ciphertext",
        "swapped",
        "ciphertexts of the same key with another encryption context, which is stored beside them",
    ),
    _input("other-key", "other-key", "ciphertexts under another key of the account"),
    _input(
        "moved-alias",
        "moved-alias",
        "the alias leads to another key, and the ciphertexts are under that",
    ),
    _input(
        "foreign-account",
        "foreign",
        "credentials of another account, which has the same alias, and ciphertexts of its key",
    ),
)


def _credentials(
    name: str, effect: str, on_credentials: Callable[[CredentialsExchange], Iterable[Act]]
) -> Attack:
    return Attack(f"credentials-{name}", Place.CREDENTIALS, effect, on_credentials=on_credentials)


def _redirected(exchange: CredentialsExchange) -> list[Act]:
    if exchange.redirected:
        return [Send(exchange.honest)]
    headers = f"Location: http://{ATTACKERS_HOST}/", "Connection: close"
    return [Send(encode_http(Response(307, b"{}", "application/json"), *headers))]


def _injected(exchange: CredentialsExchange) -> list[Act]:
    # The JSON's own escapes: a decoder makes a CR LF of them.
    head, _, body = exchange.honest.partition(b"\r\n\r\n")
    body = body.replace(b'"Token": "', b'"Token": "x\\r\\n' + INJECTED.encode() + b": 1\\r\\nX-Y: ")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    lines.append(b"Content-Length: %d" % len(body))
    return [Send(b"\r\n".join(lines) + b"\r\n\r\n" + body)]


def _unknown(exchange: CredentialsExchange) -> list[Act]:
    # As long as the honest one: the length in the head stays right.
    return [Send(re.sub(rb'"AccessKeyId": "([A-Z0-9]+)"', _other_access_key, exchange.honest))]


def _other_access_key(found: re.Match[bytes]) -> bytes:
    key = secrets.token_hex(len(found[1]))[: len(found[1])].upper()
    return b'"AccessKeyId": "' + key.encode() + b'"'


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

_CREDENTIALS = (
    _credentials("stall", "the credential service sends nothing", lambda _: [Stall()]),
    _credentials(
        "trickle",
        "the credential service sends a byte now and then",
        # Short enough for any client's limit: it is the time that must be limited.
        lambda _: [Send(_HEAD + b"Content-Length: 4000\r\n\r\n{"), Repeat(b" ", TRICKLE)],
    ),
    _credentials(
        "endless",
        "credentials without end",
        lambda _: [Send(_HEAD + b'Connection: close\r\n\r\n{"x": "'), Repeat(500 * b"x", FLOOD)],
    ),
    _credentials("injection", "a session token with line ends and a header in it", _injected),
    _credentials("rejected", "credentials that KMS does not know, others each time", _unknown),
    _credentials(
        "redirect", "the credential service's HTTP 307 to a host of the attacker's", _redirected
    ),
)


def _log(name: str, effect: str, on_log: Act) -> Attack:
    # No secret is at stake: the program must come to its end, and what it prints may be lost.
    return Attack(f"log-{name}", Place.LOG, effect, success=Success.UNSEEN, on_log=(on_log,))


_LOGS = (
    _log("stall", "the log sink accepts connections, and never reads", Ignore()),
    _log("cut", "the log sink closes each connection at once", Cut()),
)


def _tls(kind: CertificateKind, effect: str) -> Attack:
    return Attack(f"tls-{kind}", Place.TLS, effect, certificate=kind)


_TLS = (
    _tls("other-ca", "a certificate of a CA that is not trusted"),
    _tls("self-signed", "a certificate that signs itself"),
    _tls("expired", "a certificate that has expired"),
    _tls("not-yet-valid", "a certificate that is valid from tomorrow on"),
    _tls("wrong-name", "a certificate for another name"),
    _tls("common-name", "KMS's name as common name only"),
    _tls("wildcard", "a certificate for *.amazonaws.com, which covers one label"),
    _tls("client-only", "a certificate for TLS clients only"),
    _tls("under-leaf", "a certificate issued by a server's certificate"),
    _tls("constrained", "a certificate issued by a CA for the attacker's domain"),
    _tls("weak-key", "a certificate with an RSA key of 1024 bits"),
    _tls("downgrade", "TLS 1.1 at most"),
    _tls("anonymous", "cipher suites without a certificate at most"),
    _tls("none", "HTTP without TLS"),
    Attack(
        "forged-envelope",
        Place.TLS,
        "an envelope with the attacker's secret, for the public key in the document, "
        "behind a certificate of a CA that is not trusted",
        certificate="other-ca",
        on_request=lambda e: with_envelope(e, e.forge(e.planted)),
    ),
)


def _nsm(name: str, effect: str, response: Callable[[bytes], bytes]) -> Attack:
    return Attack(
        f"nsm-{name}",
        Place.NSM,
        effect,
        nsm=lambda request, honest: response(honest) if request == "Attestation" else honest,
    )


_REFUSED = cbor2.dumps({"Error": "InternalError"})

_NSM = (
    _nsm("refuses", "InternalError for a document", lambda _: _REFUSED),
    _nsm("garbage", "no CBOR for a document", lambda _: b"\xff\x00garbage"),
    _nsm("truncated", "half of the response with a document", lambda h: h[: len(h) // 2]),
    _nsm(
        "empty-document",
        "a document of no bytes",
        lambda _: cbor2.dumps({"Attestation": {"document": b""}}),
    ),
    _nsm(
        "other-response",
        "random bytes where a document was requested",
        lambda _: cbor2.dumps({"GetRandom": {"random": bytes(256)}}),
    ),
    Attack(
        "entropy-refused",
        Place.NSM,
        "InternalError for random bytes; all else works",
        success=Success.RIGHT,
        nsm=lambda request, honest: _REFUSED if request == "GetRandom" else honest,
    ),
)

_DAY, _NEVER = timedelta(days=1), timedelta(0)


def _clock(name: str, effect: str, shift: timedelta = _NEVER, jump: timedelta = _NEVER) -> Attack:
    # A program that corrects its clock by KMS's has right results, and from KMS itself.
    return Attack(
        f"clock-{name}", Place.CLOCK, effect, success=Success.RIGHT, shift=shift, jump=jump
    )


_CLOCKS = (
    _clock("behind", "the program's clock is a day behind the NSM's and KMS's", shift=_DAY),
    _clock("ahead", "the program's clock is a day ahead of the NSM's and KMS's", shift=-_DAY),
    _clock("falls-back", "the program's clock falls back by a day after the first call", jump=_DAY),
    _clock("leaps", "the program's clock leaps ahead by a day after the first call", jump=-_DAY),
)

ATTACKS: Final[Mapping[str, Attack]] = {
    attack.name: attack
    for group in (_INPUTS, _CREDENTIALS, _LOGS, _TLS, RESPONSES, CONNECTIONS, _NSM, _CLOCKS)
    for attack in group
}
"""Every attack, in the order in which they are made."""

CONTROL: Final = Attack(
    "control", Place.INPUT, "no attack: the program must succeed", success=Success.RIGHT
)
"""The run before the attacks. A program that fails in it would seem to refuse all of them."""

BEYOND: Final[Mapping[str, str]] = {
    "a forged envelope behind KMS's own certificate": (
        "anybody can encrypt to the public key in the document. Who holds a certificate for KMS's "
        "name of a trusted CA is KMS to the client: trust as few CAs as possible"
    ),
    "another call's response behind KMS's own certificate": (
        "KMS's response holds nothing of the request but the key. TLS and the order on one "
        "connection tell which response belongs to which call"
    ),
    "one ciphertext in place of another with the same key and context": (
        "both are valid. What tells them apart belongs into the encryption context, named by the "
        "program and not by what stores them"
    ),
    "an old ciphertext in place of a newer one": (
        "KMS has no versions of what it encrypts. The program keeps a counter where the parent "
        "cannot turn it back, or none is kept"
    ),
    "no service at all": "the parent can always cut the enclave off",
}
"""What no client of KMS can refuse, and whose part it is."""


def choose(names: Sequence[str]) -> list[Attack]:
    """Return the attacks with these names; all of them for no names.

    Raises:
        ConfigurationError: there is no such attack.
    """
    for name in names:
        if name not in ATTACKS:
            raise ConfigurationError(
                f"no such attack: {name!r}", hint="enclave-simulator attack --list lists them"
            )
    return [attack for attack in ATTACKS.values() if not names or attack.name in names]
