"""The life cycle as a state machine: three rules that hold whatever nitro-cli does."""

from __future__ import annotations

import dataclasses

import pytest

from parent.enclaves.lifecycle import (
    BLIND_LOOKS,
    STOP_ATTEMPTS,
    Done,
    Look,
    Run,
    Terminate,
    Wait,
)
from parent.enclaves.settings import Restart
from parent.enclaves.transitions import TRANSITIONS, Event, State
from tests.parent.enclaves.lifecycles import SETTINGS, enclave, lifecycle, running


def test_an_enclave_is_started_only_after_a_complete_look_that_showed_none() -> None:
    """The first rule, over the table: STARTING only from READY, READY only by such a look."""
    into = {state: set[tuple[State, Event]]() for state in State}
    for (state, event), to in TRANSITIONS.items():
        into[to].add((state, event))
    assert into[State.STARTING] == {(State.READY, Event.RUN)}
    assert {event for _, event in into[State.READY]} == {Event.CLEAR}
    # It is left by the next command, or by the end: it does not grow old.
    assert {event for state, event in TRANSITIONS if state is State.READY} == {
        Event.RUN, Event.STOP_IDLE,
    }  # fmt: skip


def test_an_enclave_is_terminated_only_when_told_to_stop_or_to_restart() -> None:
    """The second rule: the two states with that command are entered by being told alone."""
    entered = {
        (state, event) for (state, event), to in TRANSITIONS.items() if to is State.RESTARTING
    }
    assert entered == {(State.RUNNING, Event.RESTART), (State.RESTARTING, Event.SEEN)}
    into = {(state, event) for (state, event), to in TRANSITIONS.items() if to is State.STOPPING}
    assert {event for state, event in into if state is not State.STOPPING} == {Event.STOP}
    assert {event for state, event in into if state is State.STOPPING} == {Event.SEEN}


def test_the_end_can_be_reached_from_everywhere_and_is_final() -> None:
    """The third rule: nothing leaves the end, and all other states have a way to it."""
    ending = {State.STOPPING, State.STOPPED}
    for (state, event), to in TRANSITIONS.items():
        assert state is not State.STOPPED
        if state is State.STOPPING:
            assert to in ending
        if event in (Event.STOP, Event.STOP_IDLE, Event.GONE):
            assert to in ending
    for state in set(State) - ending:
        assert {(state, Event.STOP), (state, Event.STOP_IDLE)} & TRANSITIONS.keys()
    assert TRANSITIONS[State.STOPPING, Event.GONE] is State.STOPPED


def test_every_state_can_be_reached() -> None:
    reached = {State.LOOKING}
    for _ in State:
        reached |= {to for (state, _), to in TRANSITIONS.items() if state in reached}
    assert reached == set(State)


def test_an_enclave_that_ended_is_restarted_later() -> None:
    machine = running()
    assert machine.next(1) == Wait(5)
    assert machine.next(5) == Look()
    machine.looked(5, (), complete=True)
    assert (machine.state, machine.ended, machine.enclave) == (State.WAITING, 1, None)
    assert machine.next(5) == Wait(5.75)
    assert machine.next(6) == Look()
    machine.looked(6, (), complete=True)
    assert machine.next(6) == Run()


def test_an_enclave_that_is_not_seen_is_not_started_twice() -> None:
    """An enclave whose process did not answer in time is not one that ended."""
    machine = running()
    for turn in range(BLIND_LOOKS):
        assert machine.state is State.RUNNING
        now = 5.0 * (turn + 1)
        assert machine.next(now) == Look()
        machine.looked(now, (), complete=False)
    assert not machine.healthy
    machine.look_failed(20, "E07")
    assert machine.next(25) == Look()
    machine.looked(25, (enclave(),), complete=False)
    assert machine.healthy


def test_an_enclave_exactly_as_configured_is_taken_over() -> None:
    machine = lifecycle()
    machine.next(0)
    machine.looked(0, (enclave(7, memory_mib=514),), complete=True)
    assert machine.healthy
    assert machine.starts == 0
    machine.stop(1)
    assert machine.next(1) == Terminate("i-0-enc7")


@pytest.mark.parametrize(
    "changes",
    [
        {"pcr0": "cd" * 48},
        {"pcr0": ""},
        {"name": "other"},
        {"cid": 17},
        {"debug": True},
        {"memory_mib": 256},
        {"cpu_ids": (1,)},
        {"state": "TERMINATING"},
    ],
)
def test_any_other_enclave_is_a_conflict_until_it_ends(changes: dict[str, object]) -> None:
    machine = lifecycle()
    machine.next(0)
    machine.looked(0, (enclave(7, **changes),), complete=True)
    assert machine.state is State.CONFLICT
    assert "i-0-enc7" in machine.error
    assert machine.next(1) == Wait(5)
    machine.next(5)
    machine.looked(5, (), complete=True)
    assert machine.next(5) == Run()


