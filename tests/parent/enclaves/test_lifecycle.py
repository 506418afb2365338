"""The life cycle as a state machine: three rules that hold whatever nitro-cli and chance do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parent.enclaves.lifecycle import (
    BLIND_LOOKS,
    LEAVING,
    LEAVING_LOOK,
    STOP_ATTEMPTS,
    Ask,
    Done,
    Lifecycle,
    Look,
    Run,
    Terminate,
    Wait,
    backoff,
)
from parent.enclaves.nitro_cli import Enclave
from parent.enclaves.settings import EnclaveSettings, Restart
from parent.enclaves.transitions import TRANSITIONS, Event, State
from vsock_proxy.net.addresses import Address, VsockAddress

PCR0 = "ab" * 48
SETTINGS = EnclaveSettings(
    name="worker", eif=Path("/w.eif"), memory_mib=512, cid=16, cpu_count=2, poll=5.0
)


AGENT = VsockAddress(16, 8010)


def enclave(number: int = 1, **changes: object) -> Enclave:
    made = Enclave(f"i-0-enc{number:x}", "worker", 16, (1, 3), 512, pcr0=PCR0)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def lifecycle(
    restart: Restart | None = None, chance: float = 0.5, agent: Address | None = None
) -> Lifecycle:
    settings = dataclasses.replace(SETTINGS, restart=restart or Restart(), agent=agent)
    machine = Lifecycle(settings, chance=lambda: chance, now=0)
    machine.pcr0 = PCR0
    return machine


def running(restart: Restart | None = None, agent: Address | None = None) -> Lifecycle:
    machine = lifecycle(restart, agent=agent)
    assert machine.next(0) == Look()
    machine.looked(0, (), complete=True)
    assert machine.next(0) == Run()
    machine.ran(0, enclave())
    assert machine.healthy
    return machine


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


def test_backoff_doubles_up_to_its_limit() -> None:
    restart = Restart(first=1.0, longest=300.0)
    least = [backoff(restart, failures, 0) for failures in range(1, 12)]
    assert least == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 150, 150]
    assert backoff(restart, 3, 0.5) == 3


def test_pauses_grow_with_failures_in_a_row() -> None:
    machine = lifecycle(chance=0)
    now = 0.0
    waits: list[float] = []
    while len(waits) < 5:
        match machine.next(now):
            case Look():
                machine.looked(now, (), complete=True)
            case Run():
                machine.run_failed(now, "E36")
            case Wait(until):
                waits.append(until - now)
                now = until
    assert waits == [0.5, 1, 2, 4, 8]


@given(
    first=st.floats(0.1, 1e4),
    factor=st.floats(1, 1e4),
    failures=st.integers(1, 10**9),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_backoff_has_bounds(first: float, factor: float, failures: int, chance: float) -> None:
    restart = Restart(first=first, longest=first * factor)
    delay = backoff(restart, failures, chance)
    assert first / 2 <= delay <= restart.longest
    assert delay <= backoff(restart, failures + 1, chance)
    assert backoff(restart, failures, 0) <= delay


class Life(RuleBasedStateMachine):
    """A world with nitro-cli in it that fails in every way it can, and others who use it."""

    @initialize(give_up=st.integers(0, 3), always=st.booleans(), agent=st.booleans())
    def begin(self, give_up: int, always: bool, agent: bool) -> None:
        restart = Restart(always=always, give_up_after=give_up)
        self.machine = lifecycle(restart, agent=AGENT if agent else None)
        self.restarting = False
        self.now = 0.0
        self.number = 100
        self.ours: dict[str, Enclave] = {}
        self.others: dict[str, Enclave] = {}
        self.pending: object = None
        self.stopped = False
        self.seen_clear = False

    def everything(self) -> list[Enclave]:
        return [*self.others.values(), *self.ours.values()]

    @precondition(lambda self: self.pending is None)
    @rule(patience=st.floats(0, 400))
    def ask(self, patience: float) -> None:
        command = self.machine.next(self.now)
        match command:
            case Wait(until):
                assert until > self.now
                self.now = min(until, self.now + patience)
            case Run():
                assert self.seen_clear, "started without having looked"
                assert not self.stopped
                self.pending = command
            case Ask(enclave_id) | Terminate(enclave_id):
                assert self.stopped or self.restarting
                assert enclave_id not in self.others, "ended what is not ours"
                self.pending = command
            case Done():
                assert self.stopped
            case Look():
                self.pending = command
        self.seen_clear = False

    @precondition(lambda self: self.pending is not None)
    @rule(outcome=st.sampled_from(["well", "badly", "unheard", "partly"]), took=st.floats(0, 200))
    def report(self, outcome: str, took: float) -> None:
        pending, self.pending = self.pending, None
        self.now += took
        match pending:
            case Look():
                if outcome in ("badly", "unheard"):
                    self.machine.look_failed(self.now, "E07")
                else:
                    whole = outcome == "well"
                    seen = self.everything() if whole else self.everything()[::2]
                    self.machine.looked(self.now, seen, complete=whole)
                    self.seen_clear = whole and not any(
                        e.cid == 16 or e.name == "worker" for e in seen
                    )
            case Run():
                self.number += 1
                taken = any(e.cid == 16 for e in self.everything())
                made = enclave(self.number)
                if outcome in ("well", "unheard") and not taken:
                    self.ours[made.id] = made
                if outcome == "well" and not taken:
                    self.machine.ran(self.now, made)
                else:
                    self.machine.run_failed(self.now, "E36")
            case Ask(enclave_id):
                if outcome == "well":
                    self.ours.pop(enclave_id, None)
                self.machine.asked(self.now, ended=outcome in ("well", "partly"))
            case Terminate(enclave_id):
                if outcome in ("well", "unheard"):
                    self.ours.pop(enclave_id, None)
                if outcome == "well":
                    self.machine.terminated()
                else:
                    self.machine.terminate_failed(self.now, "E11")

    @rule()
    def it_ends(self) -> None:
        self.ours.clear()

    @rule(cid=st.sampled_from([16, 17]), name=st.sampled_from(["worker", "other"]))
    def somebody_starts_one(self, cid: int, name: str) -> None:
        if not any(e.cid == cid for e in self.everything()):
            self.number += 1
            made = enclave(self.number, cid=cid, name=name, pcr0="cd" * 48)
            self.others[made.id] = made

    @rule()
    def the_others_end(self) -> None:
        self.others.clear()

    @rule()
    def restart(self) -> None:
        # The driver says so between two commands, as it does with `stop`.
        if self.pending is None:
            self.restarting = True
            self.machine.restart(self.now)

    @rule()
    def stop(self) -> None:
        self.stopped = True
        self.machine.stop(self.now)

    @invariant()
    def never_two(self) -> None:
        assert len(getattr(self, "ours", {})) <= 1

    @invariant()
    def states_mean_what_they_say(self) -> None:
        if hasattr(self, "machine"):
            assert self.machine.state is not State.RUNNING or self.machine.enclave
            assert not self.machine.healthy or not self.stopped

    def teardown(self) -> None:
        """Told to stop, it comes to an end; and if nitro-cli works, so does the enclave."""
        if not hasattr(self, "machine"):
            return
        tried = self.machine._stop_attempts
        self.stop()
        others = dict(self.others)
        for _ in range(6 * STOP_ATTEMPTS):
            if self.pending is not None:
                self.report("well", 0)
            else:
                self.ask(1e9)
        assert self.machine.next(self.now) == Done()
        assert self.others == others
        if tried == 0:
            assert not self.ours


TestLife = Life.TestCase
