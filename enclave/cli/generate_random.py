"""``generate-random``, whose options are written down here: reading the service model takes
longer than all else that a command does before it asks. A test compares them with the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enclave.cli.command import Command
from enclave.cli.model import OWN_HELP, Parameter
from enclave.cli.operation import add_command, run

if TYPE_CHECKING:
    import argparse

PARAMETERS = (
    Parameter("NumberOfBytes", "integer", required=False, help="required: 1 to 1024"),
    Parameter(
        "CustomKeyStoreId",
        "string",
        required=False,
        help="the AWS CloudHSM key store whose HSMs make the bytes",
    ),
    Parameter("Recipient", "structure", required=False, help=OWN_HELP["Recipient"]),
)

COMMANDS = {"generate-random": Command(run)}


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    add_command(
        subparsers,
        common,
        operation="GenerateRandom",
        parameters=PARAMETERS,
        help="random bytes from KMS that only this enclave can read",
    )
