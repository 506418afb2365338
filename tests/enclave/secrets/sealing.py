"""Sealed files made by the parent's writer, which shares no code with the reader, and a KMS."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from enclave.errors import KmsRefusedError
from enclave.results import DecryptResult
from parent.secrets.plain import read_plain
from parent.secrets.sops import WrappedKey, sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ARN = "arn:aws:kms:us-east-1:111122223333:key/one"
OTHER_ARN = "arn:aws:kms:eu-west-1:111122223333:key/two"
KEY = bytes(range(32))


def seal(
    text: str | bytes,
    kind: str,
    *,
    keys: Sequence[WrappedKey] = (WrappedKey(ARN, b"wrapped", {}),),
    change: Callable[[dict[str, Any]], None] | None = None,
) -> bytes:
    """Return a SOPS file; `change` changes one in JSON afterwards."""
    data = text if isinstance(text, bytes) else text.encode()
    made = sealed(
        read_plain(data, kind),
        kind,
        data_key=KEY,
        keys=keys,
        now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        random=os.urandom,
    )
    if change is None:
        return made
    tree = json.loads(made)
    change(tree)
    return json.dumps(tree).encode()


@dataclass
class Kms:
    """Stands for an agent: decrypts what it knows, with its key and context alone."""

    known: Mapping[bytes, tuple[str, Mapping[str, str], bytes]] = field(
        default_factory=lambda: {b"wrapped": (ARN, {}, KEY)}
    )
    calls: list[bytes] = field(default_factory=list)

    def decrypt(
        self,
        ciphertext_blob: bytes,
        *,
        key_id: str | None = None,
        encryption_context: Mapping[str, str] | None = None,
    ) -> DecryptResult:
        self.calls.append(ciphertext_blob)
        arn, context, plaintext = self.known.get(ciphertext_blob, ("", {}, b""))
        if not arn or (encryption_context or {}) != context:
            raise _refused("InvalidCiphertextException")
        if key_id not in (None, arn):
            raise _refused("IncorrectKeyException")
        return DecryptResult(
            plaintext=plaintext,
            key_id=arn,
            encryption_algorithm="SYMMETRIC_DEFAULT",
            key_material_id=None,
            request_id="r-1",
        )


def _refused(type: str) -> KmsRefusedError:
    return KmsRefusedError(type, "", request_id="r-1", status=400)
