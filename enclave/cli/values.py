"""From words on the command line to the parameters of a KMS call."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from enclave.cli import files
from enclave.cli.errors import BadValueError
from enclave.cli.options import RAW
from enclave.errors import ConfigurationError
from vsock_proxy.service.json_text import is_deeper, parse_json

if TYPE_CHECKING:
    from enclave.cli.model import Parameter

MAX_DEPTH = 32
"""Lists and objects within one another in a document; the deepest parameter of KMS has four."""

_HINT_DOCUMENT = "--generate-cli-skeleton prints a document to fill in"


def read_option(parameter: Parameter, given: Any) -> Any:
    """Return the value given for one parameter: JSON types, and bytes from ``fileb://``.

    Raises:
        ConfigurationError: it cannot be that.
    """
    try:
        match parameter.kind:
            case "boolean":
                return given
            case "list":
                return _list(given)
        value = files.loaded(given)
        match parameter.kind:
            case "integer":
                return _integer(value)
            case "structure" | "map":
                return _structure(_text(value))
        return value if parameter.kind == "blob" else _text(value)
    except ConfigurationError as e:
        raise type(e)(f"argument {parameter.option}: {e}", hint=e.hint) from e


def read_document(option: str, given: str) -> dict[str, Any]:
    """``--cli-input-json`` or ``--cli-input-yaml``.

    Raises:
        ConfigurationError: it is not an object of that kind.
    """
    try:
        text = files.loaded(given)  # fileb:// as well: JSON says how its bytes are text
        document = _shallow(_json(text) if option == "--cli-input-json" else _yaml(text))
    except ConfigurationError as e:
        raise type(e)(f"argument {option}: {e}", hint=e.hint) from e
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise ConfigurationError(f"argument {option}: not an object", hint=_HINT_DOCUMENT)
    return document


def with_blobs(shape: Any, value: Any, binary_format: str, path: str = "") -> Any:
    """Return the value with the text of every blob in its shape as bytes.

    Raises:
        ConfigurationError: a blob is not base64.
    """
    match shape.type_name:
        case "structure" if isinstance(value, dict):
            return {
                name: with_blobs(member, each, binary_format, f"{path}.{name}".lstrip("."))
                if (member := shape.members.get(name))
                else each
                for name, each in value.items()
            }
        case "blob" if isinstance(value, str):
            try:
                if binary_format == RAW:
                    return value.encode()
                # Without line ends: `--output text > FILE` writes one, base64(1) one per 76.
                return base64.b64decode("".join(value.split()), validate=True)
            except (binascii.Error, ValueError) as e:  # and UnicodeEncodeError is one
                raise BadValueError(
                    f"{path} is not {'text in UTF-8' if binary_format == RAW else 'base64'}",
                    hint=f"read bytes with {files.BINARY}FILE, or give text with "
                    f"--cli-binary-format {RAW}",
                ) from e
    return value


def on_the_wire(value: Any) -> Any:
    """JSON types only: bytes in base64."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {name: on_the_wire(each) for name, each in value.items()}
        case list():
            return [on_the_wire(each) for each in value]
    return value


def _list(given: list[str]) -> Any:
    """Words, or one that is JSON."""
    if len(given) == 1:
        only = _text(files.loaded(given[0]))
        return _shallow(_json(only)) if only.lstrip().startswith("[") else [only]
    return given


def _integer(value: str | bytes) -> int:
    try:
        return int(value)
    except ValueError as e:
        raise BadValueError("not a whole number", hint="for example 32") from e


def _structure(text: str) -> Any:
    if text.lstrip().startswith(("{", "[")):
        return _shallow(_json(text))
    from enclave.cli.shorthand import parse  # noqa: PLC0415 (seldom needed)

    return parse(text)


def _shallow(document: Any) -> Any:
    """Return a document that what follows can walk by recursion.

    Raises:
        ConfigurationError: it is nested deeper than any parameter of KMS's.
    """
    if is_deeper(document, MAX_DEPTH):
        raise ConfigurationError(f"more than {MAX_DEPTH} levels deep", hint=_HINT_DOCUMENT)
    return document


def _json(text: str | bytes) -> Any:
    try:
        return parse_json(text)
    except ValueError as e:
        raise ConfigurationError(f"not JSON: {e}", hint=_HINT_DOCUMENT) from e


def _yaml(text: str | bytes) -> Any:
    from enclave.cli.yaml_format import parse_yaml  # noqa: PLC0415 (seldom needed)

    return parse_yaml(text)


def _text(value: str | bytes) -> str:
    if isinstance(value, bytes):
        raise ConfigurationError("bytes where text belongs", hint=f"read text with {files.TEXT}")
    return value
