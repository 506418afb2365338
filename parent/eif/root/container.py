"""A root file system from a container image: OCI layout or ``docker save``, folder or tar.

Sources: OCI image specification (``image-layout.md``, ``manifest.md``, ``config.md``); moby,
``image/tarexport`` (``manifest.json``). Every digest that an image states is checked, so that what
is in the enclave is what the image's name stands for.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parent.eif.metadata import parse_json
from parent.eif.root.layers import Layer, damaged, unpack
from parent.eif.root.tar import apply_layer, open_tar
from parent.eif.root.tree import Tree
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from parent.eif.root.notes import Notes
    from parent.eif.root.tree import Node

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""A kernel's name for an architecture, by Go's."""

MAX_LAYERS = 512
MAX_JSON = 4 << 20
"""Bytes in a manifest or configuration, as registries have it."""

_DIRECTORY = b"Directory Transport Version"
_OTHER_FORM = "write it anew: skopeo copy ... oci-archive:FILE, docker save, podman save"
_OCI_MARK, _OCI_INDEX, _DOCKER_MANIFEST = "oci-layout", "index.json", "manifest.json"
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_CONFIGURATIONS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_MAX_NESTING = 4
_NOT_SAVED = (
    "was a part of it saved, or only what is for another architecture? docker save --platform, "
    "skopeo copy --override-arch"
)
_REFERENCE = "org.opencontainers.image.ref.name"
_CONTAINERD_REFERENCE = "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class Container:
    """What a container image says of how it runs.

    Attributes:
        entrypoint: words before the command.
        command: words.
        environment: ``NAME=VALUE`` each.
        working_directory: where the command starts.
        user: who it runs as; empty: root.
        volumes: directories that Docker makes when a container starts.
        architecture: ``x86_64`` or ``aarch64``.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    working_directory: str = "/"
    user: str = ""
    volumes: tuple[str, ...] = ()
    architecture: str = ""


def is_image(tree: Tree) -> bool:
    """Return whether a tree is a container image, not a root file system."""
    if _file(tree, _OCI_MARK) and _file(tree, _OCI_INDEX):
        return True
    manifest = _file(tree, _DOCKER_MANIFEST)
    if not manifest:
        return False
    try:
        entries = parse_json(manifest.read(MAX_JSON))
    except (ValueError, ConfigurationError):
        return False
    return (
        isinstance(entries, list)
        and bool(entries)
        and all(isinstance(each, dict) and "Layers" in each for each in entries)
    )


def check_no_other_form(tree: Tree) -> None:
    """Check that what is not taken for a container image is none of another form.

    Raises:
        ConfigurationError: it is one, and no root file system.
    """
    if {_OCI_MARK, _OCI_INDEX} <= tree.root.children.keys():
        for name in (_OCI_MARK, _OCI_INDEX):
            _need(tree, name)  # A link out of the layout, as Bazel makes them.
    version = _file(tree, "version")
    reason = ""
    if version and version.read(len(_DIRECTORY)) == _DIRECTORY:
        reason = "skopeo's or buildah's form dir:"
    elif tree.find("blobs/sha256") and (_file(tree, _OCI_MARK) or _file(tree, _OCI_INDEX)):
        missing = _OCI_INDEX if _file(tree, _OCI_MARK) else _OCI_MARK
        reason = f"an OCI layout without its file {missing}"
    elif _file(tree, "repositories") and any(
        _file(tree, f"{name}/layer.tar") for name in tree.root.children
    ):
        reason = "what docker save wrote before version 1.10"
    if reason:
        raise ConfigurationError(
            f"it is a container image in a form that is not read: {reason}", hint=_OTHER_FORM
        )
    if len(tree.root.children) == 1:
        ((name, inner),) = tree.root.children.items()
        if inner.is_dir and is_image(Tree(inner)):
            raise ConfigurationError(
                f"it is a container image, but all of it is in {name!r}",
                hint=f"give that folder, or make the tar in it: tar -C {name} -cf image.tar .",
            )


def read(
    archive: Tree,
    architecture: str,
    notes: Notes,
    stack: contextlib.ExitStack,
    *,
    spool: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tree, Container]:
    """Return the root file system of a container image, and how it is to run.

    Args:
        archive: the image, for which `is_image` holds.
        architecture: which one, if it is there for several.
        notes: told of differences.
        stack: keeps open what the tree is read from.
        spool: where compressed layers are unpacked; None: where temporary files go.
        progress: called with the number of bytes of each piece of a layer read.

    Raises:
        ConfigurationError: it is damaged, holds several images, or none for the architecture.
    """
    reader = _OciLayout(archive) if _file(archive, _OCI_MARK) else _DockerArchive(archive)
    config, layers = reader.image(architecture)
    container = _container(config)
    if container.architecture != architecture:
        raise ConfigurationError(
            f"the container image is for {container.architecture or 'an unknown architecture'}, "
            f"the kernel for {architecture}",
            hint="init would start, and the command fail with 'Exec format error'",
        )
    if len(layers) > MAX_LAYERS:
        raise ConfigurationError(f"the container image has {len(layers)} layers")
    tree = Tree()
    for layer in layers:
        stream = unpack(layer, stack, spool, progress)
        try:
            apply_layer(stack.enter_context(open_tar(stream)), tree, notes)
        except tarfile.TarError as e:
            raise ConfigurationError(f"layer {layer.name} is not a tar: {e}") from e
    return tree, container


class _OciLayout:
    """Manifests by digest, below ``index.json``."""

    def __init__(self, archive: Tree) -> None:
        self._archive = archive
        self._seen: set[str] = set()

    def image(self, architecture: str) -> tuple[dict[str, Any], list[Layer]]:
        index = self._json(_need(self._archive, _OCI_INDEX), _OCI_INDEX)
        found = dict(self._manifests(index, architecture, 0))
        if len(found) > 1:
            # Not all indexes name platforms, and signatures and the like stand among the images.
            found = {each: name for each, name in found.items() if self._is_for(each, architecture)}
        if len(found) != 1:
            raise _several(sorted(found.values()), architecture)
        (digest,) = found
        manifest = self._blob_json(digest)
        config = self._blob_json(_text(_dict(manifest, "config"), "digest"))
        diff_ids = _list(_dict(config, "rootfs"), "diff_ids")
        descriptors = _list(manifest, "layers")
        if len(diff_ids) != len(descriptors):
            raise _malformed("as many layers as its configuration says")
        layers = []
        for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
            if "encrypted" in _text(descriptor, "mediaType"):
                raise ConfigurationError("the container image has an encrypted layer")
            digest = _text(descriptor, "digest")
            layers.append(Layer(self._blob(digest), digest, str(diff_id)))
        return config, layers

    def _is_for(self, digest: str, architecture: str) -> bool:
        """Return whether a manifest is of an image for an architecture."""
        manifest = self._blob_json(digest)
        told = _dict(manifest, "config")
        kind = told.get("mediaType", _CONFIGURATIONS[0])
        if manifest.get("artifactType") or kind not in _CONFIGURATIONS:
            return False
        return _is_for(self._blob_json(_text(told, "digest")), architecture)

    def _manifests(
        self, index: dict[str, Any], architecture: str, depth: int
    ) -> Iterator[tuple[str, str]]:
        """Yield digest and name of what is for an architecture."""
        if depth > _MAX_NESTING:
            raise _malformed("an index that ends")
        for descriptor in _list(index, "manifests"):
            digest = _text(descriptor, "digest")
            platform = descriptor.get("platform")
            annotations = descriptor.get("annotations")
            names = annotations if isinstance(annotations, dict) else {}
            name = str(names.get(_CONTAINERD_REFERENCE) or names.get(_REFERENCE) or digest)
            if isinstance(platform, dict):
                named = ARCHITECTURES.get(str(platform.get("architecture")))
                if named != architecture or platform.get("os") != "linux":
                    continue  # Another architecture, or what BuildKit tells of the build.
            if descriptor.get("mediaType") in _INDEXES:
                # Each once: a few indexes that name one another many times would never end.
                if digest in self._seen:
                    continue
                self._seen.add(digest)
                inner = self._manifests(self._blob_json(digest), architecture, depth + 1)
                yield from ((each, name) for each, _ in inner)
            else:
                yield digest, name

    def _blob(self, digest: str) -> Node:
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or not value.isalnum():
            raise ConfigurationError(f"the container image has the unknown digest {digest[:80]!r}")
        return _need(self._archive, f"blobs/sha256/{value}", hint=_NOT_SAVED)

    def _blob_json(self, digest: str) -> dict[str, Any]:
        node = self._blob(digest)
        data = _small(node, digest)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise damaged(digest)
        return _object(data, digest)

    def _json(self, node: Node, name: str) -> dict[str, Any]:
        return _object(_small(node, name), name)


class _DockerArchive:
    """``manifest.json``, a list of images with the paths of their files."""

    def __init__(self, archive: Tree) -> None:
        self._archive = archive

    def image(self, architecture: str) -> tuple[dict[str, Any], list[Layer]]:
        manifest = _small(_need(self._archive, _DOCKER_MANIFEST), _DOCKER_MANIFEST)
        try:
            images = parse_json(manifest)
        except ValueError as e:
            raise ConfigurationError(f"{_DOCKER_MANIFEST} of the container image: {e}") from None
        configs = {_text(each, "Config"): each for each in images}
        if len(configs) > 1:
            configs = {
                name: each
                for name, each in configs.items()
                if _is_for(self._config(name), architecture)
            }
        if len(configs) != 1:
            names = sorted(_tags(each) or name for name, each in configs.items())
            raise _several(names, architecture)
        ((name, image),) = configs.items()
        config = self._config(name)
        diff_ids, paths = _list(_dict(config, "rootfs"), "diff_ids"), _list(image, "Layers")
        if len(diff_ids) != len(paths):
            raise _malformed("as many layers as its configuration says")
        return config, [
            Layer(_need(self._archive, str(path)), str(path), str(diff_id))
            for path, diff_id in zip(paths, diff_ids, strict=True)
        ]

    def _config(self, name: str) -> dict[str, Any]:
        return _object(_small(_need(self._archive, name), name), name)


def _is_for(config: dict[str, Any], architecture: str) -> bool:
    return ARCHITECTURES.get(str(config.get("architecture"))) == architecture


def _tags(image: dict[str, Any]) -> str:
    tags = image.get("RepoTags")
    return " ".join(map(str, tags)) if isinstance(tags, list) else ""


def _container(config: dict[str, Any]) -> Container:
    run = config.get("config")
    if not isinstance(run, dict):
        run = {}
    if config.get("os") not in (None, "", "linux"):
        raise ConfigurationError(f"the container image is for {config['os']!r}, not for Linux")
    return Container(
        entrypoint=_words(run, "Entrypoint"),
        command=_words(run, "Cmd"),
        environment=_words(run, "Env"),
        working_directory=str(run.get("WorkingDir") or "/"),
        user=str(run.get("User") or ""),
        volumes=_names(run, "Volumes"),
        architecture=ARCHITECTURES.get(str(config.get("architecture")), ""),
    )


def _words(run: dict[str, Any], name: str) -> tuple[str, ...]:
    words = run.get(name) or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _malformed(f"a list of words as {name}")
    return tuple(words)


def _names(run: dict[str, Any], name: str) -> tuple[str, ...]:
    found = run.get(name) or {}
    if not isinstance(found, dict):
        raise _malformed(f"an object as {name}")
    return tuple(found)


def _file(tree: Tree, path: str) -> Node | None:
    found = tree.find(path)
    return found[1] if found and found[1].is_file else None


def _need(tree: Tree, path: str, *, hint: str = "") -> Node:
    node = _file(tree, path)
    if not node:
        link = tree.find(path, follow=False)
        if link and link[1].is_link:
            hint = "it is a link that leads nowhere in the image: copy it with its files, cp -rL"
        raise _malformed(f"a file {path[:100]!r}", hint)
    return node


def _small(node: Node, name: str) -> bytes:
    if node.size > MAX_JSON:
        raise ConfigurationError(f"{name} of the container image has more than {MAX_JSON} bytes")
    return node.read(MAX_JSON + 1)


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except ValueError as e:
        raise ConfigurationError(f"{name} of the container image: {e}") from None
    if not isinstance(value, dict):
        raise _malformed(f"an object in {name}")
    return value


def _dict(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise _malformed(f"an object {name!r}")
    return found


def _list(value: Any, name: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise _malformed(f"a list {name!r}")
    return found


def _text(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise _malformed(f"a text {name!r}")
    return found


def _malformed(missing: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(f"the container image does not have {missing}", hint=hint)


def _several(names: list[str], architecture: str) -> ConfigurationError:
    if not names:
        platform = next(f"linux/{go}" for go, name in ARCHITECTURES.items() if name == architecture)
        return ConfigurationError(
            f"the container image is not there for {architecture}",
            hint=f"build it, or save it, with --platform {platform}",
        )
    return ConfigurationError(
        f"there are {len(names)} container images: {', '.join(names[:8])}",
        hint="save one of them alone",
    )
