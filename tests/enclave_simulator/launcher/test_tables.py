"""The launcher's parts that do no I/O, and its reading of memory."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_simulator.launcher import abi, bpf, memory
from enclave_simulator.launcher.process import (
    has_free_descriptor,
    live_unix_sockets,
    socket_inode,
    started,
    status,
)
from enclave_simulator.launcher.sockets import Inodes, VsockSocket, VsockTable
from vsock_proxy.net.addresses import VsockAddress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ARCHITECTURES = list(abi.ARCHITECTURES.values())
ANY = abi.VMADDR_CID_ANY


# --- the filter ---


def run_filter(program: bytes, number: int, arch: int, arguments: Sequence[int]) -> int:
    """Classic BPF as the kernel runs it, for the instructions the filter uses."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *arguments)
    accumulator = position = 0
    while True:
        code, if_true, if_false, k = struct.unpack_from("=HBBI", program, 8 * position)
        position += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x54:
                accumulator &= k
            case 0x15:
                position += if_true if accumulator == k else if_false
            case 0x35:
                position += if_true if accumulator >= k else if_false
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(hex(code))


def expected(
    architecture: abi.Architecture, rules: Sequence[bpf.Rule], number: int, arguments: Sequence[int]
) -> int:
    for rule in rules:
        if architecture.syscalls.get(rule.syscall) == number and all(
            (arguments[when.index] & when.mask & 0xFFFF_FFFF == when.value) != when.differs
            for when in rule.when
        ):
            return rule.action
    return abi.SECCOMP_RET_ALLOW


words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 4, 39, 40, 0x7B9, abi.NSM_IOCTL_RAW, 0x0A00, 0x1000, 2**64 - 100]),
)


