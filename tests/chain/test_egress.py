"""Unmodified programs in a simulated enclave, and what they reach through egress and ingress.

A client that is not there is a skipped test that says what is missing.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chain.commands import AGENT, SIMULATOR, run
from tests.egress import HttpsServer, bundle, https_server, parent_egress
from tests.paths import ROOT
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vsock_proxy.proxy.daemon import Daemon

NAME = "s3.eu-central-1.amazonaws.com"
OTHER = "other.example.com"
ALLOW = ("--egress", "--egress-allow", f"{NAME}:443", "--egress-allow", f"{OTHER}:443")
BUCKETS = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>x</ID></Owner>
<Buckets><Bucket><Name>sealed</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket>
</Buckets></ListAllMyBucketsResult>"""


@dataclass
class World:
    """All that is outside the enclave: its vsock is in `folder`."""

    folder: Path
    server: HttpsServer
    parent: Daemon
    ca: Path

    def command(self, *options: str, command: tuple[str, ...] = ()) -> list[str]:
        simulator = (*SIMULATOR, "--no-services", "--folder", str(self.folder), "--")
        serve = (*AGENT, "serve", "--no-kms", "--egress-listen", "tcp://127.0.0.1:0", *options)
        return [*simulator, *serve, *(("--", *command) if command else ())]

    def run(self, *options: str, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        """Run a program in an enclave whose agent has these options."""
        return run(*self.command(*options, command=command))


@contextlib.contextmanager
def outside(
    folder: Path, patch: pytest.MonkeyPatch, respond: Callable[[str], bytes]
) -> Iterator[World]:
    """Run what is outside; `respond` is the server's."""
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "AWS_PROFILE"):
        patch.delenv(name, raising=False)
    with https_server(NAME, respond) as server:
        servers = {(NAME, 443): server.port, (NAME, 8443): server.port}
        address = UnixAddress(str(folder / "3_8004"))
        with parent_egress(address, servers, patch) as parent:
            yield World(folder, server, parent, bundle(folder, server))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with outside(tmp_path, monkeypatch, lambda path: BUCKETS if path == "/" else b"hello\n") as it:
        yield it


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} in PATH")
    return path


def check(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.stderr, done.returncode) == ("", 0), done.stderr
    return done.stdout


def test_curl_by_the_proxy_variable(world: World) -> None:
    curl = (program("curl"), "-sS", "--cacert", str(world.ca), f"https://{NAME}/object")
    assert check(world.run(*ALLOW, command=curl)) == "hello\n"
    assert world.server.requests == ["GET /object HTTP/1.1"]
    (host,) = world.parent.snapshot().forwards[0].hosts
    assert host == f"{NAME}:443"


def test_the_images_list_rejects_before_the_parent_is_asked(world: World) -> None:
    curl = (program("curl"), "-sS", "https://elsewhere.example.com/")
    done = world.run(*ALLOW, command=curl)
    assert done.returncode == 56
    assert "elsewhere.example.com:443 is not on the egress allowlist of the image" in done.stderr
    assert "add --egress-allow elsewhere.example.com:443" in done.stderr
    assert world.parent.snapshot().forwards[0].counters.accepted == 0


def test_the_parents_list_is_passed_on_to_the_program(world: World) -> None:
    done = world.run(*ALLOW, command=(program("curl"), "-sv", f"https://{OTHER}/"))
    assert done.returncode == 56
    reason = f"HTTP/1.1 403 {OTHER}:443: the parent: {OTHER}:443 is not on the egress allowlist"
    assert reason in done.stderr


def test_plain_http_is_rejected(world: World) -> None:
    script = 'curl -sS -x "$HTTPS_PROXY" http://$1/ -w "%{http_code}"; env | grep -i ^http_proxy'
    program("curl")
    done = world.run(*ALLOW, command=("sh", "-c", script, "sh", NAME))
    assert done.stdout.startswith("405 Method Not Allowed\nonly CONNECT is served")
    assert done.stdout.endswith("405"), "and HTTP_PROXY is not set"


def test_the_aws_cli(world: World) -> None:
    aws = Path(sys.executable).with_name("aws")
    if not aws.exists():
        pytest.skip("no AWS CLI: pip install -e '.[dev]'")
    words = ("s3api", "list-buckets", "--query", "Buckets[].Name", "--output", "text")
    env = ("env", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b",
           "AWS_DEFAULT_REGION=eu-central-1",
           f"AWS_CA_BUNDLE={world.ca}")  # fmt: skip
    assert check(world.run(*ALLOW, command=(*env, str(aws), *words))) == "sealed\n"
    assert world.server.hosts == [NAME]


