"""urllib3 through the egress proxy: for itself, and for requests and botocore, which use it.

A connection takes its socket from `_new_conn`, as those of urllib3's own ``contrib.socks`` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError, URLSchemeUnknown

from enclave.errors import DialError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from enclave.network.dialer import EgressDialer

Pool = TypeVar("Pool", bound=HTTPSConnectionPool)


def manager(dialer: EgressDialer, options: Mapping[str, Any]) -> urllib3.PoolManager:
    """Return a pool manager whose connections a dialer makes."""
    made = urllib3.PoolManager(**options)
    made.pool_classes_by_scheme = pool_classes(dialer, HTTPSConnectionPool, HTTPSConnection)
    return made


def pool_classes(
    dialer: EgressDialer, pool: type[Pool], connection: type[HTTPSConnection]
) -> dict[str, Any]:
    """Return the pools of a manager, by scheme, made of these classes."""

    class DialedConnection(connection):  # type: ignore[misc, valid-type]
        """A connection through the egress proxy."""

        def _new_conn(self) -> socket.socket:
            seconds = self.timeout if isinstance(self.timeout, int | float) else None
            try:
                return dialer.connect(self._dns_host.rstrip("."), self.port, seconds)
            except DialError as e:
                raise NewConnectionError(self, str(e)) from e

    class DialedPool(pool):  # type: ignore[misc, valid-type]
        ConnectionCls = DialedConnection

    return {"https": DialedPool, "http": _refuse}


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise URLSchemeUnknown("http (the parent could read it; use https://)")
