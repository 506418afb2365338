"""The attested KMS commands but ``generate-random``; the service model says what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore import xform_name

from enclave.cli.command import Command
from enclave.cli.model import parameters
from enclave.cli.operation import add_command, run

if TYPE_CHECKING:
    import argparse

_HELP = {
    "Decrypt": "decrypt with a KMS key; only this enclave reads the plaintext",
    "GenerateDataKey": "a data key for this enclave, and encrypted under a KMS key",
    "GenerateDataKeyPair": "a key pair whose private key only this enclave reads",
    "DeriveSharedSecret": "a secret shared between a KMS key and a peer's key",
}

COMMANDS = {xform_name(operation, "-"): Command(run) for operation in _HELP}


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    for operation, text in _HELP.items():
        add_command(
            subparsers,
            common,
            operation=operation,
            parameters=parameters(operation),
            help=text,
        )
