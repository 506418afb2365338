"""What came of a soak, its table and its verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.programs.soak.tally import failures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.programs.soak.clients import Gate
    from tests.programs.soak.parts import Chain
    from tests.programs.soak.tally import Growth, Tally


@dataclass
class Soak:
    """A soak that runs, and what came of it.

    Attributes:
        happened: how often each fault was.
        recoveries: seconds from the end of a round's faults until everything succeeded.
        growths: of each life of each part, by name and number.
        troubles: what must not be, beside what calls have shown.
        lines: of each part's log.
    """

    made: Chain
    tally: Tally
    gate: Gate
    happened: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    growths: dict[tuple[str, int], Growth] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)


def verdict(run: Soak) -> list[str]:
    """Return what must not be; nothing if the soak passed."""
    # The simulated KMS is not what is tested: it keeps keys and events for ever.
    tested = [growth for (name, _), growth in run.growths.items() if name != "kms"]
    return run.troubles + failures(run.tally, tested)


def report(run: Soak, *, seconds: float, seed: int) -> Iterator[str]:
    """Return the lines of the table and of the verdict."""
    tally = run.tally
    secrets = len(tally.blocks) + tally.repeated
    yield f"{'seed':<38}{seed}"
    yield f"{'seconds':<38}{seconds:.0f}"
    yield f"{'faults':<38}{run.happened.total()}"
    for name, count in sorted(run.happened.items()):
        yield f"  {name:<36}{count}"
    yield f"{'calls':<38}{tally.calls}"
    yield f"{'right':<38}{tally.right.total()}"
    for name, count in sorted(tally.right.items()):
        yield f"  {name:<36}{count}"
    yield f"{'typed errors':<38}{tally.errors.total()}"
    for name, count in sorted(tally.errors.items()):
        yield f"  {name:<36}{count}"
    yield f"{'no response of an impaired endpoint':<38}{tally.away}"
    yield f"{'wrong':<38}{len(tally.wrong)}"
    yield f"{'hung':<38}{len(tally.hung)}"
    yield f"{'errors without a fault':<38}{len(tally.calm)}"
    yield f"{'blocks of random bytes, repeated':<38}{tally.repeated} of {secrets}"
    yield f"{'slowest call, s':<38}{tally.slowest:.1f}"
    if run.recoveries:
        yield f"{'slowest recovery, s':<38}{max(run.recoveries):.1f}"
    yield f"{'growth of the longest life':<38}{'KiB':>9}{'fds':>7}{'threads':>9}{'calms':>7}"
    for name in dict.fromkeys(name for name, _ in run.growths):
        life = max(
            (growth for (of, _), growth in run.growths.items() if of == name),
            key=lambda growth: len(growth.samples),
        )
        kib, descriptors, threads = life.grown()
        yield (f"  {life.name:<36}{kib:>+9}{descriptors:>+7}{threads:>+9}{len(life.samples):>7}")
        yield "    KiB at each calm: " + " ".join(str(kib) for kib, *_ in life.samples)
    yield "lines in the logs"
    for name, count in run.lines.items():
        yield f"  {name:<36}{count}"
    found = verdict(run)
    for failure in found:
        yield f"soak: error: {failure}"
    yield "soak: FAILED" if found else "soak: passed"
