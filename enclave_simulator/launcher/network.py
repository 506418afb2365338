"""What a pod, a task or an instance finds on its network, simulated: KMS, and credentials.

With a network of the program's own, all of it is where AWS has it: KMS under its names on port 443,
the services of credentials on their link-local addresses. Without, it is on this machine's
loopback interface, and variables say where.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from enclave_simulator.kms.names import regional_names
from enclave_simulator.metadata import container, instance
from vsock_proxy.net.addresses import TcpAddress

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

    from enclave_simulator.threaded_server import Server

POD, TASK, INSTANCE = "pod", "task", "instance"

_NO_PROXY = ("NO_PROXY", "no_proxy")

KMS_ADDRESS: Final = "198.51.100.1"
"""TEST-NET-2 (RFC 5737): nobody's."""

_TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"  # noqa: S105 (a variable)
_FULL_URI, _RELATIVE_URI = (
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)


@dataclass
class Network:
    """What there is; the fields are those of `Launcher`."""

    services: dict[tuple[str, int], TcpAddress] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    env_with: dict[str, str] = field(default_factory=dict)
    env_without: dict[str, str] = field(default_factory=dict)

    def add_kms(self, address: TcpAddress) -> None:
        """Add a KMS that listens on this machine."""
        self.services[KMS_ADDRESS, 443] = address
        # A proxy of the developer's is out of reach, or leads to another 127.0.0.1.
        given = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        without = ",".join(filter(None, (given, address.host)))
        self.env_with |= dict.fromkeys(_NO_PROXY, "*")
        self.env_without |= dict.fromkeys(_NO_PROXY, without)
        self.hosts |= dict.fromkeys(regional_names(), KMS_ADDRESS)
        self.env_without["AWS_ENDPOINT_URL_KMS"] = f"https://{address.host}:{address.port}"

    def add_credentials(
        self, kind: str, stack: contextlib.ExitStack, *, private: Path, region: str, hops: int = 1
    ) -> None:
        """Start the service that gives credentials to a pod, a task or an instance.

        Args:
            kind: which of them.
            stack: leaving it stops the service.
            private: a folder for its token.
            region: of the instance.
            hops: between the program and the instance metadata.
        """
        listener = socket.create_server(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        if kind == INSTANCE:
            metadata = instance.InstanceMetadata(listener, region=region, hops=hops)
            self._add(metadata, stack, instance.ADDRESS, port)
            self.env_without["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = f"http://127.0.0.1:{port}"
        elif kind == TASK:
            tasks = container.ContainerCredentials(listener, path=container.TASK_PATH)
            self._add(tasks, stack, container.TASK_ADDRESS, port)
            self.env_with[_RELATIVE_URI] = container.TASK_PATH
            self.env_without[_FULL_URI] = f"http://127.0.0.1:{port}{container.TASK_PATH}"
        else:
            token = private / "pod-identity-token"
            token.write_text(secrets.token_urlsafe(64))
            pods = container.ContainerCredentials(listener, token=token.read_text)
            self._add(pods, stack, container.POD_ADDRESS, port)
            url = f"http://{container.POD_ADDRESS}{container.POD_PATH}"
            self.env_with |= {_FULL_URI: url, _TOKEN_FILE: str(token)}
            self.env_without |= {
                _FULL_URI: f"http://127.0.0.1:{port}{container.POD_PATH}",
                _TOKEN_FILE: str(token),
            }

    def _add(self, server: Server, stack: contextlib.ExitStack, address: str, port: int) -> None:
        stack.enter_context(server.running())
        self.services[address, 80] = TcpAddress("127.0.0.1", port)
