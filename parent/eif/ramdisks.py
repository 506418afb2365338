"""The ramdisks that AWS's ``init`` expects. No I/O.

Source: aws-nitro-enclaves-cli, ``enclave_build/src/yaml_generator.rs``. The first ramdisk holds
``init`` and the NSM's kernel module; the second holds the root file system under ``rootfs/`` and,
line by line, the command and the environment that ``init`` starts in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from parent.eif.cpio import Entry, directory, file, under
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ADDED = ("dev", "proc", "run", "sys", "tmp", "var")


def boot_ramdisk(init: bytes, nsm_module: bytes | None) -> list[Entry]:
    """Return the entries of the first ramdisk.

    Args:
        init: the program that the kernel starts.
        nsm_module: ``nsm.ko``; None if the driver is built into the kernel.
    """
    entries = [directory("dev"), file("init", init, 0o755)]
    if nsm_module is not None:
        entries.append(file("nsm.ko", nsm_module, 0o755))
    return entries


def application_ramdisk(
    root: Iterable[Entry], command: Sequence[str], environment: Sequence[str]
) -> list[Entry]:
    """Return the entries of the second ramdisk.

    Args:
        root: the root file system; directories that ``init`` mounts on are added.
        command: the program, by its path in there, and its arguments.
        environment: ``NAME=VALUE`` each.

    Raises:
        ConfigurationError: a word that does not fit on a line, or no command.
    """
    if not command or not command[0]:
        raise ConfigurationError("no command for the enclave to run")
    for word in command:
        if not _fits(word):
            raise ConfigurationError(
                f"the word {word!r} does not fit on one line, as init reads it",
                hint="put what it says into a script in the root file system, and start that",
            )
    for variable in environment:
        if not _fits(variable):
            # Not its value, which may be a secret.
            name = variable.partition("=")[0]
            raise ConfigurationError(
                f"the variable {name!r} does not fit on one line, as init reads it"
            )
    mount_points = [directory(name) for name in _ADDED]
    return [
        *under("rootfs", [*mount_points, *root]),
        file("cmd", _lines(command)),
        file("env", _lines(environment)),
    ]


def _fits(word: str) -> bool:
    return "\n" not in word and "\0" not in word


def _lines(words: Sequence[str]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode("utf-8", "surrogateescape")
