"""A root file system in memory: names, links and attributes. No I/O.

Contents stay where they are until they are read. Paths are resolved as inside a chroot: a
symbolic link leads nowhere outside the tree, whatever its target says.
"""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from parent.eif.cpio import CHUNK, MAX_NAME, MAX_PATH, Entry
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

MAX_ENTRIES = 4_000_000
"""Names in a tree; about 2 GB of this program's memory."""

_MAX_LINKS = 40
"""Symbolic links followed on one path, as in Linux."""

_PREFIX = len("rootfs/")
"""Bytes that every path gains in the ramdisk."""


def _empty() -> AbstractContextManager[IO[bytes]]:
    return io.BytesIO()


@dataclass(eq=False, slots=True)
class Node:
    """A file, directory, link or device. Hard links are one node with several names.

    Attributes:
        mode: type and permissions, as in ``st_mode``.
        owner: user id and group id.
        size: of the content in bytes.
        open: opens the content of a regular file.
        target: of a symbolic link.
        device: major and minor number of a device.
        children: of a directory, by name; names that are not UTF-8 as ``surrogateescape`` has them.
    """

    mode: int
    owner: tuple[int, int] = (0, 0)
    size: int = 0
    open: Callable[[], AbstractContextManager[IO[bytes]]] = field(default=_empty, repr=False)
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    children: dict[str, Node] = field(default_factory=dict, repr=False)

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    def read(self, limit: int) -> bytes:
        """Return the first bytes of the content, at most `limit`."""
        with self.open() as stream:
            return stream.read(limit)


def directory(permissions: int = 0o755) -> Node:
    """Return an empty directory that belongs to root."""
    return Node(stat.S_IFDIR | permissions)


