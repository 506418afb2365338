"""Runs any unmodified program with a simulated ``/dev/nsm`` and AF_VSOCK, without privilege.

    with Launcher(nsm=SimulatedNsm(...)).start(["kmstool_enclave_cli", ...]) as session:
        session.wait()

A seccomp filter stops the few system calls that connect or ask the NSM (`bpf`), and a supervisor in
this process executes them (`supervisor`): `devices` for the NSM, `vsock` for sockets. A trampoline
prepares the program's process: a /dev of its own, in a mount namespace, and the filter
(`trampoline`, `handshake`). If the kernel refuses namespaces, calls with paths are stopped as well.

It is a stand-in and no sandbox. docs/launcher.md has what a program can tell from an enclave.
"""

from enclave_simulator.launcher.errors import CommandError, LaunchError
from enclave_simulator.launcher.launch import DEFAULT_CID, Launcher, Session

__all__ = ["DEFAULT_CID", "CommandError", "LaunchError", "Launcher", "Session"]
