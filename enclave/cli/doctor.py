"""``doctor``: what this enclave has, and what of it works, with a hint for each fault."""

from __future__ import annotations

import math
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from enclave.cli import console
from enclave.cli.agent import make_agent, region_of
from enclave.cli.binary import HELP, binary
from enclave.cli.command import Command
from enclave.cli.errors import BadValueError
from enclave.cli.options import kms_options
from enclave.cli.output import Printer
from enclave.errors import ConfigurationError
from vsock_proxy.service.console import terminal_width
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager
    from datetime import datetime

    from enclave.agent import Agent
    from enclave.attester import Attester
    from enclave.cli.environment import Environment
    from enclave.credentials import Credentials
    from enclave.doctor.machine import Tls
    from enclave.options import KmsLocation
    from vsock_proxy.net.addresses import Address, ConnectProxy

EXIT_FAILED = 1
_TIMEOUT = 15.0
_LONGEST = 600.0


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the NSM, the clock, the parent's services, TLS, credentials, and a key",
        description="Check what an enclave needs, one thing after the other, each with a deadline, "
        "and print for each: pass, warn, fail or skip, what was found, and a hint. Nothing is "
        "changed, and nothing secret is printed. Exit code: 1 if a check fails, otherwise 0. "
        f"Bytes are given as {HELP}.",
        parents=[kms_options(), common],
    )
    add = parser.add_argument
    add("--key-id", metavar="KEY",
        help="try an attested call of this key, with DryRun: GenerateDataKey, or Decrypt with "
        "--ciphertext-blob")  # fmt: skip
    add("--ciphertext-blob", metavar="BYTES", help="a ciphertext of the key")
    add("--encryption-context", metavar="JSON", help="of the ciphertext, or of the data key")
    add("--check-timeout", metavar="SECONDS", type=float, default=_TIMEOUT,
        help="for each check (default: %(default)g)")  # fmt: skip
    add("--json", action="store_true", help="the same as --output json")


def run(arguments: argparse.Namespace, environment: Environment) -> int:
    """Make the checks and print them; return the exit code.

    Raises:
        ConfigurationError: an option.
    """
    from enclave.doctor.checks import Doctor  # noqa: PLC0415 (attestation and CBOR: not for --help)
    from vsock_proxy.service import checkup  # noqa: PLC0415 (as above)

    if arguments.json:
        arguments.output = "json"
    printer = Printer(arguments, environment, default="table")
    timeout = arguments.check_timeout
    if not math.isfinite(timeout) or not 0 < timeout <= _LONGEST:
        raise BadValueError(f"argument --check-timeout: not between 0 and {_LONGEST:g} seconds")
    checks = Doctor(_Machine(arguments, environment, timeout), _call(arguments)).checks()
    names = [check.name for check in checks]
    as_rows = printer.output == "table" and arguments.query is None
    width = terminal_width(checkup.WIDTH)
    colour = arguments.color == "on" or (
        arguments.color == "auto"
        and sys.stdout.isatty()
        and not environment.environ.get("NO_COLOR")
    )
    if as_rows:
        console.write(checkup.heading(names))
    examined = []
    for each in checkup.examine(checks, timeout=timeout):
        examined.append(each)
        if as_rows:
            console.write(checkup.row(each, names, width=width, colour=colour))
    if not as_rows:
        console.write(printer.format("Doctor", checkup.as_json(examined)))
    return EXIT_FAILED if checkup.status(examined) is checkup.Verdict.FAIL else 0