def test_nothing_is_taken_over_without_measurements() -> None:
    """nitro-cli before 1.2 does not tell PCR0: unknown is not the same as equal."""
    machine = lifecycle()
    machine.pcr0 = ""
    machine.next(0)
    machine.looked(0, (enclave(7, pcr0=""),), complete=True)
    assert machine.state is State.CONFLICT


def test_an_enclave_on_other_cpus_is_a_conflict() -> None:
    machine = lifecycle()
    machine.settings = dataclasses.replace(SETTINGS, cpu_count=0, cpu_ids=(1, 3))
    machine.next(0)
    machine.looked(0, (enclave(7, cpu_ids=(5, 7)),), complete=True)
    assert machine.state is State.CONFLICT
    machine.next(5)
    machine.looked(5, (enclave(7, cpu_ids=(3, 1)),), complete=True)
    assert machine.healthy


def test_an_enclave_that_terminates_is_waited_for() -> None:
    machine = running()
    machine.stop(0)
    assert machine.next(0) == Terminate("i-0-enc1")
    machine.terminated()
    assert machine.next(0) == Look()
    machine.looked(0, (enclave(state="TERMINATING"),), complete=True)
    assert machine.next(0) == Wait(1)
    assert machine.next(1) == Look()
    machine.looked(1, (), complete=True)
    assert machine.next(1) == Done()


def test_stop_is_immediate_if_none_of_ours_exists() -> None:
    machine = lifecycle()
    machine.next(0)
    machine.looked(0, (), complete=True)
    machine.next(0)
    machine.run_failed(0, "E27")
    assert machine.next(2) == Look()
    machine.looked(2, (), complete=True)
    machine.stop(2)
    assert machine.next(2) == Done()


def test_reconfiguring_retries_a_failed_enclave() -> None:
    machine = running(Restart(always=False))
    machine.looked(5, (), complete=True)
    assert machine.next(9) == Wait(float("inf"))
    machine.reconfigure(9, dataclasses.replace(SETTINGS, restart=Restart(give_up_after=1)))
    assert (machine.state, machine.failures, machine.next(9)) == (State.WAITING, 0, Look())


def test_a_conflicting_enclave_is_not_terminated() -> None:
    machine = lifecycle()
    machine.next(0)
    machine.looked(0, (enclave(7, cpu_ids=(1,)),), complete=True)
    machine.stop(1)
    assert machine.next(1) == Done()


def test_a_start_of_unknown_outcome_is_found_and_terminated() -> None:
    machine = lifecycle()
    machine.next(0)
    machine.looked(0, (), complete=True)
    machine.next(0)
    machine.run_failed(0, "took too long")
    machine.stop(0)
    assert machine.next(0) == Look()
    machine.looked(0, (enclave(3),), complete=True)
    assert machine.next(0) == Terminate("i-0-enc3")
    machine.terminated()
    assert machine.next(0) == Look()
    machine.looked(0, (), complete=True)
    assert machine.next(0) == Done()


def test_policy_never_and_giving_up_are_final() -> None:
    for restart, starts in ((Restart(always=False), 1), (Restart(give_up_after=2), 3)):
        machine = lifecycle(restart)
        now, runs = 0.0, 0
        while machine.state is not State.FAILED:
            match machine.next(now):
                case Look():
                    machine.looked(now, (), complete=True)
                case Run():
                    runs += 1
                    machine.run_failed(now, "E27")
                case Wait(until):
                    now = until
        assert runs == starts
        assert machine.error == "E27"
        assert machine.next(now + 1e9) == Wait(float("inf"))


def test_a_long_run_resets_the_failures() -> None:
    machine = running(Restart(reset_after=100))
    machine.failures = 9
    machine.looked(99, (), complete=True)
    assert machine.failures == 10
    machine = running(Restart(reset_after=100))
    machine.failures = 9
    machine.looked(100, (), complete=True)
    assert machine.failures == 1


@pytest.mark.parametrize("lying", [False, True])
def test_stop_ends_whatever_fails(lying: bool) -> None:
    """What may still run is said, and is found again by the next daemon."""
    machine = running()
    machine.stop(0)
    now, commands = 0.0, 0
    while (command := machine.next(now)) != Done():
        commands += 1
        assert commands < 10 * STOP_ATTEMPTS
        match command:
            case Wait(until):
                now = until
            case Look():
                machine.looked(now, (enclave(),), complete=True)
            case Terminate() if lying:
                machine.terminated()
            case Terminate():
                machine.terminate_failed(now, "E11")
    assert machine.error
