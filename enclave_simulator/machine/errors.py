"""Errors of simulated machines."""

from __future__ import annotations

from vsock_proxy.errors import AgentError


class MachineError(AgentError):
    """The machine cannot be started, or did not run to its end."""


class UnavailableError(MachineError):
    """A part of the machine cannot be downloaded here: no apt, or no mirror."""


class ProtocolError(MachineError):
    """The guest, or QEMU on its behalf, broke the rules of virtio or vhost-user.

    The device cannot go on, so the machine is stopped.
    """
