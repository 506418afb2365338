"""The documents and the table of `make test-foreign`, checked here by the agent's verifier."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from enclave.attestation.verify import verify
from enclave.errors import AttestationError
from tests.programs.foreign.__main__ import PACKAGES, undocumented
from tests.programs.foreign.cases import ACCEPTED, write_cases

if TYPE_CHECKING:
    from pathlib import Path


def test_each_case_has_the_one_fault_in_its_name(tmp_path: Path) -> None:
    faults = {
        "altered payload": "signature",
        "altered signature": "signature",
        "another root": "root",
        "expired": "expired",
        "another PCR0": "PCR0",
    }
    cases = write_cases(tmp_path)
    assert set(cases) == {*ACCEPTED, *faults}
    for name, path in cases.items():
        case = json.loads(path.read_text())
        if name in ACCEPTED:
            judge(case, nonce=b64decode(case["nonce"]))
            continue
        with pytest.raises(AttestationError) as caught:
            judge(case)
        assert faults[name].lower() in str(caught.value).lower()


def judge(case: dict[str, str], nonce: bytes | None = None) -> None:
    verify(
        b64decode(case["document"]),
        at=datetime.now(UTC),
        max_age=timedelta(minutes=5),
        pcrs={0: bytes.fromhex(case["pcr0"])},
        nonce=nonce,
        root_fingerprint=bytes.fromhex(case["fingerprint"]),
    )


def test_each_package_and_version_is_documented() -> None:
    assert undocumented() == []
    assert len({(package.registry, package.name) for package in PACKAGES}) == len(PACKAGES)
