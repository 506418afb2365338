"""The configuration file as a whole: its sections, and what they must agree on.

docs/parent.md has one with every key.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from parent.credentials import CredentialSettings, read_credentials_section
from parent.daemon.cross_checks import listener_mistakes, warnings_of
from parent.enclaves.settings import EnclaveSettings, read_enclaves_section
from parent.logs.settings import LogSettings, read_logs_section
from parent.operations import OperationsSettings, read_operations_section
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.proxy.section import ProxySettings, read_proxy_section
from vsock_proxy.service.mistakes import ConfigurationErrors, attempt, each_error
from vsock_proxy.service.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from vsock_proxy.errors import AgentError
    from vsock_proxy.service.settings import Setting

SECTIONS: Final = ("proxy", "credentials", "logs", "enclaves", "operations")

_ALLOCATOR_KEYS: Final = frozenset({"memory_mib", "cpu_count", "cpu_pool"})
"""Of /etc/nitro_enclaves/allocator.yaml, which lies beside ours."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What `enclave-parent run` is to run; None for a section that is not in the file.

    Attributes:
        warnings: what may be a mistake, each with file and line.
    """

    proxy: ProxySettings | None = None
    credentials: CredentialSettings | None = None
    logs: LogSettings | None = None
    enclaves: tuple[EnclaveSettings, ...] = ()
    operations: OperationsSettings | None = None
    warnings: tuple[str, ...] = field(default=(), compare=False)


class InvalidConfiguration(ConfigurationErrors):
    """The mistakes of a file.

    Attributes:
        warnings: see `Configuration.warnings`.
    """

    def __init__(self, errors: Iterable[AgentError], warnings: Sequence[str]) -> None:
        super().__init__(errors)
        self.warnings = tuple(warnings)


def load_configuration(path: Path, *, reloading: bool = False, hint: str = "") -> Configuration:
    """Read a file.

    Args:
        path: the file.
        reloading: see `vsock_proxy.proxy.section.read_proxy_section`.
        hint: see `vsock_proxy.service.settings.load_settings`.

    Raises:
        ConfigurationError: it cannot be read.
        InvalidConfiguration: all mistakes of all sections.
    """
    root = load_settings(path, hint=hint)
    if mistaken := _other_file(root):
        raise mistaken
    sections = attempt(root.mapping) or {}
    warnings = tuple(warnings_of(sections))
    try:
        return dataclasses.replace(_read(root, reloading=reloading), warnings=warnings)
    except ConfigurationError as e:
        raise InvalidConfiguration(each_error(e), warnings) from e


def _read(root: Setting, *, reloading: bool) -> Configuration:
    with root.reading(*SECTIONS) as keys:
        configuration = Configuration(
            proxy=keys.read("proxy", lambda s: read_proxy_section(s, reloading=reloading), None),
            credentials=keys.read("credentials", read_credentials_section, None),
            logs=keys.read("logs", read_logs_section, None),
            enclaves=keys.read("enclaves", read_enclaves_section, ()),
            operations=keys.read("operations", read_operations_section, None),
        )
        for mistake in listener_mistakes(keys.found):
            keys.add(mistake)
        if not keys.found and not keys.errors:
            raise root.wrong("there is nothing to run", hint=f"sections: {', '.join(SECTIONS)}")
    return configuration


def _other_file(root: Setting) -> ConfigurationError | None:
    """Return an error if this is one of AWS's files, which people have beside ours."""
    names: set[str] = set()
    with contextlib.suppress(ConfigurationError):  # Reported when the file is read.
        names.update(key.name for key, _ in root.pairs())
    if "allowlist" in names and not names & {*SECTIONS}:
        return root.wrong(
            "this is an allowlist of vsock-proxy, not a configuration of enclave-parent",
            hint=f"name it in a configuration: proxy: {{allowlist: {root.source}, forwards: [...]}}"
            "; docs/parent.md has an example",
        )
    if names and names <= _ALLOCATOR_KEYS:
        return root.wrong(
            "this is the configuration of nitro-enclaves-allocator, not of enclave-parent",
            hint="it sets aside what all enclaves get together; docs/parent.md has an example of "
            "a configuration",
        )
    return None