def _call(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return the parameters of the call to try."""
    ciphertext = binary("--ciphertext-blob", arguments.ciphertext_blob)
    if arguments.key_id is None and ciphertext is None and arguments.encryption_context is None:
        return None
    if arguments.key_id is None:
        raise ConfigurationError("--key-id is missing", hint="name the key by its ARN")
    from enclave.doctor.checks import blob  # noqa: PLC0415 (as above)

    call: dict[str, Any] = {"KeyId": arguments.key_id}
    if ciphertext is not None:
        call["CiphertextBlob"] = blob(ciphertext)
    if arguments.encryption_context is not None:
        call["EncryptionContext"] = _context(arguments.encryption_context)
    return call


def _context(text: str) -> dict[str, str]:
    try:
        context = parse_json(text)
    except ValueError:
        context = None
    if not isinstance(context, dict) or not all(isinstance(v, str) for v in context.values()):
        raise BadValueError(
            "argument --encryption-context: not a JSON object of texts",
            hint="""for example '{"purpose": "demo"}'""",
        )
    return context


class _Machine:
    """See `enclave.doctor.machine.Machine`."""

    def __init__(
        self, arguments: argparse.Namespace, environment: Environment, timeout: float
    ) -> None:
        from enclave.credentials.chain import ENVIRONMENT, source_of  # noqa: PLC0415 (as above)
        from enclave.doctor import machine  # noqa: PLC0415
        from enclave.surroundings import aws_source  # noqa: PLC0415
        from vsock_proxy.net.dialing import SocketDialer  # noqa: PLC0415

        self._arguments, self._environment = arguments, environment
        # Less than the check has: so its error is ours, and not that it did not end.
        self._timeout = 0.9 * timeout
        self._dialer = SocketDialer()
        self._here = aws_source(environment.environ, attester=arguments.attester)
        self.credential_service = None
        source = source_of(arguments.credentials, environ=environment.environ, here=self._here)
        if source == ENVIRONMENT:
            self.credentials_source = "the environment"
        elif arguments.profile is not None or environment.environ.get("AWS_PROFILE"):
            self.credentials_source = "the profile"
        elif isinstance(source, str):
            self.credentials_source = f"the source {source}"
        else:
            self.credential_service = source
            self.credentials_source = str(source)
        self._machine = machine
        self.read = machine.read_file
        self.descriptors = machine.count_descriptors

    def attester(self) -> AbstractContextManager[Attester]:
        return self._environment.attester(self._arguments.attester)

    @cached_property
    def _agent(self) -> Agent:
        half = self._timeout / 2
        return make_agent(
            self._arguments,
            self._environment,
            connect_timeout=half,
            read_timeout=half,
            deadline=self._timeout,
        )

    def agent(self) -> Agent:
        return self._agent

    def now(self) -> datetime:
        return self._environment.now()

    def dial(self, address: Any) -> None:
        self._dialer.dial(address, self._timeout).close()

    def loopback(self) -> None:
        self._machine.try_loopback(self._timeout)

    @cached_property
    def _location(self) -> KmsLocation:
        from enclave.aws_settings import AwsSettings  # noqa: PLC0415 (as above)
        from enclave.options import locate_kms  # noqa: PLC0415

        arguments = self._arguments
        return locate_kms(
            AwsSettings(self._environment.environ, profile=arguments.profile),
            region=region_of(arguments, self._environment),
            endpoint_url=arguments.endpoint_url,
            proxy=arguments.proxy,
            ca_bundle=arguments.ca_bundle,
            has_network=self._here is not None,
        )

    @property
    def proxy(self) -> Address | ConnectProxy | None:
        return self._location.proxy

    def endpoint(self) -> str:
        return self._location.endpoint.url

    def tls(self) -> Tls:
        from enclave.errors import KmsUnreachableError  # noqa: PLC0415 (as above)
        from enclave.http.client import open_tls  # noqa: PLC0415
        from enclave.http.errors import HttpError  # noqa: PLC0415
        from enclave.kms.tls import tls_context  # noqa: PLC0415
        from enclave.kms.transport import way_to  # noqa: PLC0415

        location, arguments = self._location, self._arguments
        host = location.endpoint.host
        context = tls_context(host, ca_bundle=location.ca_bundle, trust=arguments.trust)
        deadline = self._machine.monotonic_deadline(self._timeout)
        try:
            dialer, address = way_to(location.endpoint, location.proxy, self._dialer)
            stream = open_tls(dialer, address, context, host, deadline)
        except HttpError as e:
            raise KmsUnreachableError(
                f"no TLS with {host}: {e}", hint="docs/trust.md: which CAs are trusted"
            ) from e
        try:
            return self._machine.Tls(host, stream.version or "TLS", stream.root())
        finally:
            stream.close()

    def credentials(self) -> Credentials:
        from enclave.aws_settings import AwsSettings  # noqa: PLC0415 (as above)
        from enclave.credentials.chain import choose_provider  # noqa: PLC0415

        arguments, environ = self._arguments, self._environment.environ
        chosen = arguments.credentials
        if chosen == "auto":
            chosen = AwsSettings(environ, profile=arguments.profile).credentials() or chosen
        provider = choose_provider(
            chosen,
            environ=environ,
            here=self._here,
            region=self._location.region,
            ca_bundle=self._location.ca_bundle,
            dialer=self._dialer,
        )
        return provider.credentials(timeout=self._timeout)


COMMANDS = {"doctor": Command(run)}
