"""Compare the engines and AWS's own `kmstool_enclave_cli` on attested GenerateRandom.

Each runs in a simulated enclave of its own, with vsock-proxy and a simulated KMS; their rounds are
interleaved. The time includes what the launcher and the services use of the machine, the CPU does
not. Calls per second count the calls that succeed, without the time of those that fail. Start to
bytes is the time from the start of a process until it has printed them.

Only ratios compare between machines: CPU is also given as a multiple of one RSA-2048 decryption by
`cryptography`, measured before each round, and calls per second as a share of those of the engine
`python` in the same round. The library does not say how it was built, and that decides: quote the
CMake build type with the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP

from enclave import Agent
from enclave.errors import AgentError
from enclave.sdk.bindings.native import load
from enclave.sdk.errors import SdkNotBuiltError, SdkWorkerError
from enclave.sdk.search import VARIABLES
from tests.programs.bench.report import machine, table

ROUNDS, CALLS, STARTS = 5, 500, 3
ENGINES = ("python", "sdk", "sdk-client")
KMSTOOL = "kmstool_enclave_cli"
CALL_TIMEOUT = 5.0  # seconds for one call
DECRYPTIONS = 200  # before each round

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Figures:
    """The figures of one engine, one of each per round.

    Attributes:
        rates: calls per second.
        cpu: milliseconds of CPU per call, workers included.
        multiples: that, in RSA-2048 decryptions.
        starts: milliseconds from a process's start to its bytes.
        calls: in all.
        failures: what went wrong, and how often.
    """

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    multiples: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    calls: int = 0
    failures: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Run the rounds and print the table."""
    commands: dict[str, tuple[str, ...]] = {"python": ("python",)}
    try:
        print(f"\nC SDK: {load().build}")
        commands |= {engine: (engine,) for engine in ENGINES[1:]}
    except SdkNotBuiltError as e:
        print(f"\nskipped: sdk, sdk-client: {e} ({e.hint}; docs/sdk.md)")
    if tool := _kmstool():
        commands[KMSTOOL] = (KMSTOOL, tool)
    else:
        print(
            f"skipped: {KMSTOOL} is neither in PATH nor in bin of {' or '.join(VARIABLES)}: "
            "it comes with aws-nitro-enclaves-sdk-c"
        )
    figures = {name: Figures() for name in commands}
    for _ in range(ROUNDS):
        for name, words in commands.items():
            _add(figures[name], _in_an_enclave(words))
    print(f"\nAttested GenerateRandom of 32 bytes, one thread; {machine()}")
    print(f"{ROUNDS} rounds of {CALLS} calls; of {STARTS} processes; median (least to most)\n")
    python = figures["python"].rates
    table(
        ("engine", "calls/s", "of python's", "CPU per call, ms", "x RSA-2048",
         "start to bytes, ms", "calls", "failed"),
        [
            (name, _spread(each.rates), _spread(_ratios(each.rates, python), 2),
             _spread(each.cpu, 2), _spread(each.multiples, 2), _spread(each.starts),
             str(each.calls), _counted(each.failures))
            for name, each in figures.items()
        ],
    )  # fmt: skip


def _kmstool() -> str | None:
    prefixes = [part for name in VARIABLES for part in os.environ.get(name, "").split(":") if part]
    return shutil.which(
        KMSTOOL, path=":".join([os.environ.get("PATH", ""), *(f"{each}/bin" for each in prefixes)])
    )


def _in_an_enclave(words: tuple[str, ...]) -> dict[str, Any]:
    simulator = (sys.executable, "-m", "enclave_simulator.cli", "run", "--")
    done = subprocess.run(
        [*simulator, sys.executable, "-m", "tests.programs.bench.engines", *words],
        stdout=subprocess.PIPE, check=True, timeout=600,
    )  # fmt: skip
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _add(figures: Figures, one_round: dict[str, Any]) -> None:
    figures.rates.append(one_round["rate"])
    figures.cpu.append(one_round["cpu"])
    figures.multiples.append(one_round["cpu"] / one_round["rsa"])
    figures.starts += one_round["starts"]
    figures.calls += one_round["calls"]
    for failure, count in one_round["failures"].items():
        figures.failures[failure] = figures.failures.get(failure, 0) + count


