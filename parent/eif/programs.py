"""Tells programs apart: kernels, ELF files, scripts. No I/O."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vsock_proxy.errors import ConfigurationError

HEAD = 1 << 16
"""Bytes of a program that are enough to tell what it is."""

X86_64, AARCH64 = "x86_64", "aarch64"

_MACHINES = {62: X86_64, 183: AARCH64, 3: "i386", 40: "arm", 243: "riscv", 21: "ppc64", 22: "s390"}
_RELOCATABLE, _EXECUTABLE, _SHARED = 1, 2, 3
_INTERPRETER, _DYNAMIC = 3, 2
_NEEDED, _STRING_TABLE = 1, 5
_LOAD = 1
_MAX_SEGMENTS = 256
_MAX_NEEDED = 1024
_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x02\x21\x4c\x18": "LZ4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a kernel's header says.

    Attributes:
        architecture: ``x86_64`` or ``aarch64``.
        release: as ``uname -r`` gives it; empty where the header does not say.
    """

    architecture: str
    release: str = ""


@dataclass(frozen=True, slots=True)
class Elf:
    """What an ELF file's headers say.

    Attributes:
        architecture: such as ``x86_64``; ``unknown`` for rare ones.
        is_64: whether it is for 64 bits.
        kind: 1 for an object such as a kernel module, 2 and 3 for programs and libraries.
        interpreter: path of the loader that a dynamic program asks for; empty: it is static.
    """

    architecture: str
    is_64: bool
    kind: int
    interpreter: str = ""


def read_kernel(head: bytes) -> Kernel:
    """Read the start of a kernel, at least `HEAD` bytes if there are as many.

    Sources: Linux, ``Documentation/arch/x86/boot.rst`` and ``arch/arm64/booting.rst``.

    Raises:
        ConfigurationError: an enclave could not boot it.
    """
    if head[56:60] == b"ARM\x64":
        return Kernel(AARCH64)
    if head[0x202:0x206] == b"HdrS":
        return Kernel(X86_64, _x86_release(head))
    raise ConfigurationError(
        f"the kernel is {_what(head)}, not a bzImage (x86_64) or an Image (aarch64)",
        hint="an enclave started from it would not boot: nitro-cli waits, then says E36",
    )


def _x86_release(head: bytes) -> str:
    offset = 0x200 + int.from_bytes(head[0x20E:0x210], "little")
    text = head[offset : offset + 128].partition(b"\0")[0].split(b" ")[0]
    return text.decode("ascii", "replace") if offset > 0x200 and text.isascii() else ""


def _what(head: bytes) -> str:
    if not head:
        return "empty"
    if head.startswith(b"\x7fELF"):
        return "an uncompressed vmlinux (ELF)"
    if head[4:8] == b"zimg":
        return "an EFI zboot image"
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return f"compressed with {name}"
    if head.startswith(b"MZ"):
        return "an EFI program"
    if head.startswith(b"!<arch>\n"):
        return "a Debian package"
    if head.startswith(b".eif"):
        return "an enclave image"
    return "something else"


def read_elf(head: bytes) -> Elf | None:
    """Read the start of a file; None if it is not ELF, or cut short."""
    if not head.startswith(b"\x7fELF") or len(head) < 64:
        return None
    is_64, order = head[4] == 2, "<" if head[5] == 1 else ">"
    kind, machine = struct.unpack_from(f"{order}HH", head, 16)
    architecture = _MACHINES.get(machine, "unknown")
    interpreter = ""
    for type_, offset, _, size in _segments(head):
        if type_ == _INTERPRETER:
            path = head[offset : offset + min(size, 4096)].partition(b"\0")[0]
            interpreter = path.decode("utf-8", "surrogateescape")
    return Elf(architecture, is_64, kind, interpreter)