def test_a_name_of_its_own_for_programs_that_know_no_proxy(world: World) -> None:
    probe = run(*SIMULATOR, "--no-services", "--", "cat", "/proc/self/mountinfo")
    if " /etc/hosts " not in probe.stdout:
        pytest.skip("no mount namespace here: /etc/hosts would be the machine's")
    curl = (program("curl"), "-sS", "--noproxy", "*", "--cacert", str(world.ca))
    before = Path("/etc/hosts").read_bytes()
    done = world.run(
        "--egress-host", f"{NAME}:8443", command=(*curl, f"https://{NAME}:8443/object")
    )
    assert check(done) == "hello\n"
    assert Path("/etc/hosts").read_bytes() == before


def test_psql_through_a_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    psql = program("psql")
    with database() as port:
        address = UnixAddress(str(tmp_path / "3_8004"))
        with parent_egress(address, {("db.internal", 5432): port}, monkeypatch) as parent:
            front = unused_port()
            world = World(tmp_path, HttpsServer(0, b""), parent, tmp_path)
            done = world.run(
                "--forward", f"tcp://127.0.0.1:{front}=db.internal:5432",
                command=(psql, f"postgresql://app@127.0.0.1:{front}/app?sslmode=disable",
                         "-X", "-At", "-c", "select answer"),
            )  # fmt: skip
    assert check(done) == "42\n"


@contextlib.contextmanager
def database() -> Iterator[int]:
    """A server that speaks enough of PostgreSQL's protocol (version 3.0) for one query each."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                length = int.from_bytes(connection.recv(4), "big")
                connection.recv(length - 4)
                ready = message(b"Z", b"I")
                version = message(b"S", b"server_version\x0015.0\x00")
                connection.sendall(message(b"R", bytes(4)) + version + ready)
                connection.recv(4096)
                row = b"\0\1answer\0" + bytes(4) + bytes(2) + b"\0\0\0\x17\0\x04" + b"\xff" * 4
                connection.sendall(
                    message(b"T", row + bytes(2))
                    + message(b"D", b"\0\1\0\0\0\x0242")
                    + message(b"C", b"SELECT 1\0")
                    + ready
                )
                connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(TEST_TIMEOUT)


def test_documented_python_clients_over_vsock_without_a_listener(world: World) -> None:
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs/egress.md").read_text(), re.MULTILINE | re.DOTALL
    )
    command = (
        "env", f"SSL_CERT_FILE={world.ca}", f"REQUESTS_CA_BUNDLE={world.ca}",
        f"AWS_CA_BUNDLE={world.ca}", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b",
        sys.executable, "-c", example,
    )  # fmt: skip
    check(run(*SIMULATOR, "--no-services", "--folder", str(world.folder), "--", *command))
    assert world.server.requests == ["GET /object HTTP/1.1"] * 3 + ["GET / HTTP/1.1"]
    (listener,) = world.parent.snapshot().forwards
    assert listener.hosts[f"{NAME}:443"].relayed == 4


INSIDE = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(100):
            connection.sendall(data.upper())
"""


def test_ingress_carries_bytes_into_the_enclave(world: World) -> None:
    port = unused_port()
    command = world.command(
        "--ingress", f"vsock://any:8443=tcp://127.0.0.1:{port}",
        command=(sys.executable, "-c", INSIDE, str(port)),
    )  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "listening\n"
        (front,) = (each for each in world.folder.iterdir() if each.name.endswith("_8443"))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TEST_TIMEOUT)
            client.connect(str(front))
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
        assert process.wait(TEST_TIMEOUT) == 0


def test_without_a_program_it_serves_until_a_signal(world: World) -> None:
    command = world.command(*ALLOW, "--verbose")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any(line == "enclave-agent: ready\n" for line in process.stderr)
        process.terminate()
        assert process.wait(TEST_TIMEOUT) == 0


def test_without_a_network_there_is_nothing_to_serve() -> None:
    done = run(*AGENT, "serve", "--no-kms")
    assert "enclave-agent: error: --no-kms, and no network: nothing to serve" in done.stderr
    assert (done.stdout, done.returncode) == ("", 252)


def test_without_kms_there_are_no_secrets(tmp_path: Path) -> None:
    sealed = tmp_path / "sealed"
    sealed.write_bytes(bytes(range(1, 201)))
    done = run(*AGENT, "serve", "--no-kms", *ALLOW, "--secret", f"A={sealed}", "--", "true")
    assert "enclave-agent: error: --no-kms, and secrets that only KMS can open" in done.stderr
    assert (done.stdout, done.returncode) == ("", 252)
