"""Kernels, init and modules: what an enclave could not boot is told before it is built."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parent.eif import programs
from parent.eif.programs import Kernel
from tests.parent.eif import archives
from vsock_proxy.errors import ConfigurationError

X86, ARM = Kernel("x86_64", "6.12.1-test"), Kernel("aarch64")


def test_kernels() -> None:
    assert programs.read_kernel(archives.bzimage()) == X86
    assert programs.read_kernel(archives.arm_image()) == ARM
    without_release = archives.bzimage()[:0x20E] + bytes(100)
    assert programs.read_kernel(without_release) == Kernel("x86_64")


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "is empty"),
        (archives.elf(), "an uncompressed vmlinux"),
        (b"\x1f\x8b\x08" + bytes(100), "compressed with gzip"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"MZ\0\0zimg", "an EFI zboot image"),
        (b"MZ" + bytes(100), "an EFI program"),
        (b"!<arch>\ndebian-binary", "a Debian package"),
        (b".eif\0\4", "an enclave image"),
        (b"#!/bin/sh\n", "something else"),
    ],
)
def test_what_is_no_kernel(head: bytes, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as caught:
        programs.read_kernel(head)
    assert "E36" in caught.value.hint


def test_init() -> None:
    for init in (archives.elf(), archives.elf(kind=3)):  # Static, and static-pie.
        assert programs.check_init(init, "x86_64", alone=True) == ""
    assert programs.check_init(archives.elf(machine=183), "aarch64", alone=True) == ""


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        (b"", "not an ELF program"),
        (b"text", "not an ELF program"),
        (archives.elf(machine=183), "init is for aarch64, the kernel for x86_64"),
        (archives.elf(machine=3, bits=1), "init is for i386 with 32 bits"),
        (archives.elf(machine=4711), "init is for unknown"),
        (archives.elf(kind=1), "not a program"),
        (
            archives.elf(interpreter="/lib64/ld-linux.so.2"),
            "needs /lib64/ld-linux.so.2, which is in",
        ),
        (b"#!/bin/sh\necho", "needs /bin/sh, which is in no ramdisk"),
        (b"#!", "not a static program"),
    ],
)
def test_what_is_no_init(init: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        programs.check_init(init, "x86_64", alone=True)
    assert "panic" in caught.value.hint
    if "needs" in reason:
        assert "a ramdisk must hold" in programs.check_init(init, "x86_64", alone=False)


def test_modules() -> None:
    module = archives.elf(kind=1, tail=b"\0vermagic=6.12.1-test SMP mod_unload \0")
    assert programs.check_module(module, X86) == ""
    assert programs.check_module(archives.elf(kind=1), X86) == ""
    other = archives.elf(kind=1, tail=b"\0vermagic=4.14.256 SMP \0")
    assert "for Linux 4.14.256, the kernel is 6.12.1-test" in programs.check_module(other, X86)
    for data, reason in (
        (archives.elf(kind=1, machine=183), "for aarch64, the kernel for x86_64"),
        (archives.elf(), "is not a kernel module"),
        (b"\xfd7zXZ\0" + bytes(90), "not a kernel module, but compressed with xz"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            programs.check_module(data, X86)


def test_libraries() -> None:
    program = archives.elf(interpreter="/lib/ld.so", needed=["libc.so.6", "libssl.so.3"])
    assert programs.needed_libraries(program) == ["libc.so.6", "libssl.so.3"]
    assert programs.needed_libraries(archives.elf()) == []
    assert programs.needed_libraries(b"text") == []


@given(st.binary(max_size=400), st.integers(0, 300))
def test_whatever_the_bytes_nothing_breaks(noise: bytes, at: int) -> None:
    data = bytearray(archives.elf(interpreter="/lib/ld.so", needed=["libc.so.6"]))
    data[at : at + len(noise)] = noise
    for each in (bytes(data), noise, b"\x7fELF" + noise):
        programs.read_elf(each)
        programs.needed_libraries(each)
        for check in (
            lambda each=each: programs.read_kernel(each),
            lambda each=each: programs.check_init(each, "x86_64", alone=True),
            lambda each=each: programs.check_module(each, X86),
        ):
            try:
                check()
            except ConfigurationError:
                continue
