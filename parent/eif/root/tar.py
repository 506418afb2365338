"""A root file system, or one layer of it, from a tar."""

from __future__ import annotations

import contextlib
import itertools
import stat
import tarfile
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from parent.eif.root.notes import is_of_a_layer
from parent.eif.root.tree import MAX_ENTRIES, Node
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from parent.eif.root.notes import Notes
    from parent.eif.root.tree import Tree

WHITEOUT = ".wh."
"""Begins the name of a file that says that another one is gone (OCI image specification, layer)."""

_OPAQUE = ".wh..wh..opq"
_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)
_LABEL = b"V"  # GNU tar's name of the archive: not a file.
_XATTRS = ("SCHILY.xattr.", "LIBARCHIVE.xattr.")
_ACLS = ("SCHILY.acl.access", "SCHILY.acl.default")
_NOTHING = ("", ".", "..")
_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, IndexError)
"""What the library raises for what is not a tar: it has no list of its own."""


class _Member(tarfile.TarInfo):
    def _block(self, count: int) -> int:
        # CVE-2025-8194: a negative size takes the reader back, and round and round.
        if count < 0:
            raise tarfile.HeaderError("negative size")
        return super()._block(count)  # type: ignore[misc, no-any-return]


def open_tar(stream: IO[bytes]) -> tarfile.TarFile:
    """Open an uncompressed tar.

    Args:
        stream: seekable; open while the tree made of it is used.

    Raises:
        tarfile.TarError: it is not a tar, or an empty file.
    """
    # Names are bytes: whatever the locale, they leave as they came.
    try:
        return tarfile.TarFile(
            fileobj=stream, encoding="utf-8", errors="surrogateescape", tarinfo=_Member
        )
    except _DAMAGE as e:
        raise tarfile.ReadError(str(e)) from e


def read(archive: tarfile.TarFile, tree: Tree, notes: Notes) -> None:
    """Add what is in a tar to a tree, owners included.

    Of members with the same name the last counts, as where a tar is unpacked. A tar whose times
    are before 1970, or with fractions, is read as any other: a ramdisk has no times.

    Args:
        archive: open while the tree is used.
        tree: where to.
        notes: told of differences.

    Raises:
        ConfigurationError: it is damaged, or has something in it that no image can hold.
    """
    for member in _members(archive):
        if _is_whiteout(member) or any(map(is_of_a_layer, _attributes(member))):
            raise ConfigurationError(
                f"{member.name!r} is a whiteout, or what overlayfs keeps in several layers: the "
                "tar is one layer of a container image",
                hint="give the whole image, as docker save or skopeo writes it",
            )
        _add(archive, member, tree, notes)


def apply_layer(archive: tarfile.TarFile, tree: Tree, notes: Notes) -> None:
    """Change a tree as one layer of a container image says.

    Source: OCI image specification, ``layer.md``. Whiteouts go first, wherever they stand: they
    remove what layers below made, and never what is in their own layer. Where this layer has a
    directory and the layers below have none, nothing is below it: what a symbolic link there led
    to stays. A character device 0:0 is a whiteout as overlayfs writes it.

    Raises:
        ConfigurationError: see `read`.
    """
    members = _members(archive)
    # What is removed may still get a name of this layer: a hard link to it.
    below = {
        member.linkname: found[1]
        for member in members
        if member.islnk() and (found := tree.find(member.linkname, follow=False))
    }
    made = {"/".join(_parts(member.name)) for member in members if member.isdir()}
    for member in filter(_is_whiteout, members):
        *folder, base = _parts(member.name)
        if _is_below(tree, folder, made):
            _white_out(tree, "/".join(folder), base)
    for member in members:
        if not _is_whiteout(member):
            _add(archive, member, tree, notes, below)


