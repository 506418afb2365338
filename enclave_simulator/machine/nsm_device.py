"""virtio-nsm: the queue behind a guest's /dev/nsm.

Source: Linux, drivers/misc/nsm.c; the proposal for the virtio specification (device 33).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave_simulator.machine.errors import ProtocolError
from enclave_simulator.machine.virtqueue import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enclave_simulator.machine.vhost_user import Queue
    from enclave_simulator.machine.virtqueue import Chain

VIRTIO_ID = 33
MAX_REQUEST = 0x1000
"""Bytes the driver sends at most (NSM_REQUEST_MAX_SIZE)."""

MAX_RESPONSE = 0x3000
"""Bytes the driver has room for (NSM_RESPONSE_MAX_SIZE)."""


class NsmDevice:
    """One queue: a request to read, and after it, by itself, room for the response."""

    queue_count = 1
    config = b""

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        """Prepare; `exchange` responds to requests, such as `SimulatedNsm.exchange`."""
        self._exchange = exchange
        self._queue: Queue | None = None
        self._request: Chain | None = None

    def attach(self, queues: Sequence[Queue]) -> None:
        """See `vhost_user.Device.attach`."""
        (self._queue,) = queues

    def kicked(self, _index: int) -> None:
        """Respond to waiting requests. The driver sends one at a time."""
        # Bounded, because a guest could go on for ever; later requests come with a kick.
        for _ in range(MAX_SIZE):
            if self._queue is None or (chain := self._queue.pop()) is None:
                return
            if self._request is None:
                self._request = chain
                continue
            request = self._request.read(MAX_REQUEST)
            response = self._exchange(request)
            if len(response) > chain.room:
                raise ProtocolError(f"room for {chain.room} bytes of a response of {len(response)}")
            # The driver looks once for both, and expects the request first.
            self._queue.push(self._request, 0)
            self._queue.push(chain, chain.write(response))
            self._queue.notify()
            self._request = None
