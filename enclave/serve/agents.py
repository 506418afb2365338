"""The agents of `serve`, one for each region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enclave.aws_settings import AwsSettings
from enclave.cli.agent import make_agent, region_of
from enclave.cli.options import DEFAULTS
from enclave.credentials import choose_provider
from enclave.errors import ConfigurationError
from enclave.surroundings import aws_source

if TYPE_CHECKING:
    import argparse
    import contextlib
    from collections.abc import Mapping

    from enclave.agent import Agent
    from enclave.cli.environment import Environment
    from enclave.credentials import CredentialsProvider


def open_agents(
    arguments: argparse.Namespace,
    environment: Environment,
    held: contextlib.ExitStack,
    **changes: Any,
) -> dict[str, Agent]:
    """Return the agents by region; the first is the default region's.

    Args:
        arguments: the options.
        environment: makes the agents, and has the variables.
        held: closes them.
        changes: arguments of `Agent` that all of them get.

    Raises:
        ConfigurationError: there is no region, or an option cannot be used.
    """
    return {
        region: held.enter_context(
            make_agent(
                arguments,
                environment,
                environ=_without_own_url(environment.environ),
                **changes,
                **own,
            )
        )
        for region, own in _regions(arguments, environment).items()
    }


def credentials_of(arguments: argparse.Namespace, environment: Environment) -> CredentialsProvider:
    """Return the provider that an agent with these options makes for itself.

    Raises:
        ConfigurationError: there is no such source of credentials.
    """
    environ, asked = environment.environ, arguments.credentials
    settings = AwsSettings(environ, profile=arguments.profile)
    if asked == DEFAULTS["credentials"]:
        asked = settings.credentials() or asked
    return choose_provider(
        asked,
        environ=environ,
        here=aws_source(environ, attester=arguments.attester),
        region=arguments.region or settings.region,
        ca_bundle=arguments.ca_bundle or settings.ca_bundle,
    )


def _regions(arguments: argparse.Namespace, environment: Environment) -> dict[str, dict[str, Any]]:
    """Return each region with the arguments of its agent."""
    given: dict[str, str | None] = getattr(arguments, "regions", {})
    if not given:
        return {region_of(arguments, environment): {}}
    if len(given) > 1 and (arguments.endpoint_url or _endpoint_url(arguments, environment)):
        raise ConfigurationError(
            "an endpoint URL is that of one region, and there are several --region",
            hint="leave out --endpoint-url, AWS_ENDPOINT_URL_KMS and AWS_ENDPOINT_URL",
        )
    return {
        region: {"region": region} | ({"proxy": proxy} if proxy else {})
        for region, proxy in given.items()
    }


def _endpoint_url(arguments: argparse.Namespace, environment: Environment) -> str | None:
    environ = _without_own_url(environment.environ)
    return AwsSettings(environ, profile=arguments.profile).endpoint_url


def _without_own_url(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without this endpoint's own URL, which is there for other programs."""
    return {
        name: value
        for name, value in environ.items()
        if not (name in ("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL") and value[:7] == "http://")
    }
