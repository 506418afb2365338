"""Accepting on an asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from tests.waiting import TEST_TIMEOUT
from vsock_proxy.service.acceptor import AsyncAcceptor


class Recording:
    """Notes in which turn of the loop each connection came."""

    def __init__(self, expected: int) -> None:
        self.turn = 0
        self.turns: list[int] = []
        self.all_accepted = asyncio.Event()
        self._expected = expected

    def may_accept(self) -> float:
        return 0

    def accepted(self, client: socket.socket, _peer: object) -> None:
        client.close()
        self.turns.append(self.turn)
        if len(self.turns) == self._expected:
            self.all_accepted.set()

    def accept_failed(self, error: OSError) -> None:
        raise error

    def count_turns(self) -> None:
        self.turn += 1
        if not self.all_accepted.is_set():
            asyncio.get_running_loop().call_soon(self.count_turns)


def test_a_turn_of_the_loop_accepts_one_connection() -> None:
    assert len(set(asyncio.run(_turns(connections=10)))) == 10


async def _turns(connections: int) -> list[int]:
    """Return the turn in which each of the connections was accepted that waited at once."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16))
        for _ in range(connections):
            stack.enter_context(socket.create_connection(listener.getsockname(), TEST_TIMEOUT))
        events = Recording(connections)
        acceptor = AsyncAcceptor(listener, events)
        stack.callback(acceptor.close)
        events.count_turns()
        async with asyncio.timeout(TEST_TIMEOUT):
            await events.all_accepted.wait()
    return events.turns