def _ratios(values: list[float], others: list[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=True)]


def _spread(values: list[float], digits: int = 0) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def _counted(failures: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in failures.items()) or "0"


def inside(name: str, tool: str | None) -> None:
    """Run one round in the enclave, and print its figures as JSON."""
    failures: dict[str, int] = {}
    cost = _decryption_cost()
    if tool is not None:
        figures = _round_of_kmstool(tool, failures)
    else:
        command = ("-m", "enclave.cli", "generate-random", "--number-of-bytes", "32")
        starts = [
            _process([sys.executable, *command, "--engine", name], failures) for _ in range(STARTS)
        ]
        figures = {**_round_of(name, failures), "starts": starts}
    print(json.dumps({**figures, "rsa": cost, "failures": failures}))


def _decryption_cost() -> float:
    """Return the milliseconds of CPU of one RSA-2048 decryption."""
    key = rsa.generate_private_key(65_537, 2048)
    padding = OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), None)
    ciphertext = key.public_key().encrypt(bytes(32), padding)
    key.decrypt(ciphertext, padding)
    started = time.process_time()
    for _ in range(DECRYPTIONS):
        key.decrypt(ciphertext, padding)
    return 1000 * (time.process_time() - started) / DECRYPTIONS


def _round_of(engine: str, failures: dict[str, int]) -> dict[str, Any]:
    seconds, succeeded = 0.0, 0
    with Agent(
        engine=engine, connect_timeout=CALL_TIMEOUT / 2, read_timeout=CALL_TIMEOUT / 2
    ) as agent:
        agent.generate_random(32)  # key pair, document, connection, worker: not per call
        cpu = _cpu()
        for _ in range(CALLS):
            before, started = _cpu(), time.perf_counter()
            try:
                agent.generate_random(32)
            except AgentError as e:
                _count(failures, "hung" if type(e) is SdkWorkerError else type(e).__name__)
                cpu += _cpu() - before  # its worker is gone, and the CPU that it used
                continue
            seconds += time.perf_counter() - started
            succeeded += 1
        cpu = _cpu() - cpu
    return {
        "rate": succeeded / seconds,
        "cpu": 1000 * cpu / succeeded,
        "calls": CALLS + STARTS,
    }


def _round_of_kmstool(tool: str, failures: dict[str, int]) -> dict[str, Any]:
    environ = os.environ
    command = [
        tool, "genrandom", "--length", "32",
        "--region", environ["AWS_REGION"],
        "--aws-access-key-id", environ["AWS_ACCESS_KEY_ID"],
        "--aws-secret-access-key", environ["AWS_SECRET_ACCESS_KEY"],
        "--aws-session-token", environ["AWS_SESSION_TOKEN"],
    ]  # fmt: skip
    times = 10 * STARTS  # a process a call
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    starts = [_process(command, failures) for _ in range(times)]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "rate": 1000 * times / sum(starts),
        "cpu": 1000 * cpu / times,
        "starts": starts,
        "calls": times,
    }


def _process(command: list[str], failures: dict[str, int]) -> float:
    """Return the milliseconds from the start of a process to its end, just after it has printed."""
    environ = {**os.environ, "SSL_CERT_FILE": os.environ["AWS_CA_BUNDLE"]}
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, check=False, timeout=CALL_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        _count(failures, "hung")
    else:
        if done.returncode != 0 or not done.stdout:
            _count(
                failures, "killed by a signal" if done.returncode < 0 else "exited with an error"
            )
    return 1000 * (time.perf_counter() - started)


def _count(failures: dict[str, int], what: str) -> None:
    failures[what] = failures.get(what, 0) + 1


def _cpu() -> float:
    """Return the seconds of CPU used so far by this process and its living children."""
    total = time.process_time()
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("tool", nargs="?")
    options = parser.parse_args()
    inside(options.engine, options.tool)
