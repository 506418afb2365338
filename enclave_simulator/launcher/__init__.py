"""Runs any unmodified program with a simulated ``/dev/nsm`` and AF_VSOCK, without privilege.

    with Launcher(nsm=SimulatedNsm(...)).start(["kmstool_enclave_cli", ...]) as session:
        session.wait()

A seccomp filter stops the few system calls that open, connect or ask the NSM (`bpf`), and a
supervisor in this process answers them (`supervisor`): `devices` for files, `vsock` for sockets.

It is a stand-in and no sandbox. Where a program can tell:

- ``/dev/nsm`` is there to open, `stat` and `access`, not to list; `fstat` shows a socket.
- 32-bit programs are killed with SIGSYS, io_uring is refused, setuid programs gain nothing.
- A program that makes itself undumpable, and a launcher inside a launcher, have no enclave.
- A CID that nobody has times out at once. Privileged ports need no privilege.
- Without SA_RESTART, a signal may in rare cases end a call with EINTR that never does so in an
  enclave; none is done twice (before Linux 5.19, it may be).
"""

from enclave_simulator.launcher.errors import CommandError, LaunchError
from enclave_simulator.launcher.launch import DEFAULT_CID, Launcher, Session

__all__ = ["DEFAULT_CID", "CommandError", "LaunchError", "Launcher", "Session"]
