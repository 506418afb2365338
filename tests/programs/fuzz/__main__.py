"""``make fuzz``: each target for some seconds, and a table of what was executed and found."""

from __future__ import annotations

import argparse
import base64
import importlib.util
import logging
import random
import re
import resource
import secrets
import shutil
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.programs.fuzz import kept
from tests.programs.fuzz.target import Target, mutate
from tests.programs.fuzz.targets import TARGETS

FOLDER = Path(".fuzz")
TIMEOUT = 300
"""Seconds after which an input counts as endless, however busy the machine is. What ends is judged
by its CPU time (`under_atheris.CPU`)."""

MEMORY = 1024
"""MiB that a target may use in all; half as many at once."""


@dataclass
class Outcome:
    """What came of a target.

    Attributes:
        seconds: of CPU.
        executed: inputs.
        covered: edges that were reached; 0 without atheris.
        kept: inputs in the corpus, each for coverage of its own.
        memory: MiB at most.
        findings: the inputs that were found, each with what was raised.
    """

    name: str
    seconds: float = 0.0
    executed: int = 0
    covered: int = 0
    kept: int = 0
    memory: int = 0
    findings: list[str] = field(default_factory=list)


def with_atheris(target: Target, seconds: int, seed: int) -> Outcome:
    """Fuzz a target in a process of its own, guided by coverage."""
    seeds, corpus, found = (FOLDER / part / target.name for part in ("seeds", "corpus", "found"))
    shutil.rmtree(seeds, ignore_errors=True)
    for folder in (seeds, corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((*target.seeds(), *kept.load(target.name))):
        (seeds / str(number)).write_bytes(data)
    words = FOLDER / f"{target.name}.words"
    # libFuzzer takes no empty dictionary.
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words or (b"\0",))
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    before = set(found.iterdir())
    began = _cpu_of_children()
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.programs.fuzz.under_atheris",
            target.name, ",".join(target.packages), str(seconds),
            f"-seed={seed}", f"-max_len={target.max_length}",
            f"-timeout={TIMEOUT}", f"-rss_limit_mb={MEMORY}", f"-malloc_limit_mb={MEMORY // 2}",
            f"-artifact_prefix={found}/", f"-dict={words}", "-print_final_stats=1",
            str(corpus), str(seeds),
        ],
        check=False, capture_output=True,
    )  # fmt: skip
    output = (done.stdout + done.stderr).decode(errors="replace")
    outcome = Outcome(target.name, _cpu_of_children() - began)
    outcome.executed = _last(r"stat::number_of_executed_units: *(\d+)", output)
    outcome.covered = _last(r"\bcov: (\d+)", output)
    outcome.kept = _last(r"\bcorp: (\d+)", output)
    outcome.memory = _last(r"stat::peak_rss_mb: *(\d+)", output)
    for path in sorted(set(found.iterdir()) - before):
        outcome.findings.append(_finding(target, path))
    if done.returncode and not outcome.findings:
        outcome.findings.append("\n".join(output.splitlines()[-20:]))
    return outcome


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last(pattern: str, output: str) -> int:
    found = re.findall(pattern, output)
    return int(found[-1]) if found else 0


def _finding(target: Target, path: Path) -> str:
    data = path.read_bytes()
    shown = base64.b64encode(data).decode()
    try:
        target.run(data)
    except Exception:  # noqa: BLE001 (whatever it is, it is the finding)
        raised = traceback.format_exc(limit=-4)
    else:
        raised = "it took too long or too much memory, or needs the signatures of its run"
    return f"{path}: {len(data)} bytes, base64 {shown[:400]}\n{raised}"


def without_atheris(target: Target, seconds: int, seed: int) -> Outcome:
    """Fuzz a target in this process, by mutations that nothing guides."""
    choose = random.Random(seed)  # noqa: S311 (nothing secret: a run is to be repeatable)
    seeds = [*target.seeds(), *kept.load(target.name)]
    outcome = Outcome(target.name, kept=len(seeds))
    began = time.process_time()
    while (passed := time.process_time() - began) < seconds and not outcome.findings:
        data = mutate(choose.choice(seeds), target.words, choose)[: target.max_length]
        outcome.executed += 1
        try:
            target.run(data)
        except Exception:  # noqa: BLE001 (whatever it is, it is the finding)
            path = FOLDER / "found" / target.name / f"mutation-{seed}-{outcome.executed}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            outcome.findings.append(_finding(target, path))
    outcome.seconds = passed
    return outcome


def keep(target: Target) -> int:
    """Keep what the runs of a target found beyond its seeds, and return how many inputs that is."""
    found = (FOLDER / "corpus" / target.name).glob("*")
    inputs = kept.worth_keeping(target, [*kept.load(target.name), *(p.read_bytes() for p in found)])
    kept.save(target.name, inputs)
    return len(inputs)


def main() -> int:
    """Fuzz and return the exit status: 1 if something was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    add = parser.add_argument
    add("targets", nargs="*", metavar="TARGET", help=f"one of: {', '.join(TARGETS)} (default: all)")
    add("--seconds", type=int, default=60, help="of CPU for each target (default: %(default)s)")
    add("--seed", type=int, help="of the mutations (default: one by chance)")
    add("--input", type=Path, metavar="FILE", help="run TARGET on this input alone")
    add("--keep", action="store_true", help="run nothing: keep what .fuzz/corpus has beyond seeds")
    options = parser.parse_args()
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    chosen = [TARGETS[name] for name in options.targets or TARGETS]
    if options.input:
        for target in chosen:
            target.run(options.input.read_bytes())
        return 0
    if options.keep:
        logging.root.addHandler(logging.NullHandler())  # warnings about inputs are not ours
        for target in chosen:
            print(f"{target.name:<16}{keep(target):>4} inputs kept", flush=True)
        return 0
    seed = secrets.randbelow((1 << 31) - 1) + 1 if options.seed is None else options.seed
    fuzz = with_atheris
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: no atheris here: mutations without coverage", file=sys.stderr)
        fuzz = without_atheris
    print(f"fuzz: seed {seed}, {options.seconds} s a target", flush=True)
    print(f"{'target':<16}{'seconds':>8}{'executed':>12}{'a second':>10}{'edges':>8}{'corpus':>8}"
          f"{'MiB':>6}{'found':>7}", flush=True)  # fmt: skip
    found = False
    for target in chosen:
        outcome = fuzz(target, options.seconds, seed)
        rate = outcome.executed / max(outcome.seconds, 1e-9)
        print(f"{outcome.name:<16}{outcome.seconds:>8.0f}{outcome.executed:>12,}{rate:>10,.0f}"
              f"{outcome.covered:>8}{outcome.kept:>8}{outcome.memory:>6}"
              f"{len(outcome.findings):>7}", flush=True)  # fmt: skip
        for finding in outcome.findings:
            found = True
            print(f"fuzz: error: {target.name}: {finding}", flush=True)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
