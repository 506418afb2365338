"""The agent of a command, as its options, the variables and the profile have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enclave.aws_settings import AwsSettings
from enclave.cli.errors import BadValueError, MissingSettingError
from enclave.cli.options import DEFAULTS
from enclave.errors import ConfigurationError
from enclave.kms.endpoint import parse_endpoint

if TYPE_CHECKING:
    import argparse

    from enclave.agent import Agent
    from enclave.cli.environment import Environment
    from enclave.recipient.keypair import KeyPairAhead


def key_pair_ahead(arguments: argparse.Namespace) -> KeyPairAhead | None:
    """Start making a key pair while an Agent's modules load; None if C code makes its own."""
    if arguments.engine != "python":
        return None
    from enclave.recipient.keypair import KeyPairAhead  # noqa: PLC0415 (RSA: not for what only prints)

    return KeyPairAhead()


def make_agent(arguments: argparse.Namespace, environment: Environment, **changes: Any) -> Agent:
    """Make an agent as the options of every KMS command have it.

    Args:
        arguments: the options.
        environment: makes the agent, and has the variables.
        changes: arguments of `Agent` that replace those.

    Raises:
        MissingSettingError: there is no region.
        BadValueError: an option, a variable, or a setting of the profile cannot be used.
    """
    if arguments.profile is not None and arguments.credentials != DEFAULTS["credentials"]:
        raise ConfigurationError("--credentials and --profile at once", hint="give one of them")
    if arguments.endpoint_url is not None:
        parse_endpoint(arguments.endpoint_url)
    connect_timeout = _seconds("--cli-connect-timeout", arguments.cli_connect_timeout)
    read_timeout = _seconds("--cli-read-timeout", arguments.cli_read_timeout)
    from enclave.kms.client import DEADLINE  # noqa: PLC0415 (TLS and signing: the most of it all)

    try:
        settings = {
            "region": region_of(arguments, environment),
            "endpoint_url": arguments.endpoint_url,
            "profile": arguments.profile,
            "proxy": arguments.proxy,
            "engine": arguments.engine,
            "attester": arguments.attester,
            "ca_bundle": arguments.ca_bundle,
            "trust": arguments.trust,
            "credentials": arguments.credentials,
            "sign_requests": arguments.sign_request,
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
            # A longer wait for one response is a longer wait for the call.
            "deadline": max(DEADLINE, connect_timeout + read_timeout),
            "environ": environment.environ,
        }
        agent: Agent = environment.agent(**{**settings, **changes})
    except MissingSettingError:
        raise
    except ConfigurationError as e:
        raise BadValueError(str(e), hint=e.hint) from e
    return agent


def settings_of(arguments: argparse.Namespace, environment: Environment) -> AwsSettings:
    """Return the settings of AWS's variables and profile.

    Raises:
        BadValueError: one of them cannot be used.
    """
    try:
        return AwsSettings(environment.environ, profile=arguments.profile)
    except ConfigurationError as e:
        raise BadValueError(str(e), hint=e.hint) from e


def region_of(arguments: argparse.Namespace, environment: Environment) -> str:
    """Return the region that the options, the variables or the profile name.

    Raises:
        MissingSettingError: none of them does.
    """
    region: str | None = arguments.region or settings_of(arguments, environment).region
    if not region:
        raise MissingSettingError(
            "no AWS region", hint="name one with --region, AWS_REGION, or in the profile"
        )
    return region


def _seconds(option: str, given: str | float) -> float:
    try:
        return float(given)
    except ValueError as e:
        raise BadValueError(
            f"argument {option}: not a number of seconds: {given!r}", hint="for example 10"
        ) from e
