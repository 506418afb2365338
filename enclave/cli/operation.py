"""What the KMS commands share: options from the service model, the call, its answer printed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from botocore import xform_name

from enclave.cli.console import PROG
from enclave.cli.model import check, operation_model
from enclave.cli.options import DEFAULTS, kms_options
from enclave.cli.output import Printer
from enclave.cli.values import on_the_wire, read_document, read_option, with_blobs
from enclave.errors import ConfigurationError
from enclave.recipient.exchange import SECRET_FIELD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enclave.agent import Agent
    from enclave.cli.model import Parameter
    from enclave.recipient.keypair import KeyPairAhead

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
        usage=f"{' '.join(['%(prog)s', *map(_usage, needed)])} [parameters] [options]",
        help=help,
        description=f"Like `aws kms {name}`, attested: KMS encrypts the secret for a key pair of "
        "this enclave, and it is opened here. Values may come from files: file://PATH for text, "
        "fileb://PATH for bytes.",
        parents=[_parameter_options(operation, parameters), kms_options(), common],
    )
    command.set_defaults(run=run, operation=operation, parameters=parameters)


def _usage(parameter: Parameter) -> str:
    return f"{parameter.option} {_METAVARS[parameter.kind]}"


def _parameter_options(
    operation: str, parameters: tuple[Parameter, ...]
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
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
        "of the answer",
    )
    return parser


def run(arguments: argparse.Namespace) -> str:
    """Make the call; returns what to print."""
    operation = arguments.operation
    if arguments.generate_cli_skeleton in ("input", "yaml-input"):
        from enclave.cli.skeleton import input_skeleton  # noqa: PLC0415 (loads the model)

        return input_skeleton(operation, yaml=arguments.generate_cli_skeleton == "yaml-input")
    printer = Printer(arguments)
    parameters = _given(arguments)
    if arguments.generate_cli_skeleton == "output":
        from enclave.cli.skeleton import output_sample  # noqa: PLC0415 (as above)

        return printer.format(operation, output_sample(operation))
    # A caller's own document needs no key of ours.
    key_pair = None if "Recipient" in parameters else key_pair_ahead(arguments)
    with make_agent(arguments, key_pair=key_pair) as agent:
        content: dict[str, Any] = on_the_wire(
            agent.call(operation, on_the_wire(parameters)).content
        )
    return printer.format(operation, _in_order(operation, content))


def key_pair_ahead(arguments: argparse.Namespace) -> KeyPairAhead | None:
    """A key pair in the making, while what an Agent needs is loaded; C makes its own."""
    if arguments.engine != "python":
        return None
    from enclave.recipient.keypair import KeyPairAhead  # noqa: PLC0415 (RSA: not for what only prints)

    return KeyPairAhead()


def make_agent(arguments: argparse.Namespace, **changes: Any) -> Agent:
    """An agent as the options of every KMS command have it, with changes to its arguments."""
    credentials, region = arguments.credentials, arguments.region
    if arguments.profile is not None:
        if credentials != DEFAULTS["credentials"]:
            raise ConfigurationError("--credentials and --profile at once", hint="give one of them")
        from enclave.cli.profile import load  # noqa: PLC0415 (seldom needed)

        profile = load(arguments.profile, arguments.surroundings.environ)
        credentials, region = profile.credentials, region or profile.region
    from enclave.kms.client import DEADLINE  # noqa: PLC0415 (TLS and signing: the most of it all)

    settings = {
        "region": region,
        "endpoint_url": arguments.endpoint_url,
        "proxy": arguments.proxy,
        "engine": arguments.engine,
        "ca_bundle": arguments.ca_bundle,
        "trust": arguments.trust,
        "credentials": credentials,
        "sign_requests": arguments.sign_request,
        "connect_timeout": arguments.cli_connect_timeout,
        "read_timeout": arguments.cli_read_timeout,
        # Who waits longer for one answer waits longer for the call.
        "deadline": max(DEADLINE, arguments.cli_connect_timeout + arguments.cli_read_timeout),
        "environ": arguments.surroundings.environ,
    }
    agent: Agent = arguments.surroundings.agent(**{**settings, **changes})
    return agent


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parameters, blobs as bytes, checked as far as can be here."""
    operation = arguments.operation
    parameters = _document(arguments)
    is_plain = not parameters
    missing = []
    for parameter in arguments.parameters:
        given = getattr(arguments, parameter.attribute)
        if given is not None:
            parameters[parameter.name] = read_option(parameter, given)
        elif parameter.required and parameter.name not in parameters:
            missing.append(parameter.option)
    if missing:
        raise ConfigurationError(
            f"the following arguments are required: {', '.join(missing)}",
            hint=f"see {PROG} {arguments.command} --help",
        )
    if is_plain and parameters.keys() <= {"NumberOfBytes"}:
        return parameters  # nothing the model could say, and reading it takes its time
    shape = operation_model(operation).input_shape
    decoded: dict[str, Any] = with_blobs(shape, parameters, arguments.cli_binary_format)
    check(operation, decoded)
    return decoded


def _document(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``--cli-input-json`` or ``--cli-input-yaml`` says."""
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
    """The fields the AWS CLI prints, in its order: the model's."""
    if content.keys() == {SECRET_FIELD[operation]}:
        return content
    names: Iterable[str] = operation_model(operation).output_shape.members
    return {name: content[name] for name in names if content.get(name) is not None}
