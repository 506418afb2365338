"""Runs as its own program between the launcher and COMMAND: makes the namespaces, installs the
filter, then becomes COMMAND.

``python -I -S trampoline.py FD``: FD is a stream socket to the launcher. The launcher sends one
line of JSON (see `Plan` in `handshake`). This program responds with one line: a report with the
notification descriptor, or ``{"error": step, "errno": n}``. After the launcher's "g", the socket
closes when COMMAND has begun.

Only the standard library, and little of it (no pathlib): its start is part of every launch.
"""

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5
AF_VSOCK = 40
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000
MS_NOSUID = 1 << 1
MS_BIND = 1 << 12
MS_REC = 1 << 14
MS_SLAVE = 1 << 19
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
IFREQ = struct.Struct("=16sH22x")
MISC_MAJOR = 10
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891C
SOCKADDR = struct.Struct("=16sHH4s8x")
"""struct ifreq with a struct sockaddr_in; the port is of no meaning."""
DEVICES = frozenset(("nsm", "vsock", "tpm0", "tpmrm0"))
"""Not the machine's own: those of the plan are made, the others are missing."""

libc = ctypes.CDLL(None, use_errno=True)


class SockFprog(ctypes.Structure):
    """struct sock_fprog (<linux/filter.h>)."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def check(result: int, call: str) -> None:
    """Raise OSError if a call of the C library failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), call)


def install(program: bytes) -> int:
    """Install the filter on this process and return the notification descriptor."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = SockFprog(len(program) // 8, ctypes.addressof(buffer))
    number = SYS_SECCOMP[os.uname().machine]
    # The second flag (Linux 5.19) keeps signals from interrupting a call that is being executed.
    # Without it, the supervisor might write into memory that the program has used again meanwhile.
    for more in (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0):
        flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | more
        listener: int = libc.syscall(number, SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog))
        if listener >= 0:
            return listener
    raise OSError(ctypes.get_errno(), "seccomp")


# --- namespaces ---


def enter_namespaces(*, network: bool) -> bool:
    """Enter a mount namespace, and a network namespace if wanted and possible.

    Without privilege, a user namespace comes first: it keeps this user's id and group id. Root
    gets none, because root would lose all other users in it.

    Returns:
        Whether there is a network namespace.

    Raises:
        OSError: the kernel refuses.
    """
    kinds = [CLONE_NEWNS | CLONE_NEWNET] if network else []
    for kind in (*kinds, CLONE_NEWNS):
        if libc.unshare(kind) == 0:
            return bool(kind & CLONE_NEWNET)
    user, group = os.getuid(), os.getgid()
    if user == 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for kind in (*kinds, CLONE_NEWNS):
        if libc.unshare(kind | CLONE_NEWUSER) == 0:
            break
    else:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (
        ("uid_map", f"{user} {user} 1"),
        ("setgroups", "deny"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as f:  # noqa: PTH123
            f.write(text)
    return bool(kind & CLONE_NEWNET)


def mount(source: str, target: str, kind: "str | None", flags: int, data: str = "") -> None:
    """Call the kernel's mount."""
    encoded = (None if text is None else os.fsencode(text) for text in (source, target, kind))
    check(libc.mount(*encoded, ctypes.c_ulong(flags), os.fsencode(data)), f"mount {target}")


def make_dev(devices: "list[str]", hosts: str) -> "dict[str, int | str]":
    """Mount a /dev with all that is in the present one, plus these devices, and an /etc/hosts.

    Returns:
        The device that their nodes stand on: its name and number.
    """
    here = os.getcwd()  # noqa: PTH109
    mount("none", "/", None, MS_REC | MS_SLAVE)
    old = os.open("/dev", os.O_RDONLY | os.O_DIRECTORY)
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=755")
    with os.scandir(old) as entries:
        for entry in entries:
            path = f"/dev/{entry.name}"
            if entry.name in DEVICES:
                continue
            if entry.is_symlink():
                os.symlink(os.readlink(entry.name, dir_fd=old), path)  # noqa: PTH211
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder:
                os.mkdir(path)  # noqa: PTH102
            else:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            try:
                mount(f"/proc/self/fd/{old}/{entry.name}", path, None, MS_BIND | MS_REC)
            except FileNotFoundError:  # It has been removed meanwhile.
                (os.rmdir if is_folder else os.unlink)(path)
    found = make_nodes(old, devices)
    os.close(old)
    make_hosts(hosts or "/etc/hosts")
    if here == "/dev" or here.startswith("/dev/"):
        os.chdir(here)
    return found


def make_hosts(source: str) -> None:
    """Mount a copy over /etc/hosts: what the program writes there is its own, as in an enclave."""
    try:
        os.stat("/etc/hosts")  # noqa: PTH116
        with open(source, "rb") as f:  # noqa: PTH123
            content = f.read()
    except OSError:
        return
    copy = "/dev/.hosts"
    fd = os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with open(fd, "wb") as f:  # noqa: PTH123
        f.write(content)
    os.chmod(copy, 0o644)  # noqa: PTH101
    mount(copy, "/etc/hosts", None, MS_BIND)
    os.unlink(copy)  # noqa: PTH108


