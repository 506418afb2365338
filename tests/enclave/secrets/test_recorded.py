"""Files that sops 3.11.0 wrote, with their data keys: read with the types that it gave them.

The inputs are in the expectations; `tests/chain/test_sops.py` has sops write new ones.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from enclave.errors import DecodingError
from enclave.secrets.sops import SopsFile, read_sops
from tests.paths import ROOT
from vsock_proxy.service.sops_values import Timestamp

RECORDED = ROOT / "tests/enclave/secrets/recorded"
KEYS = json.loads((RECORDED / "keys.json").read_text())

SEVERAL: list[dict[str, Any]] = [
    {
        "database": {
            "password": "hunter2",
            "port": 5432,
            "ratio": 1.5,
            "on": True,
            "none": None,
            "when": Timestamp("2020-01-02T00:00:00Z"),
            "hosts": ["a", "b", 3],
            "multi": "line1\nline2\n",
            "empty": "",
        },
        "host_unencrypted": "example",
        "n_unencrypted": [
            1000, 8, "yes", Timestamp("2020-01-01T00:00:00Z"), 0.5, "1", 31, None,
            1.2345678901234568e20,
        ],
    },
    {"second": "doc"},
]  # fmt: skip

EXPECTED: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "several.yaml": ("yaml", SEVERAL),
    "mac-only-encrypted.yaml": ("yaml", SEVERAL),
    "encrypted-regex.yaml": ("yaml", SEVERAL),
    "typed.json": (
        "json",
        [
            {
                "a": {"b": "x<y&z", "f": 1.25, "t": True, "l": ["1", 2.0, None]},
                "c_unencrypted": {"n": 5, "f": 1e21},
                "u": "ünï",
            }
        ],
    ),
    "flat.env": (
        "dotenv",
        [
            {
                "DB": "hunter2",
                "URL": "postgres://a=b",
                "MULTI": "a\nb",
                "EMPTY": "",
                "P_unencrypted": "plain",
            }
        ],
    ),
    "binary": ("binary", [{"data": "\x01\udcffbinary\n"}]),
}


def recorded(name: str) -> SopsFile:
    found = read_sops((RECORDED / name).read_bytes(), name=name)
    assert found
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_sops_is_opened(name: str) -> None:
    found = recorded(name)
    opened = found.open(bytes.fromhex(KEYS[name]))
    assert (found.format, opened) == EXPECTED[name]
    # Equal is not the same: 1 is True, and 2.0 is 2.
    assert repr(opened) == repr(EXPECTED[name][1])


def test_the_context_of_a_key_is_read() -> None:
    (key,) = recorded("several.yaml").metadata.keys
    assert key.context == {"app": "demo", "x": "y"}
    assert key.region == "us-east-1"
    assert key.arn.startswith("arn:aws:kms:us-east-1:000000000000:key/")


def test_key_groups_that_share_the_key_are_named_as_not_supported() -> None:
    with pytest.raises(DecodingError, match=r"several key groups.*Shamir.*not supported"):
        recorded("shamir.env")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_key_of_another_file_opens_nothing(name: str) -> None:
    other = next(key for each, key in KEYS.items() if each != name)
    with pytest.raises(DecodingError, match="does not open"):
        recorded(name).open(bytes.fromhex(other))
