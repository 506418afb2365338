"""Readiness notifications (sd_notify(3))."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vsock_proxy.service.notify import notify

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_state_is_sent_to_the_notify_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asker:
        asker.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        assert notify()
        assert asker.recv(100) == b"READY=1"


def test_at_sign_means_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asker:
        asker.bind("")  # The kernel chooses an abstract one.
        name = asker.getsockname()
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name[1:].decode())
        assert notify("STOPPING=1")
        assert asker.recv(100) == b"STOPPING=1"


def test_nothing_is_sent_without_a_notify_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify()


def test_missing_notify_socket_is_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify()
    assert "cannot notify" in caplog.text
