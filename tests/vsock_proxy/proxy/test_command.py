"""The ``vsock-proxy`` command: as a process, and its errors."""

from __future__ import annotations

import logging
import os
import re
import resource
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Self

import pytest

from tests.sockets import read_all
from tests.vsock_proxy.rig import COMMAND, Server, check, closed_without_a_byte
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import (
    VMADDR_CID_ANY,
    TcpAddress,
    UnixAddress,
    VsockAddress,
    parse_address,
)
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.proxy import command
from vsock_proxy.proxy.allowlist_file import load_allowlist
from vsock_proxy.proxy.command import main
from vsock_proxy.proxy.daemon import Daemon
from vsock_proxy.proxy.forward import Forward
from vsock_proxy.relay.connection import RelayLimits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


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
    """Add a server to the list; return it as the command's last two arguments."""
    assert isinstance(server.address, TcpAddress)
    host, port = server.address.host, str(server.address.port)
    allowlist.write_text(f"allowlist:\n- {{address: {host}, port: {port}}}\n")
    return [host, port]


def test_command_forwards_notifies_and_stops_on_sigterm(
    server: Server, allowlist: Path, tmp_path: Path
) -> None:
    to = allow(allowlist, server)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(TEST_TIMEOUT)
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
                with (
                    SocketDialer().dial(address, TEST_TIMEOUT) as client,
                    server.accept() as accepted,
                ):
                    client.sendall(b"question")
                    client.shutdown(socket.SHUT_WR)
                    assert read_all(accepted) == b"question"
                    accepted.sendall(b"answer")
                    accepted.close()
                    assert read_all(client) == b"answer"
                process.send_signal(signal.SIGTERM)
                assert notified.recv(100) == b"STOPPING=1"
                assert process.wait(TEST_TIMEOUT) == 0
                assert process.stderr.read() == ""
            finally:
                process.kill()


