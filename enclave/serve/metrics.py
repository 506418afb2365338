"""The numbers of ``GET /metrics``: a registry of sources, and those of calls and the process.

A further part of `serve` adds its own source: a function that returns families.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from enclave.errors import AgentError
from vsock_proxy.service.exposition import Family, Sample, histogram, single, write
from vsock_proxy.service.scarcity import scarcity
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.agent import Agent

log = logging.getLogger(__name__)

PREFIX: Final = "enclave_agent_"

Source = Callable[[], Iterable[Family]]
"""Returns numbers as they are now. Quick; called on the loop's thread."""

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 45.0)
"""Seconds; of the buckets of calls."""

MAX_OPERATIONS: Final = 64
"""Names of operations that get numbers of their own: clients choose them."""

OTHER: Final = "other"


class Metrics:
    """All sources, in the order in which they were added."""

    def __init__(self) -> None:
        self._sources: list[Source] = []
        self._slow: list[Source] = []

    def add(self, source: Source) -> None:
        """Have a source's numbers in the text from now on."""
        self._sources.append(source)

    def add_slow(self, source: Source) -> None:
        """Have the numbers of a source that may wait for another thread; called in a thread."""
        self._slow.append(source)

    async def text(self) -> bytes:
        """Return the numbers of all sources; one that fails is left out, and logged."""
        families: list[Family] = []
        for source in self._slow:
            try:
                families += await asyncio.to_thread(_families, source)
            except RuntimeError as e:  # the system has no more threads
                log.warning("no numbers: %s", scarcity(e) or e)
        for source in self._sources:
            families += _families(source)
        return write(families)


def _families(source: Source) -> list[Family]:
    try:
        return list(source())
    except AgentError as e:
        log.warning("no numbers: %s", e)
    except Exception as e:
        # A bug of ours: numbers are not worth an error of the endpoint.
        log.error("no numbers: internal error: %s", type(e).__name__)  # noqa: TRY400
        log.debug("internal error", exc_info=e)
    return []


class CallNumbers:
    """Counts calls by operation and outcome, and the time that they took."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str]] = Counter()
        self._times: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}

    def count(self, operation: str, outcome: str, seconds: float | None = None) -> None:
        """Count one call; `seconds` is None if the pool had the bytes."""
        if operation not in self._times:
            if len(self._times) >= MAX_OPERATIONS:
                operation = OTHER
            self._times.setdefault(operation, [0] * (len(BOUNDS) + 1))
        self._calls[operation, outcome] += 1
        if seconds is not None:
            bucket = sum(seconds > bound for bound in BOUNDS)
            self._times[operation][bucket] += 1
            self._seconds[operation] = self._seconds.get(operation, 0.0) + seconds

    def families(self) -> Iterable[Family]:
        """Return the numbers; see `Source`."""
        yield Family(
            f"{PREFIX}calls_total",
            "counter",
            "Calls of clients.",
            [
                Sample(number, (("operation", operation), ("outcome", outcome)))
                for (operation, outcome), number in sorted(self._calls.items())
            ],
        )
        yield histogram(
            f"{PREFIX}call_seconds",
            "From a request to its response, retries included; without those of the pool.",
            BOUNDS,
            [
                ((("operation", operation),), counts, self._seconds.get(operation, 0.0))
                for operation, counts in sorted(self._times.items())
            ],
        )


def agent_families(agents: Mapping[str, Agent]) -> Iterable[Family]:
    """Return the numbers of the agents, by region."""
    first = next(iter(agents.values()))
    if (drift := first.clock_drift) is not None:
        text = "How far the system clock was ahead of the NSM's, at the last document."
        yield single(f"{PREFIX}clock_drift_seconds", "gauge", text, drift)
    for name, text, values in (
        (
            "document_age_seconds",
            "Of the attestation document; absent before the first call.",
            {region: agent.document_age for region, agent in agents.items()},
        ),
        (
            "credentials_expiry_seconds",
            "Until the cached credentials expire; absent without such.",
            {region: agent.credentials_left for region, agent in agents.items()},
        ),
    ):
        samples = [
            Sample(value, (("region", region),))
            for region, value in values.items()
            if value is not None
        ]
        if samples:
            yield Family(f"{PREFIX}{name}", "gauge", text, samples)


def process_families(*, start: float = time.monotonic()) -> Iterable[Family]:
    """Return the numbers of this process, and of the memory that the enclave has left."""
    yield Family(
        f"{PREFIX}info", "gauge", "The version that runs.", [Sample(1, (("version", VERSION),))]
    )
    yield single(
        f"{PREFIX}uptime_seconds", "gauge", "Since the process began.", time.monotonic() - start
    )
    with contextlib.suppress(OSError, ValueError, IndexError):
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        yield single(f"{PREFIX}memory_bytes", "gauge", "Resident memory.", resident)
    with contextlib.suppress(OSError):
        count = sum(1 for _ in Path("/proc/self/fd").iterdir())
        yield single(f"{PREFIX}open_fds", "gauge", "Open file descriptors.", count)
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        text = "Of the enclave, as the kernel estimates it."
        yield single(
            f"{PREFIX}system_memory_available_bytes", "gauge", text, int(available.split()[1]) << 10
        )
