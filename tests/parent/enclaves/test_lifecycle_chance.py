"""The rules of the life cycle, whatever nitro-cli and chance do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parent.enclaves.lifecycle import (
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
from tests.parent.enclaves.lifecycles import AGENT, enclave, lifecycle

if TYPE_CHECKING:
    from parent.enclaves.nitro_cli import Enclave


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
