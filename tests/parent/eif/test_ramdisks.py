"""The layout that AWS's init expects."""

from __future__ import annotations

import pytest

from parent.eif import ramdisks
from parent.eif.cpio import directory, file
from tests.parent.eif.test_cpio import contents
from vsock_proxy.errors import ConfigurationError


def test_nitro_clis_layout() -> None:
    boot = contents(ramdisks.boot_ramdisk(b"init", b"module"))
    assert boot == {
        "dev": ("drwxr-xr-x", b""),
        "init": ("-rwxr-xr-x", b"init"),
        "nsm.ko": ("-rwxr-xr-x", b"module"),
    }
    assert "nsm.ko" not in contents(ramdisks.boot_ramdisk(b"init", None))
    root = [directory("tmp", 0o1777), file("bin/app", b"program", 0o755)]
    application = contents(ramdisks.application_ramdisk(root, ["/bin/app", "", "w"], ["A=1", "B="]))
    assert application["cmd"] == ("-rw-r--r--", b"/bin/app\n\nw\n")
    assert application["env"] == ("-rw-r--r--", b"A=1\nB=\n")
    assert application["rootfs/bin/app"] == ("-rwxr-xr-x", b"program")
    assert application["rootfs/tmp"] == ("drwxrwxrwt", b"")
    assert {f"rootfs/{name}" for name in ("dev", "proc", "run", "sys", "var")} <= set(application)


@pytest.mark.parametrize("command", [[], [""], ["a\nb"], ["a\0"]])
def test_commands_that_init_could_not_read(command: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        ramdisks.application_ramdisk([], command, [])


def test_a_variable_that_does_not_fit_is_named_without_its_value() -> None:
    with pytest.raises(ConfigurationError, match="'KEY' does not fit on one line") as caught:
        ramdisks.application_ramdisk([], ["/app"], ["KEY=-----BEGIN\nsecret"])
    assert "secret" not in str(caught.value)
