"""Container images of other builders: which of several is taken, and forms that are not read."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from parent.eif.root import source
from parent.eif.root.notes import Notes
from tests.parent.eif import archives
from tests.parent.eif.archives import member
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from parent.eif.root.container import Container

LAYER = archives.tar(member("app", b"program"))
OTHER = archives.tar(member("other", b"signature, bill of materials"))


def told(path: Path, architecture: str = "x86_64") -> Container | None:
    with contextlib.ExitStack() as stack:
        return source.read(path, architecture, Notes(), stack, spool=path.parent)[1]


def image(architecture: str) -> dict[str, bytes]:
    return archives.oci_files(LAYER, configuration=archives.config([LAYER], architecture))


def artifact(kind: str) -> dict[str, bytes]:
    """What cosign, ORAS and Helm put beside an image."""
    if kind == "cosign":
        return archives.oci_files(OTHER, configuration=archives.config([OTHER], ""))
    media, text = "application/vnd.oci.empty.v1+json", b"{}"
    if kind == "helm":
        media, text = "application/vnd.cncf.helm.config.v1+json", b"no JSON"
    manifest: dict[str, Any] = {
        "schemaVersion": 2, "layers": [],
        "config": {"mediaType": media, "digest": archives.digest(text), "size": len(text)},
    }  # fmt: skip
    if kind == "oras":
        manifest["artifactType"] = "application/spdx+json"
    encoded = json.dumps(manifest).encode()
    return {
        "index.json": json.dumps({"manifests": [archives.descriptor(encoded)]}).encode(),
        **{f"blobs/sha256/{archives.digest(each)[7:]}": each for each in (encoded, text)},
    }


def together(*each: dict[str, bytes]) -> dict[str, bytes]:
    """One layout of several; its index names no platforms."""
    manifests = [entry for files in each for entry in json.loads(files["index.json"])["manifests"]]
    merged = {name: content for files in each for name, content in files.items()}
    return merged | {"index.json": json.dumps({"manifests": manifests}).encode()}


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_the_configuration_tells_the_architecture(architecture: str, tmp_path: Path) -> None:
    path = archives.write(together(image("amd64"), image("arm64")), tmp_path / "image.tar")
    found = told(path, architecture)
    assert found
    assert found.architecture == architecture


@pytest.mark.parametrize("kind", ["cosign", "oras", "helm"])
def test_what_is_no_image_is_none_of_several(kind: str, tmp_path: Path) -> None:
    path = archives.write(together(artifact(kind), image("amd64")), tmp_path / "image.tar")
    assert told(path)


def test_two_images_for_one_architecture_are_two(tmp_path: Path) -> None:
    again = archives.oci_files(LAYER, Cmd=["/app"])
    path = archives.write(together(image("amd64"), image("arm64"), again), tmp_path / "image.tar")
    with pytest.raises(ConfigurationError, match="there are 2 container images"):
        told(path)


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_an_archive_of_both_architectures(architecture: str, tmp_path: Path) -> None:
    arm = archives.docker_files(LAYER, architecture="arm64")
    amd = archives.docker_files(LAYER)
    manifest = json.loads(amd["manifest.json"]) + json.loads(arm["manifest.json"])
    files = arm | amd | {"manifest.json": json.dumps(manifest).encode()}
    found = told(archives.write(files, tmp_path / "image.tar"), architecture)
    assert found
    assert found.architecture == architecture


GOOD = image("amd64")
OF_ANOTHER_FORM: dict[str, tuple[dict[str, bytes], str, str]] = {
    "dir:": (
        {
            "version": b"Directory Transport Version: 1.1\n",
            "manifest.json": b'{"schemaVersion": 2}', "a" * 64: LAYER,
        },
        "in a form that is not read: skopeo's or buildah's form dir:", "skopeo copy",
    ),
    "no mark": ({k: v for k, v in GOOD.items() if k != "oci-layout"}, "without its file oci-layout",
                "skopeo copy"),
    "no index": ({k: v for k, v in GOOD.items() if k != "index.json"}, "without its file index.jso",
                 "skopeo copy"),
    "docker 1.9": ({"repositories": b"{}", "abc/layer.tar": LAYER, "abc/json": b"{}"},
                   "before version 1.10", "docker save"),
    "a folder in it": ({f"app/{name}": content for name, content in GOOD.items()},
                       "all of it is in 'app'", "tar -C app"),
}  # fmt: skip


@pytest.mark.parametrize("form", OF_ANOTHER_FORM)
@pytest.mark.parametrize("name", ["image.tar", "folder"])
def test_another_form_is_no_root(form: str, name: str, tmp_path: Path) -> None:
    files, reason, hint = OF_ANOTHER_FORM[form]
    with pytest.raises(ConfigurationError, match=reason) as caught:
        told(archives.write(files, tmp_path / name))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "files",
    [
        {"version": b"1.0", "app": b"program"},
        {"repositories": b"/etc/apk", "app/x": b"program"},
        {"blobs/sha256/x": b"program"},
        {"app/index.json": b"{}"},
    ],
)
def test_a_root_with_such_names_is_one(files: dict[str, bytes], tmp_path: Path) -> None:
    assert told(archives.write(files, tmp_path / "root.tar")) is None


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_no_image_for_the_kernel(architecture: str, tmp_path: Path) -> None:
    entry = json.loads(GOOD["index.json"])["manifests"][0]
    for_s390x = {**entry, "platform": {"os": "linux", "architecture": "s390x"}}
    files = GOOD | {"index.json": json.dumps({"manifests": [for_s390x]}).encode()}
    with pytest.raises(ConfigurationError, match=f"not there for {architecture}") as caught:
        told(archives.write(files, tmp_path / "image.tar"), architecture)
    go = {"x86_64": "amd64", "aarch64": "arm64"}[architecture]
    assert f"--platform linux/{go}" in caught.value.hint


def test_what_was_not_saved_is_told(tmp_path: Path) -> None:
    """``docker save`` names all platforms in the index, and has the layers of one."""
    layer = next(name for name in GOOD if GOOD[name][:2] == b"\x1f\x8b")
    path = archives.write({k: v for k, v in GOOD.items() if k != layer}, tmp_path / "image.tar")
    with pytest.raises(ConfigurationError, match="does not have a file 'blobs/sha256/") as caught:
        told(path)
    assert "another architecture" in caught.value.hint


def test_blobs_that_are_links_out_of_the_layout(tmp_path: Path) -> None:
    """As in what Bazel's rules_oci leave in bazel-bin."""
    layer = next(name for name in GOOD if GOOD[name][:2] == b"\x1f\x8b")
    for number, name in enumerate((layer, "index.json", "oci-layout")):
        path = archives.write(GOOD, tmp_path / f"layout-{number}")
        (path / name).rename(tmp_path / f"file-{number}")
        (path / name).symlink_to(tmp_path / f"file-{number}")
        with pytest.raises(ConfigurationError, match=f"does not have a file '{name}") as caught:
            told(path)
        assert "cp -rL" in caught.value.hint
