"""Container images as roots: OCI layouts and docker archives, folders and tars."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from parent.eif.root import container, layers, source
from parent.eif.root.container import Container
from parent.eif.root.notes import Notes
from tests.parent.eif import archives
from tests.parent.eif.archives import Item, folder, hard_link, member, symlink
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from parent.eif.root.tree import Tree


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def read(
    path: Path, stack: contextlib.ExitStack, architecture: str = "x86_64"
) -> tuple[Tree, Container | None]:
    return source.read(path, architecture, Notes(), stack, spool=path.parent)


def contents(tree: Tree) -> dict[str, bytes]:
    return {path: node.read(99) for path, node in tree.walk() if node.is_file}


RUN: dict[str, Any] = {
    "Entrypoint": ["/app"], "Cmd": ["-v"], "Env": ["PATH=/bin", "A=1"], "WorkingDir": "/srv",
    "User": "app", "Volumes": {"/data": {}},
}  # fmt: skip
LOWER = archives.tar(
    folder("etc"), member("etc/a", b"lower a"), member("etc/b", b"lower b"),
    member("opt/x/y", b"lower y"), member("opt/x/z", b"lower z"), symlink("lib", "usr/lib"),
    folder("usr/lib"), member("lib/so", b"lower so"), hard_link("etc/hard", "etc/a"),
)  # fmt: skip
UPPER = archives.tar(
    member("etc/.wh.b"), member("opt/x/new", b"new"), member("opt/x/.wh..wh..opq"),
    member("etc/a", b"upper a"), member("lib/.wh.so"), member("usr/lib/so2", b"so2"),
    member(".wh..wh.plnk"), member("etc/.wh.c"), member("etc/c", b"of this layer"),
)  # fmt: skip
MERGED = {
    "etc/a": b"upper a", "etc/hard": b"lower a", "etc/c": b"of this layer", "opt/x/new": b"new",
    "usr/lib/so2": b"so2",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["oci", "oci plain", "docker"])
@pytest.mark.parametrize("name", ["image.tar", "folder"])
def test_layers_are_merged(
    kind: str, name: str, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    if kind == "docker":
        files = archives.docker_files(LOWER, UPPER, **RUN)
    else:
        files = archives.oci_files(LOWER, UPPER, compress=kind == "oci", **RUN)
    tree, told = read(archives.write(files, tmp_path / name), stack)
    assert contents(tree) == MERGED
    assert told == Container(
        ("/app",), ("-v",), ("PATH=/bin", "A=1"), "/srv", "app", ("/data",), "x86_64"
    )
    stack.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]  # Nothing is left behind.


def test_a_hard_link_to_what_the_same_layer_removes(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    upper = archives.tar(hard_link("kept", "etc/b"), member(".wh.etc"), hard_link("too", "etc/a"))
    tree, _ = read(archives.write(archives.oci_files(LOWER, upper), tmp_path / "i.tar"), stack)
    found = contents(tree)
    assert (found["kept"], found["too"]) == (b"lower b", b"lower a")
    assert "etc/a" not in found


# What a layer has where the layers below have something else: a directory that overlayfs marks as
# opaque because it is new, with what a link there led to untouched.
@pytest.mark.parametrize(
    ("items", "kept"),
    [
        ([folder("lib"), member("lib/.wh..wh..opq"), member("lib/x")], True),
        ([member("./lib/.wh..wh..opq"), folder("./lib/"), member("./lib/x")], True),
        ([folder("lib"), member("lib/.wh.so")], True),
        ([member("lib/.wh.so")], False),
        ([folder("usr/lib"), member("usr/lib/.wh..wh..opq")], False),
        ([member("usr/lib/so", type=tarfile.CHRTYPE)], False),
        ([member("lib", type=tarfile.CHRTYPE)], True),
        ([member("nowhere", type=tarfile.CHRTYPE), member("none/.wh..wh..opq")], True),
    ],
)
def test_what_is_removed_is_of_the_layers_below(
    items: list[Item], kept: bool, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    files = archives.docker_files(LOWER, archives.tar(*items))
    tree, _ = read(archives.write(files, tmp_path / "i.tar"), stack)
    assert ("usr/lib/so" in contents(tree)) is kept
    assert not any(node.device == (0, 0) and stat.S_ISCHR(node.mode) for _, node in tree.walk())


@pytest.mark.parametrize("base", [".wh.", ".wh..", ".wh..."])
def test_a_whiteout_names_something(base: str, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    files = archives.docker_files(LOWER, archives.tar(member(f"usr/lib/{base}")))
    with pytest.raises(ConfigurationError, match="whiteout of nothing"):
        read(archives.write(files, tmp_path / "i.tar"), stack)


def test_newer_docker_writes_both(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    files = archives.oci_files(LOWER) | {"manifest.json": b"[]"}
    assert read(archives.write(files, tmp_path / "both.tar"), stack)[1]


def test_older_docker_links_layers(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    files = archives.docker_files(LOWER, LOWER)
    names = list(files)
    items: list[Item] = [member(name, content) for name, content in files.items()]
    manifest = json.loads(files["manifest.json"])
    manifest[0]["Layers"] = [names[0], "again/layer.tar"]
    items[-1] = member("manifest.json", json.dumps(manifest).encode())
    items.append(symlink("again/layer.tar", f"../{names[0]}"))
    (tmp_path / "image.tar").write_bytes(archives.tar(*items))
    assert read(tmp_path / "image.tar", stack)[1]


@pytest.mark.parametrize("packed", [gzip.compress, lzma.compress])
def test_compressed_tars(packed: Any, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    (tmp_path / "root.tar.x").write_bytes(packed(LOWER))
    tree, told = read(tmp_path / "root.tar.x", stack)
    assert contents(tree)["etc/b"] == b"lower b"
    assert told is None
    (tmp_path / "image.tar.x").write_bytes(
        packed(archives.write(archives.oci_files(LOWER), tmp_path / "i.tar").read_bytes())
    )
    assert read(tmp_path / "image.tar.x", stack)[1]


def test_one_of_several_architectures(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    arm = archives.oci_files(UPPER, configuration=archives.config([UPPER], "arm64"))
    amd = archives.oci_files(LOWER)
    manifests = []
    for files, platform in ((amd, "amd64"), (arm, "arm64"), (amd, "unknown")):
        (entry,) = json.loads(files["index.json"])["manifests"]
        manifests.append({**entry, "platform": {"os": "linux", "architecture": platform}})
    inner = json.dumps({"manifests": manifests}).encode()
    outer = archives.descriptor(inner, annotations={"org.opencontainers.image.ref.name": "v1"})
    outer["mediaType"] = "application/vnd.oci.image.index.v1+json"
    files = amd | arm | {
        f"blobs/sha256/{archives.digest(inner)[7:]}": inner,
        "index.json": json.dumps({"manifests": [outer]}).encode(),
    }  # fmt: skip
    path = archives.write(files, tmp_path / "image")
    for architecture in ("x86_64", "aarch64"):
        told = read(path, stack, architecture)[1]
        assert told
        assert told.architecture == architecture


def changed(files: dict[str, bytes], name: str, change: Any) -> dict[str, bytes]:
    """Files with a JSON document in one of them changed."""
    document = json.loads(files[name])
    change(document)
    return files | {name: json.dumps(document).encode()}


def blob(files: dict[str, bytes], number: int) -> str:
    return [name for name in files if name.startswith("blobs/")][number]


GOOD = archives.oci_files(LOWER, UPPER, **RUN)
DOCKER = archives.docker_files(LOWER, UPPER)
AGAIN = {"x": json.dumps(archives.config([LOWER, UPPER])).encode()}


def endless() -> dict[str, bytes]:
    """An index that would be its own if digests allowed it: a chain longer than anybody's."""
    inner, files = json.dumps({"manifests": []}).encode(), dict(GOOD)
    for _ in range(9):
        files[f"blobs/sha256/{archives.digest(inner)[7:]}"] = inner
        entry = archives.descriptor(inner)
        entry["mediaType"] = "application/vnd.oci.image.index.v1+json"
        inner = json.dumps({"manifests": [entry]}).encode()
    return files | {"index.json": inner}


