"""The backend's side of vhost-user: a virtio device of QEMU that another process serves.

Source: QEMU, docs/interop/vhost-user.rst. One `Backend` serves one device, whichever it is.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol

from enclave_simulator.machine import messages
from enclave_simulator.machine.errors import ProtocolError
from enclave_simulator.machine.memory import GuestMemory
from enclave_simulator.machine.messages import Message, Request
from enclave_simulator.machine.virtqueue import Chain, Virtqueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Device(Protocol):
    """A device, which serves queues.

    Attributes:
        queue_count: how many the backend serves.
        config: the device's configuration space.
    """

    queue_count: int
    config: bytes

    def attach(self, queues: Sequence[Queue]) -> None:
        """Receive the queues, once, before they run."""
        ...

    def kicked(self, index: int) -> None:
        """Serve a queue that the driver may have added to.

        Raises:
            ProtocolError: what it put there is against the rules.
        """
        ...


class Queue:
    """A virtqueue that QEMU sets up, starts and stops. While it does not run it is empty.

    Attributes:
        kick: eventfd by which the driver announces requests; None before QEMU sent it.
    """

    def __init__(self) -> None:
        self.kick: int | None = None
        self._call: int | None = None
        self._size = 0
        self._position = 0
        self._addresses: tuple[int, int, int] | None = None
        self._enabled = False
        self._ring: Virtqueue | None = None

    def pop(self) -> Chain | None:
        """Return the next request, or None."""
        if self._ring is None or not self._enabled:
            # A ring starts out disabled: a response before SET_VRING_ENABLE would raise an
            # interrupt that is lost, and the driver would wait for ever.
            return None
        return self._ring.pop()

    def push(self, chain: Chain, written: int) -> None:
        """Return a request to the driver, with `written` bytes of response. Then `notify`."""
        if self._ring is not None:
            self._ring.push(chain, written)

    def notify(self) -> None:
        """Notify the driver of what was pushed."""
        if self._ring is not None and self._ring.wants_interrupt:
            self._interrupt()

    # Set by QEMU

    def set_size(self, size: int) -> None:
        """Set the number of entries; checked when the queue starts."""
        self._size = size

    def set_position(self, position: int) -> None:
        """Set where to continue in the available ring."""
        self._position = position & 0xFFFF

    def set_addresses(self, descriptors: int, used: int, available: int) -> None:
        """Set the rings' addresses in QEMU's memory."""
        self._addresses = descriptors, used, available

    def set_enabled(self, *, enabled: bool) -> None:
        """Enable or disable it."""
        self._enabled = enabled

    def set_call(self, fd: int | None) -> None:
        """Set the eventfd for interrupts.

        QEMU changes it while the guest boots. One interrupt too many does no harm; one that
        went to the old eventfd would be lost.
        """
        _close(self._call)
        self._call = fd
        if self._ring is not None and self._enabled:
            self._interrupt()

    def start(self, memory: GuestMemory, kick: int | None) -> None:
        """Start to use the rings.

        Raises:
            ProtocolError: it is not set up, or not correctly.
        """
        _close(self.kick)
        self.kick = kick
        if self._addresses is None:
            raise ProtocolError("a queue is started that was not set up")
        descriptors, used, available = map(memory.guest_address, self._addresses)
        self._ring = Virtqueue(
            memory,
            size=self._size,
            descriptors=descriptors,
            available=available,
            used=used,
            position=self._position,
        )

    def stop(self) -> int:
        """Stop using the rings; return where to continue later."""
        if self._ring is not None:
            self._position = self._ring.position
        self._ring = None
        _close(self.kick)
        self.kick = None
        return self._position

    def close(self) -> None:
        """Stop, and close all descriptors."""
        self.stop()
        _close(self._call)
        self._call = None

    def _interrupt(self) -> None:
        if self._call is not None:
            # A full counter means that an interrupt is pending already.
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self._call, 1)


class Backend:
    """Handles QEMU's messages about one device.

    Attributes:
        queues: the device's queues.
    """

    def __init__(self, device: Device) -> None:
        self.queues = [Queue() for _ in range(device.queue_count)]
        self._device = device
        self._memory = GuestMemory()
        self._features = 0
        self._handlers: dict[Request, Callable[[Message, list[int]], bytes | None]] = {
            Request.GET_FEATURES: lambda m, _: m.reply_u64(
                messages.F_VERSION_1 | messages.F_PROTOCOL_FEATURES
            ),
            Request.SET_FEATURES: self._set_features,
            Request.SET_OWNER: lambda _m, _: None,
            Request.RESET_OWNER: lambda _m, _: None,
            Request.GET_PROTOCOL_FEATURES: lambda m, _: m.reply_u64(
                messages.PROTOCOL_REPLY_ACK | (messages.PROTOCOL_CONFIG if device.config else 0)
            ),
            Request.SET_PROTOCOL_FEATURES: lambda _m, _: None,
            Request.GET_QUEUE_NUM: lambda m, _: m.reply_u64(len(self.queues)),
            Request.GET_CONFIG: lambda m, _: m.reply_config(self._device.config),
            Request.SET_CONFIG: lambda _m, _: None,  # nothing in it can be written
            Request.SET_MEM_TABLE: self._set_memory,
            Request.SET_VRING_NUM: self._set_size,
            Request.SET_VRING_ADDR: self._set_addresses,
            Request.SET_VRING_BASE: self._set_position,
            Request.GET_VRING_BASE: self._stop,
            Request.SET_VRING_KICK: self._start,
            Request.SET_VRING_CALL: self._set_call,
            Request.SET_VRING_ERR: lambda _m, _: None,  # errors end the machine
            Request.SET_VRING_ENABLE: self._set_enabled,
        }
        device.attach(self.queues)

    def handle(self, message: Message, fds: list[int]) -> bytes | None:
        """Handle a message.

        Args:
            message: from QEMU.
            fds: descriptors that came with it. Those that are wanted are taken off the list;
                what is left is the caller's to close.

        Returns:
            The answer, where there is one.

        Raises:
            ProtocolError: the message makes no sense.
        """
        answer = self._handlers[message.request](message, fds)
        if answer is None and message.needs_reply:
            return message.reply_u64(0)
        return answer

    def close(self) -> None:
        """Unmap the guest's memory and close every descriptor."""
        for queue in self.queues:
            queue.close()
        self._memory = GuestMemory()

    def _set_features(self, message: Message, _fds: list[int]) -> None:
        self._features = message.u64()

    def _set_memory(self, message: Message, fds: list[int]) -> None:
        regions = message.regions()
        if len(regions) != len(fds):
            raise ProtocolError(f"{len(regions)} regions of memory with {len(fds)} descriptors")
        # The caller closes the descriptors: a mapping does not need them.
        self._memory = GuestMemory(zip(regions, fds, strict=True))

    def _set_size(self, message: Message, _fds: list[int]) -> None:
        index, size = message.vring_state()
        self._queue(index).set_size(size)

    def _set_position(self, message: Message, _fds: list[int]) -> None:
        index, position = message.vring_state()
        self._queue(index).set_position(position)

    def _set_addresses(self, message: Message, _fds: list[int]) -> None:
        index, descriptors, used, available = message.vring_addresses()
        self._queue(index).set_addresses(descriptors, used, available)

    def _start(self, message: Message, fds: list[int]) -> None:
        index, has_fd = message.vring_fd()
        queue = self._queue(index)
        queue.start(self._memory, _take_fd(message, fds) if has_fd else None)
        if not self._features & messages.F_PROTOCOL_FEATURES:
            queue.set_enabled(enabled=True)
        self._device.kicked(index)

    def _stop(self, message: Message, _fds: list[int]) -> bytes:
        index, _ = message.vring_state()
        return message.reply_state(index, self._queue(index).stop())

    def _set_call(self, message: Message, fds: list[int]) -> None:
        index, has_fd = message.vring_fd()
        queue = self._queue(index)
        queue.set_call(_take_fd(message, fds) if has_fd else None)

    def _set_enabled(self, message: Message, _fds: list[int]) -> None:
        index, enabled = message.vring_state()
        self._queue(index).set_enabled(enabled=bool(enabled))
        self._device.kicked(index)

    def _queue(self, index: int) -> Queue:
        if index >= len(self.queues):
            raise ProtocolError(f"queue {index} of {len(self.queues)}")
        return self.queues[index]


def _take_fd(message: Message, fds: list[int]) -> int:
    if len(fds) != 1:
        raise ProtocolError(f"vhost-user {message.request.name} with {len(fds)} descriptors")
    os.set_blocking(fds[0], False)
    return fds.pop()


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
