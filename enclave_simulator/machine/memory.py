"""The guest's memory: QEMU's memfd, mapped here too."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclave_simulator.machine.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enclave_simulator.machine.messages import Region


@dataclass(frozen=True, slots=True)
class _Mapped:
    region: Region
    bytes: memoryview


class GuestMemory:
    """Regions of guest memory; see `virtqueue.Memory`."""

    def __init__(self, regions: Iterable[tuple[Region, int]] = ()) -> None:
        """Map regions, each with its file descriptor, which stays the caller's.

        Raises:
            ProtocolError: a file is smaller than its region, or cannot be mapped.
        """
        self._mapped: list[_Mapped] = []
        for region, fd in regions:
            end = region.offset + region.size
            # Checked, because reading beyond a file's end raises SIGBUS.
            if not region.size or os.fstat(fd).st_size < end:
                raise ProtocolError(
                    f"a region of {region.size} bytes, which is more than its file has"
                )
            try:
                # From the file's start: an offset need not be a multiple of the page size.
                # Only what is touched takes memory.
                mapped = mmap.mmap(fd, end)
            except (OSError, ValueError, OverflowError) as e:
                raise ProtocolError(f"cannot map guest memory: {e}") from e
            self._mapped.append(_Mapped(region, memoryview(mapped)[region.offset :]))

    def view(self, address: int, size: int) -> memoryview:
        """See `virtqueue.Memory.view`."""
        for mapped in self._mapped:
            start = address - mapped.region.guest_address
            if start >= 0 and start + size <= mapped.region.size:
                return mapped.bytes[start : start + size]
        raise ProtocolError(f"{size} bytes at {address:#x} are outside the guest's memory")

    def guest_address(self, user_address: int) -> int:
        """Translate an address in QEMU's own memory, in which rings are given.

        Raises:
            ProtocolError: it is outside all regions.
        """
        for mapped in self._mapped:
            start = user_address - mapped.region.user_address
            if 0 <= start < mapped.region.size:
                return mapped.region.guest_address + start
        raise ProtocolError(f"a ring at {user_address:#x}, outside the guest's memory")
