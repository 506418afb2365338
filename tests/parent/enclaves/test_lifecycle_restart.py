"""A restart that somebody asks for, and the agent that is asked first."""

from __future__ import annotations

import pytest

from parent.enclaves.lifecycle import (
    LEAVING,
    LEAVING_LOOK,
    STOP_ATTEMPTS,
    Ask,
    Done,
    Look,
    Run,
    Terminate,
    Wait,
)
from parent.enclaves.settings import Restart
from parent.enclaves.transitions import State
from tests.parent.enclaves.lifecycles import AGENT, enclave, lifecycle, running


def test_a_restart_terminates_and_starts_again() -> None:
    machine = running()
    machine.restart(1)
    assert (machine.state, machine.next(1)) == (State.RESTARTING, Terminate("i-0-enc1"))
    machine.terminated()
    assert machine.next(2) == Look()
    machine.looked(2, (), complete=False)
    assert machine.next(3) == Look()
    machine.looked(3, (), complete=True)
    assert machine.next(3) == Run()
    machine.ran(4, enclave(2))
    assert (machine.healthy, machine.starts, machine.ended) == (True, 2, 0)


def test_the_agent_is_asked_first_and_once() -> None:
    machine = running(agent=AGENT)
    machine.stop(1)
    assert machine.next(1) == Ask("i-0-enc1")
    machine.asked(11, ended=False, error="no response")
    assert machine.next(11) == Terminate("i-0-enc1")
    machine.terminate_failed(11, "E11")
    machine.next(12)
    machine.looked(12, (enclave(),), complete=True)
    assert machine.next(12) == Terminate("i-0-enc1")


def test_an_enclave_whose_program_has_ended_may_end_by_itself() -> None:
    machine = running(agent=AGENT)
    machine.stop(1)
    machine.next(1)
    machine.asked(2, ended=True)
    assert machine.next(2) == Look()
    machine.looked(2, (enclave(),), complete=True)
    assert machine.next(2) == Wait(2 + LEAVING_LOOK)
    machine.next(3)
    machine.looked(3, (), complete=True)
    assert machine.next(3) == Done()


def test_one_that_does_not_is_terminated_after_a_while() -> None:
    machine = running(agent=AGENT)
    machine.restart(1)
    machine.next(1)
    machine.asked(2, ended=True)
    now, commands = 2.0, list[object]()
    while not isinstance(command := machine.next(now), Terminate):
        commands.append(command)
        match command:
            case Wait(until):
                now = until
            case Look():
                machine.looked(now, (enclave(),), complete=True)
    assert now == 2 + LEAVING
    assert set(map(type, commands)) == {Look, Wait}


def test_each_restart_asks_anew() -> None:
    machine = running(agent=AGENT)
    for number in (1, 2):
        machine.restart(number)
        assert machine.next(number) == Ask(f"i-0-enc{number}")
        machine.asked(number, ended=True)
        machine.next(number)
        machine.looked(number, (), complete=True)
        machine.next(number)
        machine.ran(number, enclave(number + 1))
    machine.stop(3)
    assert machine.next(3) == Ask("i-0-enc3")


def test_a_restart_that_cannot_end_the_enclave_gives_up_and_watches_it() -> None:
    machine = running()
    machine.restart(0)
    now, commands = 0.0, 0
    while machine.state is State.RESTARTING:
        commands += 1
        assert commands < 10 * STOP_ATTEMPTS
        match machine.next(now):
            case Wait(until):
                now = until
            case Look():
                machine.looked(now, (enclave(),), complete=True)
            case Terminate():
                machine.terminate_failed(now, "E11")
    assert "not restarted, since it did not end: E11" in machine.error
    machine.next(now + 9)
    machine.looked(now + 9, (enclave(),), complete=True)
    assert machine.healthy


def test_a_restart_starts_at_once_what_waits_or_has_failed() -> None:
    for restart in (Restart(), Restart(always=False)):
        machine = running(restart)
        machine.looked(5, (), complete=True)
        assert machine.next(5) != Look()
        machine.restart(5)
        assert (machine.state, machine.failures, machine.next(5)) == (State.WAITING, 0, Look())


@pytest.mark.parametrize("state", ["looking", "starting", "conflict", "stopping"])
def test_a_restart_changes_nothing_where_there_is_nothing_to_restart(state: str) -> None:
    machine = lifecycle()
    machine.next(0)
    if state == "conflict":
        machine.looked(0, (enclave(7, cpu_ids=(1,)),), complete=True)
    elif state != "looking":
        machine.looked(0, (), complete=True)
        machine.next(0)
        if state == "stopping":
            machine.ran(0, enclave())
            machine.stop(0)
    assert machine.state == state
    before = machine.next(0)
    machine.restart(0)
    assert (machine.state, machine.next(0)) == (state, before)
