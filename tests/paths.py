"""Where things are: the project's root, and the vectors beside the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

VECTORS = ROOT.parent / "shared" / "vectors"
"""Real documents and responses of AWS, not part of the project: tests skip without them."""
