"""docs/attack.md, held to the table and to the programs that it shows."""

from __future__ import annotations

import re

from enclave_simulator.attack.table import ATTACKS, BEYOND
from enclave_simulator.attack.verdict import Verdict
from tests.paths import ROOT
from tests.programs.attacked.caught import CAUGHT_BY
from tests.programs.attacked.weaknesses import WEAKNESSES

DOCUMENT = (ROOT / "docs/attack.md").read_text(encoding="utf-8")


def test_every_attack_is_in_its_table_with_the_client_that_it_catches() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \| (.*) \|$", DOCUMENT, re.MULTILINE)
    listed = [row for row in rows if row[0] in ATTACKS]
    expected = [
        (attack.name, attack.effect, WEAKNESSES[CAUGHT_BY[attack.name]])
        for attack in ATTACKS.values()
    ]
    assert listed == expected


def test_what_no_client_can_refuse_is_in_it() -> None:
    for reason in BEYOND.values():
        assert reason in DOCUMENT


def test_every_verdict_and_variable_is_in_it() -> None:
    for verdict in Verdict:
        assert f"| `{verdict.value}` |" in DOCUMENT
    sources = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "enclave_simulator/attack").glob("*.py")
    )
    for name in set(re.findall(r'"(ATTACK_[A-Z_]+)"', sources)):
        assert f"`{name}`" in DOCUMENT


def test_its_examples_are_those_that_are_attacked() -> None:
    script = (ROOT / "tests/programs/attacked/cli.sh").read_text(encoding="utf-8")
    body = "".join(f"    {line}" for line in script.splitlines(keepends=True)[2:])
    assert body in DOCUMENT
