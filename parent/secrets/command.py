"""``enclave-parent seal``: encrypts secrets for an image, on the developer's machine."""

from __future__ import annotations

import base64
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from parent.files import print_json, read_small, replacing
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.service.console import warn
from vsock_proxy.service.extras import require

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from parent.secrets.kms import Encrypter

PROGRAM: Final = "enclave-parent"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "seal",
        help="encrypt secrets for an enclave image, as a file of SOPS or a KMS ciphertext",
        description="Encrypt SECRETS by KMS Encrypt, with your own credentials, for "
        "`enclave-agent serve --secret`. The result goes into the image. With --policy-for, print "
        "the statement by which the key policy lets that image decrypt them; SECRETS may then be "
        "left out. Secrets come from a file or standard input, never from the command line.",
    )
    add = parser.add_argument
    add("secrets", metavar="SECRETS", nargs="?", help="a file, or - for standard input")
    add("--key-id", metavar="ARN", action="append", default=[],
        help="KMS key; may repeat: each of them alone opens the file")  # fmt: skip
    add("--context", metavar="KEY=VALUE", action="append", default=[],
        help="encryption context; may repeat")  # fmt: skip
    add("--format", choices=("sops", "raw"), default="sops",
        help="a file of SOPS, or one ciphertext of up to 4096 bytes (default: sops)")  # fmt: skip
    add("--type", choices=("binary", "dotenv", "json", "yaml"),
        help="of SECRETS; with any but binary each value is encrypted by itself (default: by the "
        "name of the file, otherwise binary)")  # fmt: skip
    add("--output", metavar="FILE", type=Path, help="default: standard output")
    add("--region", metavar="REGION", help="for keys that are not named by ARN")
    add("--endpoint-url", metavar="URL", help="another KMS, such as the simulated one")
    add("--profile", metavar="NAME", help="of the AWS CLI's configuration")
    add("--policy-for", metavar="IMAGE.eif", type=Path,
        help="print the statement of the key policy for this image, as JSON")  # fmt: skip
    add("--role", metavar="ARN", action="append", default=[],
        help="for --policy-for: the role of the parent instance")  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, *, kms: Encrypter | None = None) -> int:
    """Seal secrets, print a statement, or both; return the exit status."""
    context = _pairs(arguments.context)
    if arguments.secrets is None and arguments.policy_for is None:
        raise ConfigurationError("nothing to seal", hint="name a file, or - for standard input")
    if arguments.policy_for is not None:
        if not arguments.role:
            raise ConfigurationError("--policy-for without --role: whom is it to allow?")
        if arguments.secrets is not None and arguments.output is None:
            raise ConfigurationError("--policy-for and SECRETS both print", hint="add --output")
    if arguments.secrets is not None:
        require("parent", "yaml")
        _write(_sealed(arguments, context, kms), arguments.output)
    if arguments.policy_for is not None:
        from parent.policy.command import measured_image  # noqa: PLC0415 (for this option only)
        from parent.policy.generate import decrypt_statement  # noqa: PLC0415

        image = measured_image(arguments.policy_for)
        print_json(decrypt_statement([image], roles=arguments.role, context=context))
    return 0


def _sealed(
    arguments: argparse.Namespace, context: Mapping[str, str], kms: Encrypter | None
) -> bytes:
    # PyYAML and cryptography: not for --help.
    from parent.secrets import sops  # noqa: PLC0415
    from parent.secrets.kms import MAX_PLAINTEXT, Kms  # noqa: PLC0415
    from parent.secrets.plain import MAX_SIZE, SealError, read_plain, type_of  # noqa: PLC0415

    keys: Sequence[str] = arguments.key_id
    if not keys:
        raise ConfigurationError("--key-id is missing", hint="the ARN of a symmetric KMS key")
    data = _read(arguments.secrets, MAX_SIZE)
    if not data:
        raise SealError("the input is empty")
    kms = kms or Kms(
        region=arguments.region, endpoint_url=arguments.endpoint_url, profile=arguments.profile
    )
    if arguments.format == "raw":
        if len(keys) > 1 or arguments.type not in (None, "binary"):
            raise ConfigurationError("--format raw has one key, and no --type: its bytes are kept")
        if len(data) > MAX_PLAINTEXT:
            raise SealError(
                f"{len(data)} bytes; KMS encrypts up to {MAX_PLAINTEXT}",
                hint="leave out --format raw",
            )
        _warn_of_line_end(data)
        return base64.b64encode(kms.encrypt(keys[0], data, context).ciphertext) + b"\n"
    kind = arguments.type or type_of(arguments.secrets)
    documents = read_plain(data, kind)
    if kind == "binary":
        _warn_of_line_end(data)
    data_key = bytearray(os.urandom(sops.DATA_KEY_SIZE))
    try:
        wrapped = [sops.WrappedKey(*kms.encrypt(key, data_key, context), context) for key in keys]
        return sops.sealed(
            documents,
            kind,
            data_key=data_key,
            keys=wrapped,
            now=datetime.now(UTC),
            random=os.urandom,
        )
    finally:
        data_key[:] = bytes(len(data_key))


def _warn_of_line_end(data: bytes) -> None:
    if data.endswith(b"\n") and data.count(b"\n") == 1:
        warn(PROGRAM, "the secret ends with a line end, which is sealed with it (use printf)")


def _read(name: str, limit: int) -> bytes:
    if name != "-":
        return read_small(Path(name), limit)
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise ConfigurationError(f"standard input has more than {limit} bytes")
    return data


def _write(data: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(data.decode())
        sys.stdout.flush()
        return
    with replacing(output) as stream:
        stream.write(data)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    context: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"argument --context: {text!r:.80} is not KEY=VALUE")
        if key in context:
            raise ConfigurationError(f"argument --context: {key!r:.80} is given twice")
        context[key] = value
    return context