def make_nodes(old: int, devices: "list[str]") -> "dict[str, int | str]":
    """Make /dev/nsm and the others, on a device that does as little as possible.

    The NSM's driver has no read and no write, and vsock's has neither: a node of that one is the
    best, in this order: one made (by root), the machine's own, if everybody may open it, the
    network tunnel's, which fails to read and to write as well, with another error; and
    /dev/null, which is everywhere.
    """
    misc = {}
    with open("/proc/misc") as f:  # noqa: PTH123
        for line in f:
            minor, name = line.split()
            misc[name] = int(minor)
    for name in ("vsock", "autofs"):
        if name in misc and make_node(misc[name], devices):
            return {"name": name, "rdev": os.stat(f"/dev/{devices[0]}").st_rdev}  # noqa: PTH116
    for name, path in (("vsock", "vsock"), ("tun", "net/tun"), ("null", "null")):
        source = f"/proc/self/fd/{old}/{path}"
        if (name in misc or name == "null") and is_device_for_all(source):
            for device in devices:
                os.close(os.open(f"/dev/{device}", os.O_CREAT | os.O_WRONLY, 0o600))
                mount(source, f"/dev/{device}", None, MS_BIND)
            return {"name": name, "rdev": os.stat(f"/dev/{devices[0]}").st_rdev}  # noqa: PTH116
    raise OSError(errno.ENODEV, "no device for /dev/nsm")


def make_node(minor: int, devices: "list[str]") -> bool:
    """Make the nodes on a miscellaneous device, if this process may and it opens."""
    try:
        for device in devices:
            path = f"/dev/{device}"
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(MISC_MAJOR, minor))
            os.chmod(path, 0o666)  # noqa: PTH101, S103 (as the driver's, whatever the umask)
        os.close(os.open(f"/dev/{devices[0]}", os.O_RDWR))
    except OSError:
        for device in devices:
            if os.path.lexists(f"/dev/{device}"):
                os.unlink(f"/dev/{device}")  # noqa: PTH108
        return False
    return True


def is_device_for_all(path: str) -> bool:
    """Return whether everybody may open a character device, and this process can."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
        if not stat.S_ISCHR(mode) or mode & 0o666 != 0o666:
            return False
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def raise_loopback() -> None:
    """Set the loopback interface of a new network namespace up: COMMAND may not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _, flags = IFREQ.unpack(fcntl.ioctl(control, SIOCGIFFLAGS, IFREQ.pack(b"lo", 0)))
        fcntl.ioctl(control, SIOCSIFFLAGS, IFREQ.pack(b"lo", flags | IFF_UP))


def listen_on_loopback(addresses: "list[tuple[str, int]]") -> "list[socket.socket]":
    """Give the loopback interface of a new network these addresses, and listen on them."""
    listening = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for number, (host, port) in enumerate(addresses):
            if not host.startswith("127."):
                for request, value in (
                    (SIOCSIFADDR, socket.inet_aton(host)),
                    (SIOCSIFNETMASK, b"\xff" * 4),
                ):
                    name = f"lo:{number}".encode()
                    fcntl.ioctl(control, request, SOCKADDR.pack(name, socket.AF_INET, 0, value))
            listening.append(socket.create_server((host, port), backlog=1024))
    return listening


def main() -> None:
    """Do what the module's first lines say."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    plan = json.loads(control.makefile("rb").readline())
    if plan["parent"]:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != plan["parent"]:
            os._exit(1)  # It died before it could take us with it.
    report: dict[str, object] = {"control": control.fileno(), "node": None, "network": False}
    listening: list[socket.socket] = []
    step = "namespaces"
    try:
        if plan["namespaces"]:
            report["network"] = enter_namespaces(network=plan["network"])
            report["node"] = make_dev(plan["devices"], plan["hosts"] if report["network"] else "")
            if report["network"]:
                raise_loopback()
                listening = listen_on_loopback(plan["listen"])
        step = "no_new_privs"
        # Without privilege the kernel takes a filter only from a process that can gain none by
        # exec.
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
        step = "seccomp"
        listener = install(bytes.fromhex(plan["filter"]))
        proof = ctypes.create_string_buffer(b"readable", 8)
        report["proof"] = ctypes.addressof(proof)
        fds = [listener, *(each.fileno() for each in listening)]
        socket.send_fds(control, [json.dumps(report).encode() + b"\n"], fds)
        os.close(listener)
        for each in listening:
            each.close()
        if control.recv(1) != b"g":
            os._exit(1)
        step = "socket"
        socket.socket(AF_VSOCK, socket.SOCK_STREAM).close()  # shows that the whole chain works
        step = "exec"
        # What Python ignores, and what the launcher's thread had blocked, would stay so.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        env = {**plan["env"], **plan["env_with" if report["network"] else "env_without"]}
        os.execvpe(plan["argv"][0], plan["argv"], env)  # noqa: S606 (no shell is wanted)
    except (OSError, ValueError) as e:  # ValueError: a NUL in what is executed
        code = getattr(e, "errno", errno.EINVAL)
        failed = {"error": step, "errno": code, "call": str(getattr(e, "strerror", e))}
        control.sendall(json.dumps(failed).encode() + b"\n")
        os._exit(127)


if __name__ == "__main__":
    main()
