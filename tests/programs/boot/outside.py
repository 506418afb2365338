"""The host's side of `traffic`: S3, the parent's egress and forward, clients, and impostors."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from enclave.attested_tls.binding import PATH
from enclave_simulator.authority import Authority
from enclave_simulator.kms.sigv4 import SIMULATED_CREDENTIALS
from enclave_simulator.parent.processes import Service
from tests.egress import HttpsServer, https_server, parent_egress
from tests.enclave.attested_tls.serving import get
from tests.enclave.attested_tls.test_attacks import Session, impostor, keep_alive
from tests.programs.boot.ports import BUCKET, S3_NAME, WELCOME
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.proxy.forward import Forward

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.proxy.daemon import Daemon

TIMEOUT = 300.0
"""Seconds for one client: a guest that is emulated beside other work is slow."""

BUCKETS = f"""<?xml version="1.0" encoding="UTF-8"?>
<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>x</ID></Owner>
<Buckets><Bucket><Name>{BUCKET}</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket>
</Buckets></ListAllMyBucketsResult>""".encode()


@dataclass
class Outside:
    """What runs on the host.

    Attributes:
        folder: where the guest's vsock is.
        secret: sealed, in the image.
        server: S3.
        parent: egress and the forward into the guest.
        visited: whether clients were there.
        wrong: what was not as it should be.
    """

    folder: Path
    secret: str
    server: HttpsServer
    parent: Daemon
    visited: bool = False
    wrong: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        address = self.parent.addresses[1]
        assert isinstance(address, TcpAddress)
        return address.port

    def visit(self, pcr0: str, root: str) -> None:
        """Be the clients, then the impostors that clients meet; at last end the program.

        Args:
            pcr0: of the image, in hex.
            root: SHA-256 of the root that signs its documents, in hex.
        """
        self.visited = True
        right = (f"--pcr0={pcr0}", f"--simulated-root={root}")
        self._fetch(self.port, *right, says=WELCOME)
        challenge = secrets.token_hex(16)
        proof = hashlib.sha256((challenge + self.secret).encode()).hexdigest().encode()
        self._fetch(self.port, *right, f"--data={challenge}", says=proof)
        another = f"--pcr0={'ab' * 48}"
        self._fetch(self.port, another, right[1], "--data=secret", fails="PCR0: expected abab")
        self._fetch(self.port, right[0], "--data=secret", fails="root: expected")
        kept: list[bytes] = []

        def relay(session: Session) -> bytes:
            kept.append(keep_alive(self._document(session.nonce)))
            return kept[0]

        for what, reason in ("relay", "user_data: expected"), ("replay", "nonce: expected"):
            with impostor(relay) as made:
                self._fetch(made.port, *right, "--data=secret", fails=reason)
            if b"secret" in made.seen:
                self.wrong.append(f"{what}: the impostor was told the secret")
        self._fetch(self.port, *right, "--request=POST", "--data=end", path="/end")

    def failures(self) -> list[str]:
        """Return what was wrong, once the guest has ended."""
        if not self.visited:
            return ["the guest's program did not wait for clients"]
        hosts = self.parent.snapshot().forwards[0].hosts
        if f"{S3_NAME}:443" not in hosts:
            self.wrong.append(f"egress to {list(hosts)}")
        signed = [each["Authorization"] for each in self.server.headers if each["Authorization"]]
        key_ids = {each.split("/")[0] for each in signed}
        if key_ids != {f"AWS4-HMAC-SHA256 Credential={SIMULATED_CREDENTIALS.access_key_id}"}:
            self.wrong.append(f"S3 was called with {key_ids}")
        return self.wrong

    def _document(self, nonce: bytes) -> bytes:
        """What the enclave itself responds to a nonce that an impostor passes on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connected = socket.create_connection(("127.0.0.1", self.port), TIMEOUT)
        with context.wrap_socket(connected) as tls:
            return get(tls, f"{PATH}?nonce={nonce.hex()}")

    def _fetch(
        self, port: int, *options: str, path: str = "/", says: bytes | None = None, fails: str = ""
    ) -> None:
        command = [
            sys.executable, "-m", "enclave.cli", "fetch", f"https://127.0.0.1:{port}{path}",
            f"--timeout={TIMEOUT}", *options,
        ]  # fmt: skip
        done = subprocess.run(command, check=False, capture_output=True, timeout=2 * TIMEOUT)
        told = done.stderr.decode().splitlines()
        shown = [line for line in told if ": error: " in line] or [done.stdout.decode().strip()]
        print(f"    fetch, on the host: {shown[0]:.200}", flush=True)
        if fails:
            if done.returncode == 0 or done.stdout or fails not in done.stderr.decode():
                self.wrong.append(f"fetch {options}: not {fails!r}, but {done}")
        elif done.returncode != 0 or says not in (None, done.stdout):
            self.wrong.append(f"fetch {options}: {done}")


@contextlib.contextmanager
def outside(
    folder: Path, way_in: Address, servers: Mapping[tuple[str, int], int] | None = None
) -> Iterator[Outside]:
    """Run what the program in the enclave reaches, and what leads to it.

    Args:
        folder: where the enclave's vsock is.
        way_in: of its port for attested TLS.
        servers: further ones that it may reach; see `parent_egress`.
    """
    forward = Forward(TcpAddress("127.0.0.1", 0), way_in)
    with (
        pytest.MonkeyPatch.context() as patch,  # of look-ups: the name is this machine's
        https_server(S3_NAME, lambda _: BUCKETS) as server,
        parent_egress(
            UnixAddress(str(folder / "3_8004")),
            {**(servers or {}), (S3_NAME, 443): server.port},
            patch,
            forward,
        ) as parent,
    ):
        yield Outside(folder, secrets.token_hex(16), server, parent)


def seal(secret: str, private: Path, ca_key: Path) -> tuple[bytes, Path]:
    """Seal a secret as on a laptop: return the file, and the state of the KMS that has the key."""
    root, ca, state = (private / name for name in ("seal-root.pem", "seal-ca.pem", "kms.json"))
    plain, sealed = private / "plain.env", private / "sealed.enc.env"
    root.write_bytes(Authority.generate().root_pem)
    plain.write_text(f"SEALED_SECRET={secret}\n")
    kms = [
        "kms", f"--nitro-root={root}", f"--ca-file={ca}", f"--ca-key={ca_key}",
        "--key=alias/app", f"--state={state}",
    ]  # fmt: skip
    with Service("enclave_simulator.cli", kms, ready_within=TIMEOUT) as running:
        address = running.state["STATUS"].removeprefix("listening on tcp://")
        command = [
            sys.executable, "-m", "parent.cli", "seal", "--key-id=alias/app", "--region=us-east-1",
            f"--endpoint-url=https://{address}", "--context=app=boot", f"--output={sealed}",
            str(plain),
        ]  # fmt: skip
        environ = {
            **os.environ,
            "AWS_CA_BUNDLE": str(ca),
            "AWS_ACCESS_KEY_ID": SIMULATED_CREDENTIALS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": SIMULATED_CREDENTIALS.secret_access_key,
            "AWS_SESSION_TOKEN": SIMULATED_CREDENTIALS.session_token or "",
        }
        subprocess.run(command, check=True, env=environ)
    plain.unlink()
    return sealed.read_bytes(), state
