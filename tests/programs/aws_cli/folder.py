"""AWS CLI version 2 from Debian, in a folder of its own: nothing is installed on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "trixie"
"""The first suite of Debian that has version 2 (2.23)."""


class UnavailableError(Exception):
    """The folder cannot be made here. The message says why, and what would help."""


def python_of_aws_cli() -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a Python that can import `awscli`.

    The folder is made if it is not there, which takes some seconds and 400 MB. Its programs run
    without a chroot: its own loader loads its own libraries.
    """
    if not (_folder() / "usr/bin/aws").exists():
        _make(_folder())
    found = installed_aws_cli()
    if found is None:
        raise UnavailableError(f"there is no awscli in {_folder()}")
    return found


def installed_aws_cli() -> tuple[list[str], dict[str, str]] | None:
    """Return the same, or None if the folder was not made yet."""
    folder = _folder()
    if not (folder / "usr/bin/aws").exists():
        return None
    libraries = next(folder.glob("usr/lib/*-linux-gnu"))
    loader = next(libraries.glob("ld-linux-*.so.*"))
    python = next(each for each in folder.glob("usr/bin/python3.*") if not each.is_symlink())
    command = [str(loader), "--library-path", str(libraries), str(python), "-s"]
    return command, {"PYTHONHOME": str(folder / "usr")}


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nitro-enclave-agent" / f"aws-cli-{SUITE}"


def _make(folder: Path) -> None:
    mmdebstrap = shutil.which("mmdebstrap")
    if mmdebstrap is None:
        raise UnavailableError("no mmdebstrap: on Debian, apt-get install mmdebstrap")
    print(f"test-aws-cli: unpacking awscli of Debian {SUITE} into {folder}", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix="aws-cli-", dir=folder.parent))
    try:
        done = subprocess.run(
            [mmdebstrap, "--variant=extract", "--include=awscli", SUITE, str(new / "root")],
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        if done.returncode != 0:
            raise UnavailableError(f"mmdebstrap failed: {done.stderr[-2000:]}")
        with contextlib.suppress(OSError):  # another run made it meanwhile
            (new / "root").rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
