"""A client of KMS that is vulnerable in one way, by name: what every attack is held to.

    enclave-simulator attack -- python -m tests.programs.attacked.vulnerable WEAKNESS

Without a weakness it refuses every attack. It is written for this alone: no part of it is a model
for anything.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import ssl
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enclave.credentials import Credentials
from enclave.recipient.cms import open_enveloped_data
from tests.programs.attacked import loose_cms
from tests.programs.attacked.weaknesses import WEAKNESSES
from tests.signing import signed_headers
from vsock_proxy.errors import AgentError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

_HOST = "kms.us-east-1.amazonaws.com"
_MOST = 1 << 20
_TIMEOUT = 10.0
_STRINGS = {"CiphertextForRecipient", "KeyId", "Plaintext"}
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"  # RFC 9113, 3.4
_BUILT_IN = b"built-in secret of 32 bytes here"


_LOG_LINES = 256 * (b"x" * 63 + b"\n")
_LOGGED = 8 << 20  # more than loopback TCP and UNIX sockets take


class RefusedError(Exception):
    """The client refuses a response."""


class RejectedError(RefusedError):
    """KMS rejects the credentials."""


class AbortedError(Exception):
    """Stands for a signal, where the client runs in a test's process."""


@dataclass
class Surroundings:
    """What the client needs from outside.

    Attributes:
        exchange: the NSM.
        proxy: dials vsock-proxy.
        credentials: dials the credential service.
        log: dials the log sink.
        environ: variables.
        ca_pem: the CA to trust.
        key: an RSA key pair; None: one is made.
        fixed_key: the key pair of "fixed-key-pair".
        alive: False ends what would never end, in a test's process.
        timeout: seconds for one call.
    """

    exchange: Callable[[bytes], bytes]
    proxy: Callable[[], socket.socket]
    credentials: Callable[[], socket.socket]
    log: Callable[[], socket.socket]
    environ: Mapping[str, str]
    ca_pem: bytes
    key: rsa.RSAPrivateKey | None = field(default=None, repr=False)
    fixed_key: rsa.RSAPrivateKey | None = field(default=None, repr=False)
    alive: Callable[[], bool] = lambda: True
    timeout: float = _TIMEOUT


def _depth(ber: bytes, at: int = 0) -> int:
    """Return how many sequences of indefinite length begin an envelope, in each other."""
    return 1 + _depth(ber, at + 2) if ber[at : at + 2] == b"\x30\x80" else 0


