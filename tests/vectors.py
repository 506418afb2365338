"""Real AWS documents and KMS answers, kept beside the repository."""

from __future__ import annotations

import pytest

from tests.paths import VECTORS


def vector(name: str) -> bytes:
    """One file of the vectors; skips the test where the folder is absent."""
    if not VECTORS.is_dir():
        pytest.skip(f"no real AWS vectors: {VECTORS.name}/ of the shared folder is not beside us")
    return (VECTORS / name).read_bytes()
