"""The environment variables of the programs that use the endpoint."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from vsock_proxy.net.addresses import Address, TcpAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

log = logging.getLogger(__name__)

_LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "::1", "[::1]")
"""How URLs name this machine. Python compares the host with its brackets, others without."""

_NO_PROXY: Final = ("no_proxy", "NO_PROXY")
_PROXY_VARIABLES: Final = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
"""The variables by which programs find a proxy for an ``http://`` URL; curl and Python read the
first of them, others the second."""

_ENDPOINT_VARIANTS: Final = ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
"""Variables that the rules of KMS's endpoints exclude beside an endpoint of one's own: "Invalid
Configuration: FIPS and custom endpoint are not supported". botocore alone drops them there."""

_CREDENTIAL_SOURCES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)

_CREDENTIALS: Final = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CREDENTIAL_EXPIRATION",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    }
)
"""The variables that SDKs prefer to AWS_CONTAINER_CREDENTIALS_FULL_URI and its token. A profile is
not among them: it may name the container's credentials as its source."""


def command_environment(environ: Mapping[str, str], region: str | None) -> dict[str, str]:
    """Return the variables for COMMAND, apart from the endpoint's: a region, and credentials.

    The endpoint ignores signatures, so meaningless credentials are enough if there are none; an
    SDK sends no request without any.
    """
    env = dict(environ)
    if region and not env.get("AWS_REGION"):
        env["AWS_REGION"] = env["AWS_DEFAULT_REGION"] = region
    if not any(env.get(name) for name in _CREDENTIAL_SOURCES):
        env |= {"AWS_ACCESS_KEY_ID": "enclave-agent", "AWS_SECRET_ACCESS_KEY": "unused"}
    return env


def with_program_credentials(
    environ: Mapping[str, str], host: str, url: str, token: str
) -> dict[str, str]:
    """Return the variables for COMMAND with the way to its credentials, and no other way.

    SDKs take what stands first in their chain, and keys in variables do.

    Args:
        environ: the variables that are there; entries of NO_PROXY are kept.
        host: of the credentials' server.
        url: of the credentials.
        token: what the server wants to see.
    """
    env = {name: value for name, value in environ.items() if name not in _CREDENTIALS}
    env |= {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
    }
    return env | _no_proxy(environ, host, ())


def endpoint_environment(environ: Mapping[str, str], host: str, url: str) -> dict[str, str]:
    """Return the variables by which SDKs find the endpoint, and reach it without a proxy.

    SDKs send requests for ``http://127.0.0.1`` to the proxy of HTTP_PROXY, plaintext included,
    unless NO_PROXY names the host.

    Args:
        environ: the variables that are there; entries of NO_PROXY are kept.
        host: of the endpoint.
        url: of the endpoint.
    """
    return {"AWS_ENDPOINT_URL_KMS": url, **_no_proxy(environ, host, ())}


def egress_environment(
    environ: Mapping[str, str], host: str, url: str, names: Iterable[str]
) -> dict[str, str]:
    """Return the variables by which programs find the egress proxy.

    HTTP_PROXY is not among them: plain ``http://`` is not served.

    Args:
        environ: the variables that are there; entries of NO_PROXY are kept.
        host: of the proxy.
        url: of the proxy.
        names: hosts that have loopback addresses of their own.
    """
    return {
        **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), url),
        **_no_proxy(environ, host, sorted(names)),
    }


def _no_proxy(environ: Mapping[str, str], host: str, names: Iterable[str]) -> dict[str, str]:
    changes = {}
    for name, other in (_NO_PROXY, _NO_PROXY[::-1]):
        # A program may read only one of the two, and prefer it: so each gets what there is.
        listed = environ[name] if name in environ else environ.get(other, "")
        changes[name] = _with_loopback(listed, host, names)
    return changes


def _with_loopback(listed: str, host: str, names: Iterable[str]) -> str:
    if listed.strip() == "*":
        return listed  # it means every host only if it stands alone
    entries = [entry.strip() for entry in listed.split(",") if entry.strip()]
    hosts = (f"[{host}]", host) if ":" in host else (host,)
    for name in (*_LOOPBACK_NAMES, *hosts, *names):
        if name not in entries:
            entries.append(name)
    return ",".join(entries)


def warn_of_variables(environ: Mapping[str, str], address: Address, *, around: bool) -> None:
    """Warn if the agent's variables, as programs may have them, lead an SDK past the endpoint.

    Args:
        environ: the agent's variables.
        address: the endpoint's.
        around: whether the agent runs the program, which then has a NO_PROXY.
    """
    if around and ignores_endpoint(environ):
        log.warning(
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS is set: AWS SDKs in COMMAND ignore "
            "AWS_ENDPOINT_URL_KMS, and with it this endpoint"
        )
    for variant in _ENDPOINT_VARIANTS:
        if around and environ.get(variant, "").lower() == "true":
            log.warning(
                "%s is true: AWS SDKs in COMMAND, except Python's, reject it beside "
                "AWS_ENDPOINT_URL_KMS; the agent has read it, and COMMAND can go without: "
                "-- env -u %s COMMAND",
                variant,
                variant,
            )
    if isinstance(address, TcpAddress) and not around:
        name = proxy_in_the_way(environ, address.host)
        if name is not None:
            log.warning(
                "%s is set: programs that have it too may send their requests for this endpoint, "
                "plaintext included, to that proxy; set NO_PROXY=%s for them",
                name,
                address.host,
            )


def proxy_in_the_way(environ: Mapping[str, str], host: str) -> str | None:
    """Return the variable by which a program may send its requests for the endpoint to a proxy.

    None if there is none, or both NO_PROXY and no_proxy, as far as they are set, list the host.
    """
    proxies = [name for name in _PROXY_VARIABLES if environ.get(name)]
    if not proxies:
        return None
    lists = [environ[name] for name in _NO_PROXY if name in environ]
    if lists and all(_lists(listed, host) for listed in lists):
        return None
    return proxies[0]


def _lists(listed: str, host: str) -> bool:
    entries = {entry.strip() for entry in listed.split(",")}
    return listed.strip() == "*" or not entries.isdisjoint({host, f"[{host}]"})


def ignores_endpoint(environ: Mapping[str, str]) -> bool:
    """Return whether SDKs are told to ignore AWS_ENDPOINT_URL_KMS."""
    return environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
