"""Makes HTML of README and docs/*.md with Sphinx: ``make docs``. docs/api.md has the docstrings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "nitro-enclave-agent"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md"]
html_theme = "alabaster"
html_theme_options = {"page_width": "auto", "body_max_width": "60em", "fixed_sidebar": True}
html_show_copyright = False

# A link to a heading is checked as well as a link to a file.
myst_heading_anchors = 4
# Pages begin where their text does: some have one heading, of any level.
suppress_warnings = ["myst.header"]

CONTENTS = """

```{toctree}
:glob:
:hidden:

CONTRIBUTING
SECURITY
CHANGELOG
docs/*
docs/adr/*
```
"""


def setup(app: Sphinx) -> None:
    """Add the list of pages, which README on its own does not need."""
    app.connect("source-read", _add_contents)


def _add_contents(_: Sphinx, name: str, source: list[str]) -> None:
    if name == root_doc:
        source[0] += CONTENTS
