"""What an attack is: its name, its effect, and what it puts in place of honest parts. No I/O."""

from __future__ import annotations

import base64
import enum
import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from enclave_simulator.kms.cms import Enveloper
    from enclave_simulator.kms.messages import Response

SECRET_FIELDS = {
    "Decrypt": "Plaintext",
    "DeriveSharedSecret": "SharedSecret",
    "GenerateDataKey": "Plaintext",
    "GenerateDataKeyPair": "PrivateKeyPlaintext",
    "GenerateRandom": "Plaintext",
}
"""The attested operations, and the field of each that is empty in an attested response."""


DEADLINE: Final = 240.0
"""Seconds for one run of a program: longer than its calls may take by their own deadlines."""

CertificateKind = Literal[
    "valid",
    "other-ca",
    "self-signed",
    "expired",
    "not-yet-valid",
    "wrong-name",
    "common-name",
    "wildcard",
    "client-only",
    "under-leaf",
    "constrained",
    "weak-key",
    "downgrade",
    "anonymous",
    "none",
]
"""How a server proves KMS's name; ``none`` is no TLS at all."""

InputKind = Literal["right", "swapped", "other-key", "moved-alias", "foreign"]
"""What a program is given; see `world.World`."""


class Success(enum.Enum):
    """Which results a program may have during an attack."""

    NONE = "none"
    """No result: the call must fail."""
    RIGHT = "right"
    """The right results or none: an honest response can be told from what is added."""
    UNSEEN = "unseen"
    """As `RIGHT`, but what the program printed may be lost: its exit code is enough."""


class Place(enum.Enum):
    """Where an attack is made."""

    INPUT = "input"
    """What the parent hands to the program: ciphertexts, an alias, an account."""
    CREDENTIALS = "credentials"
    """The parent's credential service, vsock://3:8002."""
    LOG = "log"
    """The parent's log sink, vsock://3:8003."""
    TLS = "tls"
    """The TLS handshake behind vsock://3:8000: the attacker cannot prove KMS's name."""
    RESPONSE = "response"
    """The content of a response: the attacker, or a fault of KMS, has KMS's name."""
    CONNECTION = "connection"
    """How bytes arrive."""
    NSM = "nsm"
    """The NSM's responses."""
    CLOCK = "clock"
    """The program's clock, against everybody else's."""


# What a hostile server does, one after the other.


@dataclass(frozen=True, slots=True)
class Send:
    """Send bytes, in one TLS record if there is room."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    """Send the same bytes for ever, with a pause after each time."""

    data: bytes = field(repr=False)
    pause: float


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing more, and leave the connection open."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """Send nothing more and read nothing, so that the client's buffers fill."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection without TLS's close_notify."""


Act = Send | Repeat | Stall | Ignore | Cut


@dataclass(frozen=True, slots=True)
class Recorded:
    """An envelope of an earlier run of the program, and the secret in it."""

    envelope: str = field(repr=False)
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One attested request, KMS's honest response to it, and what an attacker knows.

    Attributes:
        operation: its name.
        response: KMS's honest response.
        enveloper: encrypts to the public key in the request's document, as anybody can.
        planted: a secret of the attacker's choice.
        other_key: ARN of another key of the account.
        recorded: of an earlier run; None if there was none.
        redirected: the request was sent to the attacker's own host.
    """

    operation: str
    response: Response = field(repr=False)
    enveloper: Enveloper = field(repr=False)
    planted: bytes = field(repr=False)
    other_key: str
    recorded: Recorded | None
    redirected: bool = False

    def content(self) -> dict[str, Any]:
        """Return the JSON of the honest response."""
        content: dict[str, Any] = json.loads(self.response.body)
        return content

    def with_content(self, **members: Any) -> Response:
        """Return the response with other members; one that is None is removed."""
        content = self.content() | members
        content = {name: value for name, value in content.items() if value is not None}
        return replace(self.response, body=json.dumps(content).encode())

    def forge(self, secret: bytes) -> str:
        """Return an envelope with a secret, in base64, for the key pair of the request."""
        return base64.b64encode(self.enveloper.encrypt(secret, "constructed")).decode()

    def honest(self) -> bytes:
        """Return the bytes of the honest response."""
        return encode_http(self.response)


def encode_http(response: Response, *headers: str) -> bytes:
    """Return the bytes of a response, with further header lines."""
    lines = [
        f"HTTP/1.1 {response.status} {'OK' if response.status == 200 else 'Error'}",
        f"Content-Type: {response.content_type}",
        f"x-amzn-RequestId: {response.request_id}",
        f"Content-Length: {len(response.body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + response.body


@dataclass(frozen=True, slots=True)
class CredentialsExchange:
    """One request to the credential service.

    Attributes:
        honest: the bytes of the honest response.
        redirected: the request was sent to the attacker's own host.
    """

    honest: bytes = field(repr=False)
    redirected: bool = False


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. What is not given is honest.

    Attributes:
        name: of the command line and of reports.
        place: where it is made.
        effect: what the attacker does, in a line.
        success: which results the program may have.
        answers: who must refuse it: ``client``, any client of KMS; ``program``, by what it names
            in its calls.
        certificate: of the server in KMS's place; ``valid`` proves KMS's name.
        on_connection: done in place of a TLS handshake, after the client's first bytes.
        on_http2: the server chooses HTTP/2 of a client that offers it, and does this.
        on_request: done for each attested request.
        on_credentials: done for each request to the credential service.
        on_log: done for each connection to the log sink.
        nsm: gives the NSM's response, from the request's name and the honest response.
        input: what the program is given.
        shift: how far all clocks but the program's are moved.
        jump: how much further they are moved after the first attested call.
    """

    name: str
    place: Place
    effect: str
    success: Success = Success.NONE
    answers: str = "client"
    certificate: CertificateKind = "valid"
    on_connection: tuple[Act, ...] | None = None
    on_http2: tuple[Act, ...] | None = None
    on_request: Callable[[Exchange], Iterable[Act]] | None = None
    on_credentials: Callable[[CredentialsExchange], Iterable[Act]] | None = None
    on_log: tuple[Act, ...] | None = None
    nsm: Callable[[str, bytes], bytes] | None = None
    input: InputKind = "right"
    shift: timedelta = timedelta(0)
    jump: timedelta = timedelta(0)
