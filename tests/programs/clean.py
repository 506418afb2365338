"""Run README's two commands where a stranger would: ``make test-clean SUITES='bookworm trixie'``.

For each suite of Debian: a minimal system in a folder, with the packages that README names and no
others, or with a Python beside the suite's own (``SUITES=sid:python3.15``); the committed tree; a
new unprivileged user; an empty environment. There, `make run`, then `make test`. Of this machine
come only the configuration of pip and the list of CAs, without which the package index cannot be
reached from some networks, and what its apt says of old archives.

Only the standard library is imported, so that nothing has to be installed before.

Exit status: 0 if both commands succeed in every suite, 1 if one fails, 77 if none fails but one
cannot be tried here, after a line with the reason.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SUITES = ("bookworm", "trixie")
SKIPPED = 77
USER = "stranger"
HOME = f"/home/{USER}"
TREE = f"{HOME}/nitro-enclave-agent"
DEADLINE = 3600
"""Seconds for one command. Nothing takes that long: it ends a hang."""

# All that a user has who has set nothing.
ENVIRONMENT = [
    f"HOME={HOME}",
    f"USER={USER}",
    "PATH=/usr/local/bin:/usr/bin:/bin",
    "LANG=C.UTF-8",
]

NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""What of this machine the packages are fetched with."""

AGE = ("Acquire::Check-Valid-Until", "Acquire::Check-Date")
"""What apt is told where the archive is a copy that lags behind: testing and unstable expire."""

# In a mount and a PID namespace of its own: nothing stays mounted, and nothing keeps running. The
# shell, root's, stays: process 1 inherits every orphan, must reap it, and may get signals that an
# orphan sends to "its parent". As process 1, make took SIGTERM for its own end, and hung.
ENTER = r"""
set -e
root=$1; shift
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
chroot --userspec="$(stat -c %u:%g "$root$HOME")" "$root" \
  env -i "$@" sh -c 'cd "$0" && exec make $1' "$TREE" "$COMMAND" || exit
"""


def main(suites: list[str]) -> int:
    """Try every suite; return the exit status."""
    if reason := missing():
        print(f"test-clean: SKIPPED: {reason}")
        return SKIPPED
    failed = []
    skipped = []
    for suite in suites or SUITES:
        release, _, python = suite.partition(":")
        with tempfile.TemporaryDirectory(prefix="clean-") as folder:
            root = Path(folder) / "root"
            try:
                make_room(release, root, python)
            except subprocess.CalledProcessError as e:
                print(f"test-clean: SKIPPED: {suite} cannot be made: {why(e)}", flush=True)
                skipped.append(suite)
                continue
            for command in ("run", "test"):
                done = enter(suite, root, command, python)
                if not done and command == "test":
                    print(f"test-clean: {suite}: the tests that failed, once more, alone")
                    done = enter(suite, root, "test-again", python)
                if not done:
                    failed.append(f"make {command} in {suite}")
                    break
    if failed:
        print(f"test-clean: failed: {', '.join(failed)}")
        return 1
    print(f"test-clean: {'not tried: ' + ', '.join(skipped) if skipped else 'passed'}")
    return SKIPPED if skipped else 0


def missing() -> str:
    """Why it cannot be tried here; empty if it can."""
    tools = [name for name in ("mmdebstrap", "unshare", "git") if not shutil.which(name)]
    if tools:
        return f"no {' and no '.join(tools)}: on Debian, apt-get install mmdebstrap git"
    return "" if os.geteuid() == 0 else "chroot needs root"


def why(error: subprocess.CalledProcessError) -> str:
    """Return what a program said when it failed: its first error, else its last lines.

    apt's error comes first ("Release file for ... is expired"); mmdebstrap's own, that apt
    failed, comes last.
    """
    said = str(error.stderr)
    errors = re.findall(r"^E: (.+)", said, re.MULTILINE)
    return str(errors[0]) if errors else said[-1000:].strip()


def needed_packages() -> list[str]:
    """Return the packages that README says to install."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (named,) = re.findall(r"on Debian: `apt-get install ([a-z0-9 .-]+)`", text)
    return str(named).split()


def make_room(suite: str, root: Path, python: str = "") -> None:
    """Make the system, its user and the tree; with a Python other than the suite's, if named.

    Raises:
        subprocess.CalledProcessError: the system cannot be made.
    """
    begin = time.monotonic()
    packages = [*needed_packages(), *([f"{python}-venv"] if python else [])]
    archive = archive_of(suite, packages)
    root.mkdir()
    run("tar", "--extract", f"--file={archive}", f"--directory={root}", "--exclude=./dev/*")
    for path in map(Path, NETWORK):
        if path.exists():
            copy = root / path.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    run("chroot", str(root), "useradd", "--create-home", "--shell=/bin/sh", USER)
    tree = root / TREE.lstrip("/")
    tree.mkdir()
    with subprocess.Popen(["git", "-C", str(ROOT), "archive", "HEAD"], stdout=subprocess.PIPE) as g:
        run("tar", "--extract", f"--directory={tree}", stdin=g.stdout)
    run("chroot", str(root), "chown", "--recursive", f"{USER}:{USER}", HOME)
    report(suite, f"a system with {' '.join(packages)}", begin)


def archive_of(suite: str, packages: list[str]) -> Path:
    """Return a tar of a minimal Debian, made if there is none from the last week."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    archive = Path(base, "nitro-enclave-agent", f"clean-{suite}-{'-'.join(packages)}.tar")
    with contextlib.suppress(OSError):
        if time.time() - archive.stat().st_mtime < 7 * 86400:
            return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_suffix(f".{os.getpid()}.tar")
    include = f"--include={','.join(packages)}"
    try:
        run("mmdebstrap", "--variant=minbase", include, *age(), suite, str(unfinished))
        unfinished.replace(archive)
    finally:
        unfinished.unlink(missing_ok=True)
    return archive


def age() -> list[str]:
    """Return the options of mmdebstrap for how old an archive may be: as on this machine.

    mmdebstrap reads no apt.conf. A machine that is served a copy of the archive that lags behind
    says there that apt takes it; no other is asked to.
    """
    if not shutil.which("apt-config"):
        return []
    lines = run("apt-config", "dump", "--no-empty", *AGE).splitlines()
    return [f"--aptopt={line.rstrip(';')}" for line in lines]


def enter(suite: str, root: Path, command: str, python: str = "") -> bool:
    """Run a target of make there as the user; say how long it took and what it left."""
    begin = time.monotonic()
    print(f"test-clean: {suite}: make {command}", flush=True)
    variables = {
        "HOME": HOME,
        "TREE": TREE,
        "COMMAND": f"{command} PYTHON={python}" if python else command,
    }
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh",
         str(root), *ENVIRONMENT],
        env=os.environ | variables, stdin=subprocess.DEVNULL, check=False, timeout=DEADLINE,
    )  # fmt: skip
    environment = root / TREE.lstrip("/") / ".venv"
    size = run("du", "--summarize", "--block-size=1MB", str(environment)).split()[0]
    report(suite, f"make {command}, exit status {done.returncode}, .venv of {size} MB", begin)
    return done.returncode == 0


def report(suite: str, text: str, begin: float) -> None:
    """Print what was done and its time."""
    print(f"test-clean: {suite}: {text}: {time.monotonic() - begin:.0f} s", flush=True)


def run(*command: str, **options: object) -> str:
    """Run a program that must succeed; return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, **options)  # type: ignore[call-overload]
    return str(done.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
