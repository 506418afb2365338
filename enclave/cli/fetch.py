"""``fetch``: one HTTP request to a program in an enclave, which is proven before it is sent."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from enclave.cli import console, files
from enclave.cli.command import Command
from enclave.cli.errors import EXIT_REFUSED
from enclave.cli.expectations import add_expectations, expected_pcrs, expected_root
from enclave.errors import AttestedTlsError, ConfigurationError
from vsock_proxy.net.addresses import (
    Address,
    TcpAddress,
    is_host,
    parse_destination,
    without_brackets,
)
from vsock_proxy.service.console import printable
from vsock_proxy.service.platforms import require_linux

if TYPE_CHECKING:
    import argparse

    from enclave.attested_tls.context import AttestedContext
    from enclave.cli.environment import Environment
    from enclave.http.response import Response

log = logging.getLogger(__name__)

MAX_BODY: Final = 64 * 1024 * 1024
_METHOD: Final = re.compile(r"[A-Z]{1,32}")


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "fetch",
        help="an HTTP request to an attested enclave",
        description="Connect to a program in an enclave (enclave-agent serve --ingress-tls), "
        "verify that an enclave of this image ends the TLS connection, and only then send the "
        "request over it. Prints the body of the response. Redirects are not followed, and proxies "
        "are not used. The name and the certificate of the server are not trusted, and need not "
        "be.",
        parents=[common],
    )
    add = parser.add_argument
    add("url", metavar="URL", help="https://HOST[:PORT]/PATH")
    add_expectations(add)
    add("--connect", metavar="ADDRESS",
        help="connect there instead of to the URL's host and port: tcp://HOST:PORT, "
        "vsock://CID:PORT, unix:/PATH, hvsock:///PATH:PORT")  # fmt: skip
    add("-X", "--request", metavar="METHOD", help="default: GET, with --data POST")
    add("-H", "--header", metavar="HEADER", action="append", default=[],
        help="'Name: value'; @FILE has one on each line, out of the sight of ps")  # fmt: skip
    add("-d", "--data", metavar="TEXT", help="the body; fileb://PATH is a file as it is")
    add("-o", "--output-file", metavar="FILE", help="write the body there")
    add("--max-size", metavar="BYTES", type=int, default=MAX_BODY,
        help="of the body of the response (default: %(default)s)")  # fmt: skip
    add("--timeout", metavar="SECONDS", type=float, default=60.0,
        help="for all of it (default: %(default)g)")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Url:
    host: str
    port: int
    target: str

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"


def run(arguments: argparse.Namespace, environment: Environment) -> int:
    """Fetch, print, and return the exit code: 254 for a status of 400 and more.

    Raises:
        AttestationError: the other end is not what it must be.
        AttestedTlsError: there is no proven connection, or no response.
        DialError: there is no connection.
        ConfigurationError: an option.
    """
    from enclave.attested_tls.context import AttestedContext  # noqa: PLC0415 (not for --help)

    url = _parse(arguments.url)
    if not 0 < arguments.timeout <= 86_400:
        raise ConfigurationError("argument --timeout: not in 0..86400 seconds")
    context = AttestedContext(
        pcrs=expected_pcrs(arguments),
        platform=arguments.platform,
        allow_debug=arguments.allow_debug,
        root_fingerprint=expected_root(arguments),
        timeout=arguments.timeout,
        now=environment.now,
    )
    address: Address = TcpAddress(url.host, url.port)
    if arguments.connect is not None:
        address = parse_destination(arguments.connect)
        if not isinstance(address, TcpAddress):
            require_linux(f"--connect {address}")
    request = _request(arguments, url)
    response = _exchange(
        context,
        url,
        address,
        request,
        deadline=monotonic() + arguments.timeout,
        max_body=arguments.max_size,
    )
    if arguments.output_file is not None:
        files.write(arguments.output_file, response.body)
    else:
        console.write(_shown(response.body))
    if response.status >= 400:
        console.complain(f"the program responded with HTTP status {response.status}")
        return EXIT_REFUSED
    return 0


def _exchange(
    context: AttestedContext,
    url: _Url,
    address: Address,
    request: bytes,
    *,
    deadline: float,
    max_body: int,
) -> Response:
    from enclave.attested_tls.connecting import connect_with, exchange  # noqa: PLC0415 (as above)
    from enclave.http.errors import HttpError, ResponseTooLargeError  # noqa: PLC0415 (as above)

    connected = connect_with(context, url.host, address)
    if (document := connected.document) is not None:
        pcrs = document.pcrs or document.nitrotpm_pcrs
        shown = ", ".join(f"PCR{index} {pcrs[index].hex()}" for index in context.expectation.pcrs)
        log.info("%s ends TLS at %s: %s", document.module_id, address, shown)
    try:
        return exchange(connected, request, deadline=deadline, max_body=max_body)
    except ResponseTooLargeError as e:
        raise AttestedTlsError(f"{address}: {e}", hint="--max-size BYTES takes more") from e
    except HttpError as e:
        raise AttestedTlsError(
            f"no response from {address}: {e}", hint="does the program in the enclave respond?"
        ) from e
    finally:
        connected.close()


def _parse(text: str) -> _Url:
    try:
        url = urlsplit(text)
        port = 443 if url.port is None else url.port
        host = without_brackets(url.hostname or "")
    except ValueError as e:
        raise ConfigurationError(f"not a URL: {text!a}", hint=_URL) from e
    if url.scheme != "https" or url.username is not None or not is_host(host) or not port:
        raise ConfigurationError(f"not an https URL of a host: {text!a}", hint=_URL)
    return _Url(host, port, (url.path or "/") + (f"?{url.query}" if url.query else ""))


_URL: Final = "write https://HOST[:PORT]/PATH"


def _request(arguments: argparse.Namespace, url: _Url) -> bytes:
    from enclave.http.request import RequestWriter  # noqa: PLC0415 (as above)

    body = b""
    if arguments.data is not None:
        given = arguments.data
        is_file = given.startswith(files.BINARY)
        body = files.read(given.removeprefix(files.BINARY)) if is_file else given.encode()
    method = arguments.request or ("GET" if arguments.data is None else "POST")
    if not _METHOD.fullmatch(method) or method in ("CONNECT", "HEAD"):
        raise ConfigurationError(f"argument --request: not a method for this: {method!a}")
    return RequestWriter(method, url.host_header, url.target).write(_headers(arguments), body)


def _headers(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the headers; one that is given several times is one list (RFC 9110, section 5.3)."""
    from enclave.http.request import FRAMING  # noqa: PLC0415 (as above)

    headers: dict[str, tuple[str, str]] = {}
    for line in _header_lines(arguments.header):
        name, colon, value = line.partition(":")
        if not colon:
            # Not its text: it may be a token that lost its name.
            raise ConfigurationError("argument --header: not 'Name: value'")
        kind, value = name.lower(), value.strip(" \t")
        if kind in FRAMING:
            raise ConfigurationError(
                f"argument --header: {name} cannot be set",
                hint="it follows from the URL and the body; bodies are not compressed",
            )
        if kind in headers:
            name, before = headers[kind]
            value = f"{before}{'; ' if kind == 'cookie' else ', '}{value}"
        headers[kind] = name, value
    return dict(headers.values())


def _header_lines(given: list[str]) -> list[str]:
    lines = []
    for each in given:
        if each.startswith("@"):
            # By line feeds alone: `splitlines` would take letters outside ASCII for line ends.
            text = files.read(each[1:]).decode("latin-1")
            lines += [line for line in map(str.rstrip, text.split("\n")) if line]
        else:
            lines.append(each)
    return lines


def _shown(body: bytes) -> bytes | str:
    """Return the body as it is, or for a terminal, if it is text, without control characters."""
    if sys.stdout.isatty():
        try:
            lines = body.decode().split("\n")
        except UnicodeDecodeError:
            return body
        return "\n".join(printable(line) for line in lines)
    return body


COMMANDS = {"fetch": Command(run)}