class Tree:
    """A root file system, empty at first.

    Args:
        root: a directory of another tree, to look into; None: a new one.
    """

    def __init__(self, root: Node | None = None) -> None:
        self.root = root or directory()
        self._count = 0

    def add(self, path: str, node: Node) -> str:
        """Put a node at a path. What was there is replaced; a directory keeps what is in it.

        Missing directories on the way are made. Symbolic links on the way are followed; one in
        the last place is replaced.

        Returns:
            The path without symbolic links on the way.

        Raises:
            ConfigurationError: a path that Linux, or a ramdisk, has no room for.
        """
        parts = _parts(path)
        if not parts:
            if not node.is_dir:
                raise ConfigurationError("the root of the file system is not a directory")
            self.root.mode, self.root.owner = node.mode, node.owner
            return ""
        if node.is_link and (not node.target or len(node.target) > MAX_PATH):
            raise ConfigurationError(
                f"the target of the symbolic link {path!r} has {len(node.target)} bytes, not 1 to "
                f"{MAX_PATH}",
                hint="Linux would leave the link out without a word",
            )
        try:
            stack = self._resolve("/".join(parts[:-1]), make=True)
        except _NoSuchPathError as e:
            raise ConfigurationError(f"{path!r} cannot be in a root file system: {e}") from e
        parent = stack[-1][1]
        resolved = "/".join(filter(None, (_joined(stack), parts[-1])))
        _check_length(resolved)
        old = parent.children.get(parts[-1])
        if old is not None and old.is_dir and node.is_dir:
            old.mode, old.owner = node.mode, node.owner
            return resolved
        self._add(parent, parts[-1], node)
        return resolved

    def link(self, path: str, target: str) -> str:
        """Give the node at `target` a second name: a hard link.

        Raises:
            KeyError: there is nothing, or a directory, at `target`.
            ConfigurationError: see `add`.
        """
        found = self.find(target, follow=False)
        if found is None:
            raise KeyError(target)
        if found == self.find(path, follow=False):
            return found[0]  # A link to itself, which tar writes for a file named twice.
        if found[1].is_dir:
            raise KeyError(target)
        return self.add(path, found[1])

    def remove(self, path: str) -> None:
        """Remove what is at a path, and all that is in it, if there is something."""
        found = self._parent(path)
        if found:
            found[0].children.pop(found[1], None)

    def find(self, path: str, *, follow: bool = True) -> tuple[str, Node] | None:
        """Look a path up.

        Args:
            path: from the root of the tree.
            follow: follow a symbolic link in the last place as well.

        Returns:
            The path without symbolic links, and the node; None if there is nothing.
        """
        try:
            stack = self._resolve(path, follow=follow)
        except _NoSuchPathError:
            return None
        return _joined(stack), stack[-1][1]

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Yield every path and its node, a directory before what is in it; not the root."""
        todo = [("", self.root)]
        while todo:
            prefix, parent = todo.pop()
            for name, node in parent.children.items():
                yield prefix + name, node
                if node.is_dir:
                    todo.append((f"{prefix}{name}/", node))

    def entries(self) -> list[Entry]:
        """Return the tree as entries of a ramdisk; hard links share an inode."""
        return [
            Entry(
                path, node.mode, len(node.target) if node.is_link else node.size,
                _content(node), node.owner, node.device, node,
            )
            for path, node in self.walk()
        ]  # fmt: skip

    def size(self) -> int:
        """Return the bytes in all files; hard links count once."""
        files = {id(node): node.size for _, node in self.walk() if node.is_file}
        return sum(files.values())

    def _resolve(
        self, path: str, *, follow: bool = True, make: bool = False
    ) -> list[tuple[str, Node]]:
        """Walk a path as Linux does, and return the nodes on it with their names, the root first.

        Args:
            path: from the root of the tree; ``..`` stays inside.
            follow: follow a symbolic link in the last place as well.
            make: make directories that are missing; the last node must be one, too.

        Raises:
            _NoSuchPathError: it leads nowhere.
            ConfigurationError: see `_add`.
        """
        stack: list[tuple[str, Node]] = [("", self.root)]
        todo = path.split("/")[::-1]
        followed = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            above, parent = stack[-1]
            if not parent.is_dir:
                raise _NoSuchPathError(f"{above!r} is not a directory")
            if name == "..":
                if len(stack) > 1:
                    stack.pop()
                continue
            child = parent.children.get(name)
            if child is None:
                if not make:
                    raise _NoSuchPathError(f"there is no {name!r}")
                child = directory()
                self._add(parent, name, child)
            if child.is_link and (follow or any(part not in ("", ".") for part in todo)):
                followed += 1
                if followed > _MAX_LINKS:
                    raise _NoSuchPathError("too many symbolic links on the way")
                target = child.target.decode("utf-8", "surrogateescape")
                if target.startswith("/"):
                    del stack[1:]
                todo += target.split("/")[::-1]
                continue
            stack.append((name, child))
        above, last = stack[-1]
        if make and not last.is_dir:
            raise _NoSuchPathError(f"{above!r} is not a directory")
        return stack

    def _parent(self, path: str) -> tuple[Node, str] | None:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts:
            return None
        found = self.find("/".join(parts[:-1]))
        return (found[1], parts[-1]) if found else None

    def _add(self, parent: Node, name: str, node: Node) -> None:
        _check_name(name)
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise ConfigurationError(f"the root file system has more than {MAX_ENTRIES} names")
        parent.children[name] = node


class _NoSuchPathError(ConfigurationError):
    """A path leads nowhere: to nothing, through a file, or round in a circle."""


def _joined(stack: list[tuple[str, Node]]) -> str:
    return "/".join(name for name, _ in stack[1:])


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise ConfigurationError(f"{path!r} cannot be a path in a root file system")
    return parts


def _check_name(name: str) -> None:
    if "\0" in name:
        raise ConfigurationError(f"{name!r} cannot be a name in a root file system")
    if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME:
        raise ConfigurationError(
            f"the name {name[:40]!r}... is longer than {MAX_NAME} bytes",
            hint="Linux would leave it out without a word",
        )


def _check_length(path: str) -> None:
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH - _PREFIX:
        raise ConfigurationError(
            f"the path {path[:40]!r}... is longer than {MAX_PATH - _PREFIX} bytes",
            hint="Linux would leave it out without a word",
        )


def _content(node: Node) -> Callable[[], Iterator[bytes]]:
    if node.is_link:
        return lambda: iter([node.target])
    if node.is_file:
        return lambda: _chunks(node)
    return lambda: iter(())


def _chunks(node: Node) -> Iterator[bytes]:
    with node.open() as stream:
        while chunk := stream.read(CHUNK):
            yield chunk
