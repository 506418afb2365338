"""Targets: sealed secrets, files of SOPS in every format and ciphertexts."""

from __future__ import annotations

import base64
import contextlib

from enclave.errors import AgentError
from enclave.secrets.sealed import read_sealed
from enclave.secrets.sops import SopsFile
from tests.enclave.secrets.sealing import KEY, seal
from tests.programs.fuzz.target import Target

_TREE = '{"a": {"b": ["x", 1, 1.5, true, null], "c_unencrypted": "y"}, "d": ""}'
_WORDS = (
    b'"sops"', b"sops:", b"sops_", b"ENC[AES256_GCM,data:", b",iv:", b",tag:", b",type:str]",
    b"type:int", b"kms", b"arn", b'"enc"', b"key_groups", b"mac", b"null", b"{}", b"[]", b"\n- ",
    b"&a ", b"*a", b"!!binary ", b"1e999", b"unencrypted_suffix", b"encrypted_regex", b"---\n",
)  # fmt: skip


def _sops(data: bytes) -> None:
    with contextlib.suppress(AgentError):
        found = read_sealed(data)
        if isinstance(found, SopsFile):
            found.open(KEY)


def _sops_seeds() -> list[bytes]:
    return [
        seal(_TREE, "json"),
        seal("a:\n  b: [x, 1, 1.5, true]\n  c: |\n    text\n", "yaml"),
        seal("A=1\nB=two words\n# comment\n", "dotenv"),
        seal(b"\x00\xff binary", "binary"),
        base64.b64encode(b"ciphertext") + b"\n",
        b"ciphertext",
    ]


TARGETS = [
    Target(name="sops", run=_sops, seeds=_sops_seeds, words=_WORDS,
           packages=("enclave", "vsock_proxy")),
]  # fmt: skip
