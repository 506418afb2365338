"""Real AWS documents and KMS answers, kept beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "vectors"


def vector(name: str) -> bytes:
    """One file of the vectors; skips the test where the folder is absent."""
    if not FOLDER.is_dir():
        pytest.skip(f"no real AWS vectors: {FOLDER.name}/ of the shared folder is not beside us")
    return (FOLDER / name).read_bytes()
