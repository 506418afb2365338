"""Split virtqueues (virtio 1.2, section 2.7), the device's side. No I/O.

The guest can write to everything here while it is read: each field is read once, then checked.
Neither indirect descriptors nor event indexes are offered.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from enclave_simulator.machine.errors import ProtocolError

MAX_SIZE = 1024
"""Entries a queue may have here; Linux asks for 128 at most."""

_NEXT, _WRITE = 1, 2  # descriptor flags; 4, indirect, was not offered
_NO_INTERRUPT = 1  # of the available ring
_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_USED = struct.Struct("<II")  # first descriptor, bytes written
_INDEX = struct.Struct("<H")
_RING = 4  # both rings begin with u16 flags and u16 index


class Memory(Protocol):
    """The guest's physical memory."""

    def view(self, address: int, size: int) -> memoryview:
        """Return a writable view of `size` bytes at a guest physical address.

        Raises:
            ProtocolError: they are not all within one region of memory.
        """
        ...


@dataclass(frozen=True, slots=True)
class Chain:
    """A request of the driver: buffers to read, and buffers to write into.

    Attributes:
        head: the number of its first descriptor.
        readable: what the driver says.
        writable: room for the answer.
    """

    head: int
    readable: tuple[memoryview, ...]
    writable: tuple[memoryview, ...]

    @property
    def room(self) -> int:
        """The number of bytes that can be written."""
        return sum(map(len, self.writable))

    def read(self, limit: int) -> bytes:
        """Copy what the driver sent.

        Raises:
            ProtocolError: it is over `limit` bytes.
        """
        size = sum(map(len, self.readable))
        if size > limit:
            raise ProtocolError(f"a request of {size} bytes, over {limit}")
        return b"".join(self.readable)

    def write(self, data: bytes) -> int:
        """Write as much as there is room for; return how much."""
        left = memoryview(data)
        for buffer in self.writable:
            part = left[: len(buffer)]
            buffer[: len(part)] = part
            left = left[len(part) :]
        return len(data) - len(left)


class Virtqueue:
    """One queue whose rings are in place.

    Attributes:
        position: index of the next available entry, 16 bits.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        size: int,
        descriptors: int,
        available: int,
        used: int,
        position: int = 0,
    ) -> None:
        """Prepare; the addresses are guest physical ones.

        Raises:
            ProtocolError: the size is not a power of two up to `MAX_SIZE`, or a ring is not in
                memory.
        """
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise ProtocolError(f"a queue of {size} entries")
        self._memory = memory
        self._size = size
        self._descriptors = memory.view(descriptors, size * _DESCRIPTOR.size)
        self._available = memory.view(available, _RING + size * _INDEX.size)
        self._used = memory.view(used, _RING + size * _USED.size)
        self.position = position
        # Both indexes start equal: a driver starts with zero, and a stopped queue was emptied.
        self._used_index: int = _INDEX.unpack_from(self._used, 2)[0]

    @property
    def waiting(self) -> int:
        """Return how many chains are available and not popped.

        Raises:
            ProtocolError: they are more than the queue has entries.
        """
        index: int = _INDEX.unpack_from(self._available, 2)[0]
        count = (index - self.position) & 0xFFFF
        if count > self._size:
            raise ProtocolError(f"{count} requests in a queue of {self._size}")
        return count

    @property
    def wants_interrupt(self) -> bool:
        """Whether the driver wants an interrupt for what was pushed."""
        flags: int = _INDEX.unpack_from(self._available, 0)[0]
        return not flags & _NO_INTERRUPT

    def pop(self) -> Chain | None:
        """Return the next chain, or None.

        Raises:
            ProtocolError: a descriptor points nowhere, the chain loops, or it has room to
                write before what is to be read.
        """
        if not self.waiting:
            return None
        at = _RING + self.position % self._size * _INDEX.size
        head: int = _INDEX.unpack_from(self._available, at)[0]
        chain = self._chain(head)
        self.position = (self.position + 1) & 0xFFFF
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """Return a chain to the driver, with `written` bytes in it."""
        at = _RING + self._used_index % self._size * _USED.size
        _USED.pack_into(self._used, at, chain.head, written)
        self._used_index = (self._used_index + 1) & 0xFFFF
        # After the entry: the interpreter's work between the two stores is the barrier, on
        # x86 none is needed.
        _INDEX.pack_into(self._used, 2, self._used_index)

    def _chain(self, head: int) -> Chain:
        buffers: tuple[list[memoryview], list[memoryview]] = [], []
        number = head
        for _ in range(self._size):
            if number >= self._size:
                raise ProtocolError(f"descriptor {number} of {self._size}")
            address, size, flags, following = _DESCRIPTOR.unpack_from(
                self._descriptors, number * _DESCRIPTOR.size
            )
            if flags & ~(_NEXT | _WRITE):
                raise ProtocolError(f"descriptor {number} has flags {flags:#x}")
            if buffers[1] and not flags & _WRITE:
                raise ProtocolError(f"descriptor {number} is to be read after one to be written")
            buffers[bool(flags & _WRITE)].append(self._memory.view(address, size))
            if not flags & _NEXT:
                return Chain(head, tuple(buffers[0]), tuple(buffers[1]))
            number = following
        raise ProtocolError(f"the descriptors from {head} on go round in a circle")
