"""The daemon's file: every mistake with its line, all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from parent.cli import main
from parent.credentials import CredentialSettings
from parent.daemon.configuration import Configuration, load_configuration
from vsock_proxy.errors import ConfigurationError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress, VsockAddress

if TYPE_CHECKING:
    from pathlib import Path


NOT_VSOCK = "must not be a vsock address: metrics are not for enclaves"


def load(tmp_path: Path, text: str) -> Configuration:
    path = tmp_path / "parent.yaml"
    path.write_text(text)
    return load_configuration(path)


def mistakes(tmp_path: Path, text: str) -> list[str]:
    """Each error, after the path."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    errors = getattr(caught.value, "errors", (caught.value,))
    return [str(e).removeprefix(f"{tmp_path}/parent.yaml:") for e in errors]


def test_one_section_is_enough(tmp_path: Path) -> None:
    assert load(tmp_path, "credentials: {cids: [16]}") == Configuration(
        credentials=CredentialSettings(cids=frozenset({16}))
    )


def test_credentials(tmp_path: Path) -> None:
    found = load(
        tmp_path, "credentials: {listen: 'vsock://3:9', cids: any, profile: enclave}"
    ).credentials
    assert found == CredentialSettings(VsockAddress(3, 9), None, "enclave")
    found = load(tmp_path, "credentials: {listen: 'unix:/run/c'}").credentials
    assert found == CredentialSettings(UnixAddress("/run/c"))


@pytest.mark.parametrize("text", ["16", "all", "", "{}"])
def test_the_hint_for_cids_that_are_not_a_list(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="1: cids: ") as caught:
        load(tmp_path, f"credentials: {{cids: {text}}}")
    assert "cids: [16]" in caught.value.hint


def test_operations(tmp_path: Path) -> None:
    operations = load(tmp_path, "operations: {listen: 'tcp://127.0.0.1:9100'}").operations
    assert operations
    assert operations.listen == TcpAddress("127.0.0.1", 9100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("credentials: {}", "1: credentials: key 'cids' is missing"),
        ("credentials: {cids: [3]}", "1: cids: '3' is not an integer in 4..4294967294"),
        ("credentials: {cids: all}", "1: cids: 'all' is not one of: any, a list of CIDs"),
        (
            "credentials:\n  listen: tcp://10.0.0.1:80",
            "2: listen: 10.0.0.1 is not a loopback address",
        ),
        ("credentials:\n  listen: tcp://localhost:80", "2: listen: localhost is not a loopback"),
        ("credentials: {listen: 'unix:/c', cids: any}", "1: cids: only for a vsock listener"),
        ("credentials: {cids: any, profil: x}", "1: credentials: unknown key 'profil' (did you"),
        ("operations: {}", "1: operations: key 'listen' is missing"),
        ("operations: {listen: 'vsock://any:9100'}", "1: listen: must not be a vsock address"),
        ("operations: {listen: 'hvsock:///v:9100'}", "1: listen: must not be a vsock address"),
        ("proxi: {}", "1: unknown key 'proxi' (did you mean proxy?)"),
        ("{}", "1: there is nothing to run"),
        ("- proxy", "1: a list, not a mapping"),
        (
            "credentials: {listen: 'unix:/x'}\noperations: {listen: 'unix:/x'}",
            "2: listen: unix:/x is taken: `credentials` listens on unix:/x (line 1)",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = mistakes(tmp_path, text)
    assert found.startswith(expected)


def test_all_sections_are_looked_at(tmp_path: Path) -> None:
    text = """\
proxy:
  forwards:
  - {listen: vsock://any:8000, to: "tcp://kms.example:443"}
credentials:
  cids: [2]
logs: {}
enclaves: [{name: "a/b"}]
operations: {listen: 9100}
others: 1
"""
    lines = [found.split(":")[0] for found in mistakes(tmp_path, text)]
    assert sorted(set(lines)) == ["3", "5", "6", "7", "8", "9"]


def test_check_config_prints_every_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "parent.yaml"
    path.write_text("credentials: {}\noperations: {listen: 'vsock://3:1'}\n")
    assert main(["check-config", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        f"enclave-parent: error: {path}:1: credentials: key 'cids' is missing",
        "enclave-parent: hint: for certain enclaves, write cids: [16]; for all, cids: any",
        f"enclave-parent: error: {path}:2: listen: {NOT_VSOCK}",
        "enclave-parent: hint: write tcp://127.0.0.1:9100 or unix:/PATH",
    ]


def test_check_config_of_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "parent.yaml"
    path.write_text("credentials: {cids: any}\n")
    for named in ([str(path)], ["--config", str(path)]):  # or as with the other commands
        assert main(["check-config", *named]) == 0
        assert capsys.readouterr().out == f"{path}: ok\n"


def test_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "/nonexistent/parent.yaml"]) == 1
    assert "cannot read /nonexistent/parent.yaml: No such file" in capsys.readouterr().err
