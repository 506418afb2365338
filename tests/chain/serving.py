"""``enclave-agent serve`` and all it needs, as processes: the simulated KMS, vsock-proxy, the
launcher. For what takes longer than a test may, the storm and the benchmarks.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enclave_simulator.authority import Authority
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.launcher.launch import Launcher
from enclave_simulator.nsm import SimulatedNsm
from enclave_simulator.parent.processes import Service
from tests.chain.commands import AGENT
from tests.sockets import unused_port

if TYPE_CHECKING:
    from collections.abc import Iterator


class Proxy:
    """vsock-proxy on the parent, as often as it is started."""

    def __init__(self, folder: Path, kms: Service) -> None:
        host, port = kms.state["STATUS"].removeprefix("listening on tcp://").split(":")
        allowlist = folder / "allowlist.yaml"
        allowlist.write_text(f"allowlist:\n- {{address: {host}, port: {port}}}\n")
        self._arguments = ["--config", str(allowlist), f"unix:{folder}/3_8000", host, port]
        self._running = self._start()

    def _start(self) -> Service:
        return Service("vsock_proxy.proxy.command", self._arguments)

    @property
    def pid(self) -> int:
        return self._running.process.pid

    def kill(self) -> None:
        self._running.process.kill()
        self._running.close()

    def start(self) -> None:
        self._running = self._start()

    def close(self) -> None:
        self._running.close()


@dataclass
class Chain:
    """Everything but the program in the enclave.

    Attributes:
        launcher: starts programs in the enclave.
        env: what they are started with: credentials, region, the CA of the simulated KMS.
        proxy: the way out.
        folder: where vsock is, and the CA of the simulated KMS, ``ca.pem``.
        kms_pid: the process of the simulated KMS.
    """

    launcher: Launcher
    env: dict[str, str]
    proxy: Proxy
    folder: Path
    kms_pid: int


@dataclass
class Served:
    """A running ``enclave-agent serve``; `pid` is its process, `port` is on 127.0.0.1."""

    port: int
    pid: int


@contextlib.contextmanager
def chain() -> Iterator[Chain]:
    """Start the parent's side, and have an enclave ready."""
    authority = Authority.generate()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root, ca = folder / "root.pem", folder / "ca.pem"
        root.write_bytes(authority.root_pem)
        kms = Service("enclave_simulator.cli", ["kms", f"--nitro-root={root}", f"--ca-file={ca}"])
        stack.enter_context(kms)
        env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        env |= {
            "AWS_CA_BUNDLE": str(ca),
            "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
            "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
            "AWS_REGION": "us-east-1",
        }
        launcher = Launcher(nsm=SimulatedNsm(authority), folder=folder)
        proxy = stack.enter_context(contextlib.closing(Proxy(folder, kms)))
        yield Chain(launcher, env, proxy, folder, kms.process.pid)


@contextlib.contextmanager
def serving(made: Chain, *options: str) -> Iterator[Served]:
    """Run ``enclave-agent serve`` on a free port, ready."""
    port = unused_port()
    argv = [*AGENT, "serve", "--listen", f"tcp://127.0.0.1:{port}", *options]
    with made.launcher.start(argv, env=made.env) as session:
        wait_until_ready(port)
        yield Served(port, session.process.pid)


def wait_until_ready(port: int) -> None:
    """Ask until the endpoint says that calls succeed.

    Raises:
        TimeoutError: it does not within a minute.
    """
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise TimeoutError("the endpoint is not ready")
