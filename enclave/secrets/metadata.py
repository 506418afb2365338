"""The metadata of a SOPS file: its KMS keys, and which values are encrypted. No I/O.

Source: getsops/sops, ``stores/stores.go`` and ``sops.go`` (shouldBeEncrypted).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from enclave.errors import DecodingError
from enclave.secrets.values import FORMAT
from vsock_proxy.service.sops_values import Timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enclave.secrets.documents import Node, Tree

MAX_KEYS: Final = 64
MAX_CIPHERTEXT: Final = 6_144
"""Bytes that KMS Decrypt takes (KMS API Reference, CiphertextBlob)."""

_ARN: Final = re.compile(r"arn:[a-z0-9-]{1,32}:kms:([a-z0-9-]{1,32}):[0-9]{12}:\S{1,300}")
_OTHER_KEYS: Final = {
    "age": "age",
    "azure_kv": "Azure Key Vault",
    "gcp_kms": "GCP KMS",
    "hc_vault": "HashiCorp Vault",
    "hckms": "Huawei Cloud KMS",
    "pgp": "PGP",
}
_DEFAULT_SUFFIX: Final = "_unencrypted"
_RULES: Final = ("unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex")
_COMMENT_RULES: Final = ("unencrypted_comment_regex", "encrypted_comment_regex")
_GO_ONLY: Final = re.compile(r"\[\[:|\\[pPzQEC]|\(\?[a-zA-Z-]*U")
"""Parts of Go's regular expressions that Python's do not have, or read differently."""


@dataclass(frozen=True, slots=True)
class KmsKey:
    """The file's data key, encrypted by one KMS key.

    Attributes:
        arn: of the KMS key.
        region: of the ARN.
        ciphertext: the encrypted data key.
        context: the encryption context.
    """

    arn: str
    region: str
    ciphertext: bytes = field(repr=False)
    context: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Metadata:
    """How a file is to be opened.

    Attributes:
        keys: each of them opens the file.
        rule: of `_RULES`; which values are encrypted.
        pattern: its suffix or regular expression.
        mac: the encrypted MAC.
        last_modified: the additional data of the MAC.
        mac_only_encrypted: whether the MAC covers encrypted values alone.
    """

    keys: Sequence[KmsKey]
    rule: str
    pattern: str | re.Pattern[str]
    mac: str
    last_modified: str
    mac_only_encrypted: bool

    def is_encrypted(self, path: Sequence[str]) -> bool:
        """Return whether a value with these keys above it is encrypted."""
        if isinstance(self.pattern, str):
            found = any(part.endswith(self.pattern) for part in path)
        else:
            found = any(self.pattern.search(part) for part in path)
        return found is self.rule.startswith("encrypted")


def read_metadata(tree: Tree) -> Metadata:
    """Read the value of the key ``sops``.

    Raises:
        DecodingError: it is malformed, or has what is not supported; the message names that.
    """
    if any(tree.get(rule) for rule in _COMMENT_RULES):
        raise _unsupported("rules about comments (encrypted_comment_regex)")
    rules = [rule for rule in _RULES if tree.get(rule)]
    if len(rules) > 1:
        raise DecodingError(FORMAT, f"{rules[0]} and {rules[1]} exclude each other")
    rule = rules[0] if rules else _RULES[0]
    text = _text(tree, rule) if rules else _DEFAULT_SUFFIX
    mac = _text(tree, "mac")
    if not mac:
        raise DecodingError(FORMAT, "it has no MAC")
    only = tree.get("mac_only_encrypted", False)
    if only not in (True, False, "true", "false"):
        raise DecodingError(FORMAT, "mac_only_encrypted is neither true nor false")
    return Metadata(
        keys=_keys(tree),
        rule=rule,
        pattern=text if rule.endswith("suffix") else _pattern(text),
        mac=mac,
        last_modified=_text(tree, "lastmodified"),
        mac_only_encrypted=only in (True, "true"),
    )


def _pattern(text: str) -> re.Pattern[str]:
    if len(text) > 1_000 or _GO_ONLY.search(text):
        raise _unsupported("a regular expression with parts that only Go has")
    try:
        return re.compile(text, re.ASCII)
    except re.error:
        raise _unsupported("a regular expression that Python cannot read") from None


def _keys(tree: Tree) -> list[KmsKey]:
    group: Tree = tree
    groups = tree.get("key_groups")
    if not any(tree.get(name) for name in ("kms", *_OTHER_KEYS)) and isinstance(groups, list):
        if len(groups) > 1:
            raise _unsupported("several key groups, which share the data key (Shamir)")
        first = groups[0] if groups else None
        group = first if isinstance(first, dict) else {}
    listed = group.get("kms") or []
    if not isinstance(listed, list):
        raise DecodingError(FORMAT, "its list of KMS keys is not a list")
    if not listed:
        others = ", ".join(title for name, title in _OTHER_KEYS.items() if group.get(name))
        raise DecodingError(
            FORMAT,
            f"no key of AWS KMS opens it{f', only of {others}' if others else ''}",
            hint="encrypt it for a key that attests this enclave: sops --kms ARN, or "
            "enclave-parent seal --key-id ARN",
        )
    if len(listed) > MAX_KEYS:
        raise DecodingError(FORMAT, f"more than {MAX_KEYS} KMS keys")
    return [_key(each) for each in listed]


def _key(entry: Node) -> KmsKey:
    if not isinstance(entry, dict):
        raise DecodingError(FORMAT, "an entry of its KMS keys is not a mapping")
    arn, context = _text(entry, "arn"), entry.get("context") or {}
    if (match := _ARN.fullmatch(arn)) is None:
        raise DecodingError(FORMAT, f"{arn[:80]!r} is not the ARN of a KMS key")
    if not isinstance(context, dict):
        raise DecodingError(FORMAT, "an encryption context is not a mapping")
    try:
        ciphertext = base64.b64decode(_text(entry, "enc"), validate=True)
    except ValueError:  # binascii.Error, or letters outside ASCII
        ciphertext = b""
    if not 0 < len(ciphertext) <= MAX_CIPHERTEXT:
        raise DecodingError(FORMAT, "an encrypted data key is not base64 of 1 to 6144 bytes")
    return KmsKey(arn, match[1], ciphertext, {name: _text(context, name) for name in context})


def _text(tree: Tree, name: str) -> str:
    value = tree.get(name)
    if isinstance(value, Timestamp):
        return value.text
    if not isinstance(value, str):
        raise DecodingError(FORMAT, f"{name[:60]} of its metadata is missing, or not a text")
    return value


def _unsupported(what: str) -> DecodingError:
    return DecodingError(
        FORMAT, f"{what}: not supported", hint="docs/secrets.md lists what is supported"
    )
