"""What a simulated TPM says of itself: TPM2_GetCapability. No I/O.

TCG TPM 2.0 Library, Part 2 (TPMU_CAPABILITIES and what it refers to) and Part 3.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from enclave_simulator.tpm_keys import MOST_PERSISTENT
from enclave_simulator.tpm_pcrs import PCR_COUNT, SELECT_SIZE, SHA256, SHA384, SHA512, selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from enclave_simulator.tpm_wire import Reader

ALGORITHMS, HANDLES, COMMANDS, PCRS, PROPERTIES = 0, 1, 2, 5, 6
_PERMANENT = (0x40000001, 0x40000007, 0x4000000A, 0x4000000B, 0x4000000C)
_MOST_ITEMS = 120


def properties(manufacturer: str, name: str, buffer_size: int, nv_index_max: int) -> dict[int, int]:
    """Return the fixed properties (Part 2, TPM_PT), and the two groups of variable attributes."""
    words = struct.unpack(">4I", name.encode().ljust(16, b"\0"))
    return {
        0x100: int.from_bytes(b"2.0\0", "big"),
        0x101: 0,  # level
        0x102: 159,  # revision 1.59
        0x105: int.from_bytes(manufacturer.encode().ljust(4, b"\0"), "big"),
        **dict(enumerate(words, 0x106)),
        0x10D: 1024,  # input buffer
        0x10F: MOST_PERSISTENT,
        0x112: PCR_COUNT,
        0x113: SELECT_SIZE,
        0x117: nv_index_max,
        0x11E: 4096,  # command size
        0x11F: 4096,  # response size
        0x120: 64,  # digest
        0x12C: buffer_size,
        0x200: 0,  # no authorization value is set, no lockout
        0x201: 0xF,  # all hierarchies are enabled
    }


def get_capability(
    reader: Reader,
    *,
    values: Mapping[int, int],
    handles: Iterable[int],
    commands: Mapping[int, int],
) -> bytes | None:
    """Return the parameters of the response; None: no such capability.

    Args:
        reader: of capability, property, propertyCount.
        values: the properties.
        handles: of the NV indexes, sessions and keys that there are.
        commands: the commands, by code, with the number of their handles.

    Raises:
        RefusedError: these are not three numbers.
    """
    capability, first, count = (reader.integer(4) for _ in range(3))
    reader.end()
    items: list[bytes]
    if capability == PROPERTIES:
        items = [struct.pack(">II", *each) for each in sorted(values.items()) if each[0] >= first]
    elif capability == ALGORITHMS:
        items = [struct.pack(">HI", each, 4) for each in (SHA256, SHA384, SHA512) if each >= first]
    elif capability == HANDLES:
        of_kind = sorted([*range(PCR_COUNT), *handles, *_PERMANENT])
        items = [struct.pack(">I", h) for h in of_kind if h >= first and h >> 24 == first >> 24]
    elif capability == COMMANDS:
        codes = sorted(commands)
        items = [struct.pack(">I", _attributes(c, commands[c])) for c in codes if c >= first]
    elif capability == PCRS:
        items = [selection(SHA384, range(PCR_COUNT))]
        count = 1
    else:
        return None
    count = min(count, _MOST_ITEMS)
    header = struct.pack(">BII", len(items) > count, capability, len(items[:count]))
    return header + b"".join(items[:count])


def _attributes(code: int, handles: int) -> int:
    """Return a command's TPMA_CC; the vendor's bit is where its code has it."""
    return code & 0x2000_FFFF | handles << 25
