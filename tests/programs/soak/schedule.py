"""Which fault comes when, from a seed. No I/O.

A soak is a number of rounds: faults on two lanes, which overlap, then a calm in which everything
has to recover and is measured.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROUND = 30.0
"""Seconds of faults between two calms."""

_KILLED = 0.6
"""The part of the rounds in which processes are killed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: in the table.
        lane: faults of one lane never overlap; those of the other one may.
        shortest: seconds.
        longest: seconds.
        weight: how often it comes, beside the others of its lane.
        kills: whether it ends a process whose growth is measured.
    """

    name: str
    lane: int
    shortest: float
    longest: float
    weight: int = 2
    kills: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """A fault of a round: from `at` on, in seconds since the round began, for `seconds`."""

    at: float
    name: str
    seconds: float


@dataclass(slots=True)
class _Bag:
    """Gives kinds in random order, each `weight` times before it begins anew."""

    kinds: Sequence[Kind]
    choose: random.Random
    left: list[Kind] = field(default_factory=list)

    def draw(self) -> Kind:
        if not self.left:
            self.left = [kind for kind in self.kinds for _ in range(kind.weight)]
            self.choose.shuffle(self.left)
        return self.left.pop()


def schedule(kinds: Iterable[Kind], *, seed: int, rounds: Sequence[float]) -> list[list[Event]]:
    """Return the events of each round, in their order.

    Every kind comes before any comes too often, and no fault outlasts its round. In the last
    rounds no process is killed: only a long life shows a slow growth.

    Args:
        kinds: of faults.
        seed: the same one makes the same schedule.
        rounds: seconds of each.
    """
    choose = random.Random(seed)  # noqa: S311 (nothing secret: a run is to be repeatable)
    bags: dict[int, _Bag] = {}
    for kind in kinds:
        bag = bags.setdefault(kind.lane, _Bag([], choose))
        bag.kinds = [*bag.kinds, kind]
    made = []
    for number, length in enumerate(rounds):
        spared = number >= _KILLED * len(rounds)
        events = []
        for lane in sorted(bags):
            at = choose.uniform(0.0, min(2.0, length / 8))
            while True:
                kind = bags[lane].draw()
                if spared and kind.kills:
                    continue
                seconds = choose.uniform(kind.shortest, kind.longest)
                if length < ROUND:  # A short run has the same faults, only shorter.
                    seconds *= length / ROUND
                if at + seconds > length:
                    break
                events.append(Event(round(at, 3), kind.name, round(seconds, 3)))
                at += seconds + choose.uniform(0.2, 2.0) * min(1.0, length / ROUND)
        made.append(sorted(events))
    return made


def rounds_of(seconds: float, *, calm: float) -> list[float]:
    """Return the lengths of the rounds that fit into so many seconds, with a calm after each."""
    count = max(1, round(seconds / (ROUND + calm)))
    return [max(1.0, seconds / count - calm)] * count
