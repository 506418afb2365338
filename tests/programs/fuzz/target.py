"""What a target is, and the mutations for where there is no atheris."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

MAX_LENGTH = 16_384


@dataclass(frozen=True, kw_only=True)
class Target:
    """Code that reads bytes from outside.

    Attributes:
        name: for ``make fuzz TARGET=``.
        run: reads one input. Documented errors stay inside; whatever leaves is a finding.
        seeds: makes valid inputs, and some that are nearly so. By code: where they hold signatures
            or ciphertexts, they differ from run to run. What reaches further is in `kept`.
        packages: top-level ones, whose branches guide the mutations.
        words: of the format, for the mutations.
        max_length: bytes of an input.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    packages: tuple[str, ...]
    words: tuple[bytes, ...] = ()
    max_length: int = MAX_LENGTH


class Feed:
    """Takes an input apart into numbers and bytes, from its end, so that the start stays whole."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def byte(self) -> int:
        last = self._data[-1:]
        self._data = self._data[:-1]
        return last[0] if last else 0

    def rest(self) -> bytes:
        return self._data


def pieces(data: bytes, size: int) -> list[bytes]:
    """Cut bytes into pieces of one size; 0 leaves them whole."""
    step = size or max(1, len(data))
    return [data[at : at + step] for at in range(0, len(data), step)]


def mutate(data: bytes, words: Sequence[bytes], choose: random.Random) -> bytes:
    """Return a copy with one to four changes."""
    changed = bytearray(data)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(changed) + 1)
        match choose.randrange(7):
            case 0:
                changed[at : at + 1] = bytes([choose.randrange(256)])
            case 1 if at < len(changed):
                changed[at] ^= 1 << choose.randrange(8)
            case 2:
                del changed[at : at + choose.randrange(1, 24)]
            case 3:
                changed[at:at] = choose.randbytes(choose.randrange(1, 9))
            case 4 if words:
                changed[at:at] = choose.choice(list(words))
            case 5:
                changed[at:at] = changed[choose.randrange(len(changed) + 1) :][:64]
            case _:
                size = choose.choice((1, 2, 4, 8))
                edge = choose.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, (1 << 64) - 1))
                order = choose.choice(("big", "little"))
                number = edge & ((1 << 8 * size) - 1)
                changed[at : at + size] = number.to_bytes(
                    size, "big" if order == "big" else "little"
                )
    return bytes(changed)
