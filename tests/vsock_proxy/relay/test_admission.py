"""The connection limit and the queue in front of it, as a model checks them."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vsock_proxy.relay.admission import Admission
from vsock_proxy.relay.connection import RelayLimits


class Clients(RuleBasedStateMachine):
    """Clients come, start, end, starve and time out; nobody is lost, counted twice or overtaken."""

    def __init__(self) -> None:
        super().__init__()
        self.admission: Admission[int] = Admission(RelayLimits(connections=3, waiting=4))
        self.numbers = itertools.count()
        self.active: set[int] = set()
        self.queued: list[int] = []

    @precondition(lambda self: self.admission.has_room())
    @rule()
    def arrive(self) -> None:
        client = next(self.numbers)
        room = len(self.active) < self.admission.limits.connections
        assert self.admission.admit(client) is room
        if room:
            self.active.add(client)
        else:
            self.queued.append(client)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.active.remove(data.draw(st.sampled_from(sorted(self.active))))
        self.admission.release()

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def starve(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(sorted(self.active)))
        self.active.remove(client)
        self.queued.insert(0, client)
        self.admission.requeue(client)

    @rule()
    def use_places(self) -> None:
        free = max(0, self.admission.limits.connections - len(self.active))
        expected, self.queued = self.queued[:free], self.queued[free:]
        assert list(self.admission.admit_queued()) == expected
        self.active.update(expected)

    @rule(divisor=st.integers(1, 3))
    def time_out(self, divisor: int) -> None:
        expected = [client for client in self.queued if client % divisor == 0]
        assert self.admission.remove_queued(lambda client: client % divisor == 0) == expected
        self.queued = [client for client in self.queued if client not in expected]

    @rule(connections=st.integers(1, 5))
    def change_limits(self, connections: int) -> None:
        self.admission.limits = RelayLimits(connections=connections, waiting=4)

    @invariant()
    def agrees(self) -> None:
        assert self.admission.in_use == len(self.active)
        assert list(self.admission.queue) == self.queued
        assert self.admission.has_room() is (len(self.queued) < 4)


Clients.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestClients = Clients.TestCase
