"""``make boot-test``: build an image with the agent in it, boot it, and watch both sides.

Exit status: 0 passed, 1 failed, 77 where what a machine is made of cannot be had (as automake has
it), 128+N where signal N ended it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from enclave.attestation.verify import verify
from enclave_simulator.kms.tls import CertificateAuthority, generate_key, key_pem
from enclave_simulator.machine import debian, qemu
from enclave_simulator.machine.architecture import BY_NAME
from enclave_simulator.machine.errors import MachineError, UnavailableError
from enclave_simulator.parent.processes import exit_on_signals
from parent.eif.describe import check
from tests.programs.boot import image, root
from tests.programs.boot.host import CID, Host
from tests.programs.boot.outside import outside, seal
from tests.programs.boot.ports import SEALED, SERVERS_CA, TLS_PORT
from vsock_proxy.net.addresses import HybridAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave_simulator.machine.architecture import Architecture

ROLE = "arn:aws:iam::123456789012:role/boot-test"
INSTANCE = "i-0abcdef0123456789"
SKIPPED = 77
TIMEOUT = 3600.0
"""Seconds for the guest, on a slow machine; it takes 100 where little else runs. Its own timeouts,
by how slow it is, end it before. The launcher's tests take longer: --timeout."""


def main(arguments: list[str] | None = None) -> int:
    """Do it all; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.programs.boot", description=__doc__)
    parser.add_argument("--cache", metavar="FOLDER", type=Path, default=debian.cache_folder(),
        help="where QEMU, Debian's kernel and Python are kept (default: %(default)s)")  # fmt: skip
    parser.add_argument("--arch", choices=tuple(BY_NAME), default="x86_64",
        help="of the image; emulation takes minutes (default: %(default)s)")  # fmt: skip
    parser.add_argument("--only", metavar="CHECK", action="append", default=[],
        help="a check to make in the guest, such as launcher_tests (default: all)")  # fmt: skip
    parser.add_argument("--tests", metavar="ARGUMENTS", default="",
        help="pytest's, for launcher_tests (default: all tests of the launcher)")  # fmt: skip
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=TIMEOUT,
        help="for the guest (default: %(default)g)")  # fmt: skip
    options = parser.parse_args(arguments)
    cache, architecture = options.cache, BY_NAME[options.arch]
    exit_on_signals()
    begun = time.monotonic()
    failures: list[str] = []
    try:
        with timed(f"QEMU, Debian's kernel and Python, in {cache}"):
            qemu.set_up(cache, architecture=architecture)
            image.fetch(cache, architecture)
        if not options.only:
            with (
                tempfile.TemporaryDirectory(prefix="boot-test-root-") as folder,
                timed("a root file system with every corner of tar and cpio, booted and listed"),
            ):
                failures += root.check(Path(folder), cache, architecture)
        with tempfile.TemporaryDirectory(prefix="boot-test-") as folder:
            failures += build_and_boot(Path(folder), cache, architecture, options)
    except UnavailableError as e:
        say(f"SKIPPED: {e}\n{e.hint}".rstrip())
        return SKIPPED
    except (MachineError, subprocess.CalledProcessError) as e:
        failures.append(f"{e}\n{getattr(e, 'hint', '')}".rstrip())
    for failure in failures:
        say(f"FAILED: {failure}")
    say(f"{'FAILED' if failures else 'passed'} after {time.monotonic() - begun:.1f} s")
    return 1 if failures else 0


def build_and_boot(
    private: Path, cache: Path, architecture: Architecture, options: argparse.Namespace
) -> list[str]:
    """Return what was wrong."""
    with contextlib.ExitStack() as stack:
        return _build_and_boot(private, cache, architecture, options, stack)


def _build_and_boot(
    private: Path,
    cache: Path,
    architecture: Architecture,
    options: argparse.Namespace,
    stack: contextlib.ExitStack,
) -> list[str]:
    only: list[str] = options.only
    eif, nitro_root = private / "image.eif", private / "nitro-root.pem"
    with timed("packing the image"):
        key = generate_key()
        (private / "ca.key").write_bytes(key_pem(key))
        authority = CertificateAuthority(key=key)
        way_in = HybridAddress(str(private / str(CID)), TLS_PORT)
        out = stack.enter_context(outside(private, way_in))
        sealed, state = seal(out.secret, private, private / "ca.key")
        files = {SEALED: sealed, SERVERS_CA: out.server.ca}
        image.build(
            cache, eif, architecture, kms_ca=authority.certificate_pem, files=files, only=only,
            tests=options.tests,
        )  # fmt: skip
        with eif.open("rb") as stream:
            pcrs = check(stream, at=datetime.now(UTC)).pcrs
    say(f"{eif.stat().st_size >> 20} MiB, PCR0 {pcrs[0].hex()}")
    host = Host(private)
    with (
        timed("booting it: what follows is its console"),
        started(cache, private, eif, state, options.timeout) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            print(f"    {line.rstrip()}", flush=True)
            if "waiting to be called" in line:
                host.call()
            if "waiting for clients" in line:
                out.visit(pcrs[0].hex(), _fingerprint(nitro_root).hex())
    failures = [] if process.returncode == 0 else [f"the guest ended with {process.returncode}"]
    if not only or "traffic" in only:
        failures += out.failures()
    if only:
        return failures
    failures += host.failures()
    expected = {**pcrs, 3: extended(ROLE), 4: extended(INSTANCE)}
    return failures + document_failures(host, nitro_root, expected)


@contextlib.contextmanager
def started(
    cache: Path, private: Path, eif: Path, state: Path, timeout: float
) -> Iterator[subprocess.Popen[str]]:
    """``enclave-simulator boot``, ended whatever happens."""
    command = [
        sys.executable, "-m", "enclave_simulator.cli", "boot", str(eif), f"--cache={cache}",
        f"--folder={private}", f"--kms-ca={private}", f"--nitro-root={private / 'nitro-root.pem'}",
        f"--role-arn={ROLE}", f"--instance-id={INSTANCE}", f"--cid={CID}", f"--timeout={timeout}",
        f"--state={state}",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,  # The terminal's ctrl-C is for us, and we end it.
        env={**os.environ, "TMPDIR": str(private)},
    )
    with process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise


def document_failures(host: Host, root: Path, expected: dict[int, bytes]) -> list[str]:
    """Verify the guest's document against what was computed here, with the agent's verifier."""
    try:
        verify(
            host.document,
            root_fingerprint=_fingerprint(root),
            at=datetime.now(UTC),
            max_age=timedelta(seconds=TIMEOUT),
            pcrs=expected,
            nonce=host.nonce,
            user_data=b"boot test",
        )
    except Exception as e:  # noqa: BLE001 (whatever it is, the test has failed)
        return [f"the document of the guest: {e}"]
    say(f"the guest's document is signed, and its PCRs {sorted(expected)} are those computed here")
    return []


def _fingerprint(root: Path) -> bytes:
    return x509.load_pem_x509_certificate(root.read_bytes()).fingerprint(SHA256())


def extended(text: str) -> bytes:
    """A PCR that measures a text."""
    return hashlib.sha384(bytes(48) + text.encode()).digest()


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    say(what)
    begun = time.monotonic()
    yield
    say(f"{time.monotonic() - begun:.1f} s")


def say(what: str) -> None:
    """To the person who waits."""
    print(f"boot-test: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
