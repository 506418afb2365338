"""``make test-vsock``: the proxy's own tests over true AF_VSOCK, in user-mode Linux.

User-mode Linux is a kernel that runs as a process, without privilege or KVM. It boots from this
machine's file system, read-only, with no network but its own loopback and vsock's, and runs
pytest from this very virtual environment. Arguments are pytest's; without any, `tests_over_vsock`.

Without arguments, the tests that failed are run once more, alone, as `make test-again` does.

Exit status: pytest's last; 1 if the guest did not get that far; 0, with a line that says so, if
there is no user-mode Linux, or if it cannot run even an empty program on this processor. UML and
UML_MODULES name another kernel and its modules.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from tests.paths import ROOT
from tests.programs.guest.init import SHARED

KERNEL = os.environ.get("UML", "linux.uml")
MODULES = Path(os.environ.get("UML_MODULES", "/usr/lib/uml/modules"))

DEADLINE = 3600.0
"""Seconds for everything, on the slowest machine; it takes 50 where little else runs. pytest's own
timeout ends a test that hangs before it."""

MEMORY = "1G"  # At most: the file behind it is sparse.

_PYTEST = ("-m", "pytest", "-q", f"--override-ini=cache_dir={SHARED / 'cache'}", "--color=no")
_AGAIN = ("--last-failed", "--last-failed-no-failures", "none", "-p", "no:randomly")

SOME_FAILED = 1
"""pytest's exit status."""


def main(arguments: list[str]) -> int:
    """Boot, run, and return the exit status."""
    kernel = shutil.which(KERNEL)
    if kernel is None or not MODULES.is_dir():
        print(f"test-vsock: SKIPPED: no user-mode Linux here ({KERNEL}, with {MODULES})")
        print("test-vsock: hint: on Debian (x86), apt-get install user-mode-linux")
        return 0
    with tempfile.TemporaryDirectory(prefix="guest") as folder:
        shared = Path(folder)
        if not _can_boot(kernel, shared):
            print(f"test-vsock: SKIPPED: {kernel} cannot run an empty program on this processor")
            print(
                "test-vsock: hint: UML before 6.13 fails where the processor has AMX; name a newer"
            )
            print("test-vsock: hint: one with UML=/path/to/linux.uml UML_MODULES=/path/to/modules")
            return 0
        if arguments:
            return _run(kernel, shared, arguments)
        status = _run(kernel, shared, tests_over_vsock())
        if status == SOME_FAILED and (shared / "cache").exists():
            print("test-vsock: the tests that failed, once more, alone", flush=True)
            status = _run(kernel, shared, [*tests_over_vsock(), *_AGAIN])
        return status


def tests_over_vsock() -> list[str]:
    """The files of tests whose sockets are of vsock in the guest; the others would only be slower
    there.
    """
    tests = ROOT / "tests"
    rigged = re.compile(r"\b(LOCAL|Place|Ends)\b")  # tests.vsock_proxy.rig
    return [
        str(tests / "contracts/test_vsock.py"),
        *(str(f) for f in sorted(tests.glob("chain/*_over_vsock.py"))),
        *(
            str(f)
            for f in sorted(tests.glob("vsock_proxy/*/test_*.py"))
            if rigged.search(f.read_text())
        ),
    ]


def _run(kernel: str, shared: Path, arguments: list[str]) -> int:
    """Run pytest in the guest; return its exit status, or 1 if the guest failed."""
    outcome = shared / "status"
    outcome.unlink(missing_ok=True)
    _write_job(shared, arguments)
    finished = _boot(kernel, shared)
    if finished and outcome.exists():
        return int(outcome.read_text())
    reason = "it ended without an outcome" if finished else f"no outcome after {DEADLINE:g} s"
    print(f"test-vsock: error: the guest failed: {reason}", file=sys.stderr)
    return SOME_FAILED


def _write_job(shared: Path, tests: list[str]) -> None:
    """What the guest's init finds: itself, and what to run."""
    job = {
        "modules": str(MODULES),
        "command": [sys.executable, *_PYTEST, *tests],
        "folder": str(ROOT),
        "seed": os.urandom(64).hex(),
        "environment": {
            "HOME": "/run",
            "HYPOTHESIS_STORAGE_DIRECTORY": "/run/hypothesis",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TEST_OVER_VSOCK": "1",
            "TMPDIR": "/run",
        },
    }
    (shared / "job.json").write_text(json.dumps(job))
    init = shared / "init"
    command = [sys.executable, str(Path(__file__).with_name("init.py")), str(shared)]
    # The kernel's command line has no quoting; a shell's has.
    init.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
    init.chmod(0o700)


def _can_boot(kernel: str, shared: Path) -> bool:
    """Run a guest whose only program prints a word; return whether it came out."""
    init = shared / "init"
    init.write_text("#!/bin/sh\necho it-ran\n")
    init.chmod(0o700)
    with tempfile.TemporaryFile(dir=shared) as output:
        _boot(kernel, shared, output=output)
        output.seek(0)
        return b"it-ran" in output.read()


def _boot(kernel: str, shared: Path, *, output: IO[bytes] | None = None) -> bool:
    """Run the guest to its end; False if the deadline came first."""
    command = [kernel, f"mem={MEMORY}", "root=/dev/root", "rootfstype=hostfs", "ro"]
    command += ["quiet", "loglevel=0", "panic=-1", "con=null", "con0=null,fd:1"]
    # It has one processor. Its processes, which wait for each other, on two of ours take twice as
    # long: 99 s for 50.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Whoever ends this ends the guest.
    guest = subprocess.Popen(
        [*command, f"init={shared / 'init'}"],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        # For the file that is its memory: /dev/shm is often too small.
        env={**os.environ, "TMPDIR": str(shared)},
        # One process here for each in the guest, all of them in one group.
        start_new_session=True,
    )
    try:
        guest.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        return False
    else:
        return True
    finally:
        if guest.returncode is None:
            os.killpg(guest.pid, signal.SIGKILL)
            guest.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
