"""The last ten minutes of a daemon, in samples of its state. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INTERVAL: Final = 10.0
"""Seconds between two samples."""

SAMPLES: Final = 60

MAX_TRACKED: Final = 1024
"""Numbers of each kind in one sample: a file has at most 256 forwards."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is drawn as a curve, at one moment. The keys are names, or CIDs for `lines`.

    Attributes:
        at: monotonic time.
        up: bytes delivered to the target of a forward so far.
        down: bytes delivered to its clients so far.
        rejected: its connections rejected so far.
        lines: received from an enclave so far.
        states: of enclaves.
    """

    at: float
    up: Mapping[str, int]
    down: Mapping[str, int]
    rejected: Mapping[str, int]
    lines: Mapping[int | None, int]
    states: Mapping[str, str]


class History:
    """The last samples, oldest first."""

    def __init__(self) -> None:
        self._samples: tuple[Sample, ...] = ()

    def until(self, now: float, state: Mapping[str, Any]) -> tuple[Sample, ...]:
        """Return all that are kept, and one of this moment.

        From any thread. `add` replaces the samples as a whole.
        """
        kept = self._samples
        # Two samples of nearly the same moment would make any byte a high rate.
        while kept and now - kept[-1].at < INTERVAL / 4:
            kept = kept[:-1]
        return (*kept, _sample(now, state))

    def add(self, now: float, state: Mapping[str, Any]) -> None:
        """Keep a sample of what `state.state` returns."""
        self._samples = (*self._samples, _sample(now, state))[-SAMPLES:]


def _sample(now: float, state: Mapping[str, Any]) -> Sample:
    forwards = state.get("forwards", ())[:MAX_TRACKED]
    components = state["components"]
    counters = {forward["name"]: forward["counters"] for forward in forwards}
    sources = components.get("logs", {}).get("values", {}).get("sources", ())
    enclaves = [
        component["values"]
        for name, component in components.items()
        if name.startswith("enclave/") and "values" in component
    ]
    return Sample(
        at=now,
        up={name: each["bytes"].get("up", 0) for name, each in counters.items()},
        down={name: each["bytes"].get("down", 0) for name, each in counters.items()},
        rejected={name: sum(each["rejected"].values()) for name, each in counters.items()},
        lines={source["cid"]: source["lines"] for source in sources[:MAX_TRACKED]},
        states={str(each["name"]): str(each["state"]) for each in enclaves[:MAX_TRACKED]},
    )


def rates(samples: tuple[Sample, ...], count: Callable[[Sample], int | None]) -> list[float | None]:
    """Return how fast a count grew between each two samples, in units a second.

    Args:
        samples: oldest first.
        count: returns the count in a sample; None if the sample has no such count.

    Returns:
        One number less than there are samples. None where one of the two has no count, or the
        count was reset: the forward was removed and added.
    """
    grown: list[float | None] = []
    for before, after in pairwise(samples):
        first, last, seconds = count(before), count(after), after.at - before.at
        known = first is not None and last is not None and last >= first and seconds > 0
        grown.append((last - first) / seconds if known else None)  # type: ignore[operator]
    return grown
