"""The command of an enclave: found in the root, or refused with what would happen."""

from __future__ import annotations

import io
import stat
from functools import partial
from typing import TYPE_CHECKING

import pytest

from parent.eif.root import command
from parent.eif.root.container import Container
from parent.eif.root.notes import Notes
from parent.eif.root.tree import Node, Tree
from tests.parent.eif import archives
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATIC = archives.elf()
LOADER = "/lib64/ld-linux-x86-64.so.2"
DYNAMIC = archives.elf(interpreter=LOADER, needed=["libc.so.6", "libmissing.so.1"])


def root(files: Mapping[str, bytes | str | int]) -> Tree:
    """A tree: bytes are programs, text is where a link leads, numbers are directories' modes."""
    tree = Tree()
    for path, content in files.items():
        if isinstance(content, bytes):
            node = Node(stat.S_IFREG | 0o755, size=len(content), open=partial(io.BytesIO, content))
        elif isinstance(content, str):
            node = Node(stat.S_IFLNK | 0o777, target=content.encode())
        else:
            node = Node(stat.S_IFDIR | content)
        tree.add(path, node)
    return tree


def resolve(
    files: Mapping[str, bytes | str | int],
    words: Sequence[str] = (),
    container: Container | None = None,
    environment: Sequence[str] = (),
) -> tuple[command.Command, list[str]]:
    notes = Notes()
    found = command.resolve(root(files), container, words, environment, "x86_64", notes)
    return found, notes.lines()


def test_an_absolute_path_stays() -> None:
    found, notes = resolve({"usr/bin/app": STATIC, "bin": "usr/bin"}, ["/bin/app", "-v", ""])
    assert found.words == ("/bin/app", "-v", "")
    assert notes == []


@pytest.mark.parametrize(
    ("words", "environment", "path"),
    [
        (["app"], [], "/usr/bin/app"),
        (["app"], ["PATH=/opt:/usr/local/bin"], "/usr/local/bin/app"),
        (["usr/bin/app"], [], "/usr/bin/app"),
        (["./usr/bin/../bin/app"], [], "/usr/bin/app"),
    ],
)
def test_other_commands_get_their_path(words: list[str], environment: list[str], path: str) -> None:
    files: Mapping[str, bytes | str | int] = {"usr/bin/app": STATIC, "usr/local/bin/app": STATIC}
    found, notes = resolve(files, words, environment=environment)
    assert found.words == (path,)
    assert notes == [f"the command {words[0]} is {path} in the root file system"]


