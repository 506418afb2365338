"""Options that many commands share, named and meant as the AWS CLI has them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final, NoReturn

from enclave.cli.console import PROG
from enclave.errors import ConfigurationError
from vsock_proxy.service import arguments
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE64 = "base64"
RAW = "raw-in-base64-out"
"""The value of ``--cli-binary-format`` by which text for a blob is its content, not base64."""

AWS_GLOBAL_OPTIONS: Final = frozenset(
    {
        "--debug",
        "--endpoint-url",
        "--no-verify-ssl",
        "--no-paginate",
        "--output",
        "--query",
        "--profile",
        "--region",
        "--version",
        "--color",
        "--no-sign-request",
        "--ca-bundle",
        "--cli-read-timeout",
        "--cli-connect-timeout",
        "--cli-binary-format",
        "--no-cli-pager",
        "--cli-auto-prompt",
        "--no-cli-auto-prompt",
    }
)
"""The options that every command of the AWS CLI has."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "output": None,
    "query": None,
    "verbose": False,
    "color": "auto",
    "debug": False,
    "region": None,
    "profile": None,
    "endpoint_url": None,
    "proxy": "auto",
    "engine": "python",
    "attester": "auto",
    "ca_bundle": None,
    "trust": "amazon",
    "credentials": "auto",
    "sign_request": True,
    "cli_binary_format": None,
    "cli_connect_timeout": 10.0,
    "cli_read_timeout": 20.0,
}
"""Defaults of the shared options. They are not argparse's own: an option may stand before the
command, and the command's parser must not reset it then.
"""


class Parser(arguments.Parser):
    """Raises errors for `main` to print."""

    def error(self, message: str) -> NoReturn:
        """Raise an error of usage."""
        raise ConfigurationError(message, hint=self.advice())

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """Return the options that begin so. The AWS CLI looks among those of all commands first."""
        found: list[Any] = super()._get_option_tuples(option_string)
        return [each for each in found if each[1] in AWS_GLOBAL_OPTIONS] or found


def common_options(*, hidden: bool = False) -> argparse.ArgumentParser:
    """Return the options of every command, as a parent of its parser."""
    parser = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    add = parser.add_argument_group("options of every command").add_argument
    add(
        "--output",
        choices=("json", "text", "table", "yaml", "yaml-stream"),
        help="default: AWS_DEFAULT_OUTPUT, or json (verify and describe: table); the YAML forms "
        "need PyYAML",
    )
    add("--query", metavar="JMESPATH", help="print only this part of the output")
    add("--verbose", action="store_true", help="log each step of a call on standard error")
    add("--debug", action="store_true", help="log everything but secrets on standard error")
    for name in ("--no-paginate", "--no-cli-pager", "--cli-auto-prompt", "--no-cli-auto-prompt"):
        add(name, action=_NoEffect, nargs=0, help=_NO_EFFECT[name])
    add(
        "--version",
        action="version",
        version=f"{PROG} {VERSION}",
        help="print the version and exit",
    )
    add(
        "--color",
        choices=("on", "off", "auto"),
        help="colour tables: auto does so on a terminal, unless NO_COLOR is set (default: auto)",
    )
    return _hide(parser) if hidden else parser


