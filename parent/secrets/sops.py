"""Writes SOPS files: each value encrypted in its place, a MAC over all of them. No I/O.

Source: getsops/sops, ``sops.go``, ``aes/cipher.go`` and ``stores/``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from parent.secrets.plain import Node, SealError, Tree
from vsock_proxy.service.sops_values import Scalar, Timestamp, mac_bytes, resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

VERSION: Final = "3.11.0"
"""Of SOPS, whose format this is."""

UNENCRYPTED_SUFFIX: Final = "_unencrypted"
"""Values whose key, or one above it, ends so stay readable; SOPS's default."""

DATA_KEY_SIZE: Final = 32
_IV_SIZE: Final = 32
_TAG_SIZE: Final = 16
_TYPES: Final[dict[type, str]] = {
    bool: "bool",
    float: "float",
    int: "int",
    str: "str",
    Timestamp: "time",
}


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """The data key, encrypted by a KMS key.

    Attributes:
        arn: of the KMS key.
        ciphertext: KMS's CiphertextBlob.
        context: the encryption context.
    """

    arn: str
    ciphertext: bytes = field(repr=False)
    context: Mapping[str, str]


def sealed(
    documents: Sequence[Tree],
    kind: str,
    *,
    data_key: bytes | bytearray,
    keys: Sequence[WrappedKey],
    now: datetime,
    random: Callable[[int], bytes],
) -> bytes:
    """Return a SOPS file.

    Args:
        documents: what to encrypt; of a type other than YAML there is one.
        kind: the type, of `plain.TYPES`.
        data_key: 32 bytes.
        keys: the same, encrypted; each of them opens the file.
        now: the time, in UTC.
        random: returns so many random bytes.
    """
    writer = _Writer(bytes(data_key), random)
    trees = [writer.encrypted(document, ()) for document in documents]
    modified = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata: dict[str, Any] = {
        "kms": [
            {
                "arn": key.arn,
                "aws_profile": "",
                **({"context": dict(key.context)} if key.context else {}),
                "created_at": modified,
                "enc": base64.b64encode(key.ciphertext).decode(),
            }
            for key in keys
        ],
        "lastmodified": modified,
        "mac": writer.value(writer.mac(), modified),
        "unencrypted_suffix": UNENCRYPTED_SUFFIX,
        "version": VERSION,
    }
    if kind == "dotenv":
        return _dotenv({**trees[0], **_flat(metadata, "sops")})
    whole = [{**tree, "sops": metadata} for tree in trees]
    if kind == "yaml":
        return yaml.dump_all(
            whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20
        ).encode()
    return (json.dumps(whole[0], indent="\t", ensure_ascii=False, default=_json) + "\n").encode()


class _Writer:
    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        self._cipher = AESGCM(key)
        self._random = random
        self._digest = hashlib.sha512()

    def encrypted(self, node: Node, path: tuple[str, ...]) -> Any:
        # The order of the calls is the order of the MAC.
        if isinstance(node, dict):
            return {name: self.encrypted(value, (*path, name)) for name, value in node.items()}
        if isinstance(node, list):
            return [self.encrypted(value, path) for value in node]
        if node is None:
            return None
        self._digest.update(mac_bytes(node))
        if any(part.endswith(UNENCRYPTED_SUFFIX) for part in path):
            return node
        return self.value(node, "".join(f"{part}:" for part in path))

    def value(self, value: Scalar, additional_data: str) -> str:
        if value == "":
            return ""
        iv = self._random(_IV_SIZE)
        closed = self._cipher.encrypt(iv, mac_bytes(value), additional_data.encode())
        data, tag = closed[:-_TAG_SIZE], closed[-_TAG_SIZE:]
        parts = (base64.b64encode(part).decode() for part in (data, iv, tag))
        return "ENC[AES256_GCM,data:{},iv:{},tag:{},type:{}]".format(*parts, _TYPES[type(value)])

    def mac(self) -> str:
        return self._digest.hexdigest().upper()


def _flat(node: Any, prefix: str) -> dict[str, str]:
    """Return metadata for a dotenv file, for example ``sops_kms__list_0__map_arn``."""
    flat: dict[str, str] = {}

    def descend(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                descend(value, f"{path}__map_{name}")
        elif isinstance(node, list):
            for number, value in enumerate(node):
                descend(value, f"{path}__list_{number}")
        else:
            flat[path] = node

    for name, value in node.items():
        descend(value, f"{prefix}_{name}")
    return flat


def _dotenv(flat: Mapping[str, Any]) -> bytes:
    lines = []
    for name, value in flat.items():
        if not isinstance(value, str):
            raise SealError(f"{name!r} is not a single text, which dotenv needs")
        lines.append(f"{name}={value.replace(chr(10), chr(92) + 'n')}\n")
    return "".join(lines).encode()


def _json(value: object) -> str:
    assert isinstance(value, Timestamp)  # noqa: S101 (there is no other type)
    return value.text


class _Dumper(yaml.SafeDumper):
    """Quotes what SOPS would take for another type than a text."""

    def ignore_aliases(self, _data: Any) -> bool:
        """See `yaml.representer.BaseRepresenter`: every value stands for itself."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> Any:
    style = None if isinstance(resolved(text), str) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(
    Timestamp,
    lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:timestamp", value.text),
)