def needed_libraries(data: bytes) -> list[str]:
    """Return the names of the libraries that a 64-bit program asks for; all of it is needed."""
    segments = list(_segments(data))
    numbers: list[tuple[int, int]] = []
    for type_, offset, _, size in segments:
        if type_ == _DYNAMIC:
            end = min(offset + size, len(data) - 15)
            entries = range(offset, end, 16)[:_MAX_NEEDED]
            numbers = [struct.unpack_from("<QQ", data, at) for at in entries]
    table = next((value for tag, value in numbers if tag == _STRING_TABLE), None)
    if table is None:
        return []
    for type_, offset, address, size in segments:
        if type_ == _LOAD and address <= table < address + size:
            start = table - address + offset
            found = []
            for tag, value in numbers:
                if tag == _NEEDED:
                    name = data[start + value : start + value + 256].partition(b"\0")[0]
                    found.append(name.decode("utf-8", "surrogateescape"))
            return found
    return []


def _segments(data: bytes) -> list[tuple[int, int, int, int]]:
    """Return type, offset, address and size of what a little-endian 64-bit ELF file is made of."""
    if len(data) < 64 or data[4:6] != b"\x02\x01":
        return []
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    found = []
    for number in range(min(count, _MAX_SEGMENTS)):
        at = start + number * size
        if size < 56 or at + 56 > len(data):
            break
        type_, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        found.append((type_, offset, address, length))
    return found


def check_init(head: bytes, architecture: str, *, alone: bool) -> str:
    """Check the program that a kernel starts first.

    Args:
        head: its start.
        architecture: of the kernel.
        alone: nothing but it and the NSM's module is in the first ramdisk, and no other ramdisk
            could hold what it needs.

    Returns:
        What may be wrong with it, if it is not alone; else empty.

    Raises:
        ConfigurationError: the kernel could not start it.
    """
    hint = "the kernel could not start it, and would panic: nitro-cli says E36"
    elf = read_elf(head)
    if elf is None and not head.startswith(b"#!"):
        raise ConfigurationError("init is not an ELF program", hint=hint)
    if elf and (elf.architecture != architecture or not elf.is_64):
        raise ConfigurationError(
            f"init is for {_machine(elf)}, the kernel for {architecture}", hint=hint
        )
    if elf and elf.kind not in (_EXECUTABLE, _SHARED):
        raise ConfigurationError("init is an ELF file, but not a program", hint=hint)
    if elf and not elf.interpreter:
        return ""
    script = head[2:258].split(b"\n")[0].strip().decode("ascii", "replace")
    needs = elf.interpreter if elf else script
    trouble = f"init is not a static program: it needs {needs}"
    if alone:
        raise ConfigurationError(f"{trouble}, which is in no ramdisk", hint=hint)
    return f"{trouble}, which a ramdisk must hold, or the kernel panics"


def check_module(data: bytes, kernel: Kernel) -> str:
    """Check a kernel module.

    Returns:
        What may be wrong with it, or an empty text.

    Raises:
        ConfigurationError: the kernel could not take it.
    """
    hint = "init would end when it loads the module, and the kernel panic: nitro-cli says E36"
    elf = read_elf(data)
    if elf is None or elf.kind != _RELOCATABLE:
        what = next((f", but compressed with {name}" for magic, name in _COMPRESSED.items()
                     if data.startswith(magic)), "")  # fmt: skip
        raise ConfigurationError(f"the NSM module is not a kernel module{what}", hint=hint)
    if elf.architecture != kernel.architecture:
        raise ConfigurationError(
            f"the NSM module is for {_machine(elf)}, the kernel for {kernel.architecture}",
            hint=hint,
        )
    _, found, rest = data.partition(b"vermagic=")
    release = rest[:128].split(b" ")[0].decode("ascii", "replace")
    if found and kernel.release and release != kernel.release:
        return (
            f"the NSM module is for Linux {release}, the kernel is {kernel.release}: unless both "
            "have symbol versions, init cannot load it"
        )
    return ""


def _machine(elf: Elf) -> str:
    return elf.architecture if elf.is_64 else f"{elf.architecture} with 32 bits"
