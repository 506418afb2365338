"""The formats of SOPS files, read into ordered trees: JSON, dotenv, YAML. No I/O.

The MAC of a SOPS file covers its values in the order of the file, so the order is kept, and what
two readers could take differently (a key that stands twice) is rejected. A binary file is a JSON
file with one key. Source: getsops/sops, ``stores/``.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from enclave.errors import DecodingError
from enclave.secrets.values import FORMAT
from vsock_proxy.service.json_text import parse_json
from vsock_proxy.service.sops_values import Scalar

MAX_NODES: Final = 20_000
"""Values and containers in a file; aliases of YAML count each time that they are used."""

MAX_DEPTH: Final = 64

PREFIX: Final = "sops_"
"""Of metadata in dotenv files, where there is one level only."""

Tree = dict[str, "Node"]
Node = Scalar | Tree | list["Node"]


def read_json(text: str) -> list[Tree]:
    """Return the one document of a JSON file.

    Raises:
        DecodingError: it is malformed.
    """
    try:
        found = parse_json(text, _decode)
    except ValueError as e:
        # A message of the parser's names a position; one of ValueError's may have a value.
        where = e.pos if isinstance(e, json.JSONDecodeError) else None
        raise DecodingError(FORMAT, "not JSON", offset=where) from None
    if not isinstance(found, dict):
        raise DecodingError(FORMAT, "the JSON is not an object")
    check_size(found)
    return [found]


def _unique(pairs: list[tuple[str, Any]]) -> Tree:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in tree if names.count(name) > 1)
        raise DecodingError(FORMAT, f"the key {double[:60]!r} stands twice")
    return tree


def _not_json(name: str) -> NoReturn:
    raise ValueError(name)


def _number(digits: str) -> int | float:
    number = int(digits) if len(digits) < 21 else float(digits)
    return number if -(2**63) <= number < 2**63 else float(digits)


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_not_json, parse_int=_number
).decode


def read_dotenv(text: str) -> list[Tree]:
    """Return the one document of a dotenv file; its metadata under the key ``sops``.

    Raises:
        DecodingError: it is malformed.
    """
    tree: Tree = {}
    flat: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise DecodingError(FORMAT, f"line {number} of the dotenv file has no '='")
        target: dict[str, Any] = tree
        if name.startswith(PREFIX):
            target, name = flat, name.removeprefix(PREFIX)
        if name in target:
            raise DecodingError(FORMAT, f"the key {name[:60]!r} stands twice")
        target[name] = value.replace("\\n", "\n")
    tree["sops"] = unflattened(flat)
    check_size(tree)
    return [tree]


def unflattened(flat: dict[str, str]) -> Tree:
    """Return the tree whose paths are keys such as ``kms__list_0__map_arn``.

    Raises:
        DecodingError: the keys contradict each other.
    """
    root: dict[str, Any] = {}
    for path, value in flat.items():
        at = root
        *before, last = path.replace("__list_", "__map_\x00").split("__map_")
        for part in before:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise DecodingError(FORMAT, f"the key {path[:60]!r} contradicts another one")
        if last in at:
            raise DecodingError(FORMAT, f"the key {path[:60]!r} contradicts another one")
        at[last] = value
    tree = _lists(root)
    if not isinstance(tree, dict):
        raise DecodingError(FORMAT, "the metadata is a list")
    return tree


def _lists(at: Any) -> Any:
    if not isinstance(at, dict):
        return at
    if not any(key.startswith("\x00") for key in at):
        return {key: _lists(value) for key, value in at.items()}
    items = {key.removeprefix("\x00"): value for key, value in at.items()}
    if sorted(items, key=lambda key: (len(key), key)) != [str(n) for n in range(len(items))]:
        raise DecodingError(FORMAT, "a list in the metadata is not complete")
    return [_lists(items[str(n)]) for n in range(len(items))]


def check_size(tree: Node) -> None:
    """Check a tree that may be nested, large, or have text that is no Unicode.

    Raises:
        DecodingError: it is too deep or too large, or a key or value has a lone surrogate.
    """
    nodes = 0
    ahead: list[tuple[Node, int]] = [(tree, 0)]
    while ahead:
        node, depth = ahead.pop()
        nodes += 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise DecodingError(
                FORMAT, f"more than {MAX_NODES} values, or more than {MAX_DEPTH} levels"
            )
        if isinstance(node, dict):
            ahead += [(value, depth + 1) for value in node.values()]
            for key in node:
                _check_text(key)
        elif isinstance(node, list):
            ahead += [(value, depth + 1) for value in node]
        elif isinstance(node, str):
            _check_text(node)


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DecodingError(FORMAT, "a key or a value is not Unicode text")
