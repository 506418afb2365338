"""Configuration files: YAML read value by value, every error with its line.

A file is not turned into objects but read as YAML's own nodes, which know their lines. Each part
of the program reads the keys that it knows, by type. An unknown key is an error: it may have been
meant to restrict something.

    settings = load_settings(Path("parent.yaml"))
    with settings.reading("listen", "timeout", required=["listen"]) as keys:
        address = keys.read("listen", Setting.address)
        timeout = keys.read("timeout", lambda value: value.duration(0.1, 60), 10.0)

All mistakes are reported together, when the block ends. This module needs PyYAML: nothing that
reaches an enclave image imports it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar, overload

import yaml

from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import (
    MAX_PORT,
    VMADDR_CID_HYPERVISOR,
    Address,
    VsockAddress,
    parse_address,
)
from vsock_proxy.service.address_guess import meant_address
from vsock_proxy.service.files import named, opened
from vsock_proxy.service.mistakes import Mistakes, SettingError, attempt
from vsock_proxy.service.quantities import BYTES, SECONDS, in_units, quantity
from vsock_proxy.service.yaml_nodes import compose

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

MAX_SIZE = 256 * 1024
"""Bytes of a file. AWS's allowlist of all KMS endpoints has 4,331; 5,000 entries like those fit,
which PyYAML reads in 0.7 s of CPU, in a reload beside the relay."""

MAX_DEPTH = 20
"""Nested lists and mappings."""

MAX_ITEMS = 10_000
"""Items of one list."""

_STR, _INT, _BOOL = (f"tag:yaml.org,2002:{name}" for name in ("str", "int", "bool"))
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")

T = TypeVar("T")
D = TypeVar("D")


class Keys(Mistakes):
    """The keys of one mapping, read one by one. Made by `Setting.reading`.

    Attributes:
        setting: the mapping.
        found: the known keys that are there.
        failed: keys that could not be read, or are missing.
        guessed: known keys of which an unknown one is probably a misspelling.
    """

    def __init__(
        self, setting: Setting, known: Collection[str] | None, required: Collection[str]
    ) -> None:
        """Make one; `known` is None if every key is."""
        super().__init__()
        self.setting = setting
        self.found: dict[str, Setting] = {}
        self.failed: set[str] = set()
        self.guessed: set[str] = set()
        for key, node in self.take(setting.pairs) or ():
            if key.name in self.found:
                first = self.found[key.name].line
                # Readers of YAML disagree about which of the two counts.
                self.add(key.wrong(f"key {key.name!r:.80} twice: also on line {first}"))
            elif known is None or key.name in known:
                self.found[key.name] = node
            else:
                near = difflib.get_close_matches(key.name, known, 1)
                self.guessed.update(near)
                self.add(setting.unknown(key, known, near))
        for name in required:
            if name not in self.found:
                self.failed.add(name)
                # One mistake is told once: a misspelt key is also a missing one.
                if name not in self.guessed and setting.is_mapping:
                    self.add(setting.wrong(f"key {name!r} is missing"))

    def __contains__(self, key: str) -> bool:
        return key in self.found

    def __getitem__(self, key: str) -> Setting:
        return self.found[key]

    @overload
    def read(self, key: str, take: Callable[[Setting], T]) -> T: ...
    @overload
    def read(self, key: str, take: Callable[[Setting], T], default: D) -> T | D: ...

    def read(self, key: str, take: Callable[[Setting], T], default: object = None) -> object:
        """Return the value of one key, or the default if the key is not there.

        If it cannot be read that is noted, and None returned; see `Mistakes.take`.
        """
        if key not in self.found:
            return default
        before = len(self.errors)
        value = self.take(lambda: take(self.found[key]))
        if len(self.errors) > before:
            self.failed.add(key)
        return value


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a file, and where it stands.

    Attributes:
        source: the file, as errors name it.
        name: the key whose value this is, or of which it is an item; "" for the whole file.
        node: the value.
    """

    source: str
    name: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """The line it begins on, from 1."""
        return self.node.start_mark.line + 1

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    @property
    def is_mapping(self) -> bool:
        """Whether it is a mapping."""
        return isinstance(self.node, yaml.MappingNode)

    def wrong(self, what: str, *, hint: str = "") -> SettingError:
        """Return the error that says that this value is wrong: ``FILE:LINE: KEY: WHAT``."""
        key = f"{self.name}: " if self.name else ""
        return SettingError(self.source, self.line, f"{key}{what}", hint=hint)

    def pairs(self) -> list[tuple[Setting, Setting]]:
        """Return the keys and values of a mapping, in order; a key has itself as its name.

        Raises:
            ConfigurationError: it is not a mapping, or a key is not text.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(f"{_what(self.node)}, not a mapping")
        found: list[tuple[Setting, Setting]] = []
        with Mistakes() as mistakes:
            for key_node, value in self.node.value:
                key = mistakes.take(Setting(self.source, self.name, key_node).string)
                if key is not None:
                    at = _Key(self.source, key, key_node, self.name)
                    found.append((at, Setting(self.source, key, value)))
        return found

    def mapping(self, *, required: Collection[str] = ()) -> dict[str, Setting]:
        """Return a mapping with any keys.

        Raises:
            ConfigurationError: it is not a mapping, a required key is missing, or a key is not
                text, or there twice.
        """
        with self.reading_any(required=required) as keys:
            pass
        return keys.found

    def reading_any(self, *, required: Collection[str] = ()) -> Keys:
        """Read a mapping with any keys, in a ``with`` block; see `reading`."""
        return Keys(self, None, required)

    def child(self, key: str) -> Setting | None:
        """Return the value of one key; None if it is not there, or this is not a mapping.

        For a look at what another reader reads, and reports.
        """
        pairs = attempt(self.pairs) or ()
        return next((value for name, value in pairs if name.name == key), None)

    def reading(self, *known: str, required: Collection[str] = ()) -> Keys:
        """Read a mapping with these keys and no others, in a ``with`` block.

        When the block ends, all mistakes are raised: not a mapping, unknown, missing and doubled
        keys, and values that could not be read.

        Args:
            known: all keys that there may be.
            required: those of them that must be there.
        """
        return Keys(self, known, required)

    def fields(self, *known: str, required: Collection[str] = ()) -> dict[str, Setting]:
        """Return a mapping with these keys and no others; values are read later.

        Raises:
            ConfigurationError: as `reading`, without the values.
        """
        with self.reading(*known, required=required) as keys:
            pass
        return keys.found

    def items(self, most: int = MAX_ITEMS) -> list[Setting]:
        """Return the items of a list of at most `most`. Raises ConfigurationError."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.wrong(f"{_what(self.node)}, not a list")
        if len(self.node.value) > most:
            raise self.wrong(f"{len(self.node.value)} items; at most {most} are allowed")
        return [Setting(self.source, self.name, item) for item in self.node.value]

    def each(self, read: Callable[[Setting], T], most: int = MAX_ITEMS) -> list[T]:
        """Read every item of a list of at most `most`.

        Raises:
            ConfigurationError: it is not such a list; or the errors of all its items.
        """
        with Mistakes() as mistakes:
            values = [mistakes.take(partial(read, item)) for item in self.items(most)]
        return values  # noqa: RET504 (the block raises at its end)

    def string(self, *, most: int = 4096) -> str:
        """Return text of 1 to `most` characters. Raises ConfigurationError."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.value and self.node.tag != _STR:
            raise self.wrong(
                f"{self.node.value!r:.80} is not text in YAML",
                hint="put it in quotes",
            )
        text = self._scalar("text")
        if not text:
            raise self.wrong("empty text")
        if len(text) > most:
            raise self.wrong(f"{len(text)} characters; at most {most} are allowed")
        return text

    def choice(self, *choices: str, otherwise: str = "") -> str:
        """Return one of some words. Raises ConfigurationError.

        Args:
            choices: the words.
            otherwise: how else the value can be written, such as a list; for the error.
        """
        every = ", ".join([*choices, otherwise] if otherwise else choices)
        text = self.node.value if isinstance(self.node, yaml.ScalarNode) else ""
        if text not in choices:
            near = difflib.get_close_matches(text, choices, 1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            raise self.wrong(f"{_what(self.node)} is not one of: {every}{guess}")
        return text

    def boolean(self) -> bool:
        """Return ``true`` or ``false``, written like that. Raises ConfigurationError."""
        # YAML 1.1 also has yes, on, Y and more, which YAML 1.2 calls strings.
        text = self._scalar("true or false")
        if self.node.tag != _BOOL or text not in ("true", "false"):
            raise self.wrong(f"{text!r:.80} is neither true nor false")
        return text == "true"

    def integer(self, least: int, most: int, *, quoted: bool = False) -> int:
        """Return a decimal integer in `least`..`most`; also one in quotes if `quoted`.

        Raises:
            ConfigurationError: it is not an integer, or out of range.
        """
        text = self._scalar("an integer")
        # 0443 is octal to some YAML parsers and decimal to others, and 1_000 and 1:30 are
        # integers to some: all of them are rejected.
        tags = (_INT, _STR) if quoted else (_INT,)
        if (
            self.node.tag not in tags
            or not _INTEGER.fullmatch(text)
            or not least <= int(text) <= most
        ):
            raise self.wrong(f"{text!r:.80} is not an integer in {least}..{most}")
        return int(text)

    def port(self) -> int:
        """Return a TCP port, 1..65535. Raises ConfigurationError."""
        return self.integer(1, MAX_PORT)

    def duration(self, least: float, most: float) -> float:
        """Return a time in seconds; it has a unit: ``10 s``, ``250 ms``, ``5 min``, ``1.5 h``.

        Raises:
            ConfigurationError: not a number with a unit of time, or not in `least`..`most`.
        """
        return self._quantity("a duration", SECONDS, "10 s", least, most)

    def size(self, least: int, most: int) -> int:
        """Return a number of bytes; it has a unit: ``B``, ``KiB``, ``MiB``, ``GiB`` or ``TiB``.

        Raises:
            ConfigurationError: not a number with a unit of size, or not in `least`..`most`.
        """
        return int(self._quantity("a size", BYTES, "512 MiB", least, most))

    def address(self) -> Address:
        """Return a socket address (`addresses.parse_address`). Raises ConfigurationError."""
        text = self._scalar("an address")
        try:
            return parse_address(text)
        except ConfigurationError as e:
            meant = meant_address(text)
            hint = f"did you mean {meant}? {e.hint}" if meant else e.hint
            raise self.wrong(str(e)[:300], hint=hint) from e

    def listener(self) -> Address:
        """Return a socket address to listen on. Raises ConfigurationError."""
        address = self.address()
        if isinstance(address, VsockAddress) and address.cid == VMADDR_CID_HYPERVISOR:
            raise self.wrong(
                f"{address}: CID 0 is reserved, no machine listens there",
                hint=f"for every CID of this machine, write vsock://any:{address.port}",
            )
        return address

    def unknown(self, key: Setting, known: Collection[str], near: Collection[str]) -> SettingError:
        """Return the error for a key that is not known here."""
        guess = "".join(f" (did you mean {name}?)" for name in near)
        return key.wrong(
            f"unknown key {key.name!r:.80}{guess}", hint=f"known here: {', '.join(known)}"
        )

    def _scalar(self, wanted: str) -> str:
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.wrong(f"{_what(self.node)}, not {wanted}")
        text: str = self.node.value
        return text

    def _quantity(
        self, wanted: str, units: Mapping[str, float], example: str, least: float, most: float
    ) -> float:
        text = self._scalar(wanted)
        value = quantity(text, units)
        hint = f"write {example}; units: {', '.join(units)}"
        if value is None:
            raise self.wrong(f"{text!r:.80} is not {wanted} with a unit", hint=hint)
        if not least <= value <= most:
            bounds = f"{in_units(least, units)}..{in_units(most, units)}"
            raise self.wrong(f"{text!r:.80} is not in {bounds}", hint=hint)
        return value


@dataclass(frozen=True, slots=True)
class _Key(Setting):
    """A key; errors name what it stands in."""

    parent: str

    def wrong(self, what: str, *, hint: str = "") -> SettingError:
        return Setting(self.source, self.parent, self.node).wrong(what, hint=hint)


def load_settings(path: Path, *, hint: str = "") -> Setting:
    """Read a file of at most `MAX_SIZE` bytes; the value returned has no name.

    Args:
        path: the file.
        hint: what to do if there is no such file, in the words of the command that reads it.

    Raises:
        ConfigurationError: it cannot be read, or is not YAML; the message has the line.
    """
    try:
        data = read_file(path)
    except ConfigurationError as e:
        if isinstance(e.__cause__, FileNotFoundError):
            e.hint = e.hint or hint
        if isinstance(e.__cause__, PermissionError):
            e.hint = e.hint or "run it as the user whose file it is, or who may read it"
        raise
    return parse_settings(data, source=str(path))


def read_file(path: Path) -> bytes:
    """Read a file, but no more than one byte over `MAX_SIZE`.

    Raises:
        ConfigurationError: it cannot be read. The hint is left to the caller, who knows which
            option or key named the file.
    """
    # Without blocking, as on a FIFO: that would block every further reload.
    with opened(path) as file, named(path, "read"):
        return file.read(MAX_SIZE + 1)


def parse_settings(data: bytes, *, source: str) -> Setting:
    """Read the one YAML document in `data`; errors name it by `source`.

    Raises:
        ConfigurationError: it is empty, too large, or not YAML; says where.
    """
    if len(data) > MAX_SIZE:
        raise ConfigurationError(f"{source}: more than {MAX_SIZE} bytes")
    document = compose(data, source=source, depth=MAX_DEPTH)
    if document is None:
        raise ConfigurationError(f"{source}: empty")
    return Setting(source, "", document)


def _what(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return f"{node.value!r:.80}" if node.value else "nothing"
