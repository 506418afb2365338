"""Commands of nitro-cli: runs them, and returns typed results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from parent.enclaves import nitro_cli
from parent.enclaves.nitro_cli import NitroCliError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parent.enclaves.nitro_cli import Enclave
    from parent.enclaves.runner import CommandRunner
    from parent.enclaves.settings import EnclaveSettings

TIMEOUT: Final = 30.0
"""Seconds for nitro-cli to list or terminate enclaves; it waits 3 s for each of their processes."""


def list_enclaves(runner: CommandRunner) -> tuple[Sequence[Enclave], bool]:
    """Return the enclaves that are seen, and whether these are all.

    Raises:
        NitroCliError: nitro-cli failed.
    """
    arguments = nitro_cli.describe_arguments()
    done = runner.run(arguments, TIMEOUT)
    try:
        return nitro_cli.parse_describe(done.stdout), done.status == 0
    except NitroCliError:
        if done.status:
            raise nitro_cli.failure(arguments[0], done.status, done.stderr) from None
        raise


def run_enclave(runner: CommandRunner, settings: EnclaveSettings, eif_size: int) -> Enclave:
    """Start an enclave from an image of so many bytes.

    Raises:
        NitroCliError: it was not started, or that is unknown.
    """
    arguments = nitro_cli.run_arguments(settings)
    return nitro_cli.parse_run(_run(runner, arguments, nitro_cli.run_timeout(settings, eif_size)))


def terminate_enclave(runner: CommandRunner, enclave_id: str) -> None:
    """Terminate an enclave.

    Raises:
        NitroCliError: it was not terminated, or that is unknown.
    """
    _run(runner, nitro_cli.terminate_arguments(enclave_id), TIMEOUT)


def _run(runner: CommandRunner, arguments: Sequence[str], timeout: float) -> bytes:
    done = runner.run(arguments, timeout)
    if done.status:
        raise nitro_cli.failure(arguments[0], done.status, done.stderr)
    return done.stdout
