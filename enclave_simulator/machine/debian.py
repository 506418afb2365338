"""Programs from Debian's packages, unpacked into a folder: no privilege, nothing installed.

apt resolves and downloads with a state of its own, signatures checked with Debian's keys;
`dpkg-deb` unpacks. A program from such a folder runs with the folder's own loader and libraries.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enclave_simulator.machine.errors import MachineError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_NEEDED = "apt-get", "dpkg-deb"
_WITHIN = 900.0
"""Seconds for one download, however slow the network."""

_STDERR_SHOWN = 2000

_PERCENT = re.compile(r"dlstatus:[0-9]+:([0-9]+)")
"""A line of APT::Status-Fd while something is downloaded (apt's README.progress-reporting)."""


def cache_folder() -> Path:
    """Return the folder of unpacked packages: ``$XDG_CACHE_HOME/nitro-enclave-agent``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nitro-enclave-agent"


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Lock a folder of unpacked packages; wait while another process has it.

    Raises:
        MachineError: it cannot be made, or written to.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / "lock").open("w")
    except OSError as e:
        raise MachineError(
            f"cannot write to {cache}: {e.strerror}", hint="name another one: --cache FOLDER"
        ) from e
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class Packages:
    """A Debian suite, with its backports.

    Attributes:
        folder: apt's state and downloads.
        suite: such as ``trixie``.
        architecture: Debian's name of it.
        mirror: None takes the one that this machine's apt uses.
        report: called with what is being done, many times a second.
    """

    folder: Path
    suite: str = "trixie"
    architecture: str = "amd64"
    mirror: str | None = None
    report: Callable[[str], None] = lambda _: None

    def update(self) -> None:
        """Get the lists of packages.

        Raises:
            UnavailableError: a tool or the keys are missing, or the mirror cannot be reached.
        """
        missing = [tool for tool in _NEEDED if not shutil.which(tool)]
        if missing or not KEYRING.exists():
            lacking = " and no ".join(missing or [str(KEYRING)])
            raise UnavailableError(
                f"Debian's packages are unavailable: no {lacking}",
                hint="on Debian or Ubuntu: apt-get install apt dpkg debian-archive-keyring",
            )
        for name in ("lists/partial", "archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        mirror = self.mirror or _mirror()
        (self.folder / "sources.list").write_text(
            "".join(
                f"deb [signed-by={KEYRING} arch={self.architecture}] {mirror} {suite} main\n"
                for suite in (self.suite, f"{self.suite}-backports")
            )
        )
        try:
            # Without it, apt ignores a mirror that does not respond.
            self._apt("update", "-o", "APT::Update::Error-Mode=any", doing="lists of packages")
        except MachineError as e:
            raise UnavailableError(f"no lists of packages from {mirror}", hint=e.hint) from e

    def unpack(
        self, names: list[str], into: Path, *, backports: bool = False, dependencies: bool = True
    ) -> None:
        """Download packages and unpack them. Their maintainers' scripts do not run.

        Args:
            names: what to unpack.
            into: a new folder, which appears only when it is complete.
            backports: prefer the suite's backports.
            dependencies: unpack what they depend on as well.

        Raises:
            MachineError: the package does not exist, or cannot be downloaded.
        """
        archives, unpacked = self.folder / "archives", into.with_name(f"{into.name}.new")
        shutil.rmtree(unpacked, ignore_errors=True)
        for old in archives.glob("*.deb"):
            old.unlink()
        release = f"{self.suite}-backports" if backports else self.suite
        doing = f"downloading {' '.join(names)}"
        if dependencies:
            self._apt("install", "--yes", "--download-only", "-t", release, *names, doing=doing)
        else:
            self._apt("download", "-t", release, *names, doing=doing)
        unpacked.mkdir(parents=True)
        found = sorted(archives.glob("*.deb"))
        for number, package in enumerate(found, 1):
            self.report(f"unpacking {number} of {len(found)}: {package.name.partition('_')[0]}")
            _run(["dpkg-deb", "--extract", str(package), str(unpacked)])
            package.unlink()
        shutil.rmtree(into, ignore_errors=True)
        unpacked.rename(into)

    def latest(self, name: str) -> str:
        """Follow a package without content, such as a kernel's, to the one it depends on.

        Raises:
            MachineError: the package does not exist.
        """
        for line in _lines(["apt-cache", *self._options(), "depends", "--important", name]):
            kind, _, value = line.strip().partition(": ")
            if kind == "Depends":
                return value
        raise MachineError(f"no package {name} in {self.suite}")

    def _apt(self, *arguments: str, doing: str) -> None:
        def read(line: str) -> None:
            if found := _PERCENT.match(line):
                self.report(f"{doing}: {found[1]} %")

        self.report(doing)
        status = "-o", "APT::Status-Fd=1"
        command = ["apt-get", "--quiet", *self._options(), *status, *arguments]
        _run(command, cwd=self.folder / "archives", read=read)

    def _options(self) -> list[str]:
        options = {
            "Dir::State": f"{self.folder}",
            "Dir::State::status": f"{self.folder}/status",  # nothing is installed
            "Dir::Cache": f"{self.folder}",
            "Dir::Etc::sourcelist": f"{self.folder}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Log": f"{self.folder}",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _mirror() -> str:
    """Return the mirror of Debian that this machine's own apt uses."""
    command = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(SUITE) $(REPO_URI)"]
    try:
        lines = _lines(command)
    except MachineError as e:
        raise UnavailableError(f"this machine's apt names no mirror: {e}", hint=e.hint) from e
    for line in lines:
        origin, suite, uri = [*line.split(), "", "", ""][:3]
        if origin == "Debian" and "security" not in suite:
            return uri
    raise UnavailableError(
        "this machine's apt knows no mirror of Debian", hint="name one: --mirror URL"
    )


def _lines(command: list[str]) -> list[str]:
    """Return what a program prints."""
    lines: list[str] = []
    _run(command, read=lines.append)
    return lines


def _run(
    command: list[str], cwd: Path | None = None, read: Callable[[str], None] = lambda _: None
) -> None:
    """Run a program to its end; `read` is called with each line of its standard output."""
    expired = threading.Event()
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(  # noqa: S603 (fixed programs and our own arguments)
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
        ) as child,
    ):

        def expire() -> None:
            expired.set()
            child.kill()

        timer = threading.Timer(_WITHIN, expire)
        timer.start()
        try:
            for line in child.stdout or ():
                read(line)
            code = child.wait()
        finally:
            timer.cancel()
            child.kill()  # if it was left by an interrupt
            timer.join()
        if expired.is_set():
            raise MachineError(f"{command[0]} took longer than {_WITHIN:g} s")
        if code:
            errors.seek(0)
            raise MachineError(
                f"{command[0]} ended with {code}", hint=errors.read()[-_STDERR_SHOWN:].strip()
            )
