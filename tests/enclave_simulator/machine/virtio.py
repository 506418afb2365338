"""A driver in place of a guest's kernel: queues in a bytearray, packets by hand."""

from __future__ import annotations

import struct

from enclave_simulator.machine.errors import ProtocolError

NEXT, WRITE = 1, 2


class FlatMemory:
    """Guest memory from address 0 on."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.bytes = bytearray(size)

    def view(self, address: int, size: int) -> memoryview:
        if address + size > len(self.bytes):
            raise ProtocolError("outside the guest's memory")
        return memoryview(self.bytes)[address : address + size]


class Driver:
    """The driver's side of one queue, its rings at `base`, its buffers behind them."""

    def __init__(self, memory: FlatMemory, *, base: int, size: int = 8) -> None:
        self.memory = memory
        self.size = size
        self.descriptors = base
        self.available = base + 16 * size
        self.used = self.available + 4 + 2 * size + 2
        self._free = (self.used + 4 + 8 * size + 63) // 64 * 64
        self._descriptor = 0
        self._seen = 0

    def descriptor(self, index: int, address: int, size: int, flags: int, following: int) -> None:
        at = self.descriptors + 16 * index
        struct.pack_into("<QIHH", self.memory.bytes, at, address, size, flags, following)

    def offer(self, head: int) -> None:
        (index,) = struct.unpack_from("<H", self.memory.bytes, self.available + 2)
        at = self.available + 4 + index % self.size * 2
        struct.pack_into("<H", self.memory.bytes, at, head)
        struct.pack_into("<H", self.memory.bytes, self.available + 2, (index + 1) & 0xFFFF)

    def add(self, *, out: bytes = b"", room: int = 0) -> int:
        """Offer one chain of at most two buffers; return the address of the writable one."""
        buffers = [(self._place(out), len(out), 0)] if out else []
        if room:
            buffers.append((self._place(bytes(room)), room, WRITE))
        head = self._descriptor
        for number, (address, size, flags) in enumerate(buffers):
            last = number == len(buffers) - 1
            following = (self._descriptor + 1) % self.size
            link = flags if last else flags | NEXT
            self.descriptor(self._descriptor, address, size, link, 0 if last else following)
            self._descriptor = following
        self.offer(head)
        return buffers[-1][0]

    def taken(self) -> list[tuple[int, int]]:
        """Return what came back since the last call: head and bytes written."""
        (index,) = struct.unpack_from("<H", self.memory.bytes, self.used + 2)
        found = []
        while self._seen != index:
            at = self.used + 4 + self._seen % self.size * 8
            found.append(struct.unpack_from("<II", self.memory.bytes, at))
            self._seen = (self._seen + 1) & 0xFFFF
        return found

    def _place(self, data: bytes) -> int:
        address = self._free
        self._free += (len(data) + 63) // 64 * 64
        self.memory.bytes[address : address + len(data)] = data
        return address