def _members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members = []
    try:
        for member in archive:
            # The library takes the last record that has a name. That of a long one is of a folder
            # with the number of GNU tar's process in it.
            sparse = member.pax_headers.get("GNU.sparse.name")
            if sparse is not None:
                member.name = sparse.rstrip("/")
            if member.type != _LABEL:
                members.append(member)
            if len(members) > MAX_ENTRIES:
                raise ConfigurationError(f"the tar has more than {MAX_ENTRIES} members")
        _check_end(archive)
    except _DAMAGE as e:
        raise ConfigurationError(f"cannot read the tar: {e}") from e
    return members


def _check_end(archive: tarfile.TarFile) -> None:
    """Check that the tar ends where the library saw its end: it takes damage for one."""
    stream = archive.fileobj
    assert stream is not None  # noqa: S101 (open_tar gave it)
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {archive.offset}")


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _is_whiteout(member: tarfile.TarInfo) -> bool:
    if member.type == tarfile.CHRTYPE and not (member.devmajor or member.devminor):
        return bool(_parts(member.name))
    return member.name.rpartition("/")[2].startswith(WHITEOUT)


def _is_below(tree: Tree, folder: list[str], made: set[str]) -> bool:
    """Return whether a directory of a layer is merged with one of the layers below."""
    for path in itertools.accumulate(folder, lambda above, name: f"{above}/{name}"):
        found = tree.find(path, follow=False)
        if path in made and (found is None or not found[1].is_dir):
            return False
    return True


def _white_out(tree: Tree, folder: str, base: str) -> None:
    if base == _OPAQUE:
        found = tree.find(folder)
        if found:
            found[1].children.clear()
        return
    if base.startswith(WHITEOUT * 2):
        return  # AUFS's own files mean nothing elsewhere.
    name = base.removeprefix(WHITEOUT)
    if name in _NOTHING:
        raise ConfigurationError(f"{f'{folder}/{base}'!r} in the layer is a whiteout of nothing")
    tree.remove(f"{folder}/{name}")


def _add(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    tree: Tree,
    notes: Notes,
    below: Mapping[str, Node] = MappingProxyType({}),
) -> None:
    if member.islnk():
        try:
            tree.link(member.name, member.linkname)
        except KeyError:
            node = below.get(member.linkname)
            if node and not node.is_dir:
                tree.add(member.name, node)
                return
            raise ConfigurationError(
                f"{member.name!r} in the tar is a hard link to {member.linkname!r}, which is not "
                "before it"
            ) from None
        return
    name = tree.add(member.name, _node(archive, member))
    for attribute in _attributes(member):
        notes.attribute(name, attribute)


def _attributes(member: tarfile.TarInfo) -> Iterator[str]:
    """Yield the names of a member's extended attributes and ACLs."""
    for header in member.pax_headers:
        for prefix in _XATTRS:
            if header.startswith(prefix):
                yield header.removeprefix(prefix)
        if header in _ACLS:
            yield header.removeprefix("SCHILY.")


def _node(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Node:
    # `stat.S_IMODE` raises for a negative mode, which the format can hold.
    owner, permissions = (member.uid, member.gid), member.mode & 0o7777
    if member.isreg():
        return Node(stat.S_IFREG | permissions, owner, member.size, lambda: _open(archive, member))
    if member.issym():
        target = member.linkname.encode("utf-8", "surrogateescape")
        return Node(stat.S_IFLNK | 0o777, owner, target=target)
    if member.type not in _TYPES:
        raise ConfigurationError(f"{member.name!r} in the tar is of an unknown kind")
    device = (member.devmajor, member.devminor) if member.type in _DEVICES else (0, 0)
    return Node(_TYPES[member.type] | permissions, owner, device=device)


@contextlib.contextmanager
def _open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[IO[bytes]]:
    stream = archive.extractfile(member)
    assert stream  # noqa: S101 (None only for what is not a file)
    try:
        with stream:
            yield stream
    except _DAMAGE as e:
        raise ConfigurationError(f"cannot read {member.name!r} in the tar: {e}") from e
