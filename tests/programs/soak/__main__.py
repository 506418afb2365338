"""``make soak``: minutes of calls while parts of the chain fail, by a schedule of a seed."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from enclave_simulator.parent.processes import exit_on_signals
from tests.paths import ROOT
from tests.programs.soak.clients import LONGEST, SLACK, Gate, SoakClient
from tests.programs.soak.faults import faults, of_key
from tests.programs.soak.parts import (
    DEADLINE,
    await_right,
    chain,
    descriptors_of,
    unix_connections_of,
)
from tests.programs.soak.report import Soak, report, verdict
from tests.programs.soak.schedule import ROUND, rounds_of, schedule
from tests.programs.soak.tally import Growth, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.programs.soak.faults import Fault
    from tests.programs.soak.parts import Chain, Part
    from tests.programs.soak.schedule import Event, Kind

RECOVERY = 120.0
"""Seconds within which everything succeeds after the last fault. The parent's pause after failures
of its credential source may be 60 (docs/parent.md)."""

CALM = 6.0
"""Seconds without a fault after each round: every call must be right."""


def _wait(until: float) -> None:
    time.sleep(max(0.0, until - time.monotonic()))


def _play(soak: Soak, events: list[Event], table: dict[str, tuple[Kind, Fault]]) -> None:
    """Begin and end the faults of a round at their times.

    All in the thread that runs the soak: the kernel kills a part when the thread that started it
    ends.
    """
    moments: list[tuple[float, Callable[[Chain], object], str]] = []
    for event in events:
        begin, end = table[event.name][1]
        moments += [(event.at, begin, event.name), (event.at + event.seconds, end, "")]
    began = time.monotonic()
    for at, action, name in sorted(moments, key=lambda moment: moment[0]):
        _wait(began + at)
        _check_parts(soak)
        if name:
            soak.happened[name] += 1
        action(soak.made)


def _check_parts(soak: Soak) -> None:
    for part in soak.made.parts:
        if part.ended():
            soak.troubles.append(f"{part.name} ended by itself")
            part.start()


def _calm(soak: Soak, seconds: float) -> None:
    """Wait for everything to recover, let no fault be for a while, then measure."""
    made, gate = soak.made, soak.gate
    began = time.monotonic()
    try:
        await_right(made, within=RECOVERY)
        while not of_key(made, "EnableKey"):  # The one in the round may have failed.
            if time.monotonic() - began > RECOVERY:
                raise TimeoutError("the key cannot be enabled")  # noqa: TRY301 (one report)
            time.sleep(0.1)
        soak.recoveries.append(time.monotonic() - began)
        gate.calm = True
    except TimeoutError as e:
        soak.troubles.append(f"no recovery within {RECOVERY:g} s: {e}")
    _wait(time.monotonic() + seconds)
    if not gate.close(DEADLINE + SLACK + LONGEST):
        soak.troubles.append("calls do not end")
    gate.calm = False
    _check_parts(soak)
    for part in made.parts:
        life = soak.growths.setdefault(
            (part.name, part.lives), Growth(f"{part.name}, life {part.lives}")
        )
        life.samples.append(_measured(made, part))
    gate.open()


def _measured(made: Chain, part: Part) -> tuple[int, int, int]:
    """Return KiB resident, descriptors and threads of a part.

    The parent has two descriptors for each connection that the agents keep, up to 16 of each agent:
    how many these are depends on the last faults. They are not counted as the parent's.
    """
    text = Path(f"/proc/{part.pid}/status").read_text(encoding="ascii", errors="replace")
    found = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", text, re.MULTILINE))
    descriptors = descriptors_of(part.pid)
    if part is made.parent:
        descriptors -= 2 * sum(unix_connections_of(agent.pid) for agent in made.agents.values())
    return int(found["VmRSS"]), descriptors, int(found["Threads"])


def tracebacks(text: str, part: str) -> list[str]:
    """Return the tracebacks in a log.

    Of the simulated KMS, which is not what is tested, only those in which there is code of this
    project: asyncio of Python 3.11 ends a transport of TLS twice if it is aborted while its last
    bytes are written (`_SelectorSocketTransport._write_ready` does not count up `_conn_lost`).
    """
    found = re.findall(r"^Traceback .*\n(?:(?: .*|[A-Za-z]\S*:? .*|)\n){1,60}", text, re.MULTILINE)
    return [each for each in found if part != "kms" or str(ROOT) in each]


def soak(*, seconds: float, clients: int, seed: int, calm: float = CALM) -> Soak:
    """Run a soak and return what came of it.

    Args:
        seconds: in all, but for start, recovery and end.
        clients: half of them of each endpoint.
        seed: of the schedule.
        calm: seconds without faults after each round.
    """
    with tempfile.TemporaryDirectory(prefix="soak-") as name, chain(Path(name)) as made:
        run = Soak(made, Tally(), Gate())
        ports = list(made.agents)
        threads = [
            threading.Thread(
                target=SoakClient(
                    number, made, run.gate, run.tally,
                    port=ports[number % len(ports)], seed=seed + number,
                ).run,
                daemon=True,  # One that hangs is reported, and must not keep the process.
            )
            for number in range(clients)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        lengths = rounds_of(seconds, calm=calm)
        kinds = [kind for kind, _ in faults(seed).values()]
        for number, events in enumerate(schedule(kinds, seed=seed, rounds=lengths)):
            _play(run, events, faults(seed + number))
            _calm(run, calm)
        run.gate.stop()
        for thread in threads:
            thread.join(DEADLINE + SLACK + LONGEST)
        if seconds >= ROUND and run.tally.right.total() * 2 < run.tally.calls:
            run.troubles.append("fewer than half of the calls have succeeded: little was shown")
        if any(thread.is_alive() for thread in threads):
            run.troubles.append("a client hangs")
        for part, path in made.logs.items():
            text = path.read_text(errors="replace")
            run.lines[part] = text.count("\n")
            for line in re.findall(r".*internal error.*", text)[:3]:
                run.troubles.append(f"{part} has logged: {line}")
            for traceback in tracebacks(text, part)[:3]:
                run.troubles.append(f"{part} has logged a traceback: {traceback}")
        return run


def main() -> int:
    """Run one soak and print its table; return the exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=5.0, help="default: %(default)g")
    add("--clients", type=int, default=16, help="default: %(default)s")
    add("--seed", type=int, help="of the schedule (default: one by chance)")
    options = parser.parse_args()
    exit_on_signals()  # so that no part outlives it
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    print(f"soak: seed {seed}, {options.minutes:g} min, {options.clients} clients", flush=True)
    began = time.monotonic()
    run = soak(seconds=60 * options.minutes, clients=options.clients, seed=seed)
    for line in report(run, seconds=time.monotonic() - began, seed=seed):
        print(line)
    return 1 if verdict(run) else 0


if __name__ == "__main__":
    sys.exit(main())
