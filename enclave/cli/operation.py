"""The KMS commands: options from the service model, the call, and the response printed."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from botocore import xform_name

from enclave.cli.agent import key_pair_ahead, make_agent, settings_of
from enclave.cli.command import Command
from enclave.cli.console import PROG, hint
from enclave.cli.errors import BadValueError, KmsRuleError
from enclave.cli.model import check, operation_model
from enclave.cli.options import BASE64, RAW, kms_options
from enclave.cli.output import Printer
from enclave.cli.values import on_the_wire, read_document, read_option, with_blobs
from enclave.errors import ConfigurationError
from enclave.key_id import names_no_key
from enclave.recipient.exchange import SECRET_FIELD, check_number_of_bytes
from vsock_proxy.service import arguments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enclave.cli.environment import Environment
    from enclave.cli.model import Parameter

_METAVARS = {
    "blob": "BLOB",
    "integer": "N",
    "list": "VALUE",
    "map": "KEY=VALUE,...",
    "string": "TEXT",
    "structure": "KEY=VALUE,...",
}


def add_command(
    subparsers: Any,
    common: argparse.ArgumentParser,
    *,
    operation: str,
    parameters: tuple[Parameter, ...],
    help: str,
) -> None:
    """Add the command of one operation, with the AWS CLI's name and options."""
    name = xform_name(operation, "-")
    needed = [parameter for parameter in parameters if parameter.required]
    command = subparsers.add_parser(
        name,
        usage=textwrap.fill(
            " ".join([PROG, name, *map(_usage, needed), "[parameters]", "[options]"]),
            width=73,  # `usage: ` comes before it
            subsequent_indent=" " * len(f"usage: {PROG} "),
            break_on_hyphens=False,
        ),
        help=help,
        allow_abbrev=True,
        description=f"Like `aws kms {name}`, attested: KMS encrypts the secret for a key pair of "
        "this enclave, and it is opened here. Values may come from files: file://PATH for text, "
        "fileb://PATH for bytes.",
        parents=[_parameter_options(operation, parameters), kms_options(), common],
    )
    command.set_defaults(operation=operation, parameters=parameters)


def _usage(parameter: Parameter) -> str:
    return f"{parameter.option} {_METAVARS[parameter.kind]}"


def _parameter_options(
    operation: str, parameters: tuple[Parameter, ...]
) -> argparse.ArgumentParser:
    parser = arguments.Parser(add_help=False)
    add = parser.add_argument_group(f"parameters of KMS {operation}").add_argument
    for parameter in parameters:
        option, text = parameter.option, parameter.help.replace("%", "%%")
        if parameter.kind == "boolean":
            add(option, action=argparse.BooleanOptionalAction, help=text)
            continue
        nargs = "*" if parameter.kind == "list" else None
        add(option, metavar=_METAVARS[parameter.kind], nargs=nargs, help=text)
    add = parser.add_argument_group("all parameters at once").add_argument
    add("--cli-input-json", metavar="JSON",
        help="the parameters, or file://PATH to them; options go before them")  # fmt: skip
    add("--cli-input-yaml", metavar="YAML", help="the same in YAML; needs PyYAML")
    add(
        "--generate-cli-skeleton",
        nargs="?",
        const="input",
        choices=("input", "yaml-input", "output"),
        help="call nothing; print a form for --cli-input-json or --cli-input-yaml, or a sample "
        "of the response",
    )
    return parser


def run(arguments: argparse.Namespace, environment: Environment) -> str:
    """Make the call; returns what to print."""
    operation = arguments.operation
    if arguments.generate_cli_skeleton in ("input", "yaml-input"):
        _options(arguments)  # a value that is wrong is an error all the same
        from enclave.cli.skeleton import input_skeleton  # noqa: PLC0415 (loads the model)

        return input_skeleton(operation, yaml=arguments.generate_cli_skeleton == "yaml-input")
    parameters = _given(arguments, environment)
    printer = Printer(arguments, environment)
    if arguments.generate_cli_skeleton == "output":
        from enclave.cli.skeleton import output_sample  # noqa: PLC0415 (as above)

        return printer.format(operation, output_sample(operation))
    _check_rules(operation, parameters)
    # A caller's own document needs no key of ours.
    key_pair = None if "Recipient" in parameters else key_pair_ahead(arguments)
    with make_agent(arguments, environment, key_pair=key_pair) as agent:
        content: dict[str, Any] = on_the_wire(
            agent.call(operation, on_the_wire(parameters)).content
        )
    if names_no_key(operation, parameters):
        hint(
            "KMS used the key that the ciphertext names, and who sent it chose that; "
            "--key-id ARN names yours"
        )
    return printer.format(operation, _in_order(operation, content))


def _given(arguments: argparse.Namespace, environment: Environment) -> dict[str, Any]:
    """Return the parameters, blobs as bytes, checked as far as can be here."""
    operation = arguments.operation
    document = _document(arguments)
    parameters = document | _options(arguments)
    missing = [
        parameter.option
        for parameter in arguments.parameters
        if parameter.required and parameter.name not in parameters
    ]
    if missing:
        raise ConfigurationError(
            f"the following arguments are required: {', '.join(missing)}",
            hint=f"see {PROG} {arguments.command} --help",
        )
    if not document and parameters.keys() <= {"NumberOfBytes"}:
        return parameters  # nothing the model could say, and reading it takes its time
    shape = operation_model(operation).input_shape
    decoded: dict[str, Any] = with_blobs(shape, parameters, _binary_format(arguments, environment))
    check(operation, decoded)
    return decoded


def _binary_format(arguments: argparse.Namespace, environment: Environment) -> str:
    """Return how text for blobs is encoded: by the option, or else by the profile."""
    given: str | None = arguments.cli_binary_format
    if given is None:
        given = settings_of(arguments, environment).cli_binary_format or BASE64
    if given not in (BASE64, RAW):
        raise BadValueError(
            f"cli_binary_format of the profile is {given!r}", hint=f"{BASE64} or {RAW}"
        )
    return given


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters that were given as options."""
    given = (
        (parameter, getattr(arguments, parameter.attribute)) for parameter in arguments.parameters
    )
    return {
        parameter.name: read_option(parameter, value)
        for parameter, value in given
        if value is not None
    }


def _check_rules(operation: str, parameters: dict[str, Any]) -> None:
    """Check what KMS would refuse otherwise; the AWS CLI leaves it to KMS."""
    try:
        check_number_of_bytes(operation, parameters)
    except ConfigurationError as e:
        number = parameters.get("NumberOfBytes")
        if isinstance(number, int) and number < 1:
            raise  # the model has this rule, so that it is an error of usage
        raise KmsRuleError(str(e), hint=e.hint) from e


def _document(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of ``--cli-input-json`` or ``--cli-input-yaml``."""
    if arguments.cli_input_json is not None and arguments.cli_input_yaml is not None:
        raise ConfigurationError(
            "--cli-input-json and --cli-input-yaml at once", hint="give one of them"
        )
    if arguments.cli_input_json is not None:
        return read_document("--cli-input-json", arguments.cli_input_json)
    if arguments.cli_input_yaml is not None:
        return read_document("--cli-input-yaml", arguments.cli_input_yaml)
    return {}


def _in_order(operation: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that the AWS CLI prints, in the order of the model."""
    if content.keys() == {SECRET_FIELD[operation]}:
        return content
    names: Iterable[str] = operation_model(operation).output_shape.members
    return {name: content[name] for name in names if content.get(name) is not None}


COMMANDS = {xform_name(operation, "-"): Command(run) for operation in SECRET_FIELD}
