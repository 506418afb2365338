"""Every attack catches a client that is vulnerable to it, and no other client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from enclave_simulator.attack.table import ATTACKS
from enclave_simulator.attack.verdict import Verdict
from tests.programs.attacked.caught import CAUGHT_BY, CRASHING, WAITING, arrives
from tests.programs.attacked.weaknesses import WEAKNESSES

if TYPE_CHECKING:
    from tests.enclave_simulator.attack.conftest import Range


def expected(weakness: str) -> Verdict:
    if weakness in WAITING:
        return Verdict.HUNG
    return Verdict.CRASHED if weakness in CRASHING else Verdict.ACCEPTED


def test_every_attack_has_a_vulnerable_client_and_every_weakness_an_attack() -> None:
    assert list(CAUGHT_BY) == list(ATTACKS)
    assert set(CAUGHT_BY.values()) == set(WEAKNESSES)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_catches_the_client_that_is_vulnerable_to_it(name: str, attacked: Range) -> None:
    finding = attacked.attack(name, CAUGHT_BY[name])
    assert finding.verdict is expected(CAUGHT_BY[name]), finding


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in ATTACKS if arrives(name)])
def test_a_client_without_a_weakness_refuses_it(name: str, attacked: Range) -> None:
    finding = attacked.attack(name, "")
    # Nothing was recorded of a client that has a new key pair in each run.
    expects = Verdict.UNMET if name == "replayed-envelope" else Verdict.REFUSED
    assert finding.verdict is expects, finding


def test_a_client_without_a_weakness_refuses_what_does_not_arrive(attacked: Range) -> None:
    finding = attacked.attack("stall-body", "")
    # On a slow machine, one that waits for a moment only gives up before it has come to it.
    assert finding.verdict in {Verdict.REFUSED, Verdict.UNMET}, finding


def test_a_client_without_time_leaves_no_socket(attacked: Range) -> None:
    """As on a busy machine: its deadline is over before it has sent anything."""
    finding = attacked.attack("stall-body", "", timeout=0.0)
    assert finding.verdict is Verdict.UNMET, finding


@pytest.mark.parametrize("weakness", ["", "fixed-key-pair", "takes-interim", "unattested"])
def test_clients_succeed_without_an_attack(weakness: str, attacked: Range) -> None:
    assert attacked.control(weakness) == ""
