"""Which provider a program gets: by its own word, by the environment, or from the parent."""

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
    """Decide, once, where credentials come from.

    Args:
        asked: credentials, a provider, or a word: ``environment``; an address at which a
            credential service listens; or ``auto``, which is the environment if
            AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_SESSION_TOKEN is set in it, and else
            the parent's service at `DEFAULT_SERVICE`. Half of them in the environment are an
            error of the environment's, not a reason to look elsewhere.
        environ: where variables are looked up.
        dialer: for the parent's service.
        clock: time.

    Raises:
        ConfigurationError: the word is none of these.
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
