"""docs/simulated-kms.md is held to botocore's model, to the simulator, and to the recordings."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.validation import service_model
from tests.enclave_simulator.kms.kms_client import signed
from tests.enclave_simulator.kms.test_recordings import ROWS
from tests.paths import ROOT

if TYPE_CHECKING:
    from enclave_simulator.authority import Authority

PAGE = (ROOT / "docs" / "simulated-kms.md").read_text()
TABLE = dict(re.findall(r"^\| ([A-Z]\w+) \| (yes|partly|no) \|", PAGE, re.MULTILINE))


def minimal(shape: Any) -> Any:
    """The smallest value that the model accepts."""
    match shape.type_name:
        case "structure":
            return {name: minimal(shape.members[name]) for name in shape.required_members}
        case "list":
            return [minimal(shape.member)]
        case "string":
            return next(iter(shape.metadata.get("enum", ["a" * shape.metadata.get("min", 1)])))
        case "blob":
            return "AAAA"
        case "integer":
            return shape.metadata.get("min", 1)
    raise AssertionError(shape)


def test_every_operation_is_on_the_page() -> None:
    assert sorted(TABLE) == sorted(service_model().operation_names)


@pytest.mark.parametrize("operation", TABLE)
def test_the_page_says_what_is_not_simulated(nitro_authority: Authority, operation: str) -> None:
    service = KmsService(nitro_authority.root_pem)
    parameters = minimal(service_model().operation_model(operation).input_shape)
    response = service.handle(signed(operation, parameters))
    error = json.loads(response.body or b"{}").get("__type", "")
    assert error != "UnknownOperationException"
    assert (error == "UnsupportedOperationException") == (TABLE[operation] == "no")


def test_the_page_counts_the_recordings() -> None:
    differing = sum(bool(row.differs) for row in ROWS)
    counted = f"{len(ROWS)} rows, {len(ROWS) - differing} agreeing, {differing} differing"
    assert counted in PAGE
