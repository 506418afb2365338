"""``verify``: prove an attestation document, on whichever machine it is to be believed."""

from __future__ import annotations

import base64
import binascii
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from enclave.cli import console, files
from enclave.cli.binary import HELP, binary, fixed
from enclave.cli.output import Printer
from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from enclave.attestation import AttestationDocument

_PCR = re.compile(r"([0-9]{1,2})=(.+)")
_NAMED_PCRS = (0, 1, 2, 3, 4, 8)
"""Those AWS gives a meaning: image, kernel, application, role, instance, signer."""

_DIGEST = 48
_FINGERPRINT = 32


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "verify",
        help="prove an attestation document",
        description="Prove an attestation document: signature, certificate chain up to AWS's "
        "root, times, and what it must say. Every failure is printed, not only the first. "
        f"Without a PCR it proves that an enclave runs, not what runs in it. Bytes are given as "
        f"{HELP}.",
        parents=[common],
    )
    add = parser.add_argument
    add("document", metavar="FILE", nargs="?", default="-",
        help="the document, as it is or in base64 (default: -, standard input)")  # fmt: skip
    add("--pcr", metavar="N=HEX", action="append", default=[],
        help="what PCR N must be, 96 hex digits; may repeat")  # fmt: skip
    for index in _NAMED_PCRS:
        add(f"--pcr{index}", metavar="HEX", help=f"the same as --pcr {index}=HEX")
    add("--nonce", metavar="BYTES", help="what the nonce must be")
    add("--user-data", metavar="BYTES", help="what user_data must be")
    add("--public-key", metavar="BYTES", help="what public_key must be")
    add("--max-age", metavar="SECONDS", type=float, default=300.0,
        help="how old it may be (default: %(default)g; 0: any its certificate allows)")  # fmt: skip
    add("--at", metavar="TIME",
        help="verify as at this time, ISO 8601 with its zone (default: now)")  # fmt: skip
    add("--allow-debug", action="store_true",
        help="take a document of debug mode, whose PCR0 to PCR2 are zero")  # fmt: skip
    add(
        "--simulated-root",
        metavar="SHA256",
        help="trust this root certificate, by the SHA-256 of its DER, in place of AWS's: for "
        "documents of a simulator, which prove nothing about any enclave",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    """Verify; returns what the document says.

    Raises:
        AttestationError: it proves too little.
        DecodingError: it is no attestation document.
        ConfigurationError: an option.
    """
    # COSE and X.509 take a moment to load: not for --help.
    from enclave.attestation.verify import AWS_ROOT_FINGERPRINT, verify  # noqa: PLC0415

    printer = Printer(arguments, default="table")
    root = AWS_ROOT_FINGERPRINT
    if arguments.simulated_root is not None:
        root = fixed("--simulated-root", arguments.simulated_root, _FINGERPRINT)
        console.warn("the root is not AWS's: this document proves nothing about a real enclave")
    if not 0 <= arguments.max_age <= timedelta.max.total_seconds():
        raise ConfigurationError("argument --max-age: not a number of seconds")
    document = verify(
        _document(arguments),
        at=_time(arguments),
        max_age=timedelta(seconds=arguments.max_age) if arguments.max_age else None,
        pcrs=_expected_pcrs(arguments),
        nonce=binary("--nonce", arguments.nonce),
        user_data=binary("--user-data", arguments.user_data),
        public_key=binary("--public-key", arguments.public_key),
        allow_debug=arguments.allow_debug,
        root_fingerprint=root,
    )
    answer = _answer(document)
    if printer.output == "table":
        answer = {name: _brief(value) for name, value in answer.items()}
    return printer.format("AttestationDocument", answer)


def _document(arguments: argparse.Namespace) -> bytes:
    if arguments.document == "-":
        data = sys.stdin.buffer.read(files.MAX_FILE + 1)
    else:
        data = files.read(arguments.document)
    # A document begins with CBOR's array of four, or COSE's tag: neither byte is base64.
    if data[:1].isascii() and data.strip():
        try:
            return base64.b64decode(b"".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            pass  # then it is none at all, and the parser says so
    return data


def _time(arguments: argparse.Namespace) -> datetime:
    if arguments.at is None:
        now: datetime = arguments.surroundings.now()
        return now
    try:
        at = datetime.fromisoformat(arguments.at)
    except ValueError as e:
        raise ConfigurationError(
            f"argument --at: not a time: {arguments.at!r}", hint="for example 2025-12-25T16:00:00Z"
        ) from e
    if at.utcoffset() is None:
        raise ConfigurationError(
            "argument --at: a time without its zone", hint=f"for example {arguments.at}Z"
        )
    return at


def _expected_pcrs(arguments: argparse.Namespace) -> dict[int, bytes]:
    given = []
    for text in arguments.pcr:
        match = _PCR.fullmatch(text)
        if match is None:
            raise ConfigurationError(f"argument --pcr: {text[:32]!r} is not N=HEX")
        given.append((int(match[1]), match[2]))
    named = ((index, getattr(arguments, f"pcr{index}")) for index in _NAMED_PCRS)
    given += [(index, text) for index, text in named if text is not None]
    expected: dict[int, bytes] = {}
    for index, text in given:
        value = fixed(f"--pcr{index}", text, _DIGEST)
        if expected.setdefault(index, value) != value:
            raise ConfigurationError(f"PCR{index} cannot have two values")
    return expected


def _answer(document: AttestationDocument) -> dict[str, Any]:
    def shown(value: bytes | None) -> str | None:
        return None if value is None else value.hex()

    return {
        "ModuleId": document.module_id,
        "Timestamp": document.timestamp.astimezone(UTC).isoformat(timespec="milliseconds"),
        "Digest": document.digest,
        "DebugMode": document.is_debug,
        "Nonce": shown(document.nonce),
        "UserData": shown(document.user_data),
        "PublicKey": shown(document.public_key),
        "Pcrs": [
            {"Index": index, "Value": value.hex()} for index, value in sorted(document.pcrs.items())
        ],
    }


def _brief(value: Any) -> Any:
    """Hex that leaves a table readable; the other forms show all of it."""
    if isinstance(value, str) and len(value) > 2 * _DIGEST:
        return f"{value[:64]}... ({len(value) // 2} bytes)"
    return value
