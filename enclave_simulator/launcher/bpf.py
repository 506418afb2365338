"""The seccomp filter: which system calls stop for the supervisor, and which never do.

Sending, receiving, polling, closing and `listen` are not in the tables, so data moves at the
kernel's own speed. If a number among the arguments distinguishes ours from others
(the family, the ioctl's command, the option's level), the filter tests it and other calls pass; if
only memory does (a path, an address), the call has to stop.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

from enclave_simulator.launcher import abi

# Classic BPF (<linux/filter.h>).
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_INSTRUCTION = struct.Struct("=HBBI")

# struct seccomp_data; both architectures are little-endian, so an int argument is the low half.
_NR, _ARCH, _ARGS = 0, 4, 16

_X32_SYSCALL_BIT = 0x4000_0000


@dataclass(frozen=True)
class When:
    """``arguments[index] & mask == value``; the low 32 bits, as the kernel takes an int.

    With `differs`, it holds if they are not equal.
    """

    index: int
    value: int
    mask: int = 0xFFFF_FFFF
    differs: bool = False


@dataclass(frozen=True)
class Rule:
    """A system call that stops, or fails, if all of `when` holds."""

    syscall: str
    when: tuple[When, ...] = ()
    action: int = abi.SECCOMP_RET_USER_NOTIF


_SOL_SOCKET, _SO_ERROR, _SO_PEERCRED = 1, 4, 17
_PR_SET_DUMPABLE = 4
_MSG_OOB = 1

RULES = (
    # The data path would bypass the filter through a ring. Programs fall back to system calls.
    Rule("io_uring_setup", action=abi.SECCOMP_RET_ERRNO | errno.ENOSYS),
    # The supervisor reads and writes the program's memory, which the kernel permits only to root
    # if the program is not dumpable. The call seems to succeed, and changes nothing.
    Rule("prctl", (When(0, _PR_SET_DUMPABLE),), action=abi.SECCOMP_RET_ERRNO),
    Rule("socket", (When(0, abi.AF_VSOCK),)),
    Rule(
        "socketpair",
        (When(0, abi.AF_VSOCK),),
        action=abi.SECCOMP_RET_ERRNO | errno.EOPNOTSUPP,
    ),
    Rule("connect"),
    # An unconnected socket, and one that listens, cannot be shut down: who ends `accept` that way
    # in another thread would do so here, and wait for ever on a kernel's vsock.
    Rule("shutdown"),
    Rule("bind"),
    Rule("accept"),
    Rule("accept4"),
    Rule("getsockname"),
    Rule("getpeername"),
    # Those of other levels too: vsock has no TCP_NODELAY, and says so in other words than UNIX.
    Rule("getsockopt", (When(1, _SOL_SOCKET, differs=True),)),
    Rule("getsockopt", (When(1, _SOL_SOCKET), When(2, abi.SO_DOMAIN))),
    Rule("getsockopt", (When(1, _SOL_SOCKET), When(2, _SO_ERROR))),
    Rule("getsockopt", (When(1, _SOL_SOCKET), When(2, _SO_PEERCRED))),
    Rule("setsockopt", (When(1, _SOL_SOCKET, differs=True),)),
    # Urgent data, which UNIX sockets have and vsock has not.
    Rule("sendto", (When(3, _MSG_OOB, mask=_MSG_OOB),)),
    Rule("sendmsg", (When(2, _MSG_OOB, mask=_MSG_OOB),)),
    Rule("recvfrom", (When(3, _MSG_OOB, mask=_MSG_OOB),)),
    Rule("recvmsg", (When(2, _MSG_OOB, mask=_MSG_OOB),)),
    # Any command of the NSM's type, so that a wrong one gets the driver's own answer.
    Rule("ioctl", (When(1, abi.NSM_IOCTL_MAGIC << 8, mask=0xFF00),)),
    Rule("ioctl", (When(1, abi.IOCTL_VM_SOCKETS_GET_LOCAL_CID),)),
)

PATH_RULES = (
    Rule("open"),
    Rule("creat"),
    Rule("openat"),
    Rule("openat2"),
    # So that `test -c /dev/nsm` holds. fstat, by far the most frequent, passes.
    Rule("stat"),
    Rule("lstat"),
    Rule("newfstatat", (When(3, 0, mask=abi.AT_EMPTY_PATH),)),
    Rule("statx", (When(2, 0, mask=abi.AT_EMPTY_PATH),)),
    Rule("access"),
    Rule("faccessat"),
    Rule("faccessat2"),
)
"""What must stop too if COMMAND has no /dev of its own: every call that a path to a device may be
given to."""


TPM_RULES = (
    Rule("open", (When(1, os.O_RDWR, mask=os.O_ACCMODE),)),
    Rule("openat", (When(2, os.O_RDWR, mask=os.O_ACCMODE),)),
    Rule("openat2"),  # its flags are in memory
)
"""What must stop for a TPM if COMMAND has a /dev of its own: opening for reading and writing, which
is how a TPM is opened, and few other files are. What is open then is a socket to the supervisor."""

TPM_READ_RULES = (Rule("read", (When(0, abi.TPM_DESCRIPTORS.start, mask=0xFFFF_FF00),)),)
"""Reading from an open TPM, by its descriptor's number, in either way: with no response pending the
driver returns 0, and a socket would wait."""


def assemble(architecture: abi.Architecture, rules: tuple[Rule, ...] = RULES) -> bytes:
    """Return the filter as an array of struct sock_filter.

    Every call of another architecture (i386 on x86_64) stops, so that the supervisor can name the
    program and kill it: its vsock calls would silently reach the machine's own vsock. x32 calls get
    ENOSYS, as from a kernel built without x32.
    """
    program = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, abi.SECCOMP_RET_USER_NOTIF),
    ]
    if architecture is abi.X86_64:
        program += [
            (_LOAD, 0, 0, _NR),
            (_AT_LEAST, 0, 1, _X32_SYSCALL_BIT),
            (_RETURN, 0, 0, abi.SECCOMP_RET_ERRNO | errno.ENOSYS),
        ]
    for rule in rules:
        if rule.syscall in architecture.syscalls:
            program += _block(rule, architecture.syscalls[rule.syscall])
    program.append((_RETURN, 0, 0, abi.SECCOMP_RET_ALLOW))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def _block(rule: Rule, number: int) -> list[tuple[int, int, int, int]]:
    """Return one rule's instructions: every failed comparison jumps past the block's end."""
    tests = [(_NR, When(0, number))]
    tests += [(_ARGS + 8 * when.index, when) for when in rule.when]
    length = 3 * len(tests) + 1
    block: list[tuple[int, int, int, int]] = []
    for offset, when in tests:
        block += [(_LOAD, 0, 0, offset), (_AND, 0, 0, when.mask)]
        end = length - len(block) - 1
        block.append((_EQUAL, *((end, 0) if when.differs else (0, end)), when.value))
    block.append((_RETURN, 0, 0, rule.action))
    return block
