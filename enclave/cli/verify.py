"""``verify``: verify an attestation document, on the machine that relies on it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from enclave.cli import console, files
from enclave.cli.binary import HELP, binary
from enclave.cli.command import Command
from enclave.cli.expectations import add_expectations, expected_pcrs, expected_root
from enclave.cli.output import Printer
from enclave.errors import AttestationError, ConfigurationError, DecodingError
from vsock_proxy.service.document_shapes import SHAPES, document_bytes

if TYPE_CHECKING:
    import argparse

    from enclave.attestation import AttestationDocument
    from enclave.cli.environment import Environment

_DIGEST = 48


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "verify",
        help="verify an attestation document",
        description="Verify an attestation document: signature, certificate chain up to AWS's "
        "root, times, and the values that it must have. Every failure is printed, not only the "
        "first. Without a PCR it proves that an enclave runs, not what runs in it. A document "
        "of an EC2 instance is rejected unless --platform says instance. A PCR given "
        "several times may have any of the values. Prints a table, unless --output or "
        f"AWS_DEFAULT_OUTPUT says otherwise. Bytes are given as {HELP}.",
        parents=[common],
    )
    add = parser.add_argument
    add("document", metavar="FILE", nargs="?", default="-",
        help=f"the document {SHAPES} (default: -, standard input)")  # fmt: skip
    add_expectations(add)
    add("--nonce", metavar="BYTES", help="the value of the nonce")
    add("--user-data", metavar="BYTES", help="the value of user_data")
    add("--public-key", metavar="BYTES", help="the value of public_key")
    add("--max-age", metavar="SECONDS", type=float, default=300.0,
        help="maximum age (default: %(default)g; 0: as its certificate allows)")  # fmt: skip
    add("--at", metavar="TIME",
        help="verify as at this time, ISO 8601 with its zone (default: now)")  # fmt: skip


def run(arguments: argparse.Namespace, environment: Environment) -> str:
    """Verify a document, and return what it says.

    Raises:
        AttestationError: it proves too little.
        DecodingError: it is not an attestation document.
        ConfigurationError: an option.
    """
    # COSE and X.509 take a moment to load: not for --help.
    from enclave.attestation import parse  # noqa: PLC0415
    from enclave.attestation.simulated import simulator_hint  # noqa: PLC0415
    from enclave.attestation.verify import check_pcrs, names_image, verify  # noqa: PLC0415

    printer = Printer(arguments, environment, default="table")
    root = expected_root(arguments)
    if not 0 <= arguments.max_age <= timedelta.max.total_seconds():
        raise ConfigurationError("argument --max-age: not a number of seconds")
    pcrs = expected_pcrs(arguments)
    check_pcrs(pcrs, arguments.platform)  # before a document is read
    if pcrs and arguments.platform == "enclave" and not names_image(pcrs):
        console.warn("these PCRs name no image: another one can have the same; add PCR0")
    raw = _document(arguments)
    try:
        document = verify(
            raw,
            at=_time(arguments, environment),
            max_age=timedelta(seconds=arguments.max_age) if arguments.max_age else None,
            pcrs=pcrs,
            platform=arguments.platform,
            nonce=binary("--nonce", arguments.nonce),
            user_data=binary("--user-data", arguments.user_data),
            public_key=binary("--public-key", arguments.public_key),
            allow_debug=arguments.allow_debug,
            root_fingerprint=root,
        )
    except AttestationError as e:
        if arguments.simulated_root is None:
            e.hint = simulator_hint(parse(raw)) or e.hint
        raise
    result = _result(document)
    if printer.output == "table":
        result = {name: _brief(value) for name, value in result.items()}
    return printer.format("AttestationDocument", result)


def _document(arguments: argparse.Namespace) -> bytes:
    if arguments.document == "-":
        data = sys.stdin.buffer.read(files.MAX_FILE + 1)
    else:
        data = files.read(arguments.document)
    try:
        return document_bytes(data)
    except ConfigurationError as e:
        raise DecodingError("attestation document", str(e), hint=e.hint) from None


def _time(arguments: argparse.Namespace, environment: Environment) -> datetime:
    if arguments.at is None:
        return environment.now()
    try:
        at = datetime.fromisoformat(arguments.at)
    except ValueError as e:
        raise ConfigurationError(
            f"argument --at: not a time: {arguments.at!r}", hint="for example 2025-12-25T16:00:00Z"
        ) from e
    if at.utcoffset() is None:
        raise ConfigurationError(
            "argument --at: a time without its zone", hint=f"for example {at.isoformat()}Z"
        )
    return at


def _result(document: AttestationDocument) -> dict[str, Any]:
    def shown(value: bytes | None) -> str | None:
        return None if value is None else value.hex()

    return {
        "Platform": document.platform,
        "ModuleId": document.module_id,
        "Timestamp": document.timestamp.astimezone(UTC).isoformat(timespec="milliseconds"),
        "Digest": document.digest,
        "DebugMode": document.is_debug,
        "Nonce": shown(document.nonce),
        "UserData": shown(document.user_data),
        "PublicKey": shown(document.public_key),
        "Pcrs": [
            {"Index": index, "Value": value.hex()}
            for index, value in sorted((document.pcrs or document.nitrotpm_pcrs).items())
        ],
    }


def _brief(value: Any) -> Any:
    """Hex that leaves a table readable; the other forms show all of it."""
    if isinstance(value, str) and len(value) > 2 * _DIGEST:
        return f"{value[:64]}... ({len(value) // 2} bytes)"
    return value


COMMANDS = {"verify": Command(run)}
