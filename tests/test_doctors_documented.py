"""docs/doctor.md, held to the checks of both commands."""

from __future__ import annotations

import re
from typing import Any, cast

from enclave.doctor.checks import Doctor as AgentDoctor
from parent.doctor.checks import Doctor as ParentDoctor
from tests.paths import ROOT

DOCUMENT = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")


def test_every_check_is_in_its_table() -> None:
    nothing = cast("Any", None)
    _, of_the_agent, of_the_parent = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)
    for text, checks in (
        (of_the_agent, AgentDoctor(nothing).checks()),
        (of_the_parent, ParentDoctor(nothing).checks()),
    ):
        cells = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
        assert re.findall("`([^`]+)`", " ".join(cells)) == [check.name for check in checks]
