"""Tars, container images, kernels and programs made by hand, apart from what reads them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Item = tuple[tarfile.TarInfo, bytes]


def member(
    name: str, content: bytes = b"", type: bytes = tarfile.REGTYPE, mode: int = 0o644, **more: Any
) -> Item:
    """A member of a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = type, mode, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def folder(name: str, mode: int = 0o755, **more: Any) -> Item:
    return member(name, type=tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, target: str) -> Item:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Item:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar(*items: Item, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of members, in their order."""
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=format, encoding="utf-8", errors="surrogateescape"
    ) as writer:
        for info, content in items:
            writer.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def bzimage(release: str = "6.12.1-test") -> bytes:
    """The header of a kernel for x86_64, and no kernel."""
    data = bytearray(0x900)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x20E, 0x600)
    text = f"{release} (somebody@somewhere) #1".encode()
    data[0x800 : 0x800 + len(text)] = text
    return bytes(data)


def arm_image() -> bytes:
    """The header of a kernel for aarch64."""
    return bytes(56) + b"ARM\x64" + bytes(100)


def elf(
    machine: int = 62,
    kind: int = 2,
    interpreter: str = "",
    needed: Sequence[str] = (),
    bits: int = 2,
    tail: bytes = b"",
) -> bytes:
    """An ELF file with the headers that somebody looks at; `bits` is 1 for 32, 2 for 64."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    segments, payload, start = [], b"", 64 + 56 * 3
    if interpreter:
        path = interpreter.encode() + b"\0"
        segments.append((3, start + len(payload), len(path)))
        payload += path
    if needed:
        at, table = start + len(payload), b""
        payload += strings
        offset = 1
        for name in needed:
            table += struct.pack("<QQ", 1, offset)
            offset += len(name) + 1
        table += struct.pack("<QQ", 5, 0x1000 + at) + struct.pack("<QQ", 0, 0)
        segments.append((2, start + len(payload), len(table)))
        payload += table
        segments.append((1, 0, start + len(payload)))
    head = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0
    )
    body = b"".join(
        struct.pack(
            "<IIQQQQQQ",
            type_,
            4,
            offset,
            0x1000 + offset if type_ != 1 else 0x1000,
            0,
            size,
            size,
            8,
        )
        for type_, offset, size in segments
    )
    return (head + body).ljust(start, b"\0") + payload + tail


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(layers: Sequence[bytes], architecture: str = "amd64", **run: Any) -> dict[str, Any]:
    """What a container image says of itself."""
    return {
        "architecture": architecture,
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }


def oci_files(
    *layers: bytes, compress: bool = True, configuration: dict[str, Any] | None = None, **run: Any
) -> dict[str, bytes]:
    """The files of an OCI layout with one image."""
    packed = [gzip.compress(layer, mtime=0) if compress else layer for layer in layers]
    told = json.dumps(configuration or config(layers, **run)).encode()
    kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compress else "")
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(told),
                "size": len(told),
            },
            "layers": [
                {"mediaType": kind, "digest": digest(layer), "size": len(layer)} for layer in packed
            ],
        }
    ).encode()
    index = {"schemaVersion": 2, "manifests": [descriptor(manifest)]}
    blobs = {f"blobs/sha256/{digest(blob)[7:]}": blob for blob in (*packed, told, manifest)}
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **blobs,
    }


def descriptor(manifest: bytes, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(manifest),
        "size": len(manifest),
        **more,
    }


def docker_files(*layers: bytes, tags: Sequence[str] = ("app:1",), **run: Any) -> dict[str, bytes]:
    """The files that ``docker save`` wrote before version 25."""
    told = json.dumps(config(layers, **run)).encode()
    names = [f"{hashlib.sha256(layer).hexdigest()}/layer.tar" for layer in layers]
    name = f"{digest(told)[7:]}.json"
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": names}]
    return {
        **dict(zip(names, layers, strict=True)),
        name: told,
        "manifest.json": json.dumps(manifest).encode(),
    }


def write(files: dict[str, bytes], to: Path) -> Path:
    """Write files as a tar if the name says so, else as a folder."""
    if to.suffix == ".tar":
        to.write_bytes(tar(*(member(name, content) for name, content in files.items())))
        return to
    for name, content in files.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(content)
    return to
