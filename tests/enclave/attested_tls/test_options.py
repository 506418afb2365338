"""The options of ``serve --ingress-tls``, and the files of a program that ends TLS itself."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import socket
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from enclave import ConfigurationError, Nsm, parse
from enclave.attested_tls import memory_files
from enclave.attested_tls.binding import key_user_data
from enclave.attested_tls.identity import make_identity
from enclave.attested_tls.options import IngressTlsOptions, add_options
from enclave.attested_tls.service import IngressTls
from tests.enclave.attested_tls.serving import NSM, get, trusting
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import VMADDR_CID_ANY, TcpAddress, UnixAddress, VsockAddress

SHM = Path("/dev/shm")  # noqa: S108 (a folder is made in it)


def parsed(*words: str, command: tuple[str, ...] = ("true",)) -> IngressTlsOptions | None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return IngressTlsOptions.from_args(parser.parse_args(words), command=bool(command))


def test_the_defaults() -> None:
    assert parsed() is None
    options = parsed("--ingress-tls", "app.example")
    assert options is not None
    forward = (VsockAddress(VMADDR_CID_ANY, 8443), TcpAddress("127.0.0.1", 8080))
    assert options.forwards == (forward,)


def test_several_forwards() -> None:
    options = parsed(
        "--ingress-tls", "::1",
        "--ingress-tls-forward", "vsock://any:1=unix:/run/app",
        "--ingress-tls-forward", "tcp://0.0.0.0:2=tcp://[::1]:3",
    )  # fmt: skip
    assert options is not None
    assert [to for _, to in options.forwards] == [UnixAddress("/run/app"), TcpAddress("::1", 3)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ingress-tls", "two words"), "neither a DNS name nor an IP address"),
        (("--ingress-tls", "b\u00fccher.example"), "neither a DNS name nor an IP address"),
        (("--ingress-tls", ""), "neither a DNS name nor an IP address"),
        (("--ingress-tls-forward", "a=b"), "without --ingress-tls"),
        (("--ingress-tls-files", "/run"), "without --ingress-tls"),
        (("--ingress-tls", "a", "--ingress-tls-forward", "vsock://any:1"), "not LISTEN=TO"),
        (
            ("--ingress-tls", "a", "--ingress-tls-forward", "vsock://any:1=tcp://10.0.0.1:80"),
            "would leave this machine",
        ),
        (
            ("--ingress-tls", "a", "--ingress-tls-forward", "vsock://any:1=vsock://3:80"),
            "would leave this machine",
        ),
        (
            ("--ingress-tls", "a", "--ingress-tls-forward", "vsock://any:1=tcp://localhost:80"),
            "would leave this machine",
        ),
        (("--ingress-tls", "a", "--ingress-tls-clients", "0"), "--ingress-tls-clients is not in"),
        (("--ingress-tls", "a", "--ingress-tls-rate", "0"), "--ingress-tls-rate is not in"),
        (
            (
                "--ingress-tls", "a", "--ingress-tls-files", "/run",
                "--ingress-tls-forward", "vsock://any:1=unix:/a",
            ),
            "for a COMMAND that listens",
        ),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parsed(*words)


def test_files_need_a_program() -> None:
    with pytest.raises(ConfigurationError, match="give a COMMAND"):
        parsed("--ingress-tls", "a", "--ingress-tls-files", "/run", command=())


@pytest.mark.parametrize("name", ["app.example", "a" * 63 + "." + "b" * 63, "192.0.2.1", "::1"])
def test_the_certificate(name: str) -> None:
    now = datetime.now(UTC)
    identity = make_identity(name, now)
    certificate = x509.load_pem_x509_certificate(identity.certificate)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert certificate.not_valid_before_utc < now < certificate.not_valid_after_utc
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each.value) for each in names] == [name]
    certificate.verify_directly_issued_by(certificate)
    assert "BEGIN" not in repr(identity)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    if not os.access(SHM, os.W_OK):
        pytest.skip(f"{SHM} is not there or may not be written")
    folder = SHM / f"attested-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    return folder


def test_a_program_gets_key_and_certificate_in_memory(memory: Path) -> None:
    options = IngressTlsOptions("app.example", (), 1, 10, str(memory))

    async def run(ingress: IngressTls, *, worker: bool) -> list[tuple[int, str, bytes]]:
        if not worker:
            await ingress.start()
        queries = ("nonce=" + "ab" * 16, "", "nonce=ab", "x=1")
        return [await ingress.document(query) for query in queries]

    try:
        with IngressTls(options, Nsm(NSM)) as ingress:
            key = memory / "tls.key"
            assert stat.S_IMODE(key.stat().st_mode) == 0o600
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(memory / "tls.crt", key)
            public_key = x509.load_pem_x509_certificate(
                (memory / "tls.crt").read_bytes()
            ).public_key()
            asyncio.run(run(ingress, worker=True))
            fresh, cached, *invalid = asyncio.run(run(ingress, worker=False))
            ingress.close()
        assert list(memory.iterdir()) == [], "the end takes them away"
    finally:
        for left in memory.iterdir():
            left.unlink()
        memory.rmdir()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
    )

    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for status, _, body in (fresh, cached):
        assert status == 200
        assert parse(body).user_data == key_user_data(spki)
    assert parse(fresh[2]).nonce == b"\xab" * 16
    assert [status for status, *_ in invalid] == [400, 400]


def test_the_service_from_start_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    port = unused_port()
    forward = (TcpAddress("127.0.0.1", port), TcpAddress("127.0.0.1", unused_port()))
    options = IngressTlsOptions("localhost", (forward,), 2, 10, None)

    def document() -> bytes:
        with socket.create_connection(("127.0.0.1", port), TEST_TIMEOUT) as plain:
            tls = trusting().wrap_socket(plain, server_hostname="localhost")
            with tls:
                return get(tls, "/.well-known/nitro-attestation")

    async def run(ingress: IngressTls) -> None:
        await ingress.start()
        response = await asyncio.to_thread(document)
        assert response.startswith(b"HTTP/1.1 200 ")
        assert (await ingress.document(""))[0] == 404
        numbers = {family.name: family.samples[0].value for family in ingress.families()}
        assert numbers["enclave_agent_ingress_tls_documents_total"] == 1
        await ingress.drain(TEST_TIMEOUT)
        ingress.close()

    with IngressTls(options, Nsm(NSM)) as ingress:
        assert ingress.descriptors == 5
        asyncio.run(run(ingress))
    with socket.socket() as free, pytest.raises(ConnectionRefusedError):
        free.connect(("127.0.0.1", port))

    def no_proc(*_: object) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr("os.memfd_create", no_proc)
    with (
        IngressTls(options, Nsm(NSM)) as ingress,
        pytest.raises(ConfigurationError, match="cannot read the key from memory"),
    ):
        asyncio.run(ingress.start())


def test_a_link_that_lies_there_is_not_followed(memory: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (memory / "tls.key").symlink_to(victim)
    try:
        with memory_files.written(str(memory), make_identity("a", datetime.now(UTC)), None):
            assert victim.read_text() == "untouched"
            assert not (memory / "tls.key").is_symlink()
    finally:
        memory.rmdir()


def test_error_of_another_part_is_not_one_of_the_files(memory: Path) -> None:
    try:
        with (
            pytest.raises(ConnectionResetError),
            memory_files.written(str(memory), make_identity("a", datetime.now(UTC)), None),
        ):
            raise ConnectionResetError
        assert not list(memory.iterdir())
    finally:
        memory.rmdir()


@pytest.mark.parametrize(
    ("folder", "message"), [("/proc", "written to a disk"), ("/nonexistent", "No such file")]
)
def test_folders_that_are_not_in_memory(folder: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        memory_files.check_in_memory(folder)
