"""The commands that ask only the NSM, two of them a NitroTPM as well: ``attest``, ``describe``,
``extend-pcr``, ``lock-pcr``.
"""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any, cast

from enclave.cli import files
from enclave.cli.binary import HELP, binary
from enclave.cli.command import Command
from enclave.cli.options import add_attester
from enclave.cli.output import Printer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from enclave.cli.environment import Environment
    from enclave.nitrotpm import NitroTpm
    from enclave.nsm import Nsm

_LIMIT = "at most 1024 bytes"


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    attest = subparsers.add_parser(
        "attest",
        help="an attestation document of this enclave",
        description="Have the NSM (or NitroTPM) sign an attestation document, and print it in "
        f"base64. Bytes are given as {HELP}.",
        parents=[common],
    )
    attest.add_argument("--nonce", metavar="BYTES", help=f"what the verifier sent, {_LIMIT}")
    attest.add_argument("--user-data", metavar="BYTES", help=f"what is to be attested, {_LIMIT}")
    attest.add_argument(
        "--public-key", metavar="BYTES", help=f"a key of this enclave, DER, {_LIMIT}"
    )
    attest.add_argument(
        "--output-file",
        metavar="FILE",
        help="write it there as it is, not in base64; - is standard output, if no terminal",
    )
    add_attester(attest.add_argument)

    describe = subparsers.add_parser(
        "describe",
        help="the NSM, and the PCRs with their locks",
        description="Ask the NSM who it is, and for every PCR; of a NitroTPM, what its document "
        "says. As a table, unless --output says otherwise.",
        parents=[common],
    )
    add_attester(describe.add_argument)

    extend = subparsers.add_parser(
        "extend-pcr",
        help="extend a PCR, and print its new value",
        description="Set a PCR to SHA-384(old value || data). PCRs 16 to 31 are an "
        f"application's; documents list a PCR once it is locked. Bytes are given as {HELP}.",
        parents=[common],
    )
    extend.add_argument("--index", type=int, required=True, metavar="N", help="16 to 31")
    extend.add_argument("--data", required=True, metavar="BYTES", help="at most 4032 bytes")

    lock = subparsers.add_parser(
        "lock-pcr",
        help="lock a PCR until the enclave ends",
        description="Lock a PCR, or all below one, until the enclave ends. From then on "
        "attestation documents list it.",
        parents=[common],
    )
    which = lock.add_mutually_exclusive_group(required=True)
    which.add_argument("--index", type=int, metavar="N", help="16 to 31")
    which.add_argument("--below", type=int, metavar="N", help="lock PCRs 0 to N - 1; N is 0 to 32")


def run_attest(arguments: argparse.Namespace, environment: Environment) -> str | bytes:
    """Return the document in base64 or as it is, or write it to a file."""
    given = {
        name: binary(f"--{name.replace('_', '-')}", getattr(arguments, name))
        for name in ("nonce", "user_data", "public_key")
    }
    with environment.attester(arguments.attester) as attester:
        document = attester.attest(**given)
    if arguments.output_file == "-":
        return document
    if arguments.output_file is not None:
        files.write(arguments.output_file, document)
        return ""
    return base64.b64encode(document).decode() + "\n"


def run_describe(arguments: argparse.Namespace, environment: Environment) -> str:
    """Describe the NSM or NitroTPM, and its PCRs."""
    from enclave.nitrotpm import NitroTpm  # noqa: PLC0415 (not for --help)

    printer = Printer(arguments, environment, default="table", fold=True)
    with environment.attester(arguments.attester) as attester:
        if isinstance(attester, NitroTpm):
            return printer.format("NitroTpm", _of_a_nitrotpm(attester))
        return printer.format("Nsm", _of_an_nsm(cast("Nsm", attester)))


def _of_an_nsm(nsm: Nsm) -> dict[str, Any]:
    described = nsm.describe()
    pcrs = [nsm.describe_pcr(index) for index in range(described.max_pcrs)]
    return {
        "ModuleId": described.module_id,
        "Digest": described.digest,
        "Version": f"{described.version_major}.{described.version_minor}.{described.version_patch}",
        "Pcrs": [
            {"Index": index, "Locked": pcr.lock, "Value": pcr.data.hex()}
            for index, pcr in enumerate(pcrs)
        ],
    }


def _of_a_nitrotpm(tpm: NitroTpm) -> dict[str, Any]:
    from enclave.attestation import parse  # noqa: PLC0415 (as above)

    described, document = tpm.describe(), parse(tpm.attest())
    return {
        "ModuleId": document.module_id,
        "Digest": document.digest,
        "Device": described.path,
        "Manufacturer": described.manufacturer,
        "Version": described.name,
        "Pcrs": [
            {"Index": index, "Value": value.hex()}
            for index, value in sorted(document.nitrotpm_pcrs.items())
        ],
    }


def run_extend_pcr(arguments: argparse.Namespace, environment: Environment) -> str:
    """Extend a PCR; return its new value."""
    printer = Printer(arguments, environment)
    data = binary("--data", arguments.data) or b""
    with _nsm(environment) as nsm:
        value = nsm.extend_pcr(arguments.index, data)
    return printer.format("Pcr", {"Index": arguments.index, "Value": value.hex()})


def run_lock_pcr(arguments: argparse.Namespace, environment: Environment) -> str:
    """Nothing to print: it is locked, or an error says why not."""
    with _nsm(environment) as nsm:
        if arguments.index is not None:
            nsm.lock_pcr(arguments.index)
        else:
            nsm.lock_pcrs(arguments.below)
    return ""


@contextlib.contextmanager
def _nsm(environment: Environment) -> Iterator[Nsm]:
    from enclave.nsm import Nsm  # noqa: PLC0415 (not for --help)

    with environment.device() as device:
        yield Nsm(device)


COMMANDS = {
    "attest": Command(run_attest),
    "describe": Command(run_describe),
    "extend-pcr": Command(run_extend_pcr),
    "lock-pcr": Command(run_lock_pcr),
}
