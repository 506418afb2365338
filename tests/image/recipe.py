"""Dockerfile.enclave, read as far as its tests need it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from tests.paths import ROOT

DOCKERFILE = ROOT / "Dockerfile.enclave"


@dataclass(frozen=True)
class Instruction:
    stage: str  # as in FROM ... AS stage; empty before the first
    name: str
    text: str

    @property
    def sources(self) -> list[str]:
        """Of a COPY: what it copies, without flags and target."""
        return [word for word in shlex.split(self.text) if not word.startswith("--")][:-1]


def instructions() -> list[Instruction]:
    found, stage = [], ""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            stage = rest.split()[-1]
        found.append(Instruction(stage, name, rest.strip()))
    return found
