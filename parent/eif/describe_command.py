"""``enclave-parent describe-eif``: what an image is and measures."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from parent.eif.console import warn
from parent.eif.describe import as_nitro_cli, describe
from parent.eif.errors import EifError, of_image
from parent.eif.measurement import PLAIN_RULE
from parent.files import opened, print_json, progress, size

if TYPE_CHECKING:
    import argparse

_DESCRIPTION = """\
Print what `nitro-cli describe-eif` prints, without nitro-cli: the PCRs of an enclave started from
the image, who signed it, and what its builder says about it. Metadata is not measured, so it proves
nothing; neither does the CRC.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "describe-eif", help="print what an enclave image measures", description=_DESCRIPTION
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the enclave image file")
    parser.add_argument(
        "--check",
        action="store_true",
        help="fail if the CRC or the signature is wrong, or the signing certificate not valid now",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Describe an image."""
    path = arguments.image
    with of_image(path), opened(path) as stream, progress(size(path), "measuring") as advance:
        description = describe(stream, progress=advance)
    print_json(as_nitro_cli(description))
    now = datetime.now(UTC)
    failures, times = description.failures(now), description.validity(now)
    for doubt in () if arguments.check else failures:
        if doubt not in times:
            warn(f"{doubt}; with --check it is an error")
    for doubt in times:
        warn(f"{doubt}: nitro-cli starts no enclave from the image (E59)")
    if description.pcr0_rule != PLAIN_RULE:
        warn(f"PCR0 counts {description.pcr0_rule}: only the signature says so")
    if arguments.check and failures:
        with of_image(path):
            raise EifError("; ".join(failures), offset=0)
    return 0
