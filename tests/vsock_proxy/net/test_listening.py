"""Listening sockets: which paths are replaced and removed, and errors."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from vsock_proxy.errors import ListenError
from vsock_proxy.net import listening as listening_module
from vsock_proxy.net.addresses import VMADDR_CID_ANY, TcpAddress, UnixAddress, VsockAddress
from vsock_proxy.net.listening import listen, listening, local_address

if TYPE_CHECKING:
    from pathlib import Path


def test_chosen_port_is_reported() -> None:
    with listen(TcpAddress("127.0.0.1", 0)) as server:
        address = local_address(server)
        assert isinstance(address, TcpAddress)
        assert (address.host, address.port) == server.getsockname()
        assert address.port


def test_unix_socket_path_is_removed_on_close(tmp_path: Path) -> None:
    path = tmp_path / "server"
    with listening(UnixAddress(str(path))) as server:
        assert local_address(server) == UnixAddress(str(path))
        assert path.is_socket()
    assert not path.exists()


def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "server"
    listen(UnixAddress(str(path))).close()
    assert path.is_socket()
    with listening(UnixAddress(str(path))), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_in_use_is_not_replaced(tmp_path: Path) -> None:
    unix = UnixAddress(str(tmp_path / "server"))
    with listening(unix), pytest.raises(ListenError, match="Address already in use") as refusal:
        listen(unix)
    assert "the address is in use" in refusal.value.hint
    with listen(TcpAddress("127.0.0.1", 0)) as server:
        taken = local_address(server)
        with pytest.raises(ListenError, match="Address already in use"):
            listen(taken)


def test_socket_with_full_backlog_counts_as_in_use(tmp_path: Path) -> None:
    path = str(tmp_path / "server")
    with listening(UnixAddress(path), backlog=0), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        with pytest.raises(ListenError, match="Address already in use"):
            listen(UnixAddress(path))


def test_file_that_is_not_a_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")
    with pytest.raises(ListenError, match="File exists"):
        listen(UnixAddress(str(path)))
    assert path.read_text() == "precious"


def test_missing_folder_is_named_in_the_error(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "missing" / "server"))
    with pytest.raises(ListenError, match="No such file or directory") as refusal:
        listen(address)
    assert refusal.value.address == str(address)


def test_unresolvable_name_is_a_listen_error() -> None:
    # A name with an empty label is rejected before any name server is asked.
    with pytest.raises(ListenError):
        listen(TcpAddress("a..b", 0))


def test_missing_vsock_support_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_vsock(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(listening_module, "_bound", no_vsock)
    with pytest.raises(ListenError) as refusal:
        listen(VsockAddress(VMADDR_CID_ANY, 8000))
    assert str(refusal.value).startswith("cannot listen on vsock://any:8000: ")
    assert "load the vsock module" in refusal.value.hint
