"""Runs as its own program between the launcher and COMMAND: installs the filter, then becomes
COMMAND.

``python -I -S trampoline.py FD``: FD is a stream socket to the launcher. Comes in: one line of
JSON (argv, env, filter in hex, parent to die with or 0). Goes out: one line ``{"proof": ...}``
with the notification descriptor, or ``{"error": step, "errno": n}``. After the launcher's "g", the
socket closes when COMMAND has begun.

Only the standard library, and little of it: its start is part of every launch.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5
AF_VSOCK = 40
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}

libc = ctypes.CDLL(None, use_errno=True)


class SockFprog(ctypes.Structure):
    """struct sock_fprog (<linux/filter.h>)."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(program: bytes) -> int:
    """Install the filter on this process and return the notification descriptor."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = SockFprog(len(program) // 8, ctypes.addressof(buffer))
    number = SYS_SECCOMP[os.uname().machine]
    # The second flag (Linux 5.19) keeps signals from interrupting calls that are being
    # answered, so that none is done twice; without it the launcher works, less exactly.
    for more in (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 0):
        flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | more
        listener: int = libc.syscall(number, SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog))
        if listener >= 0:
            return listener
    raise OSError(ctypes.get_errno(), "seccomp")


def main() -> None:
    """Do what the module's first lines say."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    plan = json.loads(control.makefile("rb").readline())
    if plan["parent"]:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != plan["parent"]:
            os._exit(1)  # It died before it could take us with it.
    step = "no_new_privs"
    try:
        # Without privilege the kernel takes a filter only from who can gain none by exec.
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")  # noqa: TRY301 (told below, like all)
        step = "seccomp"
        listener = install(bytes.fromhex(plan["filter"]))
        proof = ctypes.create_string_buffer(b"readable", 8)
        report = {"proof": ctypes.addressof(proof), "control": control.fileno()}
        socket.send_fds(control, [json.dumps(report).encode() + b"\n"], [listener])
        os.close(listener)
        if control.recv(1) != b"g":
            os._exit(1)
        step = "socket"
        socket.socket(AF_VSOCK, socket.SOCK_STREAM).close()  # shows that the whole chain works
        step = "exec"
        # What Python ignores, and what the launcher's thread had blocked, would stay so.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(plan["argv"][0], plan["argv"], plan["env"])  # noqa: S606 (no shell is wanted)
    except (OSError, ValueError) as e:  # ValueError: a NUL in what is executed
        code = getattr(e, "errno", errno.EINVAL)
        control.sendall(json.dumps({"error": step, "errno": code}).encode() + b"\n")
        os._exit(127)


if __name__ == "__main__":
    main()
