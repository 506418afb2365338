"""A SOPS file: told by its content, opened with its data key, its MAC checked. No I/O."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from enclave.cli.yaml_format import require_yaml
from enclave.errors import DecodingError
from enclave.secrets.documents import PREFIX, read_dotenv, read_json
from enclave.secrets.metadata import Metadata, read_metadata
from enclave.secrets.values import FORMAT, open_value
from vsock_proxy.service.sops_values import mac_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enclave.secrets.documents import Node, Tree
    from vsock_proxy.service.sops_values import Scalar

Format = Literal["binary", "dotenv", "json", "yaml"]

DATA_KEY_SIZE: Final = 32

_MAC_ONLY_ENCRYPTED: Final = hashlib.sha256(b"sops").digest()
"""What a MAC over encrypted values alone begins with, so that none serves for the other kind."""

_DOTENV: Final = re.compile(rf"^{PREFIX}(mac|version|lastmodified)=", re.MULTILINE)
_YAML: Final = re.compile(r"^sops:", re.MULTILINE)
_INI: Final = re.compile(r"^\[sops\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SopsFile:
    """An encrypted file.

    Attributes:
        format: of the file, before it was encrypted.
        documents: its trees, without the metadata; JSON and dotenv files have one.
        metadata: how it is to be opened.
    """

    format: Format
    documents: Sequence[Tree] = field(repr=False)
    metadata: Metadata

    def open(self, key: bytes | bytearray) -> list[Tree]:
        """Return the trees with decrypted values, if the MAC proves that all of them belong here.

        Raises:
            DecodingError: a value does not open with this key in its place, or the MAC is wrong.
        """
        if len(key) != DATA_KEY_SIZE:
            raise DecodingError(FORMAT, f"its data key has {len(key)} bytes, not {DATA_KEY_SIZE}")
        digest = hashlib.sha512(_MAC_ONLY_ENCRYPTED if self.metadata.mac_only_encrypted else b"")
        opened: list[Tree] = []
        for document in self.documents:
            tree = self._opened(document, (), key, digest)
            assert isinstance(tree, dict)  # noqa: S101 (as `document`)
            opened.append(tree)
        mac = open_value(self.metadata.mac, key, self.metadata.last_modified)
        if not isinstance(mac, str) or not hmac.compare_digest(
            mac.encode("utf-8", "surrogateescape"), digest.hexdigest().upper().encode()
        ):
            raise DecodingError(
                FORMAT,
                "its MAC does not fit its values",
                hint="a value was added, removed, moved or changed without sops",
            )
        return opened

    def _opened(
        self, node: Node, path: tuple[str, ...], key: bytes | bytearray, digest: hashlib._Hash
    ) -> Node:
        # The order of the calls is the order of the MAC.
        if isinstance(node, dict):
            return {
                name: self._opened(value, (*path, name), key, digest)
                for name, value in node.items()
            }
        if isinstance(node, list):
            return [self._opened(value, path, key, digest) for value in node]
        if node is None:
            return None
        encrypted = self.metadata.is_encrypted(path)
        value: Scalar = node
        if encrypted:
            if not isinstance(node, str):
                raise DecodingError(FORMAT, "a value that should be encrypted is not")
            value = open_value(node, key, "".join(f"{part}:" for part in path))
        if encrypted or not self.metadata.mac_only_encrypted:
            digest.update(mac_bytes(value))
        return value


def read_sops(data: bytes, *, name: str = "") -> SopsFile | None:
    """Read a SOPS file; None if this is no such file.

    Args:
        data: its bytes.
        name: of the file; with ``.json``, one whose only key is ``data`` is JSON, not binary.

    Raises:
        DecodingError: it is malformed, or has what is not supported.
        ConfigurationError: it is YAML, and PyYAML is not installed.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    kind: Format
    if text.lstrip()[:1] == "{" and '"sops"' in text:
        kind, documents = "json", read_json(text)
    elif _DOTENV.search(text):
        kind, documents = "dotenv", read_dotenv(text)
    elif _YAML.search(text):
        require_yaml()
        from enclave.secrets.yaml_document import read_yaml  # noqa: PLC0415 (for YAML alone)

        kind, documents = "yaml", read_yaml(text)
    elif _INI.search(text):
        raise DecodingError(
            FORMAT, "the ini format is not supported", hint="use dotenv, JSON, YAML or binary"
        )
    else:
        return None
    metadata = documents[0].get("sops")
    if not isinstance(metadata, dict):
        raise DecodingError(FORMAT, "it has no metadata under the key sops")
    for document in documents:
        document.pop("sops", None)
    if kind == "json" and list(documents[0]) == ["data"] and not name.endswith(".json"):
        kind = "binary"
    return SopsFile(kind, documents, read_metadata(metadata))
