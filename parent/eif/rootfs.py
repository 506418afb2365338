"""A root file system, from a folder or a tar, as the ramdisks that AWS's ``init`` expects.

Source: aws-nitro-enclaves-cli, ``enclave_build/src/yaml_generator.rs``. The first ramdisk holds
``init`` and the NSM's kernel module; the second holds the root file system under ``rootfs/`` and,
line by line, the command and the environment that ``init`` starts in it.
"""

from __future__ import annotations

import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from parent.eif.cpio import Entry, directory, file, under
from parent.eif.image import CHUNK
from parent.files import opened
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp", "var")


def boot_ramdisk(init: bytes, nsm_module: bytes | None) -> list[Entry]:
    """Return the entries of the first ramdisk.

    Args:
        init: the program that the kernel starts.
        nsm_module: ``nsm.ko``; None where the kernel has the driver built in.
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
    if not command or not all(command):
        raise ConfigurationError("no command for the enclave to run, or an empty word in it")
    mount_points = [directory(name) for name in _MOUNT_POINTS]
    return [
        *under("rootfs", [*mount_points, *root]),
        file("cmd", _lines(command)),
        file("env", _lines(environment)),
    ]


def _lines(words: Sequence[str]) -> bytes:
    for word in words:
        if "\n" in word or "\0" in word:
            raise ConfigurationError(f"{word!r} does not fit on one line")
    return "".join(f"{word}\n" for word in words).encode("utf-8", "surrogateescape")


def from_folder(folder: Path) -> list[Entry]:
    """Return what is in a folder.

    Everything is owned by root: who owns it here is an accident of who unpacked it. Give a tar
    where owners matter. Hard links become copies; extended attributes are left behind.

    Raises:
        ConfigurationError: something that cannot be read, or a socket.
    """
    try:
        return list(_walk(folder, ""))
    except OSError as e:
        raise ConfigurationError(f"cannot read {e.filename}: {e.strerror}") from e


def _walk(folder: Path, prefix: str) -> Iterator[Entry]:
    with os.scandir(folder) as scanned:
        items = list(scanned)
    for item in items:
        path = prefix + item.name
        yield _from_file(path, Path(item.path))
        if item.is_dir(follow_symlinks=False):
            yield from _walk(Path(item.path), f"{path}/")


def _from_file(path: str, source: Path) -> Entry:
    status = source.lstat()
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return Entry(path, mode, status.st_size, lambda: read_chunks(source))
    if stat.S_ISLNK(mode):
        target = os.fsencode(source.readlink())
        # Linux gives links these permissions; other systems give others.
        return Entry(path, stat.S_IFLNK | 0o777, len(target), lambda: [target])
    if stat.S_ISSOCK(mode):
        raise ConfigurationError(f"{source} is a socket, which no image can hold")
    device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if _is_device(mode) else (0, 0)
    return Entry(path, mode, device=device)


def _is_device(mode: int) -> bool:
    return stat.S_ISBLK(mode) or stat.S_ISCHR(mode)


_TAR_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)


def from_tar(archive: tarfile.TarFile) -> list[Entry]:
    """Return what is in a tar, owners included. Hard links become copies.

    Args:
        archive: open while the entries are used.

    Raises:
        ConfigurationError: it is damaged, or has something in it that no image can hold.
    """
    entries: dict[str, Entry] = {}
    try:
        for member in archive:
            path = _normal(member.name)
            if path and member.islnk():
                entries[path] = replace(entries[_normal(member.linkname)], path=path)
            elif path:
                entries[path] = _from_member(archive, member, path)
    except KeyError:
        raise ConfigurationError("the tar has a hard link to nothing in it") from None
    except (tarfile.TarError, OSError) as e:
        raise ConfigurationError(f"cannot read the tar: {e}") from e
    return list(entries.values())


def _normal(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _from_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Entry:
    owner = (member.uid, member.gid)
    permissions = stat.S_IMODE(member.mode)
    if member.isreg():
        return Entry(
            path,
            stat.S_IFREG | permissions,
            member.size,
            lambda: _member_chunks(archive, member),
            owner,
        )
    if member.issym():
        target = member.linkname.encode("utf-8", "surrogateescape")
        return Entry(path, stat.S_IFLNK | 0o777, len(target), lambda: [target], owner)
    if member.type not in _TAR_TYPES:
        raise ConfigurationError(f"{member.name!r} in the tar is of an unknown kind")
    device = (member.devmajor, member.devminor) if member.type in _DEVICES else (0, 0)
    return Entry(path, _TAR_TYPES[member.type] | permissions, owner=owner, device=device)


def _member_chunks(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream = archive.extractfile(member)
    assert stream  # noqa: S101 (None only for what is not a file)
    yield from _chunks(stream)


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield what is in a file, in pieces.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        with opened(path) as stream:
            yield from _chunks(stream)
    except OSError as e:
        raise ConfigurationError(f"cannot read {path}: {e.strerror}") from e


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk
