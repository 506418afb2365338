"""The ``vsock-proxy`` command, as a process, and what it refuses."""

from __future__ import annotations

import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.vsock_proxy.rig import PATIENCE, Server, read_all
from vsock_proxy import cli
from vsock_proxy.addresses import VMADDR_CID_ANY, TcpAddress, VsockAddress, parse_address
from vsock_proxy.cli import main
from vsock_proxy.daemon import Daemon, Forward
from vsock_proxy.dialing import SocketDialer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vsock_proxy.relay import Limits

COMMAND = [sys.executable, "-c", "import sys; from vsock_proxy.cli import main; sys.exit(main())"]


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """`main` owns its process; here that is the tests' own."""
    log = logging.getLogger("vsock_proxy")
    handlers, level = log.handlers, log.level
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
    log.handlers = handlers
    log.setLevel(level)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(TcpAddress("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def allowlist(tmp_path: Path) -> Path:
    path = tmp_path / "allowlist.yaml"
    path.write_text("allowlist:\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n")
    return path


def allow(allowlist: Path, server: Server) -> list[str]:
    """Put a server on the list; returns it as the command's last two arguments."""
    assert isinstance(server.address, TcpAddress)
    host, port = server.address.host, str(server.address.port)
    allowlist.write_text(f"allowlist:\n- {{address: {host}, port: {port}}}\n")
    return [host, port]


def test_it_forwards_says_so_and_stops_when_told(
    server: Server, allowlist: Path, tmp_path: Path
) -> None:
    to = allow(allowlist, server)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(PATIENCE)
        with subprocess.Popen(
            [*COMMAND, "tcp://127.0.0.1:0", *to, "--config", str(allowlist), "-4", "-w", "20"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        ) as process:
            assert process.stderr is not None
            try:
                line = process.stderr.readline()
                ready = re.fullmatch(
                    rf"vsock-proxy: listening on (tcp://127\.0\.0\.1:\d+), "
                    rf"forwarding to {':'.join(to)}\n",
                    line,
                )
                assert ready, line
                assert notified.recv(100) == b"READY=1"
                address = parse_address(ready[1])
                with SocketDialer().dial(address, PATIENCE) as client, server.accept() as accepted:
                    client.sendall(b"question")
                    client.shutdown(socket.SHUT_WR)
                    assert read_all(accepted) == b"question"
                    accepted.sendall(b"answer")
                    accepted.close()
                    assert read_all(client) == b"answer"
                process.send_signal(signal.SIGTERM)
                assert notified.recv(100) == b"STOPPING=1"
                assert process.wait(PATIENCE) == 0
                assert process.stderr.read() == ""
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["8000", "evil.example", "443"], "evil.example port 443 is not on the allowlist", "add"),
        (["8000", "kms.us-east-1.amazonaws.com", "444"], "is not on the allowlist", "add there: -"),
        (["8000", "kms.us-east-1.amazonaws.com", "65979"], "'65979' is not a number in 1..", ""),
        (["8000", "kms.us-east-1.amazonaws.com", "https"], "'https' is not a number in 1..", ""),
        (["8000", "evil.example/x", "443"], "'evil.example/x' is not a host name", ""),
        (["4294967295", "a", "1"], "LOCAL_PORT '4294967295' is not a number in 0..", ""),
        (["eight", "a", "1"], "not an address: 'eight'", "write vsock://CID:PORT"),
        (["-w", "0", "8000", "a", "1"], "--num_workers '0' is not a number in 1..", ""),
        (["--num_workers", "x", "8000", "a", "1"], "--num_workers 'x' is not a number", ""),
        (["unix:/no/such/folder/x", "kms.us-east-1.amazonaws.com", "443"], "cannot listen on", ""),
    ],
)
def test_what_cannot_be_is_refused_in_two_lines(
    arguments: list[str],
    error: str,
    hint: str,
    allowlist: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--config", str(allowlist), *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("vsock-proxy: error: ")
    assert error in lines[0]
    assert all(line.startswith("vsock-proxy: hint: ") for line in lines[1:])
    assert hint in "".join(lines[1:])


def test_a_missing_or_empty_allowlist_allows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "allowlist.yaml"
    arguments = ["--config", str(path), "tcp://127.0.0.1:0", "127.0.0.1", "443"]
    assert main(arguments) == 1
    assert "cannot read the allowlist" in capsys.readouterr().err
    path.write_text("")
    assert main(arguments) == 1
    assert "is empty: nothing is allowed" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["8000", "host"], ["-4", "-6", "8000", "a", "1"]])
def test_wrong_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "vsock-proxy: error: " in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option, text in (("--version", "vsock-proxy 0."), ("--help", "[-4 | -6] [-w N]")):
        with pytest.raises(SystemExit) as left:
            main([option])
        assert left.value.code == 0
        assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "family", "connections"),
    [
        ([], socket.AF_UNSPEC, 1024),
        (["-4"], socket.AF_INET, 1024),
        (["--ipv6", "--num_workers", "7"], socket.AF_INET6, 7),
    ],
)
def test_the_arguments_of_awss_proxy_mean_what_they_say(
    options: list[str],
    family: socket.AddressFamily,
    connections: int,
    allowlist: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[list[Forward], int]] = []

    class NoDaemon(Daemon):
        """A test opens no vsock."""

        def __init__(self, forwards: list[Forward], *, limits: Limits) -> None:
            seen.append((forwards, limits.connections))

        def run(self) -> None:
            pass

    monkeypatch.setattr(cli, "Daemon", NoDaemon)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    host = "kms.us-east-1.amazonaws.com"
    assert main([*options, "--config", str(allowlist), "8000", host, "443"]) == 0
    forward = Forward(VsockAddress(VMADDR_CID_ANY, 8000), TcpAddress(host, 443), family)
    assert seen == [([forward], connections)]