def kms_options(*, hidden: bool = False) -> argparse.ArgumentParser:
    """Return the options of every command that calls KMS, as a parent of its parser."""
    parser = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    add = parser.add_argument_group("options of every KMS command").add_argument
    add(
        "--region",
        metavar="REGION",
        help="AWS region (default: AWS_REGION, AWS_DEFAULT_REGION, or the profile's)",
    )
    add(
        "--profile",
        metavar="NAME",
        help="settings and static keys from the AWS CLI's files, if the enclave has them (default: "
        "AWS_PROFILE); roles, SSO and credential programs are not followed",
    )
    add(
        "--credentials",
        metavar="SOURCE",
        help="environment, container (EKS Pod Identity, ECS), web-identity (IRSA), instance "
        "(IMDSv2), the ADDRESS of the parent's credential service, or auto: the environment if it "
        "holds any, then what a pod, task or instance has, otherwise the parent's at "
        f"vsock://3:8002 (default: {DEFAULTS['credentials']})",
    )
    add("--no-sign-request", dest="sign_request", action="store_false",
        help="use no credentials; KMS itself refuses unsigned requests")  # fmt: skip
    add(
        "--endpoint-url",
        metavar="URL",
        help="https only (default: AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL, the profile's, or the "
        "region's, which AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT choose)",
    )
    add(
        "--proxy",
        metavar="ADDRESS",
        help="where vsock-proxy listens: vsock://CID:PORT, unix:/PATH or tcp://HOST:PORT; "
        "connect:ADDRESS: an egress proxy, which serves every region; direct: no proxy, TCP to KMS "
        "itself; or auto: direct in a pod, a task or an instance, otherwise vsock://3:8000 "
        f"(default: {DEFAULTS['proxy']})",
    )
    add(
        "--engine",
        choices=("python", "sdk", "sdk-client"),
        help="whose code has the key pair attested and opens the response: python, AWS's C SDK, or "
        f"the C SDK's own KMS client for the whole call (default: {DEFAULTS['engine']})",
    )
    add_attester(add)
    add("--ca-bundle", metavar="FILE",
        help="CA certificates in PEM, trusted alone (default: AWS_CA_BUNDLE)")  # fmt: skip
    add(
        "--trust",
        choices=("amazon", "public"),
        help="without a CA bundle, the CAs trusted for AWS's own endpoints: the roots of Amazon "
        f"Trust Services alone, or all public ones (docs/trust.md; default: {DEFAULTS['trust']})",
    )
    add("--no-verify-ssl", action=_RefusedOption, nargs=0,
        help="refused: TLS must end, verified, in the enclave; see --ca-bundle")  # fmt: skip
    add(
        "--cli-connect-timeout",
        metavar="SECONDS",
        help="for one connection, TLS included "
        f"(default: {DEFAULTS['cli_connect_timeout']:g}; 0, for ever, is refused)",
    )
    add(
        "--cli-read-timeout",
        metavar="SECONDS",
        help=f"for one whole response (default: {DEFAULTS['cli_read_timeout']:g}; as above)",
    )
    add(
        "--cli-binary-format",
        choices=(BASE64, RAW),
        help="how text for a blob is encoded; fileb://PATH is bytes always (default: the "
        f"profile's, or {BASE64})",
    )
    return _hide(parser) if hidden else parser


def add_attester(add: Any) -> None:
    """Add the option that names what attests, to a group of options or a parser."""
    add(
        "--attester",
        choices=("auto", "nsm", "nitrotpm"),
        default=argparse.SUPPRESS,
        help="what vouches for the key pair: nsm, in an enclave; nitrotpm, the TPM of an EC2 "
        "instance; or auto: the NSM if there is one, otherwise the NitroTPM (--verbose says "
        f"which; default: {DEFAULTS['attester']})",
    )


_NO_EFFECT = {
    "--no-paginate": "no effect: these responses have no pages",
    "--no-cli-pager": "no effect: no pager is ever started",
    "--cli-auto-prompt": "no effect: there is no prompt",
    "--no-cli-auto-prompt": "no effect: there is no prompt",
}


class _NoEffect(argparse.Action):
    """An option of the AWS CLI that has no effect here."""

    def __call__(self, *_: Any) -> None:
        pass


class _RefusedOption(argparse.Action):
    """``--no-verify-ssl``: what ends TLS could forge every response."""

    def __call__(self, *_: Any) -> None:
        raise ConfigurationError(
            "TLS is always verified: --no-verify-ssl is refused",
            hint="trust a private CA with --ca-bundle FILE",
        )


def _hide(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    for action in parser._actions:  # noqa: SLF001 (argparse has no other way to ask)
        if "--version" not in action.option_strings:
            action.help = argparse.SUPPRESS
    return parser
