"""One million bytes through 1,000 connections with half-closes at random: not a byte is lost,
none is added, and nothing spins.
"""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.sockets import read_all
from tests.vsock_proxy.relay.test_flow import FakeSink, FakeSource, pump
from tests.vsock_proxy.rig import LOCAL, Place, Rig, allow_descriptors, read_exactly
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.relay.connection import RelayLimits
from vsock_proxy.relay.flow import Flow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("innermost")


CONNECTIONS = 1000
BYTES = 500
"""A connection's, in each direction."""


@dataclass
class Step:
    """One side of one connection sends some bytes; with 0 bytes it half-closes."""

    connection: int
    side: int
    data: bytes


def script(chance: random.Random) -> list[Step]:
    """Return the steps of all sides, in random order."""
    turns = [c * 2 + s for c in range(CONNECTIONS) for s in (0, 1) for _ in range(4)]
    chance.shuffle(turns)
    left = {turn: [*sorted(chance.sample(range(1, BYTES), 2)), BYTES, BYTES] for turn in turns}
    said = dict.fromkeys(left, 0)
    steps = []
    for turn in turns:
        until = left[turn].pop(0)
        steps.append(Step(turn // 2, turn % 2, speech(turn)[said[turn] : until]))
        said[turn] = until
    return steps


def speech(turn: int) -> bytes:
    """Return all that one side sends, different for each side."""
    return random.Random(turn).randbytes(BYTES)  # noqa: S311 (not for secrets)


@given(st.integers(0, 1 << 64))
@settings(max_examples=3, phases=[Phase.generate])  # Nothing so large can be made smaller.
def test_relay_without_sockets_neither_loses_nor_adds_bytes(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (not for secrets)
    ends = [(FakeSource(), FakeSink(room=0)) for _ in range(2 * CONNECTIONS)]
    flows = [Flow(*end) for end in ends]
    buffer = memoryview(bytearray(64))
    for step in script(chance):
        turn = step.connection * 2 + step.side
        (source, sink), flow = ends[turn], flows[turn]
        source.arrived += step.data
        source.ended = not step.data
        flow.short_reads_lie = source.ended
        pump(flow, buffer)
        sink.room += chance.randrange(BYTES)
        pump(flow, buffer)
    for turn, ((source, sink), flow) in enumerate(zip(ends, flows, strict=True)):
        sink.room += 2 * BYTES
        pump(flow, buffer)
        assert sink.got == speech(turn)
        assert (sink.ends, flow.ended, flow.delivered, source.arrived) == (1, True, BYTES, b"")


@pytest.fixture
def descriptors() -> Iterator[None]:
    yield from allow_descriptors(4 * CONNECTIONS + 200)


@pytest.mark.parametrize("kinds", [(LOCAL, "tcp"), ("tcp", LOCAL)], ids="->".join)
def test_relay_neither_loses_nor_adds_bytes(
    kinds: tuple[str, str], tmp_path: Path, descriptors: None
) -> None:
    chance = random.Random("a million bytes")  # noqa: S311 (not for secrets)
    with (
        contextlib.ExitStack() as stack,
        Place(kinds[1], tmp_path).server() as server,
        Rig(
            Place(kinds[0], tmp_path).address("proxy"),
            server.address,
            limits=RelayLimits(connections=CONNECTIONS),
        ) as rig,
    ):
        ends: list[tuple[socket.socket, socket.socket]] = []
        for number in range(CONNECTIONS):
            client = stack.enter_context(rig.connect())
            accepted = stack.enter_context(server.accept())
            client.sendall(number.to_bytes(2))  # To know that the two belong together.
            assert read_exactly(accepted, 2) == number.to_bytes(2)
            ends.append((client, accepted))
        for step in script(chance):
            end = ends[step.connection][step.side]
            if step.data:
                end.sendall(step.data)
            else:
                end.shutdown(socket.SHUT_WR)
        for number, pair in enumerate(ends):
            for side, end in enumerate(pair):
                end.settimeout(TEST_TIMEOUT)
                assert read_all(end) == speech(2 * number + 1 - side)
        rig.wait_until(lambda: rig.forwarder.in_use == 0)
        counters = rig.forwarder.counters
        assert counters.bytes["up"] == CONNECTIONS * (BYTES + 2)
        assert counters.bytes["down"] == CONNECTIONS * BYTES
        assert counters.broken == {}
        rig.assert_quiet()
        # Each turn is caused by an event: a connection has its beginning, 8 steps and its end.
        assert rig.loop.turns < 20 * CONNECTIONS