class Process:
    """The command, running, with its notifications to systemd."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(folder / "notify"))
        self._notified.settimeout(TEST_TIMEOUT)
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
        )
        self.heard(b"READY=1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._notified.close()

    def heard(self, start: bytes) -> None:
        assert self._notified.recv(100).startswith(start)

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)
        self.heard(b"RELOADING=1\nMONOTONIC_USEC=")
        self.heard(b"READY=1")

    def stop(self) -> str:
        """Return its standard error."""
        self._process.send_signal(signal.SIGTERM)
        self.heard(b"STOPPING=1")
        said = self._process.communicate(timeout=TEST_TIMEOUT)[1]
        assert self._process.returncode == 0
        return said


def test_allowlist_is_reloaded_on_sighup(server: Server, allowlist: Path, tmp_path: Path) -> None:
    path = UnixAddress(str(tmp_path / "proxy"))
    to = allow(allowlist, server)
    with Process(tmp_path, str(path), *to, "--config", str(allowlist)) as process:
        with SocketDialer().dial(path, TEST_TIMEOUT) as old, server.accept() as accepted:
            check(old, accepted)
            listed = allowlist.read_text()
            allowlist.write_text("allowlist: []")
            process.reload()
            check(old, accepted)
            with SocketDialer().dial(path, TEST_TIMEOUT) as client:
                assert closed_without_a_byte(client)
            allowlist.write_text("allowlist: 5")  # Now it is broken: nothing changes.
            process.reload()
            with SocketDialer().dial(path, TEST_TIMEOUT) as client:
                assert closed_without_a_byte(client)
            allowlist.write_text(listed)
            process.reload()
            with SocketDialer().dial(path, TEST_TIMEOUT) as client, server.accept() as again:
                check(client, again)
            check(old, accepted)
        said = process.stop()
    assert f"vsock-proxy: warning: {':'.join(to)} is not on the allowlist" in said
    assert f"not reloaded, the old settings stay: {allowlist}:1: allowlist: '5'" in said


def test_configuration_is_reloaded_on_sighup(server: Server, tmp_path: Path) -> None:
    assert isinstance(server.address, TcpAddress)
    x, y = UnixAddress(str(tmp_path / "x")), UnixAddress(str(tmp_path / "y"))
    config = tmp_path / "parent.yaml"

    def write(*listens: UnixAddress) -> None:
        lines = [f"  - {{listen: '{a}', to: '{server.address}', name: {a.path}}}" for a in listens]
        allowed = f"  - {{address: 127.0.0.1, port: {server.address.port}}}"  # type: ignore[union-attr]
        config.write_text(
            "\n".join(["proxy:", "  allowlist:", allowed, "  forwards:", *lines, "logs: {}"])
        )

    write(x, y)
    with Process(tmp_path, "--config", str(config)) as process:
        for address in (x, y):
            with SocketDialer().dial(address, TEST_TIMEOUT) as client, server.accept() as accepted:
                check(client, accepted)
        write(x)
        process.reload()
        assert not (tmp_path / "y").exists()
        with SocketDialer().dial(x, TEST_TIMEOUT) as client, server.accept() as accepted:
            check(client, accepted)
        config.write_text("proxy:\n  forward: []\n")
        process.reload()
        with SocketDialer().dial(x, TEST_TIMEOUT) as client, server.accept() as accepted:
            check(client, accepted)
        said = process.stop()
    assert f"{config}: sections for enclave-parent are ignored: logs" in said
    assert f"no longer listening on {y}" in said
    assert (
        f"the old settings stay: {config}:2: proxy: unknown key 'forward' (did you mean forwards?)"
        in said
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("allowlist: []", "is an allowlist: it has no section `proxy`"),
        ("- {address: a, port: 1}", "is an allowlist"),
        ("logs: {}", "has no section `proxy`"),
        (
            "proxy:\n  forwards: [{listen: 'tcp://127.0.0.1:0', to: 'tcp://a.b:1'}]",
            ":2: to: a.b:1 is not on",
        ),
        ("proxy", ":1: 'proxy', not a mapping"),
    ],
)
def test_invalid_configuration_is_rejected(
    text: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "parent.yaml"
    config.write_text(text)
    assert main(["--config", str(config)]) == 1
    assert f"vsock-proxy: error: {config}" in (said := capsys.readouterr().err)
    assert error in said


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["8000", "evil.example", "443"], "evil.example:443 is not on the allowlist", "add"),
        (["8000", "kms.us-east-1.amazonaws.com", "444"], "is not on the allowlist", "add there: -"),
        (["8000", "kms.us-east-1.amazonaws.com", "65979"], "'65979' is not a number in 1..", ""),
        (["8000", "kms.us-east-1.amazonaws.com", "https"], "'https' is not a number in 1..", ""),
        (["8000", "evil.example/x", "443"], "'evil.example/x' is not a host name", ""),
        (["8000", "https://a.example", "443"], "is not a host name", "write the host alone"),
        (["8000", "a.example:443", "443"], "is not a host name", "write a.example: the port"),
        (["8000", "bücher.example", "443"], "is not a host name", "ASCII form, which begins"),
        (["4294967295", "a", "1"], "LOCAL_PORT '4294967295' is not a number in 0..", ""),
        (["eight", "a", "1"], "not an address: 'eight'", "write vsock://CID:PORT"),
        (["-w", "0", "8000", "a", "1"], "--num_workers '0' is not a number in 1..", ""),
        (["--num_workers", "x", "8000", "a", "1"], "--num_workers 'x' is not a number", ""),
        (["unix:/no/such/folder/x", "kms.us-east-1.amazonaws.com", "443"], "cannot listen on", ""),
    ],
)
def test_invalid_arguments_are_rejected_with_error_and_hint(
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


def test_missing_or_empty_allowlist_allows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "allowlist.yaml"
    arguments = ["--config", str(path), "tcp://127.0.0.1:0", "127.0.0.1", "443"]
    assert main(arguments) == 1
    assert f"cannot read {path}: No such file" in capsys.readouterr().err
    path.write_text("")
    assert main(arguments) == 1
    assert f"{path}: empty" in capsys.readouterr().err


def test_file_that_cannot_be_read_is_named_with_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.yaml"
    for more in ([], ["8000", "a.b", "1"]):
        assert main(["--config", str(missing), *more]) == 1
        error, hint = capsys.readouterr().err.splitlines()
        assert error == f"vsock-proxy: error: cannot read {missing}: No such file or directory"
        assert hint == "vsock-proxy: hint: name the file with --config"


def test_allowlist_named_in_a_file_that_cannot_be_read_has_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here --config is right: the hint must not blame it."""
    config = tmp_path / "parent.yaml"
    config.write_text("proxy:\n  allowlist: nowhere.yaml\n  forwards: []")
    assert main(["--config", str(config)]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert f"error: {config}:2: allowlist: cannot read {tmp_path}/nowhere.yaml: No such" in error
    assert hint == "vsock-proxy: hint: the path is relative to this file"


def test_allowlist_of_aws_alone_is_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "vsock-proxy.yaml"
    config.write_text("allowlist:\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n")
    assert main(["--config", str(config)]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert f"{config} is an allowlist" in error
    assert "add LOCAL_PORT REMOTE_HOST REMOTE_PORT" in hint


def test_list_without_its_key_is_recognised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "vsock-proxy.yaml"
    config.write_text("# endpoints\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n")
    assert main(["--config", str(config), "8000", "kms.us-east-1.amazonaws.com", "443"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert f"{config}:2: a list without the key `allowlist`" in error
    assert "write `allowlist:` on a line of its own above the list" in hint


class NoSignals:
    """So that this process's signals stay as they are."""

    def handle(self, number: signal.Signals, handler: object) -> None:
        pass


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_remote_host_may_be_an_ipv6_address_in_brackets(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sequence[Forward]] = []

    class NoDaemon(Daemon):
        def __init__(self, forwards: Sequence[Forward], **_: object) -> None:
            seen.append(forwards)

        def run(self) -> None:
            pass

    monkeypatch.setattr(command, "Daemon", NoDaemon)
    monkeypatch.setattr(command, "Signals", NoSignals)
    config = tmp_path / "allowlist.yaml"
    config.write_text('allowlist:\n- {address: "[::1]", port: 443}\n')
    assert main(["--config", str(config), "unix:/x", host, "443"]) == 0
    assert [forward.target for forward in seen[0]] == [TcpAddress("::1", 443)]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["8000"],
        ["8000", "host"],
        ["-4", "-6", "8000", "a", "1"],
        ["-4", "--config", "x"],
        ["-w", "5", "--config", "x"],
    ],
)
def test_wrong_usage_is_reported(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
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
def test_arguments_of_aws_vsock_proxy_are_understood(
    options: list[str],
    family: socket.AddressFamily,
    connections: int,
    allowlist: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Sequence[Forward]] = []

    class NoDaemon(Daemon):
        """So that no test opens a vsock socket."""

        def __init__(self, forwards: Sequence[Forward], **_: object) -> None:
            seen.append(forwards)

        def run(self) -> None:
            pass

    monkeypatch.setattr(command, "Daemon", NoDaemon)
    monkeypatch.setattr(command, "Signals", NoSignals)
    host = "kms.us-east-1.amazonaws.com"
    assert main([*options, "--config", str(allowlist), "8000", host, "443"]) == 0
    forward = Forward(
        VsockAddress(VMADDR_CID_ANY, 8000),
        TcpAddress(host, 443),
        family,
        allowlist=load_allowlist(allowlist),
        limits=RelayLimits(connections=connections),
    )
    assert seen == [(forward,)]
