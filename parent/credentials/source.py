"""The source of the credentials: botocore's chain, a new one for each request.

Environment, web identity (IRSA), assume-role and process profiles, shared credentials, container
endpoint (ECS, EKS Pod Identity), instance metadata (IMDSv2 only), in botocore's order. A new one
each time, so that a changed file, profile or role is seen, and that nothing here depends on when
botocore renews its own.

    python -m parent.credentials.source [PROFILE]

prints what it found as JSON: secrets, on a pipe to the daemon (`source_process`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import botocore.session
from botocore import exceptions
from botocore.config import Config

from parent.credentials.failures import translated
from parent.credentials.metadata import diagnose
from parent.credentials.model import Credentials, CredentialsError, checked_credentials

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

# No call waits for it; but a source that hangs must not prevent the next attempt.
_STS: Final = Config(
    connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3}
)
_IMDS: Final = {
    "metadata_service_timeout": 2,
    "metadata_service_num_attempts": 3,
    # IMDSv1 gives credentials to any proxy or server that can be made to fetch a URL.
    "ec2_metadata_v1_disabled": True,
}
_METADATA_HOSTS: Final = ("169.254.169.254", "[fd00:ec2::254]")

LONGEST: Final = 90
"""Seconds after which the process ends itself, if the daemon that would kill it is gone."""

_ROLE_HINT: Final = (
    "give the instance a role (instance profile), or set AWS_PROFILE or the variables with "
    "credentials"
)


def load(profile: str | None, *, now: datetime) -> Credentials:
    """Return credentials from the chain; this may take a minute.

    Args:
        profile: of AWS's configuration file; None for what AWS_PROFILE says.
        now: wall time, aware.

    Raises:
        CredentialsError: there are none, or invalid ones.
    """
    source = ""
    try:
        session = _session(profile)
        found = None
        # As botocore's own loop, which does not tell what it was asking when it failed.
        for provider in session.get_component("credential_provider").providers:
            source = provider.METHOD
            found = provider.load()
            if found is not None:
                break
        frozen = found.get_frozen_credentials() if found else None
    except CredentialsError:
        raise
    except Exception as e:
        # Files, HTTP, JSON, other programs: anything can come.
        if isinstance(e, exceptions.MetadataRetrievalError) and "IMDSv2" in str(e):
            raise _no_metadata(session) from e
        raise translated(e, source) from None
    if found is None or frozen is None:
        raise _no_credentials(session)
    return checked_credentials(
        frozen.access_key,
        frozen.secret_key,
        frozen.token,
        # Not public, but it is where AWS's own CLI has it from.
        getattr(found, "_expiry_time", None),
        source=found.method,
        now=now,
    )


def _session(profile: str | None) -> botocore.session.Session:
    session = botocore.session.Session(profile=profile)
    for name, value in _IMDS.items():
        session.set_config_variable(name, value)
    session.set_default_client_config(_STS)
    return session


def _no_metadata(session: botocore.session.Session) -> CredentialsError:
    return diagnose(session) or CredentialsError(
        "the instance metadata service gives no token", kind="no-metadata"
    )


def _no_credentials(session: botocore.session.Session) -> CredentialsError:
    # Not if the metadata service is turned off for botocore.
    found = None
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        found = diagnose(session)
    return found or CredentialsError(
        "no credentials anywhere in botocore's chain", kind="none", hint=_ROLE_HINT
    )


def _without_proxies() -> None:
    """Let no proxy variable take requests for instance metadata, whose tokens the proxy would get.

    botocore obeys the variables there, and would say that there are no credentials.
    """
    now = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if now.strip() == "*":
        return
    own = ""
    with contextlib.suppress(ValueError):  # botocore tells what is wrong with it.
        own = urlsplit(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")).netloc
    hosts = [host for host in (now, *_METADATA_HOSTS, own) if host]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def main(arguments: Sequence[str]) -> int:
    """Print credentials, or an error, as JSON."""
    signal.alarm(LONGEST)
    _without_proxies()
    output: dict[str, str | None]
    try:
        found = load(arguments[0] if arguments else None, now=datetime.now(UTC))
    except CredentialsError as e:
        output = {"error": str(e), "kind": e.kind, "hint": e.hint}
    else:
        output = {
            "access_key_id": found.access_key_id,
            "secret_access_key": found.secret_access_key,
            "session_token": found.session_token,
            "expiration": found.expiration.isoformat() if found.expiration else None,
            "source": found.source,
        }
    sys.stdout.write(json.dumps(output))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
