"""``--generate-cli-skeleton``: a document to fill in, or a sample of the response."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

from botocore.utils import ArgumentGenerator

from enclave.cli.model import operation_model

if TYPE_CHECKING:
    from collections.abc import Iterator


def input_skeleton(operation: str, *, yaml: bool) -> str:
    """Return what ``--cli-input-json`` or ``--cli-input-yaml`` takes, to be filled in."""
    shape = operation_model(operation).input_shape
    if yaml:
        return "".join(f"{line}\n" for line in _structure(shape, ""))
    return json.dumps(_Generator().generate_skeleton(shape), indent=4) + "\n"


def output_sample(operation: str) -> dict[str, Any]:
    """Return a response with its fields' names for values."""
    shape = operation_model(operation).output_shape
    sample = ArgumentGenerator(use_member_names=True).generate_skeleton(shape)
    return {name: name if value is None else value for name, value in sample.items()}


class _Generator(ArgumentGenerator):  # type: ignore[misc] # botocore has no types
    """Takes the first value of an enumeration, as the AWS CLI does; botocore takes a random one."""

    def _generate_skeleton(self, shape: Any, stack: list[str], name: str = "") -> Any:
        if shape.type_name == "string" and shape.enum:
            return shape.enum[0]
        return super()._generate_skeleton(shape, stack, name)


def _structure(shape: Any, indent: str) -> Iterator[str]:
    """Yield the lines of a structure in YAML, each member's description behind it.

    Written by hand, since PyYAML writes no comments.
    """
    gap = "  "
    for name, member in shape.members.items():
        first, *others = _value(member, indent)
        comment = _comment(member, required=name in shape.required_members)
        yield f"{indent}{name}:{first}{comment and gap + comment}"
        yield from others
        gap = " "  # as the AWS CLI's library has it


def _value(shape: Any, indent: str) -> list[str]:
    """Return what follows ``Name:``, and the lines below it."""
    match shape.type_name:
        case "structure":
            return ["", *_structure(shape, indent + "  ")]
        case "map":
            return ["", f"{indent}  KeyName:{_value(shape.value, indent + '  ')[0]}"]
        case "list":
            return ["", f"{indent}-{_value(shape.member, indent + '  ')[0]}"]
        case "string":
            return [f" {shape.enum[0]}" if shape.enum else " ''"]
        case "blob":
            return [" !!binary ''"]
    return [" true"] if shape.type_name == "boolean" else [" 0"]


def _comment(shape: Any, *, required: bool) -> str:
    parts = ["[REQUIRED]"] if required else []
    text = html.unescape(re.sub(r"<[^>]*>", "", shape.documentation))
    sentence = re.split("[.:]", text, maxsplit=1)[0].replace("\n", " ")
    parts += [f"{sentence}."] if sentence else []
    if getattr(shape, "enum", None):
        parts.append(f"Valid values are: {', '.join(shape.enum)}.")
    return f"# {' '.join(parts)}" if parts else ""
