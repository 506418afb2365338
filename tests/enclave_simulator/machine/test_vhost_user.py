"""vhost-user with QEMU's part played by the test: messages by hand, memory in a memfd."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from typing import TYPE_CHECKING

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.machine import messages
from enclave_simulator.machine.errors import ProtocolError
from enclave_simulator.machine.memory import GuestMemory
from enclave_simulator.machine.messages import Message, Region, Request
from enclave_simulator.machine.nsm_device import MAX_RESPONSE, NsmDevice
from enclave_simulator.machine.vhost_user import Backend
from tests.enclave_simulator.machine.virtio import Driver, FlatMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave_simulator.nsm import SimulatedNsm

GUEST, USER, SIZE = 0x4000_0000, 0x7F00_0000_0000, 1 << 20
DESCRIBE_NSM = cbor2.dumps("DescribeNSM")


class SharedMemory(FlatMemory):
    """The guest's memory as QEMU has it: a file."""

    def __init__(self, fd: int) -> None:
        self.bytes = mmap.mmap(fd, SIZE)  # type: ignore[assignment]


class Qemu:
    """Sets a device's first queue up."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.memory_fd = os.memfd_create("guest")
        os.ftruncate(self.memory_fd, SIZE)
        self.driver = Driver(SharedMemory(self.memory_fd), base=0x1000)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)

    def say(self, request: Request, payload: bytes = b"", *fds: int) -> bytes | None:
        given_away = [os.dup(fd) for fd in fds]
        try:
            return self.backend.handle(
                Message(request, needs_reply=False, payload=payload), given_away
            )
        finally:
            for fd in given_away:
                os.close(fd)

    def state(self, request: Request, number: int) -> bytes | None:
        return self.say(request, struct.pack("<II", 0, number))

    def set_up(self) -> None:
        self.say(Request.SET_FEATURES, struct.pack("<Q", messages.F_PROTOCOL_FEATURES))
        region = struct.pack("<IIQQQQ", 1, 0, GUEST, SIZE, USER, 0)
        self.say(Request.SET_MEM_TABLE, region, self.memory_fd)
        self.state(Request.SET_VRING_NUM, self.driver.size)
        self.state(Request.SET_VRING_BASE, 0)
        rings = (self.driver.descriptors, self.driver.used, self.driver.available)
        addresses = struct.pack("<IIQQQQ", 0, 0, *(USER + at for at in rings), 0)
        self.say(Request.SET_VRING_ADDR, addresses)
        self.say(Request.SET_VRING_CALL, struct.pack("<Q", 0), self.call)
        kick = os.eventfd(0)
        self.say(Request.SET_VRING_KICK, struct.pack("<Q", 0), kick)
        os.close(kick)

    def ask(self, request: bytes, room: int = MAX_RESPONSE) -> int:
        """Do as drivers/misc/nsm.c: the request and the room for the answer, each by itself."""
        # Where Driver places buffers is an offset in memory; the guest's begins at GUEST.
        self._relocate(self.driver.add, out=request)
        return self._relocate(self.driver.add, room=room)

    def _relocate(self, add: object, **what: object) -> int:
        before = self.driver._descriptor
        at: int = add(**what)  # type: ignore[operator]
        place = self.driver.descriptors + 16 * before
        (address,) = struct.unpack_from("<Q", self.driver.memory.bytes, place)
        struct.pack_into("<Q", self.driver.memory.bytes, place, address + GUEST)
        return at

    def interrupts(self) -> int:
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(self.call)
        return 0

    def close(self) -> None:
        self.backend.close()
        os.close(self.memory_fd)
        os.close(self.call)


@pytest.fixture
def nsm_qemu(simulated_nsm: SimulatedNsm) -> Iterator[Qemu]:
    qemu = Qemu(Backend(NsmDevice(simulated_nsm.exchange)))
    yield qemu
    qemu.close()


def test_a_ring_answers_nothing_before_it_is_enabled(nsm_qemu: Qemu) -> None:
    nsm_qemu.set_up()
    room_at = nsm_qemu.ask(DESCRIBE_NSM)
    nsm_qemu.backend._device.kicked(0)
    assert nsm_qemu.driver.taken() == []
    nsm_qemu.state(Request.SET_VRING_ENABLE, 1)
    taken = nsm_qemu.driver.taken()
    assert [written for _, written in taken] == [0, taken[1][1]], "the request comes back first"
    answer = bytes(nsm_qemu.driver.memory.bytes[room_at : room_at + taken[1][1]])
    assert cbor2.loads(answer)["DescribeNSM"]["max_pcrs"] == 32
    assert nsm_qemu.interrupts() == 1, "one interrupt for both: the driver looks once"


def test_a_new_call_descriptor_is_rung_at_once(nsm_qemu: Qemu) -> None:
    nsm_qemu.set_up()
    nsm_qemu.state(Request.SET_VRING_ENABLE, 1)
    assert nsm_qemu.interrupts() == 0
    nsm_qemu.say(Request.SET_VRING_CALL, struct.pack("<Q", 0), nsm_qemu.call)
    assert nsm_qemu.interrupts() == 1


def test_a_stopped_ring_goes_on_where_it_was(nsm_qemu: Qemu) -> None:
    nsm_qemu.set_up()
    nsm_qemu.state(Request.SET_VRING_ENABLE, 1)
    nsm_qemu.ask(DESCRIBE_NSM)
    nsm_qemu.backend._device.kicked(0)
    answer = nsm_qemu.state(Request.GET_VRING_BASE, 0)
    assert answer
    assert struct.unpack("<II", answer[messages.HEADER.size :]) == (0, 2)
    nsm_qemu.ask(DESCRIBE_NSM)
    nsm_qemu.backend._device.kicked(0)
    assert len(nsm_qemu.driver.taken()) == 2


def test_no_room_for_the_answer_is_told(nsm_qemu: Qemu) -> None:
    nsm_qemu.set_up()
    nsm_qemu.state(Request.SET_VRING_ENABLE, 1)
    nsm_qemu.ask(DESCRIBE_NSM, room=4)
    with pytest.raises(ProtocolError, match="room for 4 bytes"):
        nsm_qemu.backend._device.kicked(0)


def test_a_request_over_the_limit_is_told(nsm_qemu: Qemu) -> None:
    nsm_qemu.set_up()
    nsm_qemu.state(Request.SET_VRING_ENABLE, 1)
    nsm_qemu.ask(bytes(0x1001))
    with pytest.raises(ProtocolError, match="4097 bytes, over 4096"):
        nsm_qemu.backend._device.kicked(0)


def test_a_queue_that_was_not_set_up_does_not_start(nsm_qemu: Qemu) -> None:
    with pytest.raises(ProtocolError, match="not set up"):
        nsm_qemu.say(Request.SET_VRING_KICK, struct.pack("<Q", 0x100))


def test_a_region_its_file_does_not_have_is_refused(nsm_qemu: Qemu) -> None:
    """Reading there would be SIGBUS."""
    region = struct.pack("<IIQQQQ", 1, 0, GUEST, SIZE + 1, USER, 0)
    with pytest.raises(ProtocolError, match="more than its file has"):
        nsm_qemu.say(Request.SET_MEM_TABLE, region, nsm_qemu.memory_fd)


def test_memory_ends_where_its_region_does() -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 2 * SIZE)
    os.pwrite(fd, b"here", SIZE)
    memory = GuestMemory([(Region(GUEST, SIZE, USER, SIZE), fd)])
    os.close(fd)
    assert bytes(memory.view(GUEST, 4)) == b"here"
    assert memory.guest_address(USER + 8) == GUEST + 8
    assert len(memory.view(GUEST, SIZE)) == SIZE
    for address, size in ((GUEST - 1, 1), (GUEST, SIZE + 1), (GUEST + SIZE, 1)):
        with pytest.raises(ProtocolError):
            memory.view(address, size)
    with pytest.raises(ProtocolError):
        memory.guest_address(USER + SIZE)


def test_configuration_space_is_given_in_parts_and_not_beyond() -> None:
    message = Message(
        Request.GET_CONFIG, needs_reply=False, payload=struct.pack("<III", 4, 4, 0) + bytes(4)
    )
    assert message.reply_config(b"abcdefgh").endswith(b"efgh")
    assert message.reply_config(b"abcdef") == message.reply(b"")


@given(
    st.sampled_from(Request),
    st.one_of(st.binary(max_size=64), st.binary(min_size=40, max_size=40)),
    st.integers(0, 2),
)
def test_whatever_a_message_says_only_the_documented_error_leaves(
    request: Request, payload: bytes, fd_count: int
) -> None:
    backend = Backend(NsmDevice(lambda _request: b""))
    fds = [os.eventfd(0) for _ in range(fd_count)]
    try:
        with contextlib.suppress(ProtocolError):
            backend.handle(Message(request, needs_reply=True, payload=payload), fds)
    finally:
        backend.close()
        for fd in fds:
            os.close(fd)


@given(st.binary(min_size=12, max_size=12))
def test_whatever_a_header_says_only_the_documented_error_leaves(header: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        messages.parse(header, b"")
