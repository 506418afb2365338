"""``enclave-agent fetch``: what is sent, what is printed, what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.enclave.attested_tls.serving import (
    IMAGE,
    ROOT,
    Program,
    program,
    served,
)
from tests.sockets import unused_port

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from tests.enclave.cli.conftest import CommandLine, Done

PCR0 = IMAGE.hex()


class Recorder(Program):
    """Responds with one response, and keeps the whole request."""

    response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

    def serve(self, connection: socket.socket) -> None:
        with connection:
            received = b""
            while data := connection.recv(65_536):
                received += data
                if b"\r\n\r\n" in received and not received.endswith(b"..."):
                    self.seen.append(received)
                    connection.sendall(self.response)
                    received = b""


@pytest.fixture
def behind() -> Iterator[Recorder]:
    with program(Recorder()) as made:
        assert isinstance(made, Recorder)
        yield made


@pytest.fixture
def enclaves_port(behind: Recorder) -> Iterator[int]:
    with served(behind.port) as made:
        yield made.port


def fetch(command_line: CommandLine, port: int, *words: str, path: str = "/") -> Done:
    url = f"https://127.0.0.1:{port}{path}"
    return command_line.run("fetch", url, "--simulated-root", ROOT.hex(), *words)


WARNING = (
    "enclave-agent: warning: the root is not AWS's: this document proves nothing about a real "
    "enclave\n"
)


def test_the_body_is_printed(
    command_line: CommandLine, behind: Recorder, enclaves_port: int
) -> None:
    done = fetch(command_line, enclaves_port, "--pcr0", PCR0, path="/a?b=c#d")
    assert (done.out, done.err, done.exit_code) == ("hello", WARNING, 0)
    head = behind.seen[0].decode()
    assert head.startswith(f"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:{enclaves_port}\r\n")


def test_a_header_given_again_is_sent_as_one_list(
    command_line: CommandLine, behind: Recorder, enclaves_port: int, tmp_path: Path
) -> None:
    (tmp_path / "headers").write_text("x-a: 2\r\n\nCookie: c=d\n")
    words = ("-H", "X-A: 1", "-H", "Cookie: a=b", "-H", f"@{tmp_path}/headers", "-d", "")
    done = fetch(command_line, enclaves_port, "--pcr0", PCR0, *words)
    assert (done.out, done.exit_code) == ("hello", 0)
    lines = behind.seen[0].decode().split("\r\n")
    assert {"X-A: 1, 2", "Cookie: a=b; c=d", "Content-Length: 0"} <= set(lines)


def test_a_file_of_headers_ends_lines_at_line_feeds_alone(
    command_line: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "headers").write_bytes("X-A: \u00c5\n".encode())  # its second byte is U+0085
    done = fetch(command_line, unused_port(), "--pcr0", PCR0, "-H", f"@{tmp_path}/headers")
    assert "the header 'X-A' has characters that HTTP headers cannot have" in done.err


def test_data_headers_and_files(
    command_line: CommandLine, behind: Recorder, enclaves_port: int, tmp_path: Path
) -> None:
    (tmp_path / "headers").write_text("Authorization: Bearer token\nX-B: 2\n")
    (tmp_path / "body").write_bytes(bytes(range(256)))
    words = ("--pcr", f"0={PCR0}", "-H", "X-A: 1", "-H", f"@{tmp_path}/headers")
    done = fetch(command_line, enclaves_port, *words, "-d", f"fileb://{tmp_path}/body",
                 "-o", f"{tmp_path}/out")  # fmt: skip
    assert (done.out, done.exit_code) == ("", 0)
    assert (tmp_path / "out").read_bytes() == b"hello"
    (request,) = behind.seen
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == bytes(range(256))
    assert head.startswith(b"POST / HTTP/1.1\r\n")
    for line in (b"X-A: 1", b"X-B: 2", b"Authorization: Bearer token", b"Content-Length: 256"):
        assert line in head.split(b"\r\n")


def test_a_status_of_400_and_more_is_an_exit_code(
    command_line: CommandLine, behind: Recorder, enclaves_port: int
) -> None:
    behind.response = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"
    done = fetch(command_line, enclaves_port, "--pcr0", PCR0)
    assert (done.out, done.exit_code) == ("none", 254)
    assert "HTTP status 404" in done.err


def test_another_image_is_two_lines_and_no_request(
    command_line: CommandLine, behind: Recorder, enclaves_port: int
) -> None:
    done = fetch(command_line, enclaves_port, "--pcr0", "07" * 48)
    assert (done.out, done.exit_code) == ("", 255)
    assert "enclave-agent: error: attestation document refused: PCR0: expected 0707" in done.err
    assert "enclave-agent: hint: " in done.err
    assert behind.seen == []


def test_a_simulator_is_no_enclave_of_aws(
    command_line: CommandLine, behind: Recorder, enclaves_port: int
) -> None:
    done = command_line.run("fetch", f"https://127.0.0.1:{enclaves_port}/", "--pcr0", PCR0)
    assert (done.out, done.exit_code) == ("", 255)
    assert "root: expected the SHA-256 641a0321" in done.err
    assert f"if that is your simulator: --simulated-root {ROOT.hex()}\n" in done.err
    assert behind.seen == []


def test_a_response_that_is_too_long(command_line: CommandLine, enclaves_port: int) -> None:
    done = fetch(command_line, enclaves_port, "--pcr0", PCR0, "--max-size", "4")
    assert (done.out, done.exit_code) == ("", 255)
    assert "the response is longer than 4 bytes" in done.err
    assert "hint: --max-size BYTES" in done.err


def test_a_program_that_hangs_is_a_timeout(command_line: CommandLine, enclaves_port: int) -> None:
    done = fetch(command_line, enclaves_port, "--pcr0", PCR0, "-d", "...", "--timeout", "1.5")
    assert (done.out, done.exit_code) == ("", 255)
    assert "timeout" in done.err


def test_another_address_than_the_urls(
    command_line: CommandLine, behind: Recorder, enclaves_port: int
) -> None:
    done = command_line.run(
        "fetch", "https://any.example/", "--connect", f"tcp://127.0.0.1:{enclaves_port}",
        "--pcr0", PCR0, "--simulated-root", ROOT.hex(), "--verbose",
    )  # fmt: skip
    assert (done.out, done.exit_code) == ("hello", 0)
    assert b"\r\nHost: any.example\r\n" in behind.seen[0]
    assert f"PCR0 {PCR0}" in done.err


def test_nothing_listens(command_line: CommandLine) -> None:
    done = fetch(command_line, unused_port(), "--pcr0", PCR0)
    assert (done.out, done.exit_code) == ("", 255)
    assert "cannot connect to tcp://127.0.0.1:" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("https://h/",), "no PCR: every enclave, of everybody, would be accepted"),
        (("http://h/", "--pcr0", PCR0), "not an https URL of a host"),
        (("https://u:p@h/", "--pcr0", PCR0), "not an https URL of a host"),
        (("https:///", "--pcr0", PCR0), "not an https URL of a host"),
        (("https://h:99999/", "--pcr0", PCR0), "not a URL"),
        (("https://h/\u00e9", "--pcr0", PCR0), "not the path of a URL"),
        (("https://h/", "--pcr0", "ab"), "argument --pcr0: 1 bytes, not 48"),
        (("https://h/", "--pcr0", PCR0, "-X", "HEAD"), "not a method for this"),
        (("https://h/", "--pcr0", PCR0, "-H", "Host: b"), "argument --header: Host cannot be set"),
        (("https://h/", "--pcr0", PCR0, "-H", "TE: a"), "argument --header: TE cannot be set"),
        (("https://h/", "--pcr0", PCR0, "-H", "token"), "argument --header: not 'Name: value'"),
        (("https://h/", "--pcr0", PCR0, "-H", "A: b\r\nC: d"), "the header 'A' has characters"),
        (("https://h/", "--pcr0", PCR0, "--timeout", "0"), "--timeout: not in 0..86400"),
        (("https://h/", "--pcr0", PCR0, "--connect", "h"), "not an address"),
    ],
)
def test_options_that_make_no_sense(
    command_line: CommandLine, words: tuple[str, ...], message: str
) -> None:
    done = command_line.run("fetch", *words)
    assert (done.out, done.exit_code) == ("", 252)
    assert message in done.err
    assert "token" not in done.err
