"""The simulated KMS, held to what AWS's KMS is on record to do."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.nsm import SimulatedNsm
from tests.enclave_simulator.documents import attest, rsa_key, spki
from tests.enclave_simulator.kms import recordings, recordings_of_access, recordings_of_keys
from tests.enclave_simulator.kms.kms_client import ACCOUNT, PREFIX, REGION, signed
from tests.enclave_simulator.kms.recordings import KEYS, Error, Row

if TYPE_CHECKING:
    from enclave_simulator.authority import Authority

ROWS: list[Row] = [
    *recordings.ENCRYPTION,
    *recordings.DATA_KEYS,
    *recordings.SIGNATURES,
    *recordings_of_keys.CREATION,
    *recordings_of_keys.NAMES,
    *recordings_of_keys.STATES,
    *recordings_of_keys.ROTATION,
    *recordings_of_keys.OTHERS,
    *recordings_of_access.ATTESTED,
    *recordings_of_access.POLICIES,
    *recordings_of_access.GRANTS,
]

_NAME = re.compile(r"\{([\w.]+)\}")


class Player:
    """Plays the rows on one KMS; the keys of `KEYS` are created when a row first names them."""

    def __init__(self, authority: Authority, caller_policy: str = "") -> None:
        self._authority = authority
        self._service = KmsService(authority.root_pem, caller_policy=caller_policy or None)
        self.known: dict[str, str] = {
            "prefix": PREFIX,
            "account": ACCOUNT,
            "region": REGION,
            "caller": SIMULATED_CREDENTIALS.principal,
        }

    def with_caller_policy(self, policy: str) -> Player:
        """Return a player on a KMS of its own."""
        return Player(self._authority, policy)

    def call(self, operation: str, parameters: Any, region: str = "") -> tuple[int, dict[str, Any]]:
        request = signed(operation, self.fill(parameters), region=region or REGION)
        response = self._service.handle(request)
        return response.status, json.loads(response.body or b"{}")

    def step(self, name: str, operation: str, parameters: dict[str, Any]) -> None:
        status, response = self.call(operation, parameters)
        assert status == 200, (operation, response)
        self.note(name, response)
        if operation == "CreateKey":
            self.known[name] = response["KeyMetadata"]["KeyId"]
            self.known[f"{name}.arn"] = response["KeyMetadata"]["Arn"]

    def note(self, name: str, response: dict[str, Any]) -> None:
        for member, value in response.items():
            path = f"{name}.{member}" if name else member
            if isinstance(value, dict):
                self.note(path, value)
            else:
                self.known[path] = str(value)

    def fill(self, value: Any) -> Any:
        """Put what is known in the place of its names."""
        match value:
            case dict():
                return {key: self.fill(item) for key, item in value.items()}
            case list():
                return [self.fill(item) for item in value]
            case str():
                filled = _NAME.sub(lambda found: self._value(found[1]), value)
                return filled.replace("{{", "{").replace("}}", "}")
        return value

    def _value(self, name: str) -> str:
        key = name.partition(".")[0]
        if name not in self.known and key in KEYS:
            self.step(key, "CreateKey", KEYS[key])
        if key == "document" and name not in self.known:
            self._attest()
        return self.known.get(name, f"{{{name}}}")

    def _attest(self) -> None:
        document = attest(SimulatedNsm(self._authority), spki(rsa_key()))
        flipped = bytearray(document)
        flipped[len(document) // 2] ^= 1
        for name, data in (("", document), (".flipped", flipped), (".random", bytes(4000))):
            self.known[f"document{name}"] = base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def player(nitro_authority: Authority) -> Player:
    return Player(nitro_authority)


def agrees(player: Player, row: Row) -> bool:
    if row.caller_policy:
        player = player.with_caller_policy(row.caller_policy)
    for step in row.steps:
        player.step(*step)
    status, response = player.call(row.operation, row.parameters, row.region)
    player.note("", response)
    if isinstance(row.expected, Error):
        message = response.get("message", response.get("Message"))
        # "...": the type is on record, the text is not.
        text = message if row.expected.message == "..." else player.fill(row.expected.message)
        return (status, response.get("__type"), message) == (
            row.expected.status, row.expected.type, text,
        )  # fmt: skip
    found = response[row.member] if row.member and status == 200 else response
    return (
        status == 200
        and found.keys() == row.expected.names
        and all(found[name] == player.fill(v) for name, v in row.expected.values.items())
    )


@pytest.mark.parametrize(
    "row", ROWS, ids=[f"{number}-{row.operation}" for number, row in enumerate(ROWS)]
)
def test_recording(player: Player, row: Row) -> None:
    assert agrees(player, row) != bool(row.differs), "it agrees" if row.differs else "it differs"


def test_every_row_has_a_source_that_can_be_looked_up() -> None:
    for row in ROWS:
        assert re.match(r"[\w.-]+/[\w.-]+[# ]", row.source), row
