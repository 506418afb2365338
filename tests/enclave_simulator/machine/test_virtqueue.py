"""Virtqueues, as a driver fills and reads them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.machine.errors import ProtocolError
from enclave_simulator.machine.virtqueue import MAX_SIZE, Virtqueue
from tests.enclave_simulator.machine.virtio import NEXT, WRITE, Driver, FlatMemory


def attach(driver: Driver) -> Virtqueue:
    return Virtqueue(
        driver.memory,
        size=driver.size,
        descriptors=driver.descriptors,
        available=driver.available,
        used=driver.used,
    )


def test_a_chain_is_read_answered_and_given_back() -> None:
    driver = Driver(FlatMemory(), base=0x1000)
    queue = attach(driver)
    assert queue.pop() is None
    room_at = driver.add(out=b"question", room=16)
    chain = queue.pop()
    assert chain
    assert chain.read(100) == b"question"
    assert chain.room == 16
    written = chain.write(b"answer")
    queue.push(chain, written)
    assert driver.taken() == [(0, 6)]
    assert driver.memory.bytes[room_at : room_at + 6] == b"answer"
    assert queue.pop() is None


def test_indexes_wrap_around_the_ring_and_sixteen_bits() -> None:
    driver = Driver(FlatMemory(1 << 23), base=0x1000)
    queue = attach(driver)
    for _ in range(0x10000 + 3):
        driver.add(out=b"x")
        chain = queue.pop()
        assert chain
        queue.push(chain, 0)
        assert len(driver.taken()) == 1
    assert queue.position == 3


def test_an_answer_stops_where_the_room_ends() -> None:
    driver = Driver(FlatMemory(), base=0x1000)
    queue = attach(driver)
    driver.add(room=4)
    chain = queue.pop()
    assert chain
    assert chain.write(b"too long") == 4


def test_the_driver_may_want_no_interrupt() -> None:
    driver = Driver(FlatMemory(), base=0x1000)
    queue = attach(driver)
    assert queue.wants_interrupt
    struct.pack_into("<H", driver.memory.bytes, driver.available, 1)
    assert not queue.wants_interrupt


@pytest.mark.parametrize(
    ("descriptors", "told"),
    [
        ([(1 << 40, 8, 0, 0)], "outside"),
        ([(0, 1 << 31, 0, 0)], "outside"),
        ([(0, 8, NEXT, 0)], "circle"),
        ([(0, 8, NEXT, 1), (0, 8, NEXT, 0)], "circle"),
        ([(0, 8, NEXT, 99)], "descriptor 99"),
        ([(0, 8, 4, 0)], "flags 0x4"),
        ([(0, 8, WRITE | NEXT, 1), (0, 8, 0, 0)], "to be read after"),
    ],
)
def test_what_is_against_the_rules_is_told(
    descriptors: list[tuple[int, int, int, int]], told: str
) -> None:
    driver = Driver(FlatMemory(), base=0x1000)
    queue = attach(driver)
    for index, fields in enumerate(descriptors):
        driver.descriptor(index, *fields)
    driver.offer(0)
    with pytest.raises(ProtocolError, match=told):
        queue.pop()


def test_a_head_that_is_no_descriptor_and_an_index_too_far() -> None:
    driver = Driver(FlatMemory(), base=0x1000)
    queue = attach(driver)
    driver.offer(8)
    with pytest.raises(ProtocolError, match="descriptor 8 of 8"):
        queue.pop()
    struct.pack_into("<H", driver.memory.bytes, driver.available + 2, 9)
    with pytest.raises(ProtocolError, match="9 requests in a queue of 8"):
        queue.pop()


@pytest.mark.parametrize("size", [0, 3, MAX_SIZE * 2])
def test_queues_of_no_valid_size_are_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        Virtqueue(FlatMemory(), size=size, descriptors=0, available=0, used=0)


@given(st.binary(min_size=256, max_size=256), st.integers(0, 0xFFFF))
def test_whatever_is_in_the_rings_only_the_documented_error_leaves(rings: bytes, at: int) -> None:
    memory = FlatMemory(4096)
    memory.bytes[:256] = rings
    queue = Virtqueue(memory, size=8, descriptors=0, available=128, used=160, position=at)
    try:
        for _ in range(16):
            chain = queue.pop()
            if chain is None:
                break
            chain.read(1 << 20)
            chain.write(b"answer")
            queue.push(chain, 6)
    except ProtocolError:
        pass
