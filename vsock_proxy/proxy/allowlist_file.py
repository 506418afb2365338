"""Reads an allowlist from YAML, in the format of AWS's vsock-proxy.

    allowlist:
    - {address: kms.us-east-1.amazonaws.com, port: 443}
    - {address: kms.*.amazonaws.com, port: 443}

Source: aws-nitro-enclaves-cli, ``vsock_proxy/README.md``, "Configuration file format", and
``check_allowlist`` of ``vsock_proxy/src/proxy.rs``.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import MAX_PORT
from vsock_proxy.proxy.allowlist import Allowlist, check_pattern
from vsock_proxy.service.settings import parse_settings, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vsock_proxy.service.settings import Setting

log = logging.getLogger(__name__)

DEFAULT_PATH = Path("/etc/nitro_enclaves/vsock-proxy.yaml")
"""Where AWS's package installs it."""

_HINT = "write lines such as `- {address: kms.us-east-1.amazonaws.com, port: 443}`"


def is_allowlist(root: Setting) -> bool:
    """Return whether a file is an allowlist in AWS's format rather than a configuration."""
    return not root.is_list and "allowlist" in root.mapping()


def load_allowlist(path: Path) -> Allowlist:
    """Read a file in the format of AWS's vsock-proxy, of at most `settings.MAX_SIZE` bytes.

    Keys that AWS's proxy ignores are ignored, with a warning in the log.

    Raises:
        ConfigurationError: it cannot be read, or is not an allowlist; the message has the line.
    """
    data = read_file(path)
    with _hinting():
        return parse_allowlist(parse_settings(data, source=str(path)))


def parse_allowlist(root: Setting) -> Allowlist:
    """Read the content of such a file.

    Raises:
        ConfigurationError: it is not an allowlist; the message has the line.
    """
    if root.is_list:
        raise root.wrong(
            "a list without the key `allowlist`",
            hint="write `allowlist:` on a line of its own above the list",
        )
    fields = root.mapping()
    if "allowlist" not in fields:
        raise root.wrong("key 'allowlist' is missing", hint=f"below `allowlist:` {_HINT}")
    _warn_of_others(fields, "allowlist")
    return _read(fields["allowlist"], strict=False)


def read_allowlist(entries: Setting) -> Allowlist:
    """Read a list of entries that stands in a file of ours: unknown keys are errors.

    Raises:
        ConfigurationError: it is not an allowlist; the message has the line.
    """
    return _read(entries, strict=True)


def _read(entries: Setting, *, strict: bool) -> Allowlist:
    return Allowlist(frozenset(entries.each(partial(_entry, strict=strict))))


@contextlib.contextmanager
def _hinting() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as e:
        e.hint = e.hint or _HINT
        raise


def _entry(entry: Setting, *, strict: bool) -> tuple[str, int]:
    required = ("address", "port")
    # An unknown key may have been meant to restrict something.
    reading = entry.reading(*required, required=required) if strict else None
    with reading or entry.reading_any(required=required) as keys:
        if not strict:
            _warn_of_others(keys.found, *required)
        address = keys.read("address", _address)
        # AWS's proxy takes any integer modulo 65536: 84536 there permits port 19000.
        port = keys.read("port", lambda value: value.integer(1, MAX_PORT, quoted=True))
    return address, port


def _address(value: Setting) -> str:
    text = value.string()
    try:
        return check_pattern(text)
    except ConfigurationError as e:
        raise value.wrong(str(e), hint=e.hint or _HINT) from e


def _warn_of_others(fields: dict[str, Setting], *known: str) -> None:
    for key, value in fields.items():
        if key not in known:
            log.warning("%s", value.wrong("unknown key; it is ignored and restricts nothing"))
