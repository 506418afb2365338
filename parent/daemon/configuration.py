"""The configuration file as a whole: its sections, and what they must agree on.

docs/parent.md has one with every key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from parent.credentials import CredentialSettings, read_credentials_section
from parent.enclaves.settings import EnclaveSettings, read_enclaves_section
from parent.logs.settings import LogSettings, read_logs_section
from parent.operations import OperationsSettings, read_operations_section
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.proxy.section import ProxySettings, read_proxy_section
from vsock_proxy.service.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.service.settings import Setting

SECTIONS = ("proxy", "credentials", "logs", "enclaves", "operations")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What `enclave-parent run` is to run; None where there is no such section."""

    proxy: ProxySettings | None = None
    credentials: CredentialSettings | None = None
    logs: LogSettings | None = None
    enclaves: tuple[EnclaveSettings, ...] = ()
    operations: OperationsSettings | None = None


class ConfigurationErrors(ConfigurationError):  # noqa: N818 (of it there are several)
    """Several things in a file cannot be.

    Attributes:
        errors: each of them.
    """

    def __init__(self, errors: Sequence[ConfigurationError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


def load_configuration(path: Path, *, reloading: bool = False) -> Configuration:
    """Read a file.

    Args:
        path: the file.
        reloading: see `vsock_proxy.proxy.section.read_proxy_section`.

    Raises:
        ConfigurationErrors: one error for each section that cannot be, and others.
        ConfigurationError: the same, where there is just one.
    """
    root = load_settings(path)
    reader = _Reader(root.mapping())
    reader.collect(lambda: root.fields(*SECTIONS))
    configuration = Configuration(
        proxy=reader.section("proxy", lambda s: read_proxy_section(s, reloading=reloading)),
        credentials=reader.section("credentials", read_credentials_section),
        logs=reader.section("logs", read_logs_section),
        enclaves=reader.section("enclaves", read_enclaves_section) or (),
        operations=reader.section("operations", read_operations_section),
    )
    if not reader.errors:
        if not reader.sections:
            raise root.wrong("there is nothing to run", hint=f"sections: {', '.join(SECTIONS)}")
        reader.collect(lambda: _check_listeners(configuration, reader.sections))
    if len(reader.errors) == 1:
        raise reader.errors[0]
    if reader.errors:
        raise ConfigurationErrors(reader.errors)
    return configuration


class _Reader:
    """Reads on after an error, so that a person sees all of them at once."""

    def __init__(self, sections: dict[str, Setting]) -> None:
        self.sections = sections
        self.errors: list[ConfigurationError] = []

    def section(self, name: str, read: Callable[[Setting], T]) -> T | None:
        if name not in self.sections:
            return None
        return self.collect(lambda: read(self.sections[name]))

    def collect(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ConfigurationError as e:
            self.errors.append(e)
            return None


def _check_listeners(configuration: Configuration, sections: dict[str, Setting]) -> None:
    """See that no two sections want the same address; in one section the section has seen to it."""
    taken: dict[Address, str] = {}
    for section, address in _listeners(configuration):
        other = taken.setdefault(address, section)
        if other != section:
            raise sections[section].wrong(f"{other} listens on {address} as well")


def _listeners(configuration: Configuration) -> Iterator[tuple[str, Address]]:
    if configuration.proxy:
        yield from (("proxy", forward.listen) for forward in configuration.proxy.forwards)
    if configuration.credentials:
        yield "credentials", configuration.credentials.listen
    if configuration.logs:
        yield "logs", configuration.logs.listen
    if configuration.operations:
        yield "operations", configuration.operations.listen
