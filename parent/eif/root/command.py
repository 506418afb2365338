"""The command that an enclave starts: found in the root file system, and checked. No I/O.

AWS's init tells nitro-cli that the enclave is up before it reads the command. So a command that
cannot start is not an error to nitro-cli: the enclave runs for a moment, then ends.
Source: aws-nitro-enclaves-sdk-bootstrap, ``init/init.c``.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parent.eif.programs import HEAD, needed_libraries, read_elf
from parent.eif.root.tree import directory
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from parent.eif.root.container import Container
    from parent.eif.root.notes import Notes
    from parent.eif.root.tree import Node, Tree

MOUNT_POINTS = ("dev", "proc", "run", "sys", "tmp")
"""Where init mounts file systems. What the root has there is hidden."""

INIT_PATH = "/sbin:/usr/sbin:/bin:/usr/bin"
"""Where init looks for a command without a slash, whatever PATH is in the environment."""

_MAX_INTERPRETERS = 4
"""Scripts that interpret scripts, as in Linux."""

_MAX_PROGRAM = 64 << 20
"""Bytes of a program that are read to see which libraries it needs."""

_GONE = (
    "init would start, and end when it cannot start the command: nitro-cli reports a start, and "
    "then there is no enclave"
)
_ROOT_USERS = ("", "0", "root", "0:0", "root:root", "0:root", "root:0")
_CARRIAGE_RETURN = "the script has line ends of Windows: write it anew with those of Linux"
_ENTER = 'cd "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Command:
    """What init is to start.

    Attributes:
        words: an absolute path, and arguments.
        environment: ``NAME=VALUE`` each.
    """

    words: tuple[str, ...]
    environment: tuple[str, ...]


def resolve(
    tree: Tree,
    container: Container | None,
    words: Sequence[str],
    environment: Sequence[str],
    architecture: str,
    notes: Notes,
) -> Command:
    """Return the command, with the path that it has in the root file system.

    Args:
        tree: the root; a working directory that is missing is made, as Docker does.
        container: what the container image says, if the root is one.
        words: in place of the image's CMD and ENTRYPOINT; empty: these.
        environment: ``NAME=VALUE`` each, beside and before the image's.
        architecture: of the kernel.
        notes: told of what may be a surprise.

    Raises:
        ConfigurationError: init could not start it.
    """
    merged = _environment(container, environment, notes)
    directory_, chosen = "/", tuple(words)
    if container:
        directory_ = _absolute(container.working_directory)
        chosen = chosen or (*container.entrypoint, *container.command)
        if not words and container.entrypoint and container.command:
            notes.say(
                "CMD follows ENTRYPOINT, as Docker starts it; nitro-cli leaves ENTRYPOINT out"
            )
        for volume in container.volumes:
            if not tree.find(volume):
                notes.say(f"VOLUME {volume} is not there: Docker makes it at the start, init not")
        if container.user not in _ROOT_USERS:
            notes.say(f"USER {container.user} is not used: init starts the command as root")
    if not chosen or not chosen[0]:
        raise ConfigurationError(
            "no command for the enclave to run",
            hint="name one at the end of the line: -- /usr/bin/app --verbose",
        )
    _check_mount_points(tree, notes)
    path = _find(tree, chosen[0], directory_, merged)
    if path != chosen[0]:
        notes.say(f"the command {chosen[0]} is {path} in the root file system")
    _check_program(tree, path, architecture, merged, notes, 0)
    return Command(_enter(tree, directory_, (path, *chosen[1:]), notes), merged)


def check_environment(environment: Iterable[str]) -> None:
    """Check the variables of the command line.

    Raises:
        ConfigurationError: one has no name or no value.
    """
    for variable in environment:
        name, equals, _ = variable.partition("=")
        if not equals or not name:
            raise ConfigurationError(
                f"the variable {name[:80]!r} has no {'name' if equals else 'value'}",
                hint="write --env NAME=VALUE, or --env NAME= for an empty one",
            )


def _environment(
    container: Container | None, environment: Sequence[str], notes: Notes
) -> tuple[str, ...]:
    check_environment(environment)
    merged: dict[str, str] = {}
    for variable in container.environment if container else ():
        name, equals, _ = variable.partition("=")
        if equals and name:
            merged[name] = variable
        else:
            notes.say(f"the image's variable {name[:80]!r} is left out: it has no value")
    # The first of two variables with one name counts in most programs: so there is one.
    merged.update((variable.partition("=")[0], variable) for variable in environment)
    return tuple(merged.values())


def _check_mount_points(tree: Tree, notes: Notes) -> None:
    for name in MOUNT_POINTS:
        if name not in tree.root.children:
            continue  # It is added.
        found = tree.find(name)
        if not found or not found[1].is_dir:
            raise ConfigurationError(
                f"/{name} in the root file system is not a directory",
                hint="init mounts a file system there, and ends if it cannot",
            )
        hidden = _count_files(found[1]) if name in ("run", "tmp") else 0
        if hidden:
            notes.say(f"/{name} is hidden by init's tmpfs: {hidden} files take memory for nothing")


def _count_files(node: Node) -> int:
    count, todo = 0, [node]
    while todo:
        for child in todo.pop().children.values():
            count += child.is_file
            if child.is_dir:
                todo.append(child)
    return count


def _find(tree: Tree, word: str, directory_: str, environment: Sequence[str]) -> str:
    """Return the absolute path of a command."""
    if "/" in word:
        return word if word.startswith("/") else _absolute(f"{directory_}/{word}")
    path = _variable(environment, "PATH") or INIT_PATH
    for folder in path.split(":"):
        found = tree.find(f"{folder}/{word}") if folder.startswith("/") else None
        if found and found[1].is_file and found[1].mode & 0o111:
            return _absolute(f"{folder}/{word}")
    raise ConfigurationError(
        f"the command {word!r} is in none of {path}", hint=f"name it by its path; {_GONE}"
    )


def _check_program(
    tree: Tree,
    path: str,
    architecture: str,
    environment: Sequence[str],
    notes: Notes,
    depth: int,
    of: str = "the command",
) -> None:
    """Check that Linux could start a program.

    Raises:
        ConfigurationError: it could not.
    """
    node = _executable(tree, path, of)
    head = node.read(HEAD)
    if head.startswith(b"#!"):
        if depth == _MAX_INTERPRETERS:
            raise ConfigurationError(
                f"{of} {path!r}: too many scripts, one for another", hint=_GONE
            )
        # As Linux: 256 bytes, one interpreter and one argument, between spaces and tabs.
        line = head[2:256].split(b"\n")[0].strip(b" \t").decode("utf-8", "surrogateescape")
        interpreter, argument = [*re.split(r"[ \t]+", line, maxsplit=1), ""][:2]
        _check_program(
            tree, interpreter, architecture, environment, notes, depth + 1,
            f"the interpreter of {path!r},",
        )  # fmt: skip
        if posixpath.basename(interpreter) == "env":
            _check_env(tree, path, argument, environment, notes)
        return
    elf = read_elf(head)
    if elf is None:
        if tree.find("/bin/sh") is None:
            raise ConfigurationError(f"{of} {path!r} is neither ELF nor a script", hint=_GONE)
        notes.say(f"{path} is neither ELF nor a script with #!: init gives it to /bin/sh")
        return
    if elf.architecture != architecture or not elf.is_64:
        bits = "" if elf.is_64 else " with 32 bits"
        raise ConfigurationError(
            f"{of} {path!r} is for {elf.architecture}{bits}, the kernel for {architecture}",
            hint=_GONE,
        )
    if elf.interpreter:
        _executable(tree, elf.interpreter, f"the loader of {path!r},")
        if node.size <= _MAX_PROGRAM:
            _check_libraries(tree, path, node.read(_MAX_PROGRAM), notes)


def _executable(tree: Tree, path: str, of: str) -> Node:
    found = tree.find(path)
    if found is None:
        link = tree.find(path, follow=False)
        target = f": it is a link to {link[1].target.decode(errors='replace')!r}" if link else ""
        raise ConfigurationError(
            f"{of} {path!r} is not in the root file system{target}", hint=_where(tree, path)
        )
    place, node = found
    if not node.is_file:
        raise ConfigurationError(f"{of} {path!r} is not a file", hint=_GONE)
    if not node.mode & 0o111:
        raise ConfigurationError(f"{of} {path!r} is not executable", hint=f"chmod +x; {_GONE}")
    mounted = _mounted(tree, place)
    if mounted:
        raise ConfigurationError(
            f"{of} {path!r} is hidden by what init mounts on /{mounted}", hint="put it elsewhere"
        )
    return node


def _where(tree: Tree, path: str) -> str:
    """Return what is known of a file that is not there."""
    if path.endswith("\r"):
        return _CARRIAGE_RETURN
    if len(tree.root.children) == 1:
        (name,) = tree.root.children
        if tree.find(f"{name}/{path}", follow=False):
            return f"it is in {name!r}, as everything is: that is the root file system, not this"
    return _GONE


def _mounted(tree: Tree, place: str) -> str:
    """Return the mount point of init that something is below; nothing if it is below none."""
    for name in MOUNT_POINTS:
        found = tree.find(name)
        if place.startswith(f"{found[0] if found else name}/"):
            return name
    return ""


def _check_env(
    tree: Tree, path: str, argument: str, environment: Sequence[str], notes: Notes
) -> None:
    words = [word for word in re.split(r"[ \t]+", argument) if word != "-S" and "=" not in word]
    if not words or not words[0] or words[0].startswith("-"):
        return
    # Without PATH, the C library looks in these.
    search = _variable(environment, "PATH") or "/bin:/usr/bin"
    if "/" not in words[0] and not any(tree.find(f"{at}/{words[0]}") for at in search.split(":")):
        notes.say(f"{path} is to run by {words[0]!r}, which is in none of {search}")


def _check_libraries(tree: Tree, path: str, data: bytes, notes: Notes) -> None:
    needed = set(needed_libraries(data))
    if needed:
        needed -= {name.rpartition("/")[2] for name, _ in tree.walk()}
    for name in sorted(needed):
        notes.say(f"{path} needs the library {name}, which is nowhere in the root file system")


def _enter(tree: Tree, directory_: str, words: tuple[str, ...], notes: Notes) -> tuple[str, ...]:
    """Return words that start the command in a directory, for init knows none."""
    if directory_ == "/":
        return words
    found = tree.find(directory_)
    if found is None:
        tree.add(directory_, directory())
    shell = tree.find("/bin/sh")
    if not shell or not shell[1].is_file or not shell[1].mode & 0o111:
        notes.say(f"WORKDIR {directory_} is not used: there is no /bin/sh; the command starts in /")
        return words
    if found and not found[1].is_dir:
        raise ConfigurationError(
            f"WORKDIR {directory_} of the container image is not a directory", hint=_GONE
        )
    if _mounted(tree, found[0] if found else directory_.lstrip("/")) in ("run", "tmp"):
        raise ConfigurationError(
            f"WORKDIR {directory_} of the container image is hidden by init's tmpfs",
            hint=f"choose another one; {_GONE}",
        )
    return ("/bin/sh", "-c", _ENTER, directory_, *words)


def _absolute(path: str) -> str:
    # POSIX lets two slashes at the start stand, and so does normpath.
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def _variable(environment: Sequence[str], name: str) -> str:
    return next((v[len(name) + 1 :] for v in environment if v.startswith(f"{name}=")), "")
