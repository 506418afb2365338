"""The simulated KMS of a soak: what it is told stands in a file, so that it outlives a restart.

The file, JSON, is read every few milliseconds: the clock's error, the accepted credentials, and
the fault that spoils every request.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from enclave_simulator.kms.outputs import write_whole
from enclave_simulator.kms.server import KmsServer
from enclave_simulator.kms.service import KmsService
from enclave_simulator.kms.sigv4 import Credentials
from enclave_simulator.kms.tls import CertificateAuthority, load_key
from vsock_proxy.service.notify import notify

_EVERY = 0.02
"""Seconds between two looks at the file."""


@dataclass
class World:
    """What the KMS is told.

    Attributes:
        ahead: seconds that its clock is ahead of the machine's.
        fault: spoils every request; an empty string for none.
        accepted: access key id, secret and token of each of the credentials.
    """

    ahead: float = 0.0
    fault: str = ""
    accepted: list[list[str]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, path: Path) -> World:
        return cls(**json.loads(path.read_bytes()))


def credentials(world: World) -> dict[str, Credentials]:
    return {key: Credentials(key, secret, token) for key, secret, token in world.accepted}


class _Told:
    """Applies the file to a service, in a thread."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self.world = World.read(path)
        state = folder / "kms-state.json"
        self.service = KmsService(
            (folder / "root.pem").read_bytes(),
            credentials=credentials(self.world).values(),
            state=state.read_bytes() if state.exists() else None,
            on_change=lambda changed: write_whole(state, changed),
            now=lambda: datetime.now(UTC) + timedelta(seconds=self.world.ahead),
        )
        self._apply()

    def _apply(self) -> None:
        self.service._credentials = credentials(self.world)
        self.service.faults.clear()
        if self.world.fault:
            self.service.faults.inject(self.world.fault)

    def follow(self) -> None:
        while True:
            time.sleep(_EVERY)
            world = World.read(self._path)
            if world != self.world:
                self.world = world
                self._apply()


async def _serve(server: KmsServer) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    notify("READY=1\n")
    await stop.wait()
    await server.stop()


def main() -> int:
    """Serve on a port of 127.0.0.1, until SIGTERM; the arguments are the folder and the port."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    told = _Told(folder / "world.json", folder)
    authority = CertificateAuthority(
        told.service.faults, key=load_key((folder / "ca-key.pem").read_bytes())
    )
    ca = folder / "ca.pem"
    if not ca.exists():  # The enclaves trust the first: the same key, the same name.
        ca.write_bytes(authority.certificate_pem)
    threading.Thread(target=told.follow, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", port))
    asyncio.run(_serve(KmsServer(told.service, authority, listener)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
