"""Fill the checkout's virtual environment, for the Makefile: ``python set_up.py FOLDER EXTRAS``.

Only the standard library is imported: nothing is installed yet. EXTRAS names what is installed
beside the project itself: ``run`` is what `make run` and a user's own hands need, ``dev`` what
`make test` needs. Both fill the same environment. On a terminal one line tells what is being done.

Exit status: 0 if everything is installed; 1 after two lines, the error and its hint; 130 if
interrupted.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EXTRAS = {
    # With these, each of the four programs does all that it can: a MB more than `simulator`.
    "run": "completion,parent,simulator",
    "dev": "dev",
}

COST = {
    "run": "downloads 24 MB, takes 95 MB on disk",
    "dev": "downloads up to 105 MB, takes 540 MB on disk",
}
"""What `pip download` brings, and what `make test-clean` found in .venv."""

# mypy and pyright find an editable installation only if it is a plain path.
EDITABLE = "editable_mode=compat"

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TAIL = 12


class SetUpError(Exception):
    """The environment cannot be filled. `hint` says what would help."""

    def __init__(self, message: str, hint: str, detail: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.detail = detail


def main(arguments: list[str]) -> int:
    """Make the environment if there is none, install, and return the exit status."""
    folder, extras = Path(arguments[0]), arguments[1]
    shown = Progress()
    print(f"make: setting up {folder} once: {COST[extras]}", file=sys.stderr)
    try:
        require_writable(Path.cwd(), folder)
        make_environment(folder)
        install(folder, EXTRAS[extras], shown)
    except SetUpError as e:
        shown.clear()
        for line in e.detail.splitlines():
            print(f"    {line}", file=sys.stderr)
        print(f"make: error: {e}\nmake: hint: {e.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        shown.clear()
        return 130
    shown.clear()
    return 0


def require_writable(tree: Path, folder: Path) -> None:
    """Raise SetUpError unless everything that the installation writes can be written.

    Root's files in a user's checkout, left by a ``sudo make``, are the usual reason.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as e:
        hint = "make works in the checkout: copy or clone it to where you may write"
        raise SetUpError(f"cannot write in {tree}: {e.strerror}", hint) from None
    packages = folder.glob("lib/python3*/site-packages")
    for path in (folder, folder / "bin", *packages, *tree.glob("*.egg-info")):
        if path.exists() and not os.access(path, os.W_OK):
            owner = " (root made it: was it sudo make?)" if path.stat().st_uid == 0 else ""
            hint = f"remove it, or have it belong to you{owner}"
            raise SetUpError(f"cannot write in {path}", hint)


def make_environment(folder: Path) -> None:
    """Make the virtual environment, unless there is one whose pip works.

    Raises:
        SetUpError: this Python cannot, or the disk is full.
    """
    python = folder / "bin/python"
    if python.exists() and _succeeds([str(python), "-m", "pip", "--version"]):
        return
    if not _succeeds([sys.executable, "-c", "import ensurepip, venv"]):
        raise SetUpError(
            f"{sys.executable} cannot make virtual environments: it has no ensurepip",
            f"on Debian, apt-get install {_venv_package()}",
        )
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        raise explain(done.stdout.splitlines())


def _venv_package() -> str:
    """Return the Debian package that this Python lacks."""
    default = Path("/usr/bin/python3")
    if default.exists() and default.resolve() == Path(sys.executable).resolve():
        return "python3-venv"
    return f"python{sys.version_info.major}.{sys.version_info.minor}-venv"


def install(folder: Path, extras: str, shown: Progress) -> None:
    """Install the project, editable, with extras.

    Raises:
        SetUpError: pip failed.
    """
    command = [
        str(folder / "bin/python"), "-m", "pip", "install", "--no-input", "--progress-bar=off",
        "--disable-pip-version-check", "--config-settings", EDITABLE, "-e", f".[{extras}]",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    ) as pip:  # fmt: skip
        assert pip.stdout
        with shown.ticking():
            tail = follow(pip.stdout, shown.show)
    if pip.returncode != 0:
        raise explain(tail)


def follow(lines: Iterable[str], show: Callable[[str], None]) -> list[str]:
    """Tell what pip does from what it prints; return its last lines."""
    tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
    packages = 0
    megabytes = 0.0
    for raw in lines:
        line = _ANSI.sub("", raw).strip()
        if not line:
            continue
        tail.append(line)
        size = re.search(r"\(([0-9.]+) ([kM])B\)", line)
        if line.startswith(("Downloading", "Using cached")) and ".metadata" not in line:
            packages += 1
            megabytes += float(size[1]) / (1 if size[2] == "M" else 1000) if size else 0
            name = line.split()[1 if line.startswith("Downloading") else 2].split("-")[0]
            show(f"{packages} packages, {megabytes:.0f} MB: {name.rsplit('/', 1)[-1]}")
        elif line.startswith("Collecting"):
            show(f"{packages} packages, {megabytes:.0f} MB: looking for {line.split()[1]}")
        elif line.startswith("Installing collected packages:"):
            show(f"writing {line.count(',') + 1} packages")
        elif line.startswith("WARNING: Retrying"):
            show("the package index does not respond; trying again")
    return list(tail)


_REASONS = (
    (
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "free 500 MB, or clone to another disk; pip also writes in TMPDIR",
    ),
    (
        r"Permission denied|Read-only file system|Errno 13",
        "pip may not write where it has to",
        "its lines above name the path; the checkout and TMPDIR must be writable for you",
    ),
    (
        r"SSLError|CERTIFICATE_VERIFY_FAILED",
        "the package index's certificate was not accepted",
        "behind a proxy with its own CA, set PIP_CERT to a file of that CA",
    ),
    (
        r"Connect(ion|Timeout)|ReadTimeout|ProxyError|Retr(y|ies)|from versions: none|HTTP error",
        "the package index cannot be reached, or does not have a package",
        "pip's lines above name it; a mirror is set by PIP_INDEX_URL, a proxy by HTTPS_PROXY",
    ),
)


def explain(lines: list[str]) -> SetUpError:
    """Return the error for what venv or pip printed last; its lines are shown before it."""
    detail = "\n".join(lines[-_TAIL:])
    for pattern, message, hint in _REASONS:
        if re.search(pattern, detail):
            return SetUpError(message, hint, detail)
    hint = "pip's lines above say why; after a change, make takes up where it stopped"
    return SetUpError("the packages could not be installed", hint, detail)


class Progress:
    """One line on a terminal, with the seconds so far; nothing elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._begin = time.monotonic()
        self._text = "making the environment"
        self._over = threading.Event()

    def show(self, text: str) -> None:
        """Replace the line."""
        self._text = text
        if self._terminal:
            seconds = f"{time.monotonic() - self._begin:4.0f} s  "
            width = shutil.get_terminal_size().columns - len(seconds) - 1
            print(f"\r\x1b[K{seconds}{text[:width]}", end="", file=sys.stderr, flush=True)

    def ticking(self) -> Progress:
        """Return a context in which the seconds go on while nothing else happens."""
        return self

    def __enter__(self) -> None:
        if self._terminal:
            threading.Thread(target=self._tick, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _tick(self) -> None:
        while not self._over.wait(1):
            self.show(self._text)

    def clear(self) -> None:
        """Take the line away."""
        self._over.set()
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