def test_indexes_that_name_one_another_often_are_read_once(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    """Followed each time, 400 names on four levels would be 25,600,000,000 manifests."""
    files = dict(GOOD)
    inner = files["index.json"]
    for _ in range(4):
        files[f"blobs/sha256/{archives.digest(inner)[7:]}"] = inner
        entry = archives.descriptor(inner)
        entry["mediaType"] = "application/vnd.oci.image.index.v1+json"
        inner = json.dumps({"manifests": [entry] * 400}).encode()
    files["index.json"] = inner
    tree, _ = read(archives.write(files, tmp_path / "image.tar"), stack)
    assert contents(tree) == MERGED


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "no manifests": (changed(GOOD, "index.json", lambda d: d.update(manifests=[])),
                     "is not there for x86_64"),
    "not JSON": (GOOD | {"index.json": b"{"}, "index.json of the container image: not JSON"),
    "not an object": (GOOD | {"index.json": b"[]"}, "an object in index.json"),
    "no list": (GOOD | {"index.json": b"{}"}, "a list 'manifests'"),
    "huge index": (GOOD | {"index.json": b" " * (container.MAX_JSON + 1)}, "than 4194304"),
    "another digest": (changed(GOOD, "index.json",
                               lambda d: d["manifests"][0].update(digest="sha512:00")),
                       "unknown digest 'sha512:00'"),
    "out of the blobs": (changed(GOOD, "index.json",
                                 lambda d: d["manifests"][0].update(digest="sha256:../../../x")),
                         "unknown digest"),
    "a blob is missing": ({k: v for k, v in GOOD.items() if k != blob(GOOD, 3)}, "a file 'blobs/"),
    "manifest damaged": (GOOD | {blob(GOOD, 3): GOOD[blob(GOOD, 3)] + b" "}, "was damaged"),
    "layer damaged": (GOOD | {blob(GOOD, 0): gzip.compress(UPPER, mtime=0)}, "was damaged"),
    "layer cut short": (GOOD | {blob(GOOD, 0): GOOD[blob(GOOD, 0)][:-20]}, "be decompressed"),
    "an endless index": (endless(), "an index that ends"),
    "docker: two": (changed(DOCKER | AGAIN, "manifest.json",
                            lambda d: d.append({**d[0], "Config": "x", "RepoTags": ["b:2"]})),
                    "2 container images: app:1, b:2"),
    "docker: two with odd tags": (changed(DOCKER | AGAIN, "manifest.json",
                                          lambda d: d.append({**d[0], "Config": "x",
                                                              "RepoTags": 5})),
                                  "2 container images: app:1, x"),
    "docker: two, of which one has no configuration": (
        changed(DOCKER, "manifest.json", lambda d: d.append({**d[0], "Config": "x"})),
        "a file 'x'"),
    "docker: two, none for this architecture": (
        changed(archives.docker_files(LOWER, architecture="arm64")
                | {"x": json.dumps(archives.config([LOWER], "arm64")).encode()},
                "manifest.json", lambda d: d.append({**d[0], "Config": "x"})),
        "is not there for x86_64"),
    "docker: a layer too few": (changed(DOCKER, "manifest.json", lambda d: d[0]["Layers"].pop()),
                                "as many layers"),
    "docker: a layer is missing": (changed(DOCKER, "manifest.json",
                                           lambda d: d[0].update(Layers=["../../etc/passwd", "x"])),
                                   "a file '../../etc/passwd'"),
    "docker: no configuration": (changed(DOCKER, "manifest.json", lambda d: d[0].pop("Config")),
                                 "a text 'Config'"),
    "for ARM": (archives.oci_files(LOWER, configuration=archives.config([LOWER], "arm64")),
                "is for aarch64, the kernel for x86_64"),
    "for RISC-V": (archives.oci_files(LOWER, configuration=archives.config([LOWER], "riscv64")),
                   "for an unknown architecture"),
    "for Windows": (archives.oci_files(
        LOWER, configuration={**archives.config([LOWER]), "os": "windows"}), "not for Linux"),
    "VOLUME is no object": (archives.oci_files(LOWER, Volumes=["/data"]), "an object as Volumes"),
    "CMD is no list": (archives.oci_files(LOWER, Cmd="app"), "a list of words as Cmd"),
    "a layer that is none": (archives.oci_files(b"no tar" * 200), "is not a tar"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_images_that_are_none(name: str, tmp_path: Path, stack: contextlib.ExitStack) -> None:
    files, reason = BAD[name]
    with pytest.raises(ConfigurationError, match=reason):
        read(archives.write(files, tmp_path / "image.tar"), stack)
    stack.close()
    assert [path.name for path in tmp_path.iterdir()] == ["image.tar"]


def test_a_layer_that_unpacks_for_ever(
    tmp_path: Path, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MAX_UNPACKED", 1 << 20)
    layer = archives.tar(member("zeros", bytes(2 << 20)))
    with pytest.raises(ConfigurationError, match="has more than 1048576 bytes"):
        read(archives.write(archives.oci_files(layer), tmp_path / "image.tar"), stack)
    (tmp_path / "root.tar.gz").write_bytes(gzip.compress(layer))
    with pytest.raises(ConfigurationError, match="unpacks to over 1048576 bytes"):
        read(tmp_path / "root.tar.gz", stack)


def zstandard() -> Any:
    """The module that knows Zstandard; None if there is none."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return None


def test_with_zstandard(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    module = zstandard()
    if module is None:
        pytest.skip("this Python does not know Zstandard: pip install backports.zstd")
    skipped = b"\x50\x2a\x4d\x18\x03\0\0\0xyz"
    (path,) = (path for path in DOCKER if DOCKER[path] == LOWER)
    packed = skipped + module.compress(LOWER[:999]) + skipped + module.compress(LOWER[999:])
    files = DOCKER | {path: packed}
    assert read(archives.write(files, tmp_path / "image.tar"), stack)[1]
    for content in (packed[:-9], packed[:30] + b"\xff" * 60 + packed[90:]):
        with pytest.raises(ConfigurationError, match=r"cannot be decompressed|was damaged"):
            read(archives.write(files | {path: content}, tmp_path / "bad.tar"), stack)
        (tmp_path / "root.tar.zst").write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"cannot be decompressed|neither a folder"):
            read(tmp_path / "root.tar.zst", stack)


def test_zstandard(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    if zstandard() is not None:
        pytest.skip("this Python knows Zstandard")
    (tmp_path / "root.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(ConfigurationError, match="compressed with Zstandard") as caught:
        read(tmp_path / "root.tar.zst", stack)
    assert "skopeo" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("root.tar", b"", "is empty"),
        ("root.tar", archives.tar(), "is empty"),
        ("root.eif", b".eif" + bytes(1000), "neither a folder, a tar nor a container image"),
        ("root.tar.gz", gzip.compress(LOWER, mtime=0)[:-9], "cannot be decompressed"),
        ("root.tar", archives.tar(member("manifest.json", b'{"not": "docker"}')), ""),
        ("root.tar", archives.tar(member("manifest.json", b"{")), ""),
        ("root.tar", archives.tar(member("oci-layout", b"{}")), ""),
    ],
)
def test_what_is_no_root(
    name: str, content: bytes, reason: str, tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    (tmp_path / name).write_bytes(content)
    if reason:
        with pytest.raises(ConfigurationError, match=reason):
            read(tmp_path / name, stack)
    else:
        assert read(tmp_path / name, stack)[1] is None  # A file of that name is just a file.


def test_no_room_to_unpack(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    path = archives.write(archives.oci_files(LOWER), tmp_path / "image.tar")
    (tmp_path / "root.tar.gz").write_bytes(gzip.compress(LOWER))
    for packed in (path, tmp_path / "root.tar.gz"):
        with pytest.raises(ConfigurationError, match=r"cannot unpack .*: No such file"):
            source.read(packed, "x86_64", Notes(), stack, spool=tmp_path / "gone")


def test_an_empty_folder(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="is empty") as caught:
        read(tmp_path / "empty", stack)
    assert "no command" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="buildah needs root here")
def test_what_buildah_writes(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """An image made by buildah, in both archive forms, is what it mounts."""
    if not shutil.which("buildah"):
        pytest.skip("no buildah: apt-get install buildah")
    (tmp_path / "layer.tar").write_bytes(
        archives.tar(member("app", b"app", mode=0o755), folder("etc"))
    )
    (tmp_path / "Containerfile").write_text(
        'FROM scratch\nADD layer.tar /\nADD Containerfile /etc/x\nENV A=1\nCMD ["/app"]\n'
    )
    common = ["buildah", f"--root={tmp_path}/r", f"--runroot={tmp_path}/rr", "--storage-driver=vfs"]
    build = [*common, "build", "-q", "--layers", "-t", "localhost/x", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True, timeout=TEST_TIMEOUT)
    for kind in ("oci-archive", "docker-archive"):
        path = tmp_path / f"{kind}.tar"
        push = [*common, "push", "-q", "localhost/x", f"{kind}:{path}:x:latest"]
        subprocess.run(push, check=True, capture_output=True, timeout=TEST_TIMEOUT)
        tree, told = read(path, stack)
        assert contents(tree)["app"] == b"app"
        assert "etc/x" in contents(tree)
        assert told
        assert told.command == ("/app",)
        assert "A=1" in told.environment


def test_the_tar_of_tars_is_read_from_where_it_is(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    # A layer that is not compressed is not copied: reading it costs no disk.
    files = archives.oci_files(LOWER, compress=False)
    spool = tmp_path / "gone"
    path = archives.write(files, tmp_path / "image.tar")
    tree, _ = source.read(path, "x86_64", Notes(), stack, spool=spool)
    assert contents(tree)["etc/b"] == b"lower b"
