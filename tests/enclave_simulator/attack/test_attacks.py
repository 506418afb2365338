"""Every attack catches a client that is vulnerable to it, and no other client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from enclave_simulator.attack.table import ATTACKS
from enclave_simulator.attack.verdict import Verdict
from tests.programs.attacked.caught import CAUGHT_BY, WAITING
from tests.programs.attacked.vulnerable import WEAKNESSES

if TYPE_CHECKING:
    from tests.enclave_simulator.attack.conftest import Range


def arrives(name: str) -> bool:
    """Return whether a response comes to its end."""
    return not name.startswith(("stall-", "trickled-", "endless-", "credentials-"))


def expected(weakness: str) -> Verdict:
    if weakness in WAITING:
        return Verdict.HUNG
    return Verdict.CRASHED if weakness == "aborts" else Verdict.ACCEPTED


def test_every_attack_has_a_vulnerable_client_and_every_weakness_an_attack() -> None:
    assert list(CAUGHT_BY) == list(ATTACKS)
    assert set(CAUGHT_BY.values()) == set(WEAKNESSES)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_catches_the_client_that_is_vulnerable_to_it(name: str, attacked: Range) -> None:
    finding = attacked.attack(name, CAUGHT_BY[name])
    assert finding.verdict is expected(CAUGHT_BY[name]), finding


@pytest.mark.parametrize("name", ATTACKS)
def test_a_client_without_a_weakness_refuses_it(name: str, attacked: Range) -> None:
    finding = attacked.attack(name, "")
    allowed = {Verdict.REFUSED}
    if name == "replayed-envelope" or not arrives(name):
        # Nothing is recorded of a client that has a new key pair in each run; and on a slow
        # machine one that waits for a moment only gives up before it has come to the attack.
        allowed.add(Verdict.UNMET)
    assert finding.verdict in allowed, finding


@pytest.mark.parametrize("weakness", ["", *WEAKNESSES])
def test_clients_succeed_without_an_attack(weakness: str, attacked: Range) -> None:
    if weakness not in WAITING:
        assert attacked.control(weakness) == ""
