"""Clients outside call in over attested TLS: the commands of docs/ingress.md, as processes."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.authority import Authority
from enclave_simulator.nsm import SimulatedNsm
from enclave_simulator.parent.processes import Service
from tests.chain.commands import AGENT, SIMULATOR, run
from tests.sockets import unused_port
from tests.waiting import TEST_TIMEOUT, eventually, listens

if TYPE_CHECKING:
    from collections.abc import Iterator

PCR0 = SimulatedNsm(Authority.generate())._pcrs[0].hex()
"""Of every simulated enclave that is told no other."""

SERVE = (*AGENT, "serve", "--listen", "tcp://127.0.0.1:0", "--ingress-tls", "app.example")
WELCOME = "hello from the enclave\n"
PROGRAM = f"""
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.respond(body.upper())

    def do_GET(self):
        self.respond({WELCOME!r}.encode())

    def respond(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""


@contextmanager
def enclave(folder: Path, *command: str) -> Iterator[None]:
    """Run a program in a simulated enclave whose vsock is in `folder`."""
    words = (*SIMULATOR, "--folder", str(folder), "--", *command)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: listens(folder / "16_8443") or process.poll() is not None)
            assert process.poll() is None, process.communicate()[1]
            yield
        finally:
            process.terminate()
            _, err = process.communicate(timeout=TEST_TIMEOUT)
        assert err == ""


@contextmanager
def parent(folder: Path) -> Iterator[str]:
    """Run the parent with a forward into the enclave; yield the URL for clients outside."""
    port = unused_port()
    configuration = folder / "parent.yaml"
    configuration.write_text(
        "proxy:\n  forwards:\n"
        f'  - {{name: in, listen: "tcp://127.0.0.1:{port}", to: "unix:{folder}/16_8443"}}\n'
    )
    with Service("parent.cli", ["run", "--config", str(configuration)]):
        yield f"https://127.0.0.1:{port}"


def root_of(url: str) -> str:
    """The simulator's root, from the hint for one who has not named it."""
    done = run(*AGENT, "fetch", url, "--pcr0", PCR0)
    assert (done.stdout, done.returncode) == ("", 255)
    (root,) = re.findall(r"your simulator: --simulated-root ([0-9a-f]{64})\n", done.stderr)
    return str(root)


def test_a_client_outside_calls_in(tmp_path: Path) -> None:
    command = (*SERVE, "--", sys.executable, "-c", PROGRAM)
    with enclave(tmp_path, *command), parent(tmp_path) as url:
        expected = ("--pcr0", PCR0, "--simulated-root", root_of(url))
        done = run(*AGENT, "fetch", f"{url}/", *expected)
        assert (done.stdout, done.returncode) == (WELCOME, 0), done.stderr
        done = run(*AGENT, "fetch", f"{url}/", *expected, "--data", "secret")
        assert (done.stdout, done.returncode) == ("SECRET", 0), done.stderr
        done = run(*AGENT, "fetch", f"{url}/", "--pcr0", "ab" * 48, *expected[2:], "-d", "secret")
        assert (done.stdout, done.returncode) == ("", 255)
        assert "attestation document refused: PCR0: expected abab" in done.stderr


@pytest.mark.long
def test_without_kms(tmp_path: Path) -> None:
    serve = (*AGENT, "serve", "--no-kms", "--ingress-tls", "app.example")
    with enclave(tmp_path, *serve, "--", sys.executable, "-c", PROGRAM), parent(tmp_path) as url:
        done = run(*AGENT, "fetch", url, "--pcr0", PCR0, "--simulated-root", root_of(url))
        assert (done.stdout, done.returncode) == (WELCOME, 0), done.stderr
    done = run(*serve, "--ingress-tls-files", "/run", "--", "true")
    assert "--no-kms, and --ingress-tls-files" in done.stderr
    assert done.returncode == 252


ENDS_TLS_ITSELF = """
import os, socket, ssl, sys, urllib.request

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{sys.argv[1]}/tls.crt", f"{sys.argv[1]}/tls.key")
server = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
server.bind((socket.VMADDR_CID_ANY, 8443))
server.listen()
while True:
    try:
        connection = context.wrap_socket(server.accept()[0], server_side=True)
        while request := connection.recv(65536):
            target = request.split(b" ")[1].decode()
            body = b"mine"
            if target.startswith("/.well-known/nitro-attestation"):
                url = os.environ["AWS_ENDPOINT_URL_KMS"] + target
                body = urllib.request.urlopen(url).read()
            head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
            connection.sendall(head + body)
    except OSError:
        pass
"""


@pytest.mark.long
def test_a_program_that_ends_tls_itself(tmp_path: Path) -> None:
    memory = Path("/dev/shm") / f"attested-chain-{tmp_path.name}-{unused_port()}"  # noqa: S108
    try:
        memory.mkdir()
    except OSError as e:
        pytest.skip(f"no folder in memory: {e}")
    try:
        program = (sys.executable, "-c", ENDS_TLS_ITSELF, str(memory))
        command = (*SERVE, "--ingress-tls-files", str(memory), "--", *program)
        with enclave(tmp_path, *command), parent(tmp_path) as url:
            expected = ("--pcr0", PCR0, "--simulated-root", root_of(url))
            done = run(*AGENT, "fetch", f"{url}/", *expected)
            assert (done.stdout, done.returncode) == ("mine", 0), done.stderr
        assert list(memory.iterdir()) == []
    finally:
        for left in memory.iterdir():
            left.unlink()
        memory.rmdir()
