"""YAML by PyYAML, which an image need not have: only those who ask for YAML do."""

from __future__ import annotations

import json
from typing import Any

from enclave.errors import ConfigurationError
from vsock_proxy.service.extras import install_command


def _pyyaml() -> Any:
    try:
        import yaml  # noqa: PLC0415 (see above)
    except ImportError as e:
        raise ConfigurationError(
            "YAML needs PyYAML, which is not installed here",
            hint=f"{install_command('yaml')}; or use JSON",
        ) from e
    return yaml


def require_yaml() -> None:
    """Say at once if YAML cannot be had.

    Raises:
        ConfigurationError: it cannot.
    """
    _pyyaml()


def parse_yaml(text: str | bytes) -> Any:
    """Read one document of plain types, a tree: aliases are rejected.

    Raises:
        ConfigurationError: it is not one.
    """
    yaml = _pyyaml()
    try:
        # A few aliases can stand for billions of values, or for a list that contains itself.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ConfigurationError(
                "YAML with aliases (*NAME)", hint="write the value where the alias stands"
            )
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise ConfigurationError(
            f"not YAML: {' '.join(str(e).split())}",
            hint="--generate-cli-skeleton yaml-input prints a document to fill in",
        ) from e


def format_yaml(value: Any) -> str:
    """Write one document; a lone scalar as JSON, for YAML would put an end mark behind it."""
    if not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False) + "\n"
    text: str = _pyyaml().safe_dump(value, default_flow_style=False, allow_unicode=True)
    return text
