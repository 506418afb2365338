"""The KMS commands."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from enclave.cli.options import kms_options
from enclave.cli.output import render

if TYPE_CHECKING:
    import argparse


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    command = subparsers.add_parser(
        "generate-random",
        help="random bytes from KMS that only this enclave can read",
        description="Like `aws kms generate-random`, attested: KMS encrypts the bytes for a key "
        "pair of this enclave, and they are opened here.",
        parents=[kms_options(), common],
    )
    command.add_argument(
        "--number-of-bytes", type=int, required=True, metavar="N", help="1 to 1024"
    )
    command.add_argument(
        "--custom-key-store-id", metavar="ID", help="the AWS CloudHSM key store to ask"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    """Make the call; returns what to print."""
    with arguments.surroundings.agent(
        region=arguments.region,
        endpoint_url=arguments.endpoint_url,
        proxy=arguments.proxy,
        ca_bundle=arguments.ca_bundle,
        connect_timeout=arguments.cli_connect_timeout,
        read_timeout=arguments.cli_read_timeout,
    ) as agent:
        secret = agent.generate_random(
            arguments.number_of_bytes, custom_key_store_id=arguments.custom_key_store_id
        )
    answer = {"Plaintext": base64.b64encode(secret).decode()}
    return render(answer, output=arguments.output or "json", query=arguments.query)