FILES: dict[str, bytes | str | int] = {
    "app": STATIC,
    "arm": archives.elf(machine=183),
    "i386": archives.elf(machine=3, bits=1),
    "dynamic": DYNAMIC,
    "script": b"#!/bin/bash -e\n",
    "dos": b"#!/app\r\n",
    "text": b"echo hello\n",
    "dangling": "/nowhere",
    "folder": 0o755,
    "tmp/app": STATIC,
    "link": "run/app",
    "var/volatile": 0o755,
    "var/volatile/app": STATIC,
    "run": "var/volatile",
    "again": b"#!/again\n",
}


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("/nothing", "the command '/nothing' is not in the root file system"),
        ("nothing", "'nothing' is in none of /sbin:/usr/sbin:/bin:/usr/bin"),
        ("/dangling", "is not in the root file system: it is a link to '/nowhere'"),
        ("/folder", "is not a file"),
        ("/arm", "is for aarch64, the kernel for x86_64"),
        ("/i386", "is for i386 with 32 bits"),
        ("/dynamic", f"the loader of '/dynamic', '{LOADER}' is not in"),
        ("/script", "the interpreter of '/script', '/bin/bash' is not in"),
        ("/dos", r"'/app\\r' is not in"),
        ("/var/volatile/app", "is hidden by what init mounts on /run"),
        ("/text", "is neither ELF nor a script"),
        ("/tmp/app", "is hidden by what init mounts on /tmp"),  # noqa: S108
        ("/link", "is hidden by what init mounts on /run"),
        ("/again", "too many scripts"),
        ("", "no command"),
    ],
)
def test_commands_that_could_not_start(word: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        resolve(FILES, [word])
    assert caught.value.hint


def test_a_hint_says_what_is_known() -> None:
    below: dict[str, bytes | str | int] = {"rootfs/bin/app": STATIC}
    for files, word, hint in (
        (FILES, "/dos", "line ends of Windows"),
        (below, "/bin/app", "it is in 'rootfs'"),
        (below, "/bin/other", "nitro-cli reports a start"),
        ({**below, "etc": 0o755}, "/bin/app", "nitro-cli reports a start"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            resolve(files, [word])
        assert hint in caught.value.hint


def test_a_command_that_is_not_executable() -> None:
    tree = root({"app": STATIC})
    tree.root.children["app"].mode = stat.S_IFREG | 0o644
    with pytest.raises(ConfigurationError, match="'/app' is not executable") as caught:
        command.resolve(tree, None, ["/app"], [], "x86_64", Notes())
    assert "chmod" in caught.value.hint


def test_no_command_at_all() -> None:
    for container in (None, Container()):
        with pytest.raises(ConfigurationError, match="no command for the enclave to run"):
            resolve({"app": STATIC}, container=container)


def test_libraries_that_are_nowhere_are_told() -> None:
    files = {"app": DYNAMIC, LOADER[1:]: STATIC, "usr/lib/x86_64-linux-gnu/libc.so.6": STATIC}
    assert resolve(files, ["/app"])[1] == [
        "/app needs the library libmissing.so.1, which is nowhere in the root file system"
    ]


@pytest.mark.parametrize(
    ("line", "environment", "told"),
    [
        (b"#!/usr/bin/env app", [], True),
        (b"#!/usr/bin/env app", ["PATH=/opt/bin"], False),
        (b"#!/usr/bin/env -S app -x", ["PATH=/usr/bin:/opt/bin"], False),
        (b"#!/usr/bin/env", [], False),
        (b"#! /usr/bin/env /opt/bin/app", [], False),
        (b"#!/usr/bin/env\tapp", [], True),
        (b"#!\t/usr/bin/env \t app\t", ["PATH=/opt/bin"], False),
        (b"#!/usr/bin/env app\r", ["PATH=/opt/bin"], True),
        (b"#!/usr/bin/env -S", [], False),
    ],
)
def test_env_looks_in_path(line: bytes, environment: list[str], told: bool) -> None:
    files = {"run.py": line + b"\n", "usr/bin/env": STATIC, "opt/bin/app": STATIC}
    _, notes = resolve(files, ["/run.py"], environment=environment)
    assert bool(notes) is told


def test_text_is_for_the_shell() -> None:
    (note,) = resolve({"app": b"echo\n", "bin/sh": STATIC}, ["/app"])[1]
    assert "init gives it to /bin/sh" in note


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "run", "tmp"])
def test_where_init_mounts_there_are_directories(name: str) -> None:
    for wrong in (b"file", "nowhere"):
        with pytest.raises(ConfigurationError, match=f"/{name} in the root file system is not a"):
            resolve({"app": STATIC, name: wrong}, ["/app"])
    resolve({"app": STATIC, "var/x": 0o755, name: "var/x"}, ["/app"])


def test_what_init_hides_is_told() -> None:
    assert resolve({"app": STATIC, "tmp/a/b": b"x", "run/x": b"", "run/y": 0o755}, ["/app"])[1] == [
        "/run is hidden by init's tmpfs: 1 files take memory for nothing",
        "/tmp is hidden by init's tmpfs: 1 files take memory for nothing",  # noqa: S108
    ]


# What a container image says.


def test_cmd_follows_entrypoint() -> None:
    container = Container(("/app",), ("-v",), ("PATH=/", "A=1"))
    found, notes = resolve({"app": STATIC}, container=container, environment=["A=2", "B="])
    assert found == command.Command(("/app", "-v"), ("PATH=/", "A=2", "B="))
    assert notes == ["CMD follows ENTRYPOINT, as Docker starts it; nitro-cli leaves ENTRYPOINT out"]


def test_words_take_the_place_of_both() -> None:
    container = Container(("/entry",), ("-v",))
    found, notes = resolve({"app": STATIC}, ["/app"], container)
    assert (found.words, notes) == (("/app",), [])


def test_the_working_directory_is_entered_by_the_shell() -> None:
    container = Container((), ("./app", "data"), working_directory="/srv/x/")
    found, _ = resolve({"srv/x/app": STATIC, "bin/sh": STATIC}, container=container)
    assert found.words == (
        "/bin/sh", "-c", 'cd "$0" && exec "$@"', "/srv/x", "/srv/x/app", "data",
    )  # fmt: skip


def test_a_working_directory_without_a_shell() -> None:
    found, notes = resolve(
        {"app": STATIC}, container=Container((), ("/app",), working_directory="/srv")
    )
    assert found.words == ("/app",)
    assert notes == ["WORKDIR /srv is not used: there is no /bin/sh; the command starts in /"]


def test_a_working_directory_that_is_missing_is_made() -> None:
    tree = root({"app": STATIC, "bin/sh": STATIC})
    container = Container((), ("/app",), working_directory="/srv")
    command.resolve(tree, container, (), (), "x86_64", Notes())
    assert tree.find("/srv")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/tmp/work", "hidden by init's tmpfs"),  # noqa: S108
        ("/run/user/0", "hidden by init's tmpfs"),
        ("/work", "hidden by init's tmpfs"),
        ("/app", "is not a directory"),
    ],
)
def test_a_working_directory_that_the_shell_cannot_enter(place: str, reason: str) -> None:
    files: dict[str, bytes | str | int] = {
        "app": STATIC, "bin/sh": STATIC, "work": "tmp/work", "tmp/work": 0o755,
    }  # fmt: skip
    container = Container((), ("/app",), working_directory=place)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        resolve(files, container=container)
    assert "there is no enclave" in caught.value.hint
    del files["bin/sh"]
    assert resolve(files, container=container)[0].words == ("/app",)


@pytest.mark.parametrize("place", ["/tmp", "/run/", "/dev/shm", "/sys", "/"])  # noqa: S108
def test_where_init_mounts_the_shell_can_enter(place: str) -> None:
    container = Container((), ("/app",), working_directory=place)
    assert resolve({"app": STATIC, "bin/sh": STATIC}, container=container)[0].words[-1] == "/app"


def test_another_user_is_told() -> None:
    container = Container((), ("/app",), user="nobody")
    assert resolve({"app": STATIC}, container=container)[1] == [
        "USER nobody is not used: init starts the command as root"
    ]
    assert resolve({"app": STATIC}, container=Container((), ("/app",), user="0:0"))[1] == []


def test_a_volume_that_is_not_there_is_told() -> None:
    container = Container((), ("/app",), volumes=("/data", "/var/lib/app"))
    assert resolve({"app": STATIC, "data": 0o755}, container=container)[1] == [
        "VOLUME /var/lib/app is not there: Docker makes it at the start, init not"
    ]


@pytest.mark.parametrize(
    ("variable", "reason"), [("SECRET", "'SECRET' has no value"), ("=x", "'' has no name")]
)
def test_variables_without_a_value(variable: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        resolve({"app": STATIC}, ["/app"], environment=[variable])
    found, notes = resolve({"app": STATIC}, ["/app"], Container(environment=(variable, "A=1")))
    assert found.environment == ("A=1",)
    assert len(notes) == 1
