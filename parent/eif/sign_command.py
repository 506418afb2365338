"""``enclave-parent sign-eif``, and the options that name a signer."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from parent.eif.build import sign
from parent.eif.console import warn
from parent.eif.describe import measurements
from parent.eif.errors import of_image
from parent.eif.signer import Signer, load_key
from parent.files import check_is_none_of, opened, print_json, progress, read_small, replacing, size
from vsock_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

_MAX_KEY = 64 * 1024  # Bytes in a PEM file.


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "sign-eif", help="sign an enclave image, or replace its signature"
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the enclave image file")
    parser.add_argument("--output", metavar="IMAGE", type=Path, help="default: the same file")
    add_options(parser, required=True)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the options that name a signer."""
    parser.add_argument(
        "--signing-certificate", metavar="FILE", type=Path, required=required, help="PEM"
    )
    parser.add_argument(
        "--private-key", metavar="FILE|ARN", required=required,
        help="PEM, on P-256, P-384 or P-521; or the ARN of such a key in KMS",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Sign an image, and print its measurements as ``nitro-cli sign-eif`` does."""
    check_is_none_of(
        arguments.output or arguments.image,
        (
            ("--signing-certificate", arguments.signing_certificate),
            ("--private-key", Path(arguments.private_key)),
        ),
    )
    signer = read_signer(arguments)
    assert signer  # noqa: S101 (argparse requires both options)
    with (
        of_image(arguments.image),
        opened(arguments.image) as source,
        replacing(arguments.output or arguments.image) as output,
        progress(size(arguments.image), "signing") as advance,
    ):
        pcrs = sign(source, output, signer, progress=advance)
    print_json({"Measurements": measurements(pcrs)})
    return 0


def read_signer(arguments: argparse.Namespace) -> Signer | None:
    """Return the signer that the options name; None if they name none.

    Raises:
        ConfigurationError: one of the two is missing or cannot be read, or the certificate has
            expired.
    """
    certificate, key = arguments.signing_certificate, arguments.private_key
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise ConfigurationError("--signing-certificate and --private-key go together")
    pem = read_small(certificate, _MAX_KEY)
    signer = Signer(pem, load_key(key, lambda name: read_small(Path(name), _MAX_KEY)))
    warning = signer.check_validity(datetime.now(UTC))
    if warning:
        warn(warning)
    return signer
