"""Options of the relying party's commands: what the other end must be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from enclave.cli import console
from enclave.cli.binary import fixed
from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

_PCR = re.compile(r"([0-9]{1,2})=(.+)")
_NAMED_PCRS = (0, 1, 2, 3, 4, 7, 8, 12)
"""Those AWS gives a meaning: of an enclave 0 image, 1 kernel, 2 application, 3 role, 4 instance,
8 signer; of an instance 4 boot code, 7 secure boot, 12 kernel command line."""

_DIGEST = 48
_FINGERPRINT = 32


def add_expectations(add: Any) -> None:
    """Add the options; `add` is a parser's ``add_argument``."""
    add("--platform", choices=("enclave", "sandbox", "instance"), default="enclave",
        help="what must have been attested: an enclave, a Nitro Sandbox (with --pcr 17=HEX), or an "
        "instance with a NitroTPM (default: %(default)s)")  # fmt: skip
    add("--pcr", metavar="N=HEX", action="append", default=[],
        help="the value of PCR N, 96 hex digits; several for one PCR: any of them")  # fmt: skip
    for index in _NAMED_PCRS:
        add(f"--pcr{index}", metavar="HEX", action="append", default=[],
            help=f"the same as --pcr {index}=HEX")  # fmt: skip
    add("--allow-debug", action="store_true",
        help="accept a document of debug mode, whose PCR0 to PCR2 are zero")  # fmt: skip
    add(
        "--simulated-root",
        metavar="SHA256",
        help="trust this root certificate, by the SHA-256 of its DER, in place of AWS's: for "
        "documents of a simulator, which prove nothing about any enclave",
    )


def expected_pcrs(arguments: argparse.Namespace) -> dict[int, list[bytes]]:
    """Return the values that each PCR may have; warn if they leave a known gap.

    Raises:
        ConfigurationError: an option.
    """
    given = []
    for text in arguments.pcr:
        match = _PCR.fullmatch(text)
        if match is None:
            raise ConfigurationError(f"argument --pcr: {text[:32]!r} is not N=HEX")
        given.append((int(match[1]), match[2]))
    given += [(index, text) for index in _NAMED_PCRS for text in getattr(arguments, f"pcr{index}")]
    expected: dict[int, list[bytes]] = {}
    for index, text in given:
        expected.setdefault(index, []).append(fixed(f"--pcr{index}", text, _DIGEST))
    if arguments.platform == "instance" and 4 in expected and not {7, 12} & set(expected):
        console.warn(
            "PCR4 alone leaves the kernel command line open (GHSA-xrv8-2pf5-f3q7): add PCR12, or "
            "PCR7 with Secure Boot"
        )
    if arguments.platform == "sandbox":
        console.warn(
            "PCR17 alone identifies a sandbox: an enclave that extends its own PCR17 by the same "
            "policy passes too"
        )
    return expected


def expected_root(arguments: argparse.Namespace) -> bytes:
    """Return the SHA-256 of the root certificate to trust; warn if it is not AWS's.

    Raises:
        ConfigurationError: the option.
    """
    # COSE and X.509 take a moment to load: not for --help.
    from enclave.attestation.verify import AWS_ROOT_FINGERPRINT  # noqa: PLC0415

    if arguments.simulated_root is None:
        return AWS_ROOT_FINGERPRINT
    root = fixed("--simulated-root", arguments.simulated_root, _FINGERPRINT)
    console.warn("the root is not AWS's: this document proves nothing about a real enclave")
    return root
