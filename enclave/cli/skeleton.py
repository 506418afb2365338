"""``--generate-cli-skeleton``: a form to fill in, or a sample of the answer."""

from __future__ import annotations

import json
from typing import Any

from botocore.utils import ArgumentGenerator

from enclave.cli.model import operation_model, parameters
from enclave.cli.yaml_format import format_yaml


def input_skeleton(operation: str, *, yaml: bool) -> str:
    """What ``--cli-input-json`` or ``--cli-input-yaml`` takes, to be filled in."""
    skeleton = ArgumentGenerator().generate_skeleton(operation_model(operation).input_shape)
    if not yaml:
        return json.dumps(skeleton, indent=4) + "\n"
    # PyYAML writes no comments: each parameter on its own, the comment on its first line.
    entries = []
    for parameter in parameters(operation):
        entry = format_yaml(json.loads(json.dumps({parameter.name: skeleton[parameter.name]})))
        first, end, rest = entry.partition("\n")
        needed = "[REQUIRED] " if parameter.required else ""
        entries.append(f"{first}  # {needed}{parameter.help}{end}{rest}")
    return "".join(entries)


def output_sample(operation: str) -> dict[str, Any]:
    """An answer with its fields' names for values."""
    shape = operation_model(operation).output_shape
    sample = ArgumentGenerator(use_member_names=True).generate_skeleton(shape)
    return {name: name if value is None else value for name, value in sample.items()}
