"""The launcher's talk with the trampoline: the plan, its report, and what a refusal means."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from enclave_simulator.launcher import memory, process
from enclave_simulator.launcher.errors import CommandError, LaunchError
from vsock_proxy.service.child import exec_hint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsock_proxy.errors import AgentError

_HANDSHAKE = 30
"""Seconds for the trampoline's few milliseconds, on however loaded a machine."""

_REPORT_LIMIT = 4096
_NO_NAMESPACES = "a user and mount namespace of its own"
_HINTS = {
    "namespaces": "without `namespaces`, the launcher traps the paths instead",
    "no_new_privs": "Linux 5.14 or newer is needed",
    "seccomp": "Linux 5.14 or newer with seccomp filters is needed",
    "socket": "Linux 5.14 or newer is needed (SECCOMP_ADDFD_FLAG_SEND)",
    "access": "the launcher needs process_vm_readv and pidfd_getfd: in a container allow them "
    "(docker run --cap-add SYS_PTRACE), on the host see kernel.yama.ptrace_scope (0 or 1)",
}
_BUSY = (
    "a process has one seccomp notification filter at most, and this one inherited one: is this "
    "inside another launcher?"
)
_BUSY_WSL = (
    "WSL's init has installed a seccomp notification filter, and a process has one at most. With "
    "mirrored networking it does: set networkingMode=nat in .wslconfig, then wsl --shutdown"
)


class NamespacesError(LaunchError):
    """The kernel refuses namespaces: the launcher can do without."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the trampoline has to do.

    Attributes:
        argv: COMMAND and its arguments.
        env: its environment.
        filter: the seccomp filter, in hex.
        namespaces: make a /dev of its own.
        network: try to make a network of its own as well.
        devices: their names in a /dev of its own.
        listen: addresses and TCP ports that something listens on in a network of its own.
        hosts: file that takes the place of /etc/hosts with these; empty for none.
        env_with: variables to add with a network of its own.
        env_without: variables to add without one.
        parent: the process that it must not outlive; 0 for none.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    filter: str
    namespaces: bool
    network: bool
    parent: int
    devices: Sequence[str] = ("nsm", "vsock")
    listen: Sequence[tuple[str, int]] = ()
    hosts: str = ""
    env_with: Mapping[str, str] = field(default_factory=dict)
    env_without: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the trampoline has done.

    Attributes:
        listener: the seccomp notification descriptor.
        node: the device that /dev/nsm is a node of; empty without a /dev of its own.
        rdev: its device number.
        network: whether there is a network of its own.
        listening: the sockets of `Plan.listen`, in that order, if there is.
    """

    listener: int
    node: str
    rdev: int
    network: bool
    listening: Sequence[socket.socket] = ()


def exchange(control: socket.socket, child: int, plan: Plan) -> Report:
    """Send the plan to the trampoline and receive its report.

    Raises:
        NamespacesError: the kernel refuses namespaces.
        LaunchError: it refuses something else.
    """
    control.settimeout(_HANDSHAKE)
    try:
        control.sendall(json.dumps(asdict(plan)).encode() + b"\n")
        text, fds, _, _ = socket.recv_fds(
            control, _REPORT_LIMIT, 1 + len(plan.listen), socket.MSG_CMSG_CLOEXEC
        )
    except (OSError, TimeoutError) as e:
        raise LaunchError(f"the program did not start: {e}") from e
    if not text:
        raise LaunchError("the program died before it began")
    report = json.loads(text)
    if not fds:
        raise _failure(report)
    with contextlib.ExitStack() as held:
        for fd in fds:
            held.callback(os.close, fd)
        _check_access(child, report)
        held.pop_all()
    node = report["node"] or {"name": "", "rdev": 0}
    return Report(
        listener=fds[0],
        node=node["name"],
        rdev=node["rdev"],
        network=report["network"],
        listening=[socket.socket(fileno=fd) for fd in fds[1:]],
    )


def let_go(control: socket.socket, command: str) -> None:
    """Have the trampoline try a socket and become the program.

    Raises:
        CommandError: the program cannot be executed.
        LaunchError: sockets cannot be simulated.
    """
    try:
        control.sendall(b"g")
        text = control.recv(_REPORT_LIMIT)  # closed without a message if exec succeeds
    except OSError as e:
        raise LaunchError(f"the program did not start: {e}") from e
    if text:
        raise _failure(json.loads(text), command)


def _check_access(child: int, report: dict[str, Any]) -> None:
    """Try what the supervisor will need, so that a refusal shows now and not as odd errors."""
    try:
        memory.read(child, report["proof"], 1)
        os.close(process.borrow(child, report["control"]))
    except OSError as e:
        raise LaunchError(
            f"cannot reach into the program: {e.strerror}", hint=_HINTS["access"]
        ) from e


def _failure(report: dict[str, Any], command: str = "") -> AgentError:
    step, code = str(report["error"]), int(report["errno"])
    reason = os.strerror(code)
    if step == "exec":
        return CommandError(
            command,
            reason,
            exit_code=127 if code == errno.ENOENT else 126,
            hint=exec_hint(command, code),
        )
    hint = _HINTS.get(step, "")
    if step == "namespaces":
        if report.get("call") == "mount /" and code == errno.EINVAL:
            reason = "the root folder is no mount point, as in a chroot"
        return NamespacesError(f"the kernel refuses {_NO_NAMESPACES}: {reason}", hint=hint)
    if step == "seccomp" and code == errno.EBUSY:
        hint = _BUSY_WSL if "microsoft" in os.uname().release.lower() else _BUSY
    return LaunchError(f"the kernel refuses {step}: {reason}", hint=hint)
