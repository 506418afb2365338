"""Names with loopback addresses of their own, in /etc/hosts."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from enclave.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOSTS: Final = Path("/etc/hosts")

MAX_SIZE: Final = 1_048_576
"""Bytes of the file that are read."""

_MARK: Final = "# enclave-agent"
_FIRST: Final = ipaddress.IPv4Address("127.20.0.1")
"""Of the addresses that are given; the range 127.0.0.0/8 is loopback (RFC 1122, 3.2.1.3)."""


def assign(names: Sequence[str], text: str) -> dict[str, str]:
    """Return a loopback address for each name.

    A name that the file has already keeps its address there: so an image can have these lines in
    its own file, and nothing is written at start.

    Args:
        names: host names, in order.
        text: content of the hosts file.

    Raises:
        ConfigurationError: the file gives a name an address that is not its own loopback address.
    """
    known = _addresses(text)
    assigned: dict[str, str] = {}
    taken = {address for addresses in known.values() for address in addresses}
    address = _FIRST
    for name in dict.fromkeys(name.lower() for name in names):
        if name in known:
            assigned[name] = _own_loopback(name, known[name])
            continue
        while str(address) in taken:
            address += 1
        assigned[name] = str(address)
        address += 1
    return assigned


def with_names(text: str, assigned: dict[str, str]) -> str:
    """Return the file's content with a line for each name that it lacks."""
    known = _addresses(text)
    lines = [f"{a}\t{name}\t{_MARK}\n" for name, a in assigned.items() if name not in known]
    if lines and text and not text.endswith("\n"):
        text += "\n"
    return text + "".join(lines)


def without_names(text: str) -> str:
    """Return the file's content without the lines of `with_names`."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.rstrip().endswith(_MARK)
    )


@contextlib.contextmanager
def named(names: Sequence[str], *, path: Path = HOSTS) -> Iterator[dict[str, str]]:
    """Give names loopback addresses for the length of a ``with`` block; yields the addresses.

    The file is written in place: it may be a mount of its own, which cannot be replaced.

    Raises:
        ConfigurationError: the file cannot be read or written, or has another address for a name.
    """
    before = _read(path)
    text = without_names(before)  # what a process that was killed has left
    assigned = assign(names, text)
    changed = with_names(text, assigned)
    if changed != before:
        _write(path, changed, assigned)
    try:
        yield assigned
    finally:
        if changed != text:
            with contextlib.suppress(ConfigurationError):
                _write(path, without_names(_read(path)), assigned)


def _addresses(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        for name in words[1:]:
            found.setdefault(name.lower(), []).append(words[0])
    return found


def _own_loopback(name: str, addresses: list[str]) -> str:
    with contextlib.suppress(ValueError):
        (address,) = (ipaddress.IPv4Address(each) for each in addresses)
        if address.is_loopback and address != ipaddress.IPv4Address("127.0.0.1"):
            return str(address)
    raise ConfigurationError(
        f"--egress-host {name}: {HOSTS} has the name already, with {', '.join(addresses)}",
        hint="remove it there, or give it a loopback address of its own, such as 127.20.0.1",
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        return ""
    except OSError as e:
        raise ConfigurationError(f"cannot read {path}: {e.strerror}", hint=_HINT) from e
    if len(data) > MAX_SIZE:
        raise ConfigurationError(f"{path} has more than {MAX_SIZE} bytes", hint=_HINT)
    return data.decode("utf-8", "surrogateescape")


def _write(path: Path, text: str, assigned: dict[str, str]) -> None:
    try:
        with path.open("wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
    except OSError as e:
        lines = ", ".join(f"`{address} {name}`" for name, address in assigned.items())
        raise ConfigurationError(
            f"--egress-host: cannot write {path}: {e.strerror}",
            hint=f"the image may have the lines in its own {path}: {lines}; or use HTTPS_PROXY "
            "(--egress)",
        ) from e


_HINT = "is it the hosts file of the image?"
