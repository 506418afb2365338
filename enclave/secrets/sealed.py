"""A sealed file of either kind, and what is in it once it is open. No I/O."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from enclave.errors import DecodingError
from enclave.secrets.errors import SecretError
from enclave.secrets.metadata import MAX_CIPHERTEXT
from enclave.secrets.sops import SopsFile, read_sops
from vsock_proxy.service.quantities import whole_number
from vsock_proxy.service.sops_values import Timestamp, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enclave.secrets.documents import Node, Tree
    from enclave.secrets.sops import Format

_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2}")

_TEXT: Final = re.compile(rb"[\t\n\r -~]+")
"""No ciphertext of KMS's: these begin with the bytes 1 and 2."""


@dataclass(frozen=True, slots=True)
class Ciphertext:
    """A CiphertextBlob of KMS's."""

    blob: bytes = field(repr=False)


Sealed = Ciphertext | SopsFile


def read_sealed(data: bytes, *, name: str = "") -> Sealed:
    """Tell what a file is by its content: a file of SOPS, or a ciphertext, in base64 or not.

    Raises:
        DecodingError: it is neither.
        ConfigurationError: it is YAML, and PyYAML is not installed.
    """
    found = read_sops(data, name=name)
    if found is not None:
        return found
    blob, text = data, b"".join(data.split())
    if _BASE64.fullmatch(text):
        try:
            blob = base64.b64decode(text, validate=True)
        except binascii.Error as e:
            raise DecodingError("ciphertext", "base64 that is cut off") from e
    elif _TEXT.fullmatch(data):
        # It is not sent to KMS: somebody may have forgotten to encrypt it.
        raise DecodingError(
            "ciphertext",
            "text, and neither base64 nor a file of SOPS",
            hint="is it encrypted? enclave-parent seal does it, or sops encrypt",
        )
    if not 0 < len(blob) <= MAX_CIPHERTEXT:
        raise DecodingError(
            "ciphertext",
            f"{len(blob)} bytes; KMS takes 1 to {MAX_CIPHERTEXT}",
            hint="larger secrets go into a file of SOPS: sops encrypt, or enclave-parent seal",
        )
    return Ciphertext(blob)


@dataclass(frozen=True, slots=True)
class Opened:
    """The content of a file of SOPS."""

    format: Format
    documents: Sequence[Tree] = field(repr=False)

    def value(self, selector: str) -> Node:
        """Return one value, for example of ``database.hosts.0``.

        Raises:
            SecretError: there is none.
        """
        node: Node = self._only_document()
        rest = selector.split(".")
        while rest:
            # A key may have dots itself: the longest that fits is taken.
            for count in range(len(rest), 0, -1):
                part = ".".join(rest[:count])
                if isinstance(node, dict) and part in node:
                    node = node[part]
                    break
                if isinstance(node, list):
                    index = whole_number(part, 0, len(node) - 1)
                    if index is not None:
                        node = node[index]
                        break
            else:
                raise SecretError(f"there is no value {selector!r} in it")
            rest = rest[count:]
        return node

    def variables(self) -> dict[str, str]:
        """Return every value, by its key.

        Raises:
            SecretError: one of them is not a single value.
        """
        found = {}
        for name, value in self._only_document().items():
            if isinstance(value, dict | list):
                raise SecretError(
                    f"{name!r} in it is not a single value",
                    hint="give such a file whole, --secret-file, or name a value in it: "
                    "--secret NAME=FILE#KEY.KEY",
                )
            found[name] = text_of(value)
        return found

    def content(self) -> bytes:
        """Return the file as it was before it was encrypted; YAML as JSON, which is YAML.

        Raises:
            SecretError: it has bytes that its format does not allow.
        """
        if self.format == "binary":
            return text_bytes(text_of(_scalar(self.documents[0]["data"])))
        if self.format == "dotenv":
            lines = [
                f"{name}={text.replace(chr(10), chr(92) + 'n')}\n"
                for name, text in self.variables().items()
            ]
            return text_bytes("".join(lines))
        try:
            return "---\n".join(json_text(document) for document in self.documents).encode()
        except UnicodeEncodeError:
            raise SecretError("it has a value that is not UTF-8") from None

    def _only_document(self) -> Tree:
        if len(self.documents) != 1:
            raise SecretError(
                f"it has {len(self.documents)} documents",
                hint="only --secret-file takes a file of several documents",
            )
        return self.documents[0]


def _scalar(node: Node) -> str:
    if not isinstance(node, str):
        raise SecretError("its data is not a text")
    return node


def text_bytes(text: str) -> bytes:
    """Return the bytes of a text that may stand for any bytes."""
    return text.encode("utf-8", "surrogateescape")


def json_text(node: Node) -> str:
    """Return a value as JSON, one key a line."""
    return json.dumps(_plain(node), ensure_ascii=False, indent=2) + "\n"


def _plain(node: Node) -> Any:
    """Return a tree of JSON's types; numbers of JSON that SOPS had as floats are whole again."""
    match node:
        case dict():
            return {key: _plain(value) for key, value in node.items()}
        case list():
            return [_plain(value) for value in node]
        case Timestamp():
            return node.text
        case float() if node.is_integer() and abs(node) < 1e21:
            return int(node)
    return node
