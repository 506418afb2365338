"""An adapter for requests whose connections leave through the egress proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

from enclave.network import urllib3_pools

if TYPE_CHECKING:
    import requests

    from enclave.network.dialer import EgressDialer


class EgressAdapter(HTTPAdapter):
    """To mount at ``https://``; proxy variables are not read.

    Args:
        dialer: makes the connections.
        options: of ``HTTPAdapter``.
    """

    def __init__(self, dialer: EgressDialer, **options: Any) -> None:
        self._dialer = dialer
        super().__init__(**options)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,  # noqa: FBT001, FBT002 (its signature)
        **options: Any,
    ) -> None:
        """See ``HTTPAdapter``."""
        wanted = {"num_pools": connections, "maxsize": maxsize, "block": block, **options}
        self.poolmanager = urllib3_pools.manager(self._dialer, wanted)

    def send(
        self, request: requests.PreparedRequest, *args: Any, **options: Any
    ) -> requests.Response:
        """See ``HTTPAdapter``."""
        return super().send(request, *args, **{**options, "proxies": None})
