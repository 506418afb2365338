"""The SDK's own KMS client: bytes in, bytes out. For worker processes only.

Every call may wait for ever (a wake-up lost between two threads, a connection that the server has
closed), or crash on a response that KMS would not send.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NewType

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave.sdk.bindings.native import Native

MAX_PORT = 65_535
"""`aws_socket_endpoint` has 16 bits for a port, vsock 32."""

_NEVER_EXPIRE = 2**64 - 1
"""Credentials have a deadline all the same: their provider watches it."""

Client = NewType("Client", object)
"""A KMS client in C; it exists until the process ends."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Where the SDK's client finds KMS, and what it signs with.

    Attributes:
        region: AWS region.
        host_name: what TLS proves and what is signed.
        domain: ``VSOCK``, ``LOCAL``, ``IPV4`` or ``IPV6``.
        address: CID, path or host, by domain; at most 107 bytes.
        port: 0..65535.
        access_key_id: of the credentials.
        secret_access_key: of the credentials.
        session_token: of the credentials; empty if there is none.
    """

    region: str
    host_name: str
    domain: str
    address: str
    port: int
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


class Kms:
    """`kms.h`."""

    def __init__(self, native: Native) -> None:
        self._native = native

    def new_client(self, options: ClientOptions) -> Client:
        """Connect to KMS. May wait for ever: call it only in a worker process.

        Raises:
            ConfigurationError: the C structures cannot hold an option.
            SdkCallError: no connection.
        """
        native, ffi, lib = self._native, self._native.ffi, self._native.lib
        endpoint = self._endpoint(options)
        with (
            native.string(options.region) as region,
            native.string(options.host_name) as host_name,
            self._credentials(options) as credentials,
        ):
            configuration = ffi.new(
                "struct aws_nitro_enclaves_kms_client_configuration *",
                {
                    "allocator": native.allocator,
                    "region": region,
                    "endpoint": endpoint,
                    "domain": getattr(lib, f"AWS_SOCKET_{options.domain}"),
                    "credentials": credentials,
                    "host_name": host_name,
                },
            )
            client = lib.aws_nitro_enclaves_kms_client_new(configuration)
        if client == ffi.NULL:
            raise native.error("aws_nitro_enclaves_kms_client_new")
        return Client(client)

    def generate_random(self, client: Client, number_of_bytes: int) -> bytes:
        """Call GenerateRandom, attested: 1..1024 bytes. May wait for ever, as all that follow."""
        if not 0 < number_of_bytes <= 1024:
            raise ConfigurationError(
                f"{number_of_bytes} random bytes, not 1..1024", hint="KMS gives 1..1024 a call"
            )
        with self._native.output() as plaintext:
            self._native.call(
                "aws_kms_generate_random_blocking", client, number_of_bytes, plaintext
            )
            return self._native.bytes_of(plaintext)

    def generate_data_key(self, client: Client, key_id: str, key_spec: str) -> tuple[bytes, bytes]:
        """Call GenerateDataKey, attested: returns an AES_128 or AES_256 key, its CiphertextBlob."""
        spec = getattr(self._native.lib, f"AWS_KS_{key_spec}")
        with (
            self._native.string(key_id) as key_id_,
            self._native.output() as plaintext,
            self._native.output() as blob,
        ):
            self._native.call(
                "aws_kms_generate_data_key_blocking", client, key_id_, spec, plaintext, blob
            )
            return self._native.bytes_of(plaintext), self._native.bytes_of(blob)

    def decrypt(
        self,
        client: Client,
        ciphertext_blob: bytes,
        *,
        key_id: str | None = None,
        encryption_algorithm: str = "SYMMETRIC_DEFAULT",
        encryption_context: str | None = None,
    ) -> bytes:
        """Call Decrypt, attested; the encryption context is a JSON object as text."""
        with (
            self._native.string(key_id) as key_id_,
            self._native.string(encryption_algorithm) as algorithm,
            self._native.string(encryption_context) as context,
            self._native.input(ciphertext_blob) as blob,
            self._native.output() as plaintext,
        ):
            self._native.call(
                "aws_kms_decrypt_blocking_with_context",
                client, key_id_, algorithm, blob, context, plaintext,
            )  # fmt: skip
            return self._native.bytes_of(plaintext)

    def encrypt(
        self,
        client: Client,
        key_id: str,
        plaintext: bytes,
        *,
        encryption_context: str | None = None,
    ) -> bytes:
        """Call Encrypt; returns the CiphertextBlob."""
        with (
            self._native.string(key_id) as key_id_,
            self._native.string(encryption_context) as context,
            self._native.input(plaintext) as plain,
            self._native.output() as blob,
        ):
            self._native.call(
                "aws_kms_encrypt_blocking_with_context", client, key_id_, plain, context, blob
            )
            return self._native.bytes_of(blob)

    def _endpoint(self, options: ClientOptions) -> Any:
        ffi = self._native.ffi
        endpoint = ffi.new("struct aws_socket_endpoint *")
        address = options.address.encode()
        if len(address) >= ffi.sizeof(endpoint.address) or b"\0" in address:
            raise ConfigurationError(
                f"the C SDK cannot hold the proxy's address {options.address!r}",
                hint=f"at most {ffi.sizeof(endpoint.address) - 1} bytes, none of them zero",
            )
        if not 0 <= options.port <= MAX_PORT:  # cffi would raise OverflowError
            raise ConfigurationError(
                f"port {options.port} of the proxy is more than the SDK's {MAX_PORT}",
                hint="let vsock-proxy listen on a lower port, or use --engine sdk",
            )
        endpoint.address, endpoint.port = address, options.port
        return endpoint

    @contextmanager
    def _credentials(self, options: ClientOptions) -> Iterator[Any]:
        native = self._native
        texts = (options.access_key_id, options.secret_access_key, options.session_token)
        parts = [native.ffi.from_buffer("uint8_t[]", text.encode()) for text in texts]
        # An empty token is a cursor of no bytes; the SDK's own `config_default` follows a NULL.
        cursors = [(len(part), part) for part in parts]
        made = native.lib.aws_credentials_new(native.allocator, *cursors, _NEVER_EXPIRE)
        if made == native.ffi.NULL:
            raise native.error("aws_credentials_new")
        try:
            yield made
        finally:
            native.lib.aws_credentials_release(made)  # the client holds a reference of its own
