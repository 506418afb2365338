"""The command that a hint gives to install an extra."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from tests.paths import ROOT
from vsock_proxy.service import extras

if TYPE_CHECKING:
    from pathlib import Path


def origin(path: Path, **more: object) -> str:
    return json.dumps({"url": path.as_uri(), **more})


@pytest.mark.parametrize("name", ["checkout", "a folder's"])
def test_extra_is_installed_from_where_the_project_came(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    expected = f"{folder}[parent]"
    assert shlex.split(extras.requirement(origin(folder, dir_info={}), "parent")) == [expected]
    editable = extras.requirement(origin(folder, dir_info={"editable": True}), "parent")
    assert shlex.split(editable) == ["-e", expected]


def test_name_of_an_index_is_given_only_to_who_installed_by_name() -> None:
    (word,) = shlex.split(extras.requirement(None, "parent"))
    assert Requirement(word).extras == {"parent"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"url": 1}',
        '{"url": "https://host.test/wheel.whl"}',
        '{"url": "file:///there/is/none"}',
        '{"url": "file:///", "dir_info": 1}',
    ],
)
def test_of_what_is_gone_a_checkout_is_asked_for(text: str) -> None:
    assert extras.requirement(text, "parent").startswith("'.[parent]' in a checkout")


def test_environment_in_use_is_the_one_installed_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert extras.install_command("sdk").startswith(f"{pip} install ")
    pip.unlink()
    assert extras.install_command("sdk").startswith("pip install ")


def test_no_page_sends_a_reader_to_an_index_that_does_not_have_the_project() -> None:
    """Until it is there: README says where it is installed from."""
    assert "on no package index" in (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        text = page.read_text(encoding="utf-8")
        assert "install 'nitro-enclave-agent" not in text, page
        assert "install nitro-enclave-agent" not in text, page
