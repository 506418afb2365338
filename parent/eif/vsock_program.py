"""A static program of some 200 bytes that carries bytes to a vsock address, and one byte back.

For the first ramdisk of images with Debian's kernel, whose busybox knows no vsock. It is assembled
here, so that no compiler is needed and no binary is kept; a test assembles it from the comments.
"""

from __future__ import annotations

import struct

X86_64_CODE = bytes.fromhex(
    "31c0"  # xor eax, eax                     read(0, buffer, 16)
    "31ff"  # xor edi, edi
    "488d7424c0"  # lea rsi, [rsp-64]
    "ba10000000"  # mov edx, 16
    "0f05"  # syscall
    "4989c4"  # mov r12, rax
    "b829000000"  # mov eax, 41                socket(AF_VSOCK, SOCK_STREAM, 0)
    "bf28000000"  # mov edi, 40
    "be01000000"  # mov esi, 1
    "31d2"  # xor edx, edx
    "0f05"  # syscall
    "89c3"  # mov ebx, eax
    "89c7"  # mov edi, eax                     connect(socket, address, 16)
    "488d356d000000"  # lea rsi, [rip+address]
    "ba10000000"  # mov edx, 16
    "b82a000000"  # mov eax, 42
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7551"  # jnz failed
    "b801000000"  # mov eax, 1                 write(socket, buffer, what was read)
    "89df"  # mov edi, ebx
    "488d7424c0"  # lea rsi, [rsp-64]
    "4c89e2"  # mov rdx, r12
    "0f05"  # syscall
    "4c39e0"  # cmp rax, r12
    "753b"  # jne failed
    "b830000000"  # mov eax, 48                shutdown(socket, SHUT_WR)
    "89df"  # mov edi, ebx
    "be01000000"  # mov esi, 1
    "0f05"  # syscall
    "31c0"  # xor eax, eax                     read(socket, buffer, 1)
    "89df"  # mov edi, ebx
    "488d7424c0"  # lea rsi, [rsp-64]
    "ba01000000"  # mov edx, 1
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7818"  # js failed
    "4889c2"  # mov rdx, rax                   write(1, buffer, what was read)
    "b801000000"  # mov eax, 1
    "bf01000000"  # mov edi, 1
    "488d7424c0"  # lea rsi, [rsp-64]
    "0f05"  # syscall
    "31ff"  # xor edi, edi
    "eb05"  # jmp end
    "bf01000000"  # failed: mov edi, 1
    "b83c000000"  # end: mov eax, 60           exit(edi)
    "0f05"  # syscall
)
"""Carries up to 16 bytes from standard input to the address behind it, and one byte back."""

AARCH64_CODE = bytes.fromhex(
    "ff8300d1"  # sub sp, sp, #32
    "000080d2"  # mov x0, #0                    read(0, buffer, 16)
    "e1030091"  # mov x1, sp
    "020280d2"  # mov x2, #16
    "e80780d2"  # mov x8, #63
    "010000d4"  # svc #0
    "f40300aa"  # mov x20, x0
    "000580d2"  # mov x0, #40                   socket(AF_VSOCK, SOCK_STREAM, 0)
    "210080d2"  # mov x1, #1
    "020080d2"  # mov x2, #0
    "c81880d2"  # mov x8, #198
    "010000d4"  # svc #0
    "f30300aa"  # mov x19, x0
    "01040010"  # adr x1, address               connect(socket, address, 16)
    "020280d2"  # mov x2, #16
    "681980d2"  # mov x8, #203
    "010000d4"  # svc #0
    "200300b5"  # cbnz x0, failed
    "e00313aa"  # mov x0, x19                   write(socket, buffer, what was read)
    "e1030091"  # mov x1, sp
    "e20314aa"  # mov x2, x20
    "080880d2"  # mov x8, #64
    "010000d4"  # svc #0
    "1f0014eb"  # cmp x0, x20
    "41020054"  # b.ne failed
    "e00313aa"  # mov x0, x19                   shutdown(socket, SHUT_WR)
    "210080d2"  # mov x1, #1
    "481a80d2"  # mov x8, #210
    "010000d4"  # svc #0
    "e00313aa"  # mov x0, x19                   read(socket, buffer, 1)
    "e1030091"  # mov x1, sp
    "220080d2"  # mov x2, #1
    "e80780d2"  # mov x8, #63
    "010000d4"  # svc #0
    "0001f8b7"  # tbnz x0, #63, failed
    "e20300aa"  # mov x2, x0                    write(1, buffer, what was read)
    "200080d2"  # mov x0, #1
    "e1030091"  # mov x1, sp
    "080880d2"  # mov x8, #64
    "010000d4"  # svc #0
    "000080d2"  # mov x0, #0
    "02000014"  # b end
    "200080d2"  # failed: mov x0, #1
    "a80b80d2"  # end: mov x8, #93
    "010000d4"  # svc #0
)
"""The same for aarch64."""

_AF_VSOCK, _PARENT = 40, 3
_BASE = 0x400000
_MACHINES = {"x86_64": (62, X86_64_CODE), "aarch64": (183, AARCH64_CODE)}
"""ELF's numbers of the architectures (EM_X86_64, EM_AARCH64), and the code."""


def vsock_program(port: int, architecture: str = "x86_64") -> bytes:
    """Return the program, as an ELF file, for a port of the parent's.

    Args:
        port: of CID 3.
        architecture: ``x86_64`` or ``aarch64``.
    """
    machine, code = _MACHINES[architecture]
    address = struct.pack("<HHIIB3x", _AF_VSOCK, 0, port, _PARENT, 0)
    start = 64 + 56
    size = start + len(code) + len(address)
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, _BASE + start, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    return header + segment + code + address
