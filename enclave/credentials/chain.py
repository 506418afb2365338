"""Chooses the credentials provider: the program's own, the environment, AWS, or the parent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from enclave.credentials.aws import SOURCES, AwsCredentials
from enclave.credentials.environment import EnvironmentCredentials, has_any
from enclave.credentials.model import Credentials, CredentialsProvider, StaticCredentials
from enclave.credentials.parent import DEFAULT_SERVICE, ParentCredentials
from enclave.errors import ConfigurationError
from vsock_proxy.net.addresses import parse_destination

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.clock import Clock
    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

log = logging.getLogger(__name__)

AUTO, ENVIRONMENT = "auto", "environment"


def choose_provider(
    choice: Credentials | CredentialsProvider | str,
    *,
    environ: Mapping[str, str],
    here: str | None = None,
    region: str | None = None,
    ca_bundle: str | None = None,
    dialer: Dialer | None = None,
    clock: Clock | None = None,
) -> CredentialsProvider:
    """Return the provider for a program's choice; the choice is made once.

    Args:
        choice: credentials, a provider, ``environment``, ``container``, ``web-identity``,
            ``instance``, the address of a credential service, or ``auto``: the environment if
            AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_SESSION_TOKEN is set in it, then what
            `here` says, otherwise the parent's service at `DEFAULT_SERVICE`. Half of the
            variables are an error, and nothing else is tried then.
        environ: where variables are looked up.
        here: where AWS gives out credentials here, as `enclave.surroundings.aws_source` finds it.
        region: of STS, for web identity.
        ca_bundle: file of CA certificates, for STS.
        dialer: makes the connections to a credential service.
        clock: time.

    Raises:
        ConfigurationError: the text is none of these.
    """
    if isinstance(choice, Credentials):
        return StaticCredentials(choice)
    if not isinstance(choice, str):
        return choice
    source = source_of(choice, environ=environ, here=here)
    log.debug("credentials come from the source %s", source)
    if source == ENVIRONMENT:
        return EnvironmentCredentials(environ, clock=clock)
    if isinstance(source, str):
        return AwsCredentials(
            source,
            environ=environ,
            region=region,
            ca_bundle=ca_bundle,
            dialer=dialer,
            clock=clock,
        )
    return ParentCredentials(source, dialer=dialer, clock=clock)


def source_of(choice: str, *, environ: Mapping[str, str], here: str | None) -> str | Address:
    """Return `ENVIRONMENT`, one of `SOURCES`, or the address of a credential service.

    Args:
        choice: see `choose_provider`.
        environ: see `choose_provider`.
        here: see `choose_provider`.

    Raises:
        ConfigurationError: the text is none of these.
    """
    if choice == ENVIRONMENT or (choice == AUTO and has_any(environ)):
        return ENVIRONMENT
    source = here if choice == AUTO else choice
    if source in SOURCES:
        return source
    return DEFAULT_SERVICE if choice == AUTO else _service(choice)


def _service(text: str) -> Address:
    try:
        return parse_destination(text)
    except ConfigurationError as e:
        if text.partition(":")[0] in ("hvsock", "tcp", "unix", "vsock"):
            raise  # it says what is wrong with the address
        raise ConfigurationError(
            f"no such source of credentials: {text!r}",
            hint=f"there are auto, {ENVIRONMENT}, {', '.join(SOURCES)}, and addresses such as "
            f"{DEFAULT_SERVICE}",
        ) from e
