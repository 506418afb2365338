"""What can go wrong with a simulated machine."""

from __future__ import annotations

from vsock_proxy.errors import AgentError


class MachineError(AgentError):
    """The machine cannot be started, or did not run to its end."""


class UnavailableError(MachineError):
    """What a machine is made of cannot be had here: no apt, no mirror."""


class ProtocolError(MachineError):
    """The guest, or QEMU on its behalf, broke the rules of virtio or vhost-user.

    Nothing can be done for that device from then on, so the machine ends.
    """
