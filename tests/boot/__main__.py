"""``make boot-test``: build an image with the agent in it, boot it, and watch both sides."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from enclave.attestation.verify import verify
from parent.eif.describe import check
from simulator.kms.tls import CertificateAuthority, generate_key, key_pem
from simulator.machine import debian, qemu
from simulator.machine.errors import MachineError
from tests.boot import image
from tests.boot.ports import DOCUMENT_PORT, ECHO_PORT, GUEST_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

ROLE = "arn:aws:iam::123456789012:role/boot-test"
INSTANCE = "i-0abcdef0123456789"
CID = 16
TIMEOUT = 600.0
"""Seconds for the guest; it takes a tenth of them where nothing else runs."""

_WORDS = b"from the parent" * 1000


class Step:
    """Times what is done, and says so."""

    def __init__(self) -> None:
        self._last = self._begun = time.monotonic()

    def done(self, what: str) -> None:
        """Say how long it took since the last one."""
        now = time.monotonic()
        print(f"boot-test: {now - self._last:5.1f} s  {what}", flush=True)
        self._last = now

    def total(self) -> None:
        """Say how long it all took."""
        print(f"boot-test: {time.monotonic() - self._begun:5.1f} s  in all", flush=True)


class Host:
    """The parent's side of the checks: services behind CID 3, and calls into the guest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nonce = os.urandom(32)
        self.document = b""
        self.called_back = b""
        self.failures: list[str] = []
        self._serve(DOCUMENT_PORT, self._take_document)
        self._serve(ECHO_PORT, _echo)

    def call(self) -> None:
        """Call the guest, as Firecracker's users do: CONNECT, OK, and then the connection."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.settimeout(60)
            end.connect(str(self.folder / str(CID)))
            end.sendall(b"CONNECT %d\n" % GUEST_PORT)
            greeting = b""
            while not greeting.endswith(b"\n"):
                greeting += end.recv(1)
            end.sendall(_WORDS)
            end.shutdown(socket.SHUT_WR)
            while part := end.recv(1 << 16):
                self.called_back += part

    def _take_document(self, end: socket.socket) -> None:
        end.sendall(self.nonce)
        while part := end.recv(1 << 16):
            self.document += part

    def _serve(self, port: int, talk: Callable[[socket.socket], None]) -> None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(self.folder / f"3_{port}"))
        server.listen()

        def run() -> None:
            end, _ = server.accept()
            with server, end:
                talk(end)

        threading.Thread(target=run, daemon=True).start()


def _echo(end: socket.socket) -> None:
    while part := end.recv(1 << 16):
        end.sendall(part)


def main() -> int:
    """Do it all; returns the exit code."""
    step = Step()
    cache = debian.cache_folder()
    try:
        command = [sys.executable, "-m", "simulator.cli", "setup-machine"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        qemu.find()
        image.fetch(cache)
    except (MachineError, subprocess.CalledProcessError) as e:
        print(f"boot-test: skipped: {e}\n{getattr(e, 'hint', '')}".rstrip(), file=sys.stderr)
        return 77  # as automake has it: neither passed nor failed
    step.done(f"QEMU, Debian's kernel and Python in {cache}")
    with tempfile.TemporaryDirectory(prefix="boot-test-") as name:
        failures = _boot(Path(name), cache, step)
    for failure in failures:
        print(f"boot-test: FAILED: {failure}")
    step.total()
    print(f"boot-test: {'FAILED' if failures else 'passed'}")
    return 1 if failures else 0


def _boot(private: Path, cache: Path, step: Step) -> list[str]:
    eif, root = private / "image.eif", private / "nitro-root.pem"
    key = generate_key()
    (private / "ca.key").write_bytes(key_pem(key))
    authority = CertificateAuthority(key=key)
    image.build(cache, eif, kms_ca=authority.certificate_pem)
    with eif.open("rb") as stream:
        pcrs = check(stream, at=datetime.now(UTC)).pcrs
    step.done(f"image of {eif.stat().st_size >> 20} MiB, PCR0 {pcrs[0].hex()}")
    host = Host(private)
    command = [
        sys.executable, "-m", "simulator.cli", "boot", str(eif), f"--folder={private}",
        f"--kms-ca={private}", f"--nitro-root={root}", f"--role-arn={ROLE}",
        f"--instance-id={INSTANCE}", f"--cid={CID}", f"--timeout={TIMEOUT}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout
        for line in _shown(process.stdout):
            if "waiting to be called" in line:
                host.call()
    step.done(f"booted and ended, exit code {process.returncode}")
    failures = [] if process.returncode == 0 else [f"the guest ended with {process.returncode}"]
    if host.called_back != _WORDS:
        failures.append(f"the guest said {len(host.called_back)} bytes back, not {len(_WORDS)}")
    failures += _document_failures(host, root, pcrs)
    return failures


def _shown(console: IO[str]) -> Iterator[str]:
    for line in console:
        print(f"    {line.rstrip()}", flush=True)
        yield line


def _document_failures(host: Host, root: Path, pcrs: dict[int, bytes]) -> list[str]:
    """Verify the guest's document against what was computed here, with the agent's verifier."""
    trusted = x509.load_pem_x509_certificate(root.read_bytes()).fingerprint(SHA256())
    expected = {**pcrs, 3: _extended(ROLE), 4: _extended(INSTANCE)}
    try:
        verify(
            host.document,
            root_fingerprint=trusted,
            at=datetime.now(UTC),
            max_age=timedelta(seconds=TIMEOUT),
            pcrs=expected,
            nonce=host.nonce,
            user_data=b"boot test",
        )
    except Exception as e:  # noqa: BLE001 (whatever it is, the test has failed)
        return [f"the document of the guest: {e}"]
    print(f"boot-test: the guest's document is signed and has the image's PCRs {sorted(expected)}")
    return []


def _extended(text: str) -> bytes:
    return hashlib.sha384(bytes(48) + text.encode()).digest()


if __name__ == "__main__":
    sys.exit(main())
