"""``make attack``: every attack on clients that are vulnerable to it, and on this project's agent.

The agent must refuse all of them; each vulnerable client must be caught by its own. The public
client is shown and judged by nobody: what it accepts is what the agent adds.

    python -m tests.programs.attack [--jobs N] [--part PART] [NAME...]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enclave_simulator.attack.model import DEADLINE, Place
from enclave_simulator.attack.report import heading, row, summary
from enclave_simulator.attack.running import Result, Runner, Target
from enclave_simulator.attack.table import ATTACKS
from enclave_simulator.parent.processes import exit_on_signals
from tests.paths import ROOT
from tests.programs.attacked.caught import CAUGHT_BY, WAITING

PROGRAMS = ROOT / "tests/programs/attacked"
PARTS = ("agent", "public", "vulnerable")
HANGS_AFTER = 60.0
"""Seconds for a client that waits for ever."""


def subjects(folder: Path) -> dict[str, list[str]]:
    """Return the programs that must refuse every attack."""
    python = sys.executable
    found = {
        "agent, Python API": [python, str(PROGRAMS / "agent.py")],
        "agent, command line": [str(PROGRAMS / "cli.sh")],
        "boto3 attached to the agent": [python, "-m", "tests.programs.attacked.boto", "attached"],
        "agent's endpoint, boto3": [
            "enclave-agent", "serve", "--deadline", "10", "--",
            python, str(PROGRAMS / "endpoint.py"),
        ],
    }  # fmt: skip
    compiler = shutil.which("cc")
    if compiler is not None:
        program = folder / "endpoint"
        subprocess.run([compiler, "-o", program, PROGRAMS / "endpoint.c"], check=True)
        found["agent's endpoint, C"] = [
            "enclave-agent", "serve", "--deadline", "10", "--", str(program)
        ]  # fmt: skip
    return found


def talkative() -> list[str]:
    """Return a program that logs more than the kernel's buffers take, with the agent's `log`."""
    return [
        "enclave-agent", "log", "--",
        "sh", "-c", f"seq 100000 >&2; exec {sys.executable} {PROGRAMS / 'agent.py'}",
    ]  # fmt: skip


def attack(title: str, runner: Runner, names: list[str], jobs: int) -> list[Result]:
    print(f"\n{title}\n{heading()}", end="", flush=True)
    results = []
    for result in runner.attack_all([ATTACKS[name] for name in names], jobs=jobs):
        results.append(result)
        print(row(result, width=120), end="", flush=True)
    print(summary(results), end="", flush=True)
    return results


def vulnerable(names: list[str], jobs: int, folder: Path, env: dict[str, str]) -> bool:
    """Attack each vulnerable client with what must catch it; return whether each was caught."""
    key = rsa.generate_private_key(65537, 2048)
    path = folder / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    caught = True
    for weakness in dict.fromkeys(CAUGHT_BY[name] for name in names):
        runner = Runner(
            Target(
                argv=[sys.executable, "-m", "tests.programs.attacked.vulnerable", weakness],
                env=env | {"ATTACKED_KEY": str(path)},
                deadline=HANGS_AFTER if weakness in WAITING else DEADLINE,
            )
        )
        own = [name for name in names if CAUGHT_BY[name] == weakness]
        results = attack(f"vulnerable client: {weakness}", runner, own, jobs)
        caught &= all(result.finding.verdict.is_failure for result in results)
    return caught


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    names = options.names or list(ATTACKS)
    parts = options.part or PARTS
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    wrong = []
    exit_on_signals()  # so that no program and no folder outlives it
    with tempfile.TemporaryDirectory() as folder:
        chosen: dict[str, tuple[list[str], list[str]]] = {}
        if "agent" in parts:
            chosen = {title: (argv, names) for title, argv in subjects(Path(folder)).items()}
            on_logs = [name for name in names if ATTACKS[name].place is Place.LOG]
            # The other attacks would find nothing that they do not find in the Python API.
            chosen["agent, its log sent to the parent"] = talkative(), on_logs
        for title, (argv, attacks) in chosen.items():
            runner = Runner(Target(argv=argv, env=env))
            results = attack(title, runner, attacks, options.jobs)
            wrong += [
                f"{title}: {result.attack.name}: {result.finding.verdict.value}"
                for result in results
                if result.finding.verdict.is_failure
            ]
        if "public" in parts:
            public = [sys.executable, "-m", "tests.programs.attacked.boto", "public"]
            runner = Runner(Target(argv=public, env=env))
            attack("boto3 on its own (not judged)", runner, names, options.jobs)
        if "vulnerable" in parts and not vulnerable(names, options.jobs, Path(folder), env):
            wrong.append("a vulnerable client was not caught")
    print("\n" + ("\n".join(wrong) or "all as it must be"))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
