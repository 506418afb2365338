"""Examples in docs/testing.md and docs/concurrency.md, run as they stand; the list of ADRs; and the
paths and targets of make that any page names.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.attack.table import choose
from enclave_simulator.kms.faults import FAULTS
from tests.contracts.vsock_calls import CASES
from tests.paths import ROOT
from tests.programs.fuzz.targets import TARGETS
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

ATTACKS = choose([])

DOCUMENT = (ROOT / "docs/testing.md").read_text(encoding="utf-8")


PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
)

NOT_FILES = {
    "enclave/kms/roots.pem": "made when an image is built, and only there",
    "enclave/big": "a component of the parent's status",
    "enclave/NAME": "the same",
}
"""What looks like a path of the repository and is none, and what it is."""


def paths_in(text: str) -> set[str]:
    """What begins like a path below one of the repository's folders."""
    folders = "|".join(
        re.escape(each.name)
        for each in ROOT.iterdir()
        if each.is_dir() and not re.match(r"\.|(build|dist|.*\.egg-info)$", each.name)  # made
    )
    found = re.findall(rf"(?<![\w/.:~*{{}}$-])((?:{folders})/[\w./*-]*)", text)
    return {each.rstrip("./") for each in found}


def test_what_is_taken_for_a_path() -> None:
    text = "`enclave/a.py`, parent/b/*.py. See https://x/docs/c, /enclave/d and ./tests/e; docs/."
    assert paths_in(text) == {"enclave/a.py", "parent/b/*.py", "docs"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = paths_in(page.read_text(encoding="utf-8")) - NOT_FILES.keys()
    assert [path for path in sorted(named) if not any(ROOT.glob(path))] == []


def test_every_target_of_make_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        # In code only: "make sure" is no target.
        named = set(re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", text, re.MULTILINE))
        assert named <= targets, page


def test_the_example_of_the_fixtures_passes(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (tmp_path / "test_example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{example.count('def test_')} passed" in done.stdout


def test_the_faults_it_names_exist() -> None:
    injected = re.findall(r'faults\.inject\("([a-z-]+)', DOCUMENT)
    assert injected
    assert set(injected) <= set(FAULTS)


VARIABLE = re.compile(r"\bAWS_[A-Z0-9_]*[A-Z0-9]\b")


def test_every_variable_of_awss_is_on_a_page_and_read() -> None:
    """What the simulator alone sets or reads needs no page."""
    named, read, known = set[str](), set[str](), set[str]()
    for page in PAGES:
        named |= set(VARIABLE.findall(page.read_text(encoding="utf-8")))
    for package in ("enclave", "parent", "vsock_proxy", "enclave_simulator"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            known |= set(VARIABLE.findall(text))
            if package != "enclave_simulator":
                read |= {word for word in VARIABLE.findall(text) if f'"{word}"' in text}
    assert read - named == set()
    assert named - known == set()


COUNTED = {
    "docs/launcher.md": (r"is a table of (\d+) calls", CASES),
    "docs/attack.md": (r"^    (\d+) attacks: ", ATTACKS),
    "README.md": (r"`make attack` \| (\d+) attacks", ATTACKS),
}
"""Numbers that pages give, and what they count."""


@pytest.mark.parametrize("page", COUNTED)
def test_what_a_page_counts_has_that_number(page: str) -> None:
    pattern, counted = COUNTED[page]
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.findall(pattern, text, re.MULTILINE) == [str(len(counted))]


def test_every_target_of_the_fuzzer_has_its_figures() -> None:
    text = (ROOT / "docs/assurance.md").read_text(encoding="utf-8")
    fuzzing = text.partition("## Fuzzing")[2].partition("\n## ")[0]
    assert set(re.findall(r"^(?:\| )?`([a-z-]+)`", fuzzing, re.MULTILINE)) == set(TARGETS)


def test_the_example_of_threads_fork_and_asyncio_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs/concurrency.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    program = tmp_path / "example.py"
    program.write_text(example)
    simulator = [sys.executable, "-m", "enclave_simulator.cli", "run", "--"]
    done = subprocess.run(
        [*simulator, sys.executable, "-W", "error", str(program)],
        cwd=ROOT, capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs/adr"
    listed = re.findall(r"^- \[(.*)\]\((.*)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    titles = {
        path.name: path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        for path in folder.glob("0*.md")
    }
    assert [(titles[name], name) for name in sorted(titles)] == listed


def test_every_page_of_the_root_is_in_the_html() -> None:
    """`make docs` fails at a link to a page that it leaves out."""
    conf = runpy.run_path(str(ROOT / "docs/conf.py"))
    assert "*.md" in conf["include_patterns"]
    pages = {page.stem for page in ROOT.glob("*.md")} - {conf["root_doc"]}
    assert pages <= set(conf["CONTENTS"].split())
