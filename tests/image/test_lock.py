"""requirements/*.txt, which `make lock` makes of pyproject.toml, still are what it says.

Offline: what a newer day's index would resolve to must not break an older commit.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

LOCKS = ("enclave", "build")
US = "nitro-enclave-agent (pyproject.toml)"
"""What `uv` notes behind a package that the project itself asks for."""


@dataclass(frozen=True)
class Pin:
    requirement: Requirement
    hashes: frozenset[str]
    via: frozenset[str]

    @property
    def version(self) -> str:
        (pin,) = self.requirement.specifier
        assert pin.operator == "=="
        return pin.version


def pins(lock: str) -> dict[str, Pin]:
    text = (ROOT / f"requirements/{lock}.txt").read_text()
    found: dict[str, Pin] = {}
    for part in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]:
        requirement = Requirement(part.partition("\\")[0])
        hashes = re.findall(r"--hash=(\S+)", part)
        via = re.findall(r"^    #(?: via)? +(\S.*)$", part, re.MULTILINE)
        found[canonicalize_name(requirement.name)] = Pin(
            requirement, frozenset(hashes), frozenset(via)
        )
    return found


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def asked_for(lock: str) -> dict[str, Requirement]:
    lines = (
        pyproject()["project"]["dependencies"]
        if lock == "enclave"
        else pyproject()["build-system"]["requires"]
    )
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_by_version_and_hashes(lock: str) -> None:
    for name, pin in pins(lock).items():
        assert pin.version, name
        assert pin.hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in pin.hashes), name
        assert not pin.requirement.url, name


@pytest.mark.parametrize("lock", LOCKS)
def test_what_pyproject_asks_for_is_locked_in_a_version_it_allows(lock: str) -> None:
    locked = pins(lock)
    for name, requirement in asked_for(lock).items():
        assert name in locked, f"{name}: run make lock"
        assert requirement.specifier.contains(locked[name].version), f"{name}: run make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_nothing_is_locked_that_nobody_asked_for(lock: str) -> None:
    locked = pins(lock)
    if lock == "enclave":  # the other comes through a pipe, which uv does not note
        direct = {name for name, pin in locked.items() if US in pin.via}
        assert direct == set(asked_for(lock)), "run make lock"
    reached, new = set[str](), set(asked_for(lock))
    while new:
        reached |= new
        new = {name for name, pin in locked.items() if pin.via & reached} - reached
    assert reached == set(locked), "run make lock"


def test_no_index_is_named() -> None:
    for lock in LOCKS:
        assert "://" not in (ROOT / f"requirements/{lock}.txt").read_text()
