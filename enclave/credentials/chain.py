"""Chooses the credentials provider: the program's own, the environment, or the parent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from enclave.credentials.environment import EnvironmentCredentials, has_any
from enclave.credentials.model import Credentials, CredentialsProvider, StaticCredentials
from enclave.credentials.parent import DEFAULT_SERVICE, ParentCredentials
from vsock_proxy.net.addresses import parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enclave.clock import Clock
    from vsock_proxy.net.dialing import Dialer

log = logging.getLogger(__name__)

AUTO, ENVIRONMENT = "auto", "environment"


def choose_provider(
    asked: Credentials | CredentialsProvider | str,
    *,
    environ: Mapping[str, str],
    dialer: Dialer | None = None,
    clock: Clock | None = None,
) -> CredentialsProvider:
    """Return the provider for a program's choice; the choice is made once.

    Args:
        asked: credentials, a provider, ``environment``, the address of a credential service, or
            ``auto``: the environment if AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or
            AWS_SESSION_TOKEN is set in it, otherwise the parent's service at `DEFAULT_SERVICE`.
            Half of the variables are an error, and the parent is not asked then.
        environ: where variables are looked up.
        dialer: makes the connections to the parent's service.
        clock: time.

    Raises:
        ConfigurationError: the text is none of these.
    """
    if isinstance(asked, Credentials):
        return StaticCredentials(asked)
    if not isinstance(asked, str):
        return asked
    if asked == ENVIRONMENT or (asked == AUTO and has_any(environ)):
        return EnvironmentCredentials(environ, clock=clock)
    address = DEFAULT_SERVICE if asked == AUTO else parse_address(asked)
    log.debug("credentials come from the parent's service at %s", address)
    return ParentCredentials(address, dialer=dialer, clock=clock)
