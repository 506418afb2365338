"""Images built with no daemon, no registry and no trace: buildah on a storage of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CA_LIST = "/etc/ssl/certs/ca-certificates.crt"
MINUTES = 60

_STORAGE = """[storage]
driver = "{driver}"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""


def missing() -> str:
    """Why no image can be built here; empty if one can."""
    tools = [name for name in ("buildah", "mmdebstrap") if not shutil.which(name)]
    if tools:
        hint = "apt-get install --no-install-recommends buildah mmdebstrap"
        return f"no {' and no '.join(tools)}: {hint}"
    return "" if os.geteuid() == 0 else "mmdebstrap and chroot need root"


def make_base(archive: Path, *, suite: str = "trixie") -> None:
    """Make what stands in for the official base: Debian with Python, as a tar.

    With this machine's list of CAs, which may hold that of the proxy it reaches PyPI through.

    Raises:
        AssertionError: Debian's packages cannot be had.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_suffix(".part.tar")
    copy = [f"--customize-hook=copy-in {CA_LIST} /etc/ssl/certs"] if Path(CA_LIST).exists() else []
    _run(
        ["mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", *copy,
         "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
         suite, str(unfinished)],
        {},
        timeout=5 * MINUTES,
    )  # fmt: skip
    unfinished.replace(archive)


@dataclass(frozen=True)
class Storage:
    """Images and containers below one folder."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """Variables by which buildah, whoever starts it, works here."""
        return {
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            # RUN in a chroot: no runtime, no network of its own, no privilege but root's.
            "BUILDAH_ISOLATION": "chroot",
        }

    def buildah(self, *arguments: str) -> str:
        return _run(["buildah", *arguments], self.environ, timeout=5 * MINUTES).strip()

    def make_image(self, tree: Path, name: str, **variables: str) -> None:
        """Run `make image` in a checkout."""
        words = [f"{key}={value}" for key, value in variables.items()]
        command = ["make", "-C", str(tree), "image", "BUILDER=buildah", f"IMAGE={name}", *words]
        _run(command, self.environ, timeout=5 * MINUTES)

    def image(self, name: str) -> dict[str, Any]:
        """What buildah knows of an image."""
        found: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", name))
        return found

    def mount(self, image: str) -> Path:
        """A container's root file system: what is written there leaves the image as it is."""
        return Path(self.buildah("mount", self.buildah("from", image)))


@contextlib.contextmanager
def storage(folder: Path) -> Iterator[Storage]:
    """An empty storage, removed at the end with all that is mounted below it."""
    made = Storage(folder)
    # Where overlayfs cannot be mounted, on another overlayfs for example, copies do.
    for driver in ("overlay", "vfs"):
        (folder / "storage.conf").write_text(_STORAGE.format(driver=driver, folder=folder))
        with contextlib.suppress(AssertionError):
            made.buildah("images")
            break
    try:
        yield made
    finally:
        made.buildah("rm", "--all")
        made.buildah("rmi", "--all", "--force")
        graph = folder / "graph" / "overlay"
        if graph.is_mount():
            _run(["umount", str(graph)], {}, timeout=MINUTES)
        shutil.rmtree(folder)


def _run(command: list[str], environ: dict[str, str], *, timeout: float) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=timeout,
        env=os.environ | environ,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stderr[-4000:]}{done.stdout[-4000:]}"
    return done.stdout
