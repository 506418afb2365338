"""``enclave-parent pcr``: the PCR of a file or of a signing certificate, as ``nitro-cli pcr``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from parent.eif.cpio import CHUNK
from parent.eif.measurement import extend
from parent.eif.signature import load_certificate, measure_certificate
from parent.files import opened, print_json, progress, read_small, size

if TYPE_CHECKING:
    import argparse

_DESCRIPTION = """\
Print what `nitro-cli pcr` prints. PCR8 of a certificate is that of every enclave whose image it
signs. The PCR of a file is SHA-384(48 zero bytes || SHA-384(file)), which is what an enclave has
that extends a PCR with the SHA-384 of the file; it is not the PCR0 of an image: see describe-eif.
"""
_MAX_CERTIFICATE = 64 * 1024


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "pcr", help="print the PCR of a file or of a signing certificate", description=_DESCRIPTION
    )
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--input", metavar="FILE", type=Path, help="a file: prints PCR")
    one.add_argument(
        "--signing-certificate", metavar="CERT", type=Path, help="a certificate, PEM: prints PCR8"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a PCR."""
    if arguments.signing_certificate:
        pem = read_small(arguments.signing_certificate, _MAX_CERTIFICATE)
        print_json({"PCR8": measure_certificate(load_certificate(pem)).hex()})
        return 0
    digest = hashlib.sha384()
    with (
        opened(arguments.input) as stream,
        progress(size(arguments.input), "measuring") as advance,
    ):
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    print_json({"PCR": extend(digest.digest()).hex()})
    return 0