class Client:
    def __init__(self, around: Surroundings, weakness: str = "") -> None:
        self.around, self.weakness = around, weakness
        key = around.fixed_key if self.has("fixed-key-pair") else around.key
        self.key = key or rsa.generate_private_key(65537, 2048)
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public_key, self.key_identifier = spki, hashlib.sha256(spki).digest()
        self.deadline = 0.0
        self.kept: socket.socket | None = None
        self.left = b""
        self.signer: Credentials | None = None

    def has(self, weakness: str) -> bool:
        return self.weakness == weakness

    # The calls

    def results(self) -> list[str]:
        """Return a line of the attack's protocol for each call."""
        self.check_entropy()
        self.write_log()
        ciphertexts = self.around.environ["ATTACK_CIPHERTEXTS"].split()
        lines = [self.line(partial(self.decrypt, text)) for text in ciphertexts]
        lines.append(self.line(lambda: self.call("GenerateRandom", {"NumberOfBytes": 32})))
        if self.kept is not None:
            self.kept.close()
        return lines

    def line(self, call: Callable[[], bytes]) -> str:
        while True:
            try:
                secret = call()
            except (RefusedError, AgentError, OSError, ValueError) as e:
                rejected = isinstance(e, RejectedError) and self.has("renews-for-ever")
                if (rejected or self.has("retries-for-ever")) and self.around.alive():
                    self.signer = None
                    continue
                if not self.has("built-in-secret"):
                    return f"ATTACK-RESULT refused: {type(e).__name__}: {e}"
                secret = _BUILT_IN
            return "ATTACK-RESULT sha256:" + hashlib.sha256(secret).hexdigest()

    def decrypt(self, ciphertext: str) -> bytes:
        environ = self.around.environ
        context = "ATTACK_STORED_CONTEXT" if self.has("stored-context") else "ATTACK_CONTEXT"
        parameters = {
            "CiphertextBlob": ciphertext,
            "EncryptionContext": json.loads(environ[context]),
        }
        if not self.has("names-no-key"):
            name = "ATTACK_KEY_ALIAS" if self.has("names-alias") else "ATTACK_KEY_ID"
            parameters["KeyId"] = environ[name]
        return self.call("Decrypt", parameters)

    def call(self, operation: str, parameters: dict[str, Any]) -> bytes:
        self.deadline = time.monotonic() + self.around.timeout
        parameters = {**parameters, **self.recipient()}
        response = self.post(operation, json.dumps(parameters).encode(), _HOST)
        if "Recipient" not in parameters:
            return base64.b64decode(response["Plaintext"])
        if response.get("Plaintext"):
            if self.has("takes-plaintext"):
                return base64.b64decode(response["Plaintext"])
            raise RefusedError("a secret in the clear")
        key_id = parameters.get("KeyId", "")
        answered = response.get("KeyId", "")
        if self.has("compares-last-part"):
            answered, key_id = answered.rpartition("/")[2], key_id.rpartition("/")[2]
        if key_id.startswith("arn:") and answered != key_id:
            self.unless("ignores-key-id", "another key")
        envelope = base64.b64decode(response.get("CiphertextForRecipient", ""))
        if not envelope and self.has("takes-empty"):
            return b""
        secret = self.opened(envelope)
        if not secret:
            self.unless("takes-empty", "an empty secret")
        if operation == "GenerateRandom" and len(secret) != parameters["NumberOfBytes"]:
            self.unless("ignores-length", "another number of bytes")
        return secret

    def opened(self, envelope: bytes) -> bytes:
        if self.has("recurses"):
            try:
                _depth(envelope)
            except RecursionError as e:
                raise AbortedError from e
        if self.weakness in loose_cms.WEAKNESSES:
            try:
                return loose_cms.opened(envelope, self.key, self.key_identifier, self.unless)
            except loose_cms.LengthError as e:
                if self.has("unchecked-lengths"):
                    raise AbortedError from e
                raise RefusedError("a wrong length") from e
        return open_enveloped_data(envelope, self.key, self.key_identifier)

    def unless(self, weakness: str, reason: str) -> None:
        if not self.has(weakness):
            raise RefusedError(reason)

    # The NSM

    def recipient(self) -> dict[str, Any]:
        request = cbor2.dumps(
            {"Attestation": {"public_key": self.public_key, "user_data": None, "nonce": None}}
        )
        try:
            document = cbor2.loads(self.around.exchange(request))["Attestation"]["document"]
        except (AgentError, cbor2.CBORError, LookupError, TypeError) as e:
            if self.has("unattested"):
                return {}
            raise RefusedError(f"no document: {e}") from e
        if not document:
            if self.has("unattested"):
                return {}
            raise RefusedError("an empty document")
        return {
            "Recipient": {
                "AttestationDocument": base64.b64encode(document).decode(),
                "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
            }
        }

    def check_entropy(self) -> None:
        response = cbor2.loads(self.around.exchange(cbor2.dumps("GetRandom")))
        if "GetRandom" not in response and self.has("aborts"):
            raise AbortedError

    # The log

    def write_log(self) -> None:
        """Log more than any buffer takes; what does not go at once is dropped."""
        try:
            with self.around.log() as connection:
                connection.settimeout(None if self.has("awaits-log") else 0)
                if self.has("dies-with-log"):
                    connection.settimeout(self.around.timeout)
                for _ in range(_LOGGED // len(_LOG_LINES)):
                    connection.sendall(_LOG_LINES)
        except (BrokenPipeError, ConnectionResetError) as e:
            if self.has("dies-with-log"):
                raise AbortedError from e
        except (AgentError, OSError):
            pass

    # HTTP

    def post(self, operation: str, body: bytes, host: str) -> dict[str, Any]:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{operation}",
        }
        headers = signed_headers(
            url=f"https://{host}/", headers=headers, digest=hashlib.sha256(body).hexdigest(),
            credentials=self.credentials(), region="us-east-1", at=datetime.now(UTC),
        )  # fmt: skip
        headers |= {"Host": host, "Content-Length": str(len(body))}
        if not self.has("raw-headers") and any(
            c in value for value in headers.values() for c in "\r\n"
        ):
            raise RefusedError("a header with a line end")
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection, left = self.connection(host)
        try:
            if isinstance(connection, ssl.SSLSocket) and (
                connection.selected_alpn_protocol() == "h2"
            ):
                connection.sendall(_HTTP2)
                while True:
                    self.more(connection, b"")
            connection.sendall(f"POST / HTTP/1.1\r\n{head}\r\n".encode() + body)
            status, answered, content, left = self.response(connection, left)
        except BaseException:
            connection.close()
            raise
        if (
            self.has("takes-interim") or self.has("keeps-connections")
        ) and connection.fileno() >= 0:
            self.kept, self.left = connection, left
        else:
            connection.close()
        if 300 <= status < 400 and self.has("follows-redirects"):
            return self.post(operation, body, answered["location"].split("/")[2])
        if status != 200 and b"UnrecognizedClient" in content:
            raise RejectedError("the credentials")
        if status != 200:
            self.unless("ignores-status", f"HTTP {status}: {content[:200]!r}")
        if "content-encoding" in answered and self.has("inflates"):
            content = gzip.decompress(content)
        try:
            response = json.loads(content or b"null")
        except RecursionError as e:
            if self.has("recurses"):
                raise AbortedError from e
            raise RefusedError("too deep") from e
        if not isinstance(response, dict) or not all(
            isinstance(value, str) for name, value in response.items() if name in _STRINGS
        ):
            if self.has("unchecked-types"):
                raise AbortedError
            raise RefusedError("not the form of KMS's responses")
        return response

    def connection(self, host: str) -> tuple[socket.socket, bytes]:
        kept, self.kept = self.kept, None
        if kept is not None:
            return kept, self.left
        connection = self.dialed()
        try:
            return self.tls().wrap_socket(connection, server_hostname=host), b""
        except ssl.SSLError:
            connection.close()
            if not self.has("plain-http"):
                raise
        except BaseException:
            connection.close()
            raise
        return self.dialed(), b""

    def dialed(self) -> socket.socket:
        connection = self.around.proxy()
        try:
            self.limit(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.hostname_checks_common_name = self.has("common-name")
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.around.ca_pem.decode())
        if self.has("trusts-any"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.has("no-deadline"):
            context.set_alpn_protocols(["h2", "http/1.1"])
        if self.has("no-host-name"):
            context.check_hostname = False
        if self.has("ignores-dates"):
            context.verify_flags |= ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME
        if self.has("old-tls"):
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.set_ciphers("ALL:@SECLEVEL=0")
        if self.has("weak-keys"):
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        if self.has("anonymous"):
            context.set_ciphers("ALL:aNULL:@SECLEVEL=0")
        return context

    def response(
        self, connection: socket.socket, data: bytes
    ) -> tuple[int, dict[str, str], bytes, bytes]:
        while True:
            while b"\r\n\r\n" not in data:
                data = self.more(connection, data)
                if self.has("takes-headless") and data[:1] == b"{" and data[-1:] == b"}":
                    return 200, {}, data, b""
            head, _, data = data.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            status = int(first.split(" ")[1])
            pairs = [line.split(":", 1) for line in lines]
            lengths = [value.strip() for name, value in pairs if name.lower() == "content-length"]
            headers = {name.lower(): value.strip() for name, value in pairs}
            if status >= 200 or self.has("takes-interim"):
                break
        if len(set(lengths)) > 1:
            self.unless("first-length", "two lengths")
        if not lengths and self.has("takes-unframed"):
            with contextlib.suppress(RefusedError):
                while True:
                    data = self.more(connection, data)
            return status, headers, data, b""
        if not lengths and status >= 200:
            self.unless("no-deadline", "a body without a length")
            while True:
                data = self.more(connection, data)
        length = int(lengths[0]) if lengths else 0
        if length > _MOST and not self.has("any-size") and not self.has("recurses"):
            self.unless("no-deadline", "a body that is too long")
        parts, left = [data], length - len(data)
        while left > 0:
            try:
                parts.append(self.more(connection, b""))
            except RefusedError:
                self.unless("takes-truncated", "a truncated body")
                return status, headers, b"".join(parts) + b"}", b""
            left -= len(parts[-1])
        data = b"".join(parts)
        return status, headers, data[:length], data[length:]

    def more(self, connection: socket.socket, data: bytes) -> bytes:
        if len(data) > _MOST and not self.has("no-deadline"):
            raise RefusedError("too much")
        self.limit(connection)
        part = connection.recv(1 << 16)
        if not part:
            raise RefusedError("the connection ended early")
        return data + part

    def limit(self, connection: socket.socket) -> None:
        if self.has("no-deadline"):
            connection.settimeout(None)
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise RefusedError("the deadline")
        connection.settimeout(left)

    # Credentials

    def credentials(self) -> Credentials:
        environ = self.around.environ
        if environ.get("AWS_ACCESS_KEY_ID"):
            return Credentials(
                environ["AWS_ACCESS_KEY_ID"],
                environ["AWS_SECRET_ACCESS_KEY"],
                environ["AWS_SESSION_TOKEN"],
            )
        if self.signer is None:
            given = json.loads(self.given_credentials("parent"))
            names = "AccessKeyId", "SecretAccessKey", "Token"
            self.signer = Credentials(*(given[name] for name in names))
        return self.signer

    def given_credentials(self, host: str) -> bytes:
        """Return what the credential service sends, or the host that it leads to."""
        with self.around.credentials() as connection:
            self.limit(connection)
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            status, headers, content, _ = self.response(connection, b"")
        if 300 <= status < 400 and self.has("follows-redirects"):
            return self.given_credentials(headers["location"].split("/")[2])
        if status != 200:
            raise RefusedError(f"HTTP {status} for credentials")
        return content


def main() -> int:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    from enclave.nsm import DevNsm  # noqa: PLC0415
    from vsock_proxy.net.addresses import parse_address  # noqa: PLC0415
    from vsock_proxy.net.dialing import SocketDialer  # noqa: PLC0415

    weakness = sys.argv[1] if len(sys.argv) > 1 else ""
    if weakness and weakness not in WEAKNESSES:
        sys.exit(f"no such weakness: {weakness}")
    fixed = os.environ.get("ATTACKED_KEY")  # made by whoever attacks: no key is in a repository
    dialer = SocketDialer()
    with DevNsm() as device:
        around = Surroundings(
            exchange=device.exchange,
            proxy=lambda: dialer.dial(parse_address("vsock://3:8000"), _TIMEOUT),
            credentials=lambda: dialer.dial(parse_address("vsock://3:8002"), _TIMEOUT),
            log=lambda: dialer.dial(parse_address("vsock://3:8003"), _TIMEOUT),
            environ=os.environ,
            ca_pem=Path(os.environ["AWS_CA_BUNDLE"]).read_bytes(),
        )
        if fixed:
            loaded = load_pem_private_key(Path(fixed).read_bytes(), None)
            assert isinstance(loaded, rsa.RSAPrivateKey)
            around.fixed_key = loaded
        try:
            lines = Client(around, weakness).results()
        except AbortedError:
            os.abort()
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
