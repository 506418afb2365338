"""Debian's kernel for images that are booted here: see ``parent/eif/debian.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclave_simulator.machine import debian

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PACKAGES = {"kernel": "linux-image-cloud-amd64", "busybox": "busybox-static"}
"""The packages, by their folders in the cache."""


def set_up(
    cache: Path | None = None,
    *,
    mirror: str | None = None,
    again: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Unpack Debian's kernel with its modules, and a static busybox.

    Args:
        cache: the folder to unpack into; None is `debian.cache_folder`.
        mirror: see `debian.Packages`.
        report: see `debian.Packages`.
        again: unpack even if they exist.

    Raises:
        MachineError: they cannot be downloaded.
    """
    cache = cache or debian.cache_folder()
    with debian.locked(cache):
        missing = [name for name in PACKAGES if again or not (cache / name).exists()]
        if not missing:
            return
        packages = debian.Packages(cache / "apt", mirror=mirror, report=report)
        packages.update()
        for name in missing:
            package = PACKAGES[name]
            if name == "kernel":
                package = packages.latest(package)
            packages.unpack([package], cache / name, dependencies=False)
