"""``enclave-parent run`` as a process, with all its listeners on the enclave's kind of socket.
True AF_VSOCK in the guest (`make test-vsock`), UNIX sockets elsewhere.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from enclave.credentials import ParentCredentials
from enclave.errors import CredentialsError
from enclave_simulator.parent.processes import Service
from tests.vsock_proxy.rig import (
    LOCAL,
    VMADDR_CID_LOCAL,
    Place,
    Server,
    check,
    closed_without_a_byte,
)
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

CONFIGURATION = """\
proxy:
  forwards:
  - {{name: open, listen: "{open}", to: "{server}"{cids}}}
credentials: {{listen: "{credentials}"{cids}}}
logs: {{listen: "{logs}"{cids}, to: {{file: "{folder}/enclaves.log"}}}}
operations: {{listen: "tcp://127.0.0.1:0"}}
"""


class Parent:
    """The daemon, and a server that it forwards to."""

    def __init__(self, place: Place, server: Server, folder: Path, cids: str) -> None:
        names = ("open", "credentials", "logs")
        self.address = {name: place.address(name) for name in names}
        self.log = folder / "enclaves.log"
        path = folder / "parent.yaml"
        path.write_text(
            CONFIGURATION.format(**self.address, server=server.address, folder=folder, cids=cids)
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": "ASIA",
            "AWS_SECRET_ACCESS_KEY": "s3cret",
            "AWS_SESSION_TOKEN": "t0ken",
        }
        self._service = Service("parent.cli", ["run", "--config", str(path)], env=environment)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self._service:
            eventually(lambda: self.health()["credentials"]["healthy"])
            yield

    def get(self, path: str) -> bytes:
        operations = self._service.state["STATUS"].partition("tcp://")[2]
        client = http.client.HTTPConnection(operations, timeout=TEST_TIMEOUT)
        with contextlib.closing(client):
            client.request("GET", path)
            return client.getresponse().read()

    def health(self) -> dict[str, Any]:
        components: dict[str, Any] = json.loads(self.get("/healthz"))["components"]
        return components

    def dial(self, name: str) -> socket.socket:
        connection = SocketDialer().dial(self.address[name], TEST_TIMEOUT)
        connection.settimeout(TEST_TIMEOUT)
        return connection

    def access_key(self) -> str:
        source = ParentCredentials(self.address["credentials"], timeout=TEST_TIMEOUT)
        return source.credentials(timeout=TEST_TIMEOUT).access_key_id


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(LOCAL, tmp_path)


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    with place.server() as server:
        yield server


ANYBODY = ", cids: any" if LOCAL == "vsock" else ""
only_vsock = pytest.mark.skipif(LOCAL != "vsock", reason="UNIX has no CIDs: make test-vsock")


def test_all_of_it_serves_at_once(place: Place, server: Server, tmp_path: Path) -> None:
    parent = Parent(place, server, tmp_path, ANYBODY)
    with parent.running():
        with parent.dial("open") as client, server.accept() as accepted:
            check(client, accepted)
        assert parent.access_key() == "ASIA"
        with parent.dial("logs") as enclave:
            enclave.sendall(b"the key is ready\n\x1b[2Jgone?\n")
        eventually(lambda: parent.log.exists() and "gone?" in parent.log.read_text())
        first, second = parent.log.read_text().splitlines()
        assert first.endswith("the key is ready")
        assert second.endswith(r"\x1b[2Jgone?")
        who = f"cid-{VMADDR_CID_LOCAL}" if LOCAL == "vsock" else "enclave"
        assert who in first


@only_vsock
def test_who_may_not_come_gets_nothing(place: Place, server: Server, tmp_path: Path) -> None:
    parent = Parent(place, server, tmp_path, ", cids: [16]")
    with parent.running():
        with parent.dial("open") as client:
            assert closed_without_a_byte(client)
        with pytest.raises(CredentialsError, match=f"CID {VMADDR_CID_LOCAL} is not among those"):
            parent.access_key()
        with parent.dial("logs") as enclave:
            assert closed_without_a_byte(enclave)
        assert parent.health()["logs"]["values"]["rejected"] == 1
        assert not parent.log.exists() or not parent.log.read_text()
        refusal = b'enclave_parent_proxy_rejected_total{forward="open",reason="cid"} 1.0'
        assert refusal in parent.get("/metrics").splitlines()
