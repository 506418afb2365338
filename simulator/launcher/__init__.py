"""Runs any unmodified program with a simulated ``/dev/nsm`` and AF_VSOCK, without privilege.

    with Launcher(nsm=SimulatedNsm(...)).start(["kmstool_enclave_cli", ...]) as session:
        session.wait()

A seccomp filter stops the few system calls that open, connect or ask the NSM (`bpf`), and a
supervisor in this process answers them (`supervisor`): `devices` for files, `vsock` for sockets.
"""

from simulator.launcher.errors import CommandError, LaunchError
from simulator.launcher.launch import DEFAULT_CID, Launcher, Session

__all__ = ["DEFAULT_CID", "CommandError", "LaunchError", "Launcher", "Session"]