@pytest.mark.parametrize("rules", [bpf.RULES, bpf.RULES + bpf.PATH_RULES], ids=["own", "trapped"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=list(abi.ARCHITECTURES))
@given(data=st.data(), arguments=st.lists(words, min_size=6, max_size=6))
def test_the_filter_does_what_the_table_says(
    architecture: abi.Architecture,
    rules: tuple[bpf.Rule, ...],
    data: st.DataObject,
    arguments: list[int],
) -> None:
    number = data.draw(
        st.one_of(st.sampled_from(sorted(architecture.syscalls.values())), st.integers(0, 600))
    )
    program = bpf.assemble(architecture, rules)
    assert run_filter(program, number, architecture.audit, arguments) == expected(
        architecture, rules, number, arguments
    )


def test_the_data_path_is_not_in_the_table() -> None:
    data_path = {
        "read": 0, "write": 1, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47,
        "poll": 7, "epoll_wait": 232, "close": 3, "listen": 50,
    }  # fmt: skip
    program = bpf.assemble(abi.X86_64, bpf.RULES + bpf.PATH_RULES)
    for number in data_path.values():
        for family in (40, 0):
            verdict = run_filter(program, number, abi.X86_64.audit, [family] * 6)
            assert verdict == abi.SECCOMP_RET_ALLOW


def test_with_a_dev_of_its_own_no_path_is_trapped() -> None:
    paths = {
        "stat": 4, "lstat": 6, "newfstatat": 262, "statx": 332, "access": 21, "faccessat": 269,
        "faccessat2": 439, "open": 2, "creat": 85, "openat": 257, "openat2": 437, "execve": 59,
    }  # fmt: skip
    program = bpf.assemble(abi.X86_64)
    for number in paths.values():
        assert run_filter(program, number, abi.X86_64.audit, [0] * 6) == abi.SECCOMP_RET_ALLOW


def test_other_abis_do_not_slip_through() -> None:
    program = bpf.assemble(abi.X86_64)
    i386, x32_socket = 0x4000_0003, 0x4000_0000 + 41
    assert run_filter(program, 41, i386, [40] * 6) == abi.SECCOMP_RET_USER_NOTIF
    assert (
        run_filter(program, x32_socket, abi.X86_64.audit, [40] * 6)
        == abi.SECCOMP_RET_ERRNO | errno.ENOSYS
    )


def test_structures_have_the_kernels_sizes() -> None:
    sizes = {
        abi.NOTIFICATION: 80, abi.RESPONSE: 24, abi.ADDFD: 24, abi.NSM_RAW: 32,
        abi.SOCKADDR_VM: 16, abi.STATX: 256, abi.X86_64.stat: 144, abi.AARCH64.stat: 128,
    }  # fmt: skip
    assert {layout: layout.size for layout in sizes} == sizes
    for architecture in ARCHITECTURES:
        assert len(architecture.device_stat(7)) == architecture.stat.size


# --- addresses ---


def table(alive: set[int], parent_ports: Mapping[int, str] | None = None) -> VsockTable:
    return VsockTable(16, "/folder", parent_ports or {}, lambda: alive)


def test_a_port_is_one_sockets_until_that_is_gone() -> None:
    alive = {1, 2}
    vsock = table(alive)
    for inode in alive:
        vsock.sockets.add(inode, VsockSocket())
    assert vsock.claim(1, 5000) == 5000
    with pytest.raises(OSError, match="in use") as caught:
        vsock.claim(2, 5000)
    assert caught.value.errno == errno.EADDRINUSE
    alive.remove(1)
    assert vsock.claim(2, 5000) == 5000


def test_any_port_is_a_free_one() -> None:
    alive = set(range(10))
    vsock = table(alive)
    for inode in alive:
        vsock.sockets.add(inode, VsockSocket())
    assert vsock.claim(0, 1025) == 1025
    assert [vsock.claim(inode, abi.VMADDR_PORT_ANY) for inode in (1, 2)] == [1024, 1026]


def test_ports_of_closed_sockets_are_not_kept_for_ever() -> None:
    vsock = table(set())
    for inode in range(2000):
        vsock.sockets.add(inode, VsockSocket())
        vsock.claim(inode, abi.VMADDR_PORT_ANY)
    assert len(vsock._bound) < 1000
    assert len(vsock.sockets) < 1000


def test_where_addresses_lead() -> None:
    vsock = table(set(), parent_ports={8000: "/service"})
    assert vsock.path_to(VsockAddress(3, 8000)) == "/service"
    assert vsock.path_to(VsockAddress(3, 9000)) == "/folder/3_9000"
    for own in (16, 1):
        assert vsock.path_to(VsockAddress(own, 1)) == "/folder/16_1"
    for nobody in (0, 2, 4, ANY):
        with pytest.raises(OSError, match="timed out") as caught:
            vsock.path_to(VsockAddress(nobody, 1))
        assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("cid", [1, 16])
def test_the_accepting_side_knows_who_connected(cid: int) -> None:
    vsock = table(set())
    name = vsock.connecting_name(VsockAddress(cid, 5000), 1024)
    listener = VsockSocket(VsockAddress(abi.VMADDR_CID_ANY, 5000))
    accepted = vsock.accepted(listener, name.encode())
    assert accepted.remote == VsockAddress(cid, 1024)
    assert accepted.local == VsockAddress(cid, 5000)


@pytest.mark.parametrize("name", [b"", b"\0x", b"/folder/16_", b"/tmp/a socket", b"/a/1_1_1"])
def test_who_connects_by_path_is_the_parent(name: bytes) -> None:
    listener = VsockSocket(VsockAddress(abi.VMADDR_CID_ANY, 5000))
    first, second = (table(set()).accepted(listener, name) for _ in range(2))
    assert first.remote is not None
    assert (first.remote.cid, first.local) == (3, VsockAddress(16, 5000))
    assert second.remote == first.remote


def test_inodes_forget_only_the_dead() -> None:
    alive = set(range(0, 100, 2))
    known: Inodes[int] = Inodes(lambda: alive, sweep_at=10)
    for inode in range(100):
        known.add(inode, inode)
    known.sweep()
    assert [inode for inode in range(100) if known.get(inode) is not None] == sorted(alive)


# --- memory and /proc, of this very process ---


@pytest.fixture
def page() -> Iterator[int]:
    """The address of 4096 readable bytes before memory that cannot be read."""
    mapped = mmap.mmap(-1, 8192)
    mapped.write(b"x" * 8192)
    start = ctypes.c_char.from_buffer(mapped)
    address = ctypes.addressof(start)
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert libc.mprotect(address + 4096, 4096, 0) == 0
    yield address
    del start
    mapped.close()


def test_memory_is_read_whole_or_not_at_all(page: int) -> None:
    end = page + 4096
    assert memory.read(os.getpid(), end - 10, 10) == b"x" * 10
    for address, size in ((end - 10, 11), (end, 1), (8, 8), (2**64 - 8, 8)):
        with pytest.raises(OSError, match="Bad address") as caught:
            memory.read(os.getpid(), address, size)
        assert caught.value.errno == errno.EFAULT
    assert memory.read(os.getpid(), 8, 0) == b""


@given(text=st.binary(max_size=300).filter(lambda text: b"\0" not in text), rest=st.binary())
def test_strings_end_at_their_nul(text: bytes, rest: bytes) -> None:
    buffer = ctypes.create_string_buffer(text + b"\0" + rest)
    assert memory.read_string(os.getpid(), ctypes.addressof(buffer)) == text


def test_strings_at_the_end_of_memory_and_without_end(page: int) -> None:
    end = page + 4096
    memory.write(os.getpid(), end - 1, b"\0")
    assert memory.read_string(os.getpid(), end - 200) == b"x" * 199
    memory.write(os.getpid(), end - 1, b"x")
    with pytest.raises(OSError, match="Bad address"):
        memory.read_string(os.getpid(), end - 200)
    with pytest.raises(OSError, match="too long"):
        memory.read_string(os.getpid(), page, limit=100)


def test_writing_beyond_memory(page: int) -> None:
    with pytest.raises(OSError, match="Bad address"):
        memory.write(os.getpid(), page + 4090, b"too much")


@pytest.mark.parametrize("name", [b"a\nb c", b"\n", b"a\n1: 2 3", b"\n\0: x", b"\xff"])
def test_sockets_are_found_whatever_their_names(name: bytes) -> None:
    """The kernel prints names as they are, and any program may choose one."""
    with socket.socket(socket.AF_UNIX) as odd, socket.socket(socket.AF_UNIX) as other:
        odd.bind(b"\0" + name + os.urandom(8).hex().encode())
        other.bind(b"")  # the kernel chooses
        alive = live_unix_sockets()
        assert {os.fstat(each.fileno()).st_ino for each in (odd, other)} <= alive
    assert not {1, 2, 3} & alive


def test_a_socket_by_its_descriptor() -> None:
    with socket.socket(socket.AF_UNIX) as opened, Path(os.devnull).open() as file:
        inode = os.fstat(opened.fileno()).st_ino
        assert socket_inode(os.getpid(), opened.fileno()) == inode
        assert inode in live_unix_sockets()
        for other in (file.fileno(), -1, 2**31 - 1):
            assert socket_inode(os.getpid(), other) is None
    assert inode not in live_unix_sockets()


def test_status_of_a_thread() -> None:
    waits, release = threading.Event(), threading.Event()

    def run() -> None:
        waits.set()
        release.wait()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        waits.wait()
        assert thread.native_id is not None
        now = status(thread.native_id)
        assert now.process == os.getpid()
        assert now.state in ("R", "S")
    finally:
        release.set()
        thread.join()
    with pytest.raises(OSError, match=r"No such (file|process)"):
        status(2**22 + 1)


# --- what /proc tells ---


def test_a_process_is_told_from_a_later_one_of_its_id_whatever_its_name(tmp_path: Path) -> None:
    """The name stands in the line that is read, in parentheses that it may have itself."""
    named = tmp_path / "a) S 1 (b"
    named.symlink_to(sys.executable)
    with subprocess.Popen([named, "-c", "input()"], stdin=subprocess.PIPE) as child:
        since = started(child.pid)
        assert started(os.getpid()) < since == started(child.pid)
        child.communicate(b"\n")
    with pytest.raises(FileNotFoundError):
        started(child.pid)


def test_room_for_a_descriptor_is_below_the_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (0, hard))
        assert not has_free_descriptor(child.pid)
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert has_free_descriptor(child.pid)
        # 0, 1 and 2 are open: no other is below a limit of 3.
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (3, hard))
        assert not has_free_descriptor(child.pid)
        child.communicate(b"\n")
