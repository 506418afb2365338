"""Mutated images against the reader: ``python -m tests.programs.fuzz_eif COUNT [SEED]``.

Whatever the bytes, an image is described or an `EifError` is raised; nothing else, and nothing
takes long. A mutation is repeated by its seed and its number.
"""

from __future__ import annotations

import collections
import io
import random
import re
import struct
import sys
import time

from cryptography.hazmat.primitives.asymmetric import ec

from parent.eif.describe import as_nitro_cli, describe
from parent.eif.errors import EifError
from parent.eif.layout import HEADER_SIZE
from tests.parent.conftest import WITHIN, make_identity
from tests.parent.eif import eifs
from tests.parent.eif.eifs import METADATA, SECTIONS, SIGNATURE

_NUMBERS = (
    0,
    1,
    2,
    11,
    12,
    31,
    32,
    33,
    547,
    548,
    1 << 16,
    1 << 20,
    1 << 31,
    1 << 63,
    (1 << 64) - 1,
)
_FIELDS = (4, 6, 26, *range(28, 28 + 8 * 7, 8), *range(284, 284 + 8 * 7, 8))


def seeds() -> list[bytes]:
    """Images to mutate: of every version, with and without what may be left out."""
    identity = make_identity(ec.SECP384R1())
    section = eifs.signature(eifs.pcrs()[0], identity.pem, identity.key)
    bare = [section for section in SECTIONS if section[0] != METADATA]
    return [
        eifs.eif(),
        eifs.eif(bare, version=2),
        eifs.eif([*SECTIONS, (SIGNATURE, section)]),
        eifs.eif([*bare, (SIGNATURE, section)], version=3, flags=1),
    ]


def mutate(data: bytes, choose: random.Random) -> bytes:
    """Return a copy with one to four changes: of bits, numbers, text, length, order."""
    changed = bytearray(data)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(changed)) if changed else 0
        match choose.randrange(8):
            case 0:
                changed[at : at + 1] = bytes([choose.randrange(256)])
            case 1 if changed:
                changed[at] ^= 1 << choose.randrange(8)
            case 2:
                field = choose.choice(_FIELDS)
                width = ">H" if field < 28 else ">Q"
                number = choose.choice(_NUMBERS) & (0xFFFF if field < 28 else (1 << 64) - 1)
                changed[field : field + struct.calcsize(width)] = struct.pack(width, number)
            case 3:
                changed[at : at + 8] = struct.pack(">Q", choose.choice(_NUMBERS))
            case 4:
                del changed[at : at + choose.randrange(40)]
            case 5:
                changed[at:at] = choose.randbytes(choose.randrange(40))
            case 6:
                # Behind the header, with nothing moved: past the structure, into the payloads.
                at = choose.randrange(HEADER_SIZE, len(data))
                changed[at : at + 1] = choose.choice((b"\x81", b"\xff", b'"', b"{", b"[", b"9"))
            case _:
                other = choose.randrange(len(changed)) if changed else 0
                changed[at : at + 16], changed[other : other + 16] = (
                    changed[other : other + 16],
                    changed[at : at + 16],
                )
    return bytes(changed)


def fuzz(count: int, seed: int) -> collections.Counter[str]:
    """Read `count` mutated images; returns how often each kind of outcome came."""
    choose = random.Random(seed)  # noqa: S311 (nothing secret: a run is to be repeatable)
    images = seeds()
    outcomes: collections.Counter[str] = collections.Counter()
    for number in range(count):
        data = mutate(images[number % len(images)], choose)
        offset = 0
        try:
            description = describe(io.BytesIO(data))
            as_nitro_cli(description)
            outcome = "described, doubtful" if description.failures(WITHIN) else "described"
        except EifError as e:
            offset = e.offset
            outcome = re.sub(r"[0-9]+", "N", e.reason)[:60]
        except Exception as e:
            raise AssertionError(f"seed {seed}, mutation {number}: {data.hex()}") from e
        assert 0 <= offset <= len(data), (seed, number)
        outcomes[outcome] += 1
    return outcomes


if __name__ == "__main__":
    total, start = int(sys.argv[1]), time.monotonic()
    counted = fuzz(total, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for text, times in counted.most_common(20):
        sys.stdout.write(f"{times:>9}  {text}\n")
    sys.stdout.write(f"{total} mutated images, {time.monotonic() - start:.0f} s, no other error\n")
