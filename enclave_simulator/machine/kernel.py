"""Debian's kernel for images that are booted here: see ``parent/eif/debian.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave_simulator.machine import debian
from enclave_simulator.machine.architecture import X86_64

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from enclave_simulator.machine.architecture import Architecture

BUSYBOX = "busybox-static"


def set_up(
    cache: Path | None = None,
    *,
    architecture: Architecture = X86_64,
    mirror: str | None = None,
    again: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Unpack Debian's kernel with its modules, and a static busybox.

    Args:
        architecture: that of the images.
        cache: the folder to unpack into; None is `debian.cache_folder`.
        mirror: see `debian.Packages`.
        report: see `debian.Packages`.
        again: unpack even if they exist.

    Raises:
        MachineError: they cannot be downloaded.
    """
    cache = cache or debian.cache_folder()
    with debian.locked(cache):
        folder = architecture.folder(cache)
        wanted = {"kernel": architecture.kernel, "busybox": BUSYBOX}
        missing = [name for name in wanted if again or not (folder / name).exists()]
        if not missing:
            return
        packages = debian.Packages(
            folder / "apt", architecture=architecture.debian, mirror=mirror, report=report
        )
        packages.update()
        for name in missing:
            package = packages.latest(wanted[name]) if name == "kernel" else wanted[name]
            packages.unpack([package], folder / name, dependencies=False)
