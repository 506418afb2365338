"""``python -m tests.enclave.sdk.calls ENGINE COUNT``: calls of one `Agent`, and their outcomes.

Runs in a simulated enclave. It prints one JSON value a line, at once: for each call what went wrong
(an empty text: nothing), and twice, early and at the end, the resident memory of the agent and its
workers in KiB.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

from enclave import Agent
from enclave.errors import AgentError


def main() -> None:
    """Make the calls."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("count", type=int)
    parser.add_argument("--until-success", action="store_true", help="COUNT calls, or less")
    parser.add_argument("--seconds", type=float, default=30.0, help="timeout of one call")
    options = parser.parse_args()
    with Agent(
        engine=options.engine,
        connect_timeout=options.seconds / 2,
        read_timeout=options.seconds / 2,
        deadline=options.seconds,
    ) as agent:
        for number in range(options.count):
            try:
                outcome = "" if len(agent.generate_random(32)) == 32 else "another length"
            except AgentError as e:
                outcome = f"{type(e).__name__}: {e}"
            print(json.dumps(outcome), flush=True)  # noqa: T201
            if number in (options.count // 5, options.count - 1):
                print(json.dumps(_resident_kib()), flush=True)  # noqa: T201
            if options.until_success and not outcome:
                break


def _resident_kib() -> int:
    """Of this process and its children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    total = 0
    for pid in ("self", *children):
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        total += int(found[1]) if found else 0
    return total


if __name__ == "__main__":
    main()
