"""Targets: enclave images, ramdisks, and what a guest writes for the simulated machine."""

from __future__ import annotations

import contextlib
import gzip
import io
import socket
import struct
from typing import TYPE_CHECKING, cast

from enclave_simulator.machine.errors import ProtocolError
from enclave_simulator.machine.virtqueue import Chain, Virtqueue
from enclave_simulator.machine.vsock_device import VsockDevice
from enclave_simulator.machine.vsock_packet import BOTH, HEADER_SIZE, Operation, Packet
from parent.eif import cpio, cpio_reader
from parent.eif.describe import as_nitro_cli, describe
from parent.eif.errors import EifError
from tests.enclave_simulator.machine.test_vsock import CID, Chains
from tests.enclave_simulator.machine.virtio import NEXT, WRITE, Driver, FlatMemory
from tests.parent.conftest import WITHIN
from tests.programs import fuzz_eif
from tests.programs.fuzz.target import Feed, Target, pieces
from vsock_proxy.relay.loop import Loop

if TYPE_CHECKING:
    from enclave_simulator.machine.vhost_user import Queue


def _eif(data: bytes) -> None:
    try:
        description = describe(io.BytesIO(data))
    except EifError as e:
        if not 0 <= e.offset <= len(data):
            raise AssertionError(f"offset {e.offset} of {len(data)}") from e
    else:
        as_nitro_cli(description)
        description.failures(WITHIN)


def _cpio(data: bytes) -> None:
    feed = Feed(data)
    size = feed.byte()
    try:
        whole = cpio_reader.read([feed.rest()])
    except cpio_reader.RamdiskError:
        with contextlib.suppress(cpio_reader.RamdiskError):
            cpio_reader.read(pieces(feed.rest(), 1 + size))
            raise AssertionError("valid in pieces only") from None
    else:
        assert cpio_reader.read(pieces(feed.rest(), 1 + size)) == whole


def _cpio_seeds() -> list[bytes]:
    entries = [
        cpio.directory("bin"), cpio.file("bin/sh", b"#!", 0o755), cpio.file("etc", b"x" * 300),
    ]  # fmt: skip
    plain = b"".join(cpio.archive(entries))
    packed = gzip.compress(plain, mtime=0)
    return [
        plain + b"\x40", packed + b"\x07", plain + bytes(512) + packed + b"\x20",
        plain + plain + b"\xff", b"\xfd7zXZ\x00\x00" + packed, b"BZh9" + plain,
    ]  # fmt: skip


class _Services:
    """The parent's side: port 8000 accepts and sends something; nothing else listens."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []

    def connect(self, port: int) -> socket.socket:
        if port != 8000:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        theirs.send(b"hello")
        self.ends.append(theirs)
        return ours

    def close(self) -> None:
        for end in self.ends:
            end.close()


def _vsock(data: bytes) -> None:
    """Packets, each behind its length in two bytes, to a device with two services."""
    services = _Services()
    with Loop(tick=0.05) as loop, contextlib.closing(services):
        device = VsockDevice(loop, CID, services)
        rx, tx = Chains(), Chains()
        device.attach(cast("list[Queue]", [rx, tx]))
        try:
            for _ in range(64):
                if not data:
                    break
                size = int.from_bytes(data[:2], "little")
                packet, data = data[2 : 2 + size], data[2 + size :]
                tx.offered.append(Chain(0, (memoryview(packet),), ()))
                rx.offered.append(Chain(0, (), (memoryview(bytearray(HEADER_SIZE + 128)),)))
                device.kicked(1)
                loop.later(lambda: None)  # so that no turn waits
                loop.turn()
        except ProtocolError:
            pass  # The machine is stopped.
        finally:
            device.close()
        for sent in rx.returned:
            Packet.decode(sent)


def _vsock_seeds() -> list[bytes]:
    def packet(
        operation: Operation, payload: bytes = b"", port: int = 8000, flags: int = 0
    ) -> bytes:
        made = Packet(
            source_cid=CID, source_port=1234, destination_cid=3, destination_port=port,
            operation=operation, buffer_size=1 << 18, flags=flags, payload=payload,
        ).encode()  # fmt: skip
        return struct.pack("<H", len(made)) + made

    request = packet(Operation.REQUEST)
    return [
        request + packet(Operation.RW, b"x" * 50) + packet(Operation.SHUTDOWN, flags=BOTH),
        request + packet(Operation.CREDIT_REQUEST) + packet(Operation.CREDIT_UPDATE),
        request + request + packet(Operation.RST) + request,
        packet(Operation.REQUEST, port=1) + packet(Operation.RW, b"y"),
        request + packet(Operation.SHUTDOWN, flags=1) + packet(Operation.RW, b"z" * 100),
        packet(Operation.RESPONSE),
    ]


_QUEUE = 8
_MEMORY = 2048


def _virtqueue(data: bytes) -> None:
    """The guest's memory, with the rings at its start."""
    memory = FlatMemory(_MEMORY)
    memory.bytes[: len(data)] = data[:_MEMORY]
    rings = Driver(memory, base=0, size=_QUEUE)
    with contextlib.suppress(ProtocolError):
        queue = Virtqueue(
            memory, size=_QUEUE, descriptors=rings.descriptors, available=rings.available,
            used=rings.used,
        )  # fmt: skip
        for _ in range(3 * _QUEUE):
            assert 0 <= queue.waiting <= _QUEUE
            chain = queue.pop()
            if chain is None:
                break
            assert len(chain.readable) + len(chain.writable) <= _QUEUE
            queue.push(chain, chain.write(chain.read(_MEMORY)))


def _virtqueue_seeds() -> list[bytes]:
    made = []
    for chains in ([(b"request", 32)], [(b"a", 0), (b"", 16), (b"b" * 40, 8)]):
        memory = FlatMemory(_MEMORY)
        driver = Driver(memory, base=0, size=_QUEUE)
        for out, room in chains:
            driver.add(out=out, room=room)
        made.append(bytes(memory.bytes))
    memory = FlatMemory(_MEMORY)
    driver = Driver(memory, base=0, size=_QUEUE)
    driver.descriptor(0, 1024, 8, NEXT, 1)
    driver.descriptor(1, 1100, 8, NEXT | WRITE, 0)
    driver.offer(0)
    return [*made, bytes(memory.bytes)]


TARGETS = [
    Target(name="eif", run=_eif, seeds=fuzz_eif.seeds, packages=("parent",), max_length=16384,
           words=(b"\x81", b"\xff", b'"', b"{", b"BuildTime", b"signing_certificate")),
    Target(name="cpio", run=_cpio, seeds=_cpio_seeds, packages=("parent",),
           max_length=8192, words=(b"070701", b"TRAILER!!!", b"\x1f\x8b\x08", b"00000000")),
    Target(name="vsock", run=_vsock, seeds=_vsock_seeds, max_length=4096,
           packages=("enclave_simulator", "vsock_proxy")),
    Target(name="virtqueue", run=_virtqueue, seeds=_virtqueue_seeds, max_length=_MEMORY,
           packages=("enclave_simulator",)),
]  # fmt: skip
