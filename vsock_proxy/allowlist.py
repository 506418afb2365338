"""The allowlist: which hosts and ports may be forwarded to, in the format of AWS's vsock-proxy.

    allowlist:
    - {address: kms.us-east-1.amazonaws.com, port: 443}

Source: aws-nitro-enclaves-cli, ``vsock_proxy/README.md``, "Configuration file format".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from vsock_proxy.addresses import MAX_PORT, is_host
from vsock_proxy.errors import ConfigurationError

DEFAULT_PATH = Path("/etc/nitro_enclaves/vsock-proxy.yaml")
"""Where AWS's package puts it."""

MAX_SIZE = 256 * 1024
"""Bytes of a file; AWS's own, with every KMS endpoint, has 4,331."""

_HINT = "write lines such as `- {address: kms.us-east-1.amazonaws.com, port: 443}`"
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_STR, _INT = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Names (lower case, without a trailing dot) and ports that may be forwarded to."""

    entries: frozenset[tuple[str, int]]

    def allows(self, host: str, port: int) -> bool:
        """Tell whether `host` was listed with this very port. What is not listed is not allowed.

        Names are names: nothing is looked up, so that an IP address is allowed only where it
        stands in the list itself. (AWS's proxy also takes an address to which a listed name
        resolves, which leaves the list to whoever answers its DNS queries.)
        """
        return (_normal(host), port) in self.entries


def load_allowlist(path: Path) -> Allowlist:
    """Read an allowlist from a file of at most `MAX_SIZE` bytes.

    Raises:
        ConfigurationError: it cannot be read, or is not an allowlist; says where.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as e:
        raise ConfigurationError(
            f"cannot read the allowlist {path}: {e.strerror}",
            hint="name the file with --config",
        ) from e
    return parse_allowlist(data, source=str(path))


def parse_allowlist(data: bytes, *, source: str = "allowlist") -> Allowlist:
    """Read an allowlist; `source` is what the errors call it.

    The file is not turned into objects but read as YAML's own nodes: they know their line
    numbers, and an alias is a node seen twice, never a copy, so that none can multiply.

    Raises:
        ConfigurationError: it is not an allowlist; says where.
    """
    if len(data) > MAX_SIZE:
        raise ConfigurationError(f"{source} has more than {MAX_SIZE} bytes", hint=_HINT)
    try:
        document = yaml.compose(data, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        line = "" if e.problem_mark is None else f":{e.problem_mark.line + 1}"
        raise ConfigurationError(f"{source}{line}: not YAML: {e.problem}", hint=_HINT) from e
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigurationError(f"{source}: not YAML", hint=_HINT) from e
    if document is None:
        raise ConfigurationError(f"{source} is empty: nothing is allowed", hint=_HINT)
    (entries,) = _fields(document, ("allowlist",), source)
    if not isinstance(entries, yaml.SequenceNode):
        raise _wrong(source, entries, "`allowlist` is not a list")
    return Allowlist(frozenset(_entry(node, source) for node in entries.value))


def _entry(node: yaml.Node, source: str) -> tuple[str, int]:
    address, port = _fields(node, ("address", "port"), source)
    if address.tag != _STR or not is_host(address.value):
        raise _wrong(source, address, f"address {address.value!r:.80} is not a host name")
    # AWS's proxy takes any integer modulo 65536: 84536 there permits port 19000. And 0443 is
    # octal to some readers of YAML and decimal to others, so it is neither here.
    if port.tag != _INT or not _PORT.fullmatch(port.value) or int(port.value) > MAX_PORT:
        raise _wrong(source, port, f"port {port.value!r:.80} is not an integer in 1..{MAX_PORT}")
    return _normal(address.value), int(port.value)


def _fields(node: yaml.Node, names: tuple[str, ...], source: str) -> list[yaml.Node]:
    """Take exactly these fields from a mapping.

    One field too many is refused as well: it may have been meant to restrict something.
    """
    wanted = " and ".join(f"`{name}`" for name in names)
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(source, node, f"not a mapping with {wanted}")
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if key.value not in names or not isinstance(key, yaml.ScalarNode):
            raise _wrong(source, key, f"unknown field; there is only {wanted}")
        if key.value in found:
            raise _wrong(source, key, f"`{key.value}` is there twice")
        found[key.value] = value
    for name in names:
        if name not in found:
            raise _wrong(source, node, f"`{name}` is missing")
    return [found[name] for name in names]


def _normal(host: str) -> str:
    return host.lower().removesuffix(".")


def _wrong(source: str, node: yaml.Node, what: str) -> ConfigurationError:
    return ConfigurationError(f"{source}:{node.start_mark.line + 1}: {what}", hint=_HINT)
