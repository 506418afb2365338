"""The instance metadata service, version 2, simulated.

A token for each session, by PUT, and nothing without one. The response to PUT lives for
``HttpPutResponseHopLimit`` hops, so that a container behind a bridge does not get it. See EC2 User
Guide, "Use the Instance Metadata Service to access instance metadata".
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from enclave_simulator.parent.credentials import simulated_document
from enclave_simulator.threaded_server import Handler, Server

if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = "169.254.169.254"
ROLE = "simulated-role"

_TOKEN_PATH = "/latest/api/token"  # noqa: S105 (a path)
_ROLES = "/latest/meta-data/iam/security-credentials/"
_LONGEST = 21_600
"""Seconds a token may live."""
_LIFETIME = re.compile(r"[0-9]{1,9}", re.ASCII)
_MOST_TOKENS = 1000


class InstanceMetadata(Server):
    """Serves what AWS's SDKs ask an instance's metadata for.

    Args:
        listener: the listening socket, which it owns.
        region: where the instance is.
        instance_id: its id.
        role: of its instance profile; None: it has none.
        document: returns the credentials.
        hop_limit: HttpPutResponseHopLimit of the instance.
        hops: between client and service: 1, or 2 in a container. Over the limit, the response to
            PUT gets lost.
        monotonic: the clock of tokens.

    Attributes:
        requests: number of responses with credentials.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        region: str = "us-east-1",
        instance_id: str = "i-0123456789abcdef0",
        role: str | None = ROLE,
        document: Callable[[], dict[str, Any]] = simulated_document,
        hop_limit: int = 1,
        hops: int = 1,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(listener, _Handler)
        self.region = region
        self.instance_id = instance_id
        self.role = role
        self.document = document
        self.hop_limit = hop_limit
        self.hops = hops
        self.requests = 0
        self._monotonic = monotonic
        self._tokens: dict[str, float] = {}

    def new_token(self, lifetime: int) -> str:
        """Return a token, valid for so many seconds."""
        while len(self._tokens) >= _MOST_TOKENS:
            self._tokens.pop(next(iter(self._tokens)))
        token = secrets.token_urlsafe(42)
        self._tokens[token] = self._monotonic() + lifetime
        return token

    def knows(self, token: str) -> bool:
        """Return whether a token is valid."""
        return self._tokens.get(token, float("-inf")) > self._monotonic()

    def content(self, path: str) -> str | None:
        """Return what is at a path; None: nothing."""
        if self.role is not None and path == _ROLES + self.role:
            self.requests += 1
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            start = {"Code": "Success", "LastUpdated": now, "Type": "AWS-HMAC"}
            return json.dumps(start | self.document())
        zone = f"{self.region}a"
        identity = {
            "availabilityZone": zone, "instanceId": self.instance_id, "region": self.region,
        }  # fmt: skip
        return {
            _ROLES.rstrip("/"): self.role,
            "/latest/meta-data/instance-id": self.instance_id,
            "/latest/meta-data/placement/availability-zone": zone,
            "/latest/meta-data/placement/region": self.region,
            "/latest/dynamic/instance-identity/document": json.dumps(identity),
        }.get(path.removesuffix("/"))  # botocore has one behind the zone


class _Handler(Handler):
    server: InstanceMetadata

    def do_PUT(self) -> None:  # noqa: N802 (the base class calls it)
        lifetime = self.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != _TOKEN_PATH:
            self.respond(404, b"")
        elif self.headers.get("X-Forwarded-For"):
            self.respond(403, b"")  # it came through a proxy
        elif not _LIFETIME.fullmatch(lifetime) or not 1 <= int(lifetime) <= _LONGEST:
            self.respond(400, b"")
        elif self.server.hops > self.server.hop_limit:
            # The response has been dropped on the way: the client waits, and closes.
            self.close_connection = True
            self.connection.settimeout(self.timeout)
            self.rfile.read(1)
        else:
            if self.connection.family == socket.AF_INET:
                self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, self.server.hop_limit)
            # The SDK of Go takes no token without its lifetime.
            token = self.server.new_token(int(lifetime))
            self.respond(
                200, token.encode(), X_Aws_Ec2_Metadata_Token_Ttl_Seconds=str(int(lifetime))
            )

    def do_GET(self) -> None:  # noqa: N802 (the base class calls it)
        if not self.server.knows(self.headers.get("x-aws-ec2-metadata-token", "")):
            self.respond(401, b"")
            return
        content = self.server.content(self.path)
        self.respond(404 if content is None else 200, (content or "").encode())
