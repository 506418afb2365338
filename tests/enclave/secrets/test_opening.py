"""What the program gets, from which files, by which calls; and why it gets nothing."""

from __future__ import annotations

import argparse
import base64
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave.errors import ConfigurationError, KmsUnreachableError
from enclave.secrets.delivery import memory_files, path_of
from enclave.secrets.errors import SecretError
from enclave.secrets.opening import Given, open_secrets
from enclave.secrets.options import SecretOptions, add_options
from parent.secrets.sops import WrappedKey
from tests.enclave.secrets.sealing import ARN, KEY, OTHER_ARN, Kms, seal

if TYPE_CHECKING:
    from collections.abc import Mapping

FDS = Path("/proc/self/fd")

DOTENV = "DB=hunter2\nURL=postgres://a=b\nEMPTY=\n"
JSON = '{"a": {"b.c": "dotted", "n": 5, "t": true, "f": 2.0}, "l": ["x", {"y": "z"}], "s": "top"}'
RAW = b"raw ciphertext \xff"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {
        "s.env": seal(DOTENV, "dotenv"),
        "s.json": seal(JSON, "json"),
        "s.yaml": seal("a: 1\nb: [yes, 2020-01-01, 1e3]\n", "yaml"),
        "two.yaml": seal("a: 1\n---\nb: 2\n", "yaml"),
        "bin": seal(b"\x00\xffbytes", "binary"),
        "text": seal("text", "binary"),
        "raw": RAW,
        "base64": base64.encodebytes(RAW),
    }.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def kms() -> Kms:
    known = {b"wrapped": (ARN, {}, KEY), RAW: (ARN, {"app": "demo"}, b"raw secret")}
    return Kms(known)


def options(folder: Path, *words: str) -> SecretOptions:
    parser = argparse.ArgumentParser()
    add_options(parser)
    arguments = parser.parse_args([word.replace("@", f"{folder}/") for word in words])
    found = SecretOptions.from_args(arguments, command=True)
    assert found
    return found


def given(folder: Path, *words: str, agents: Mapping[str, Kms] | None = None) -> Given:
    return open_secrets(options(folder, *words), agents or {"us-east-1": kms()})


CONTEXT = ("--secret-context", "app=demo")

GIVEN: dict[tuple[str, ...], tuple[dict[str, str], dict[str, bytes]]] = {
    ("--secret-env", "@s.env"): ({"DB": "hunter2", "URL": "postgres://a=b", "EMPTY": ""}, {}),
    ("--secret", "X=@s.env#DB"): ({"X": "hunter2"}, {}),
    ("--secret", "X=@text"): ({"X": "text"}, {}),
    ("--secret", "X=@raw", *CONTEXT): ({"X": "raw secret"}, {}),
    ("--secret", "X=@base64", *CONTEXT): ({"X": "raw secret"}, {}),
    ("--secret", "X=@raw", "--secret-key", ARN, *CONTEXT): ({"X": "raw secret"}, {}),
    ("--secret", "X=@s.json#a.b.c"): ({"X": "dotted"}, {}),
    ("--secret", "X=@s.json#a.n", "--secret", "Y=@s.json#a.t"): ({"X": "5", "Y": "true"}, {}),
    ("--secret", "X=@s.json#l.1.y", "--secret", "Y=@s.json#a.f"): ({"X": "z", "Y": "2"}, {}),
    ("--secret-file", "F=@bin"): ({}, {"F": b"\x00\xffbytes"}),
    ("--secret-file", "F=@raw", *CONTEXT): ({}, {"F": b"raw secret"}),
    ("--secret-file", "F=@s.env"): ({}, {"F": DOTENV.encode()}),
    ("--secret-file", "F=@s.json#s"): ({}, {"F": b"top"}),
    ("--secret-file", "F=@s.json#l"): ({}, {"F": b'[\n  "x",\n  {\n    "y": "z"\n  }\n]\n'}),
    ("--secret-file", "F=@two.yaml"): ({}, {"F": b'{\n  "a": 1\n}\n---\n{\n  "b": 2\n}\n'}),
    ("--secret-file", "F=@s.yaml"): (
        {},
        {"F": b'{\n  "a": 1,\n  "b": [\n    "yes",\n    "2020-01-01",\n    1000\n  ]\n}\n'},
    ),
}


@pytest.mark.parametrize("words", GIVEN)
def test_a_program_is_given_what_the_options_name(folder: Path, words: tuple[str, ...]) -> None:
    found = given(folder, *words)
    assert (found.variables, found.files) == GIVEN[words]
    assert "hunter2" not in f"{found} {options(folder, *words)}"


def test_a_file_that_is_named_twice_is_opened_once(folder: Path) -> None:
    agent = kms()
    given(
        folder, "--secret", "X=@s.env#DB", "--secret", "Y=@s.env#URL", agents={"us-east-1": agent}
    )
    assert agent.calls == [b"wrapped"]


FAULTS: dict[tuple[str, ...], str] = {
    ("--secret", "X=@raw"): "InvalidCiphertextException",
    ("--secret", "X=@raw", "--secret-context", "app=other"): "InvalidCiphertextException",
    ("--secret", "X=@raw", "--secret-key", OTHER_ARN, *CONTEXT): "IncorrectKeyException",
    ("--secret", "X=@s.env"): "format dotenv has several values",
    ("--secret", "X=@s.json#a"): "not a single value",
    ("--secret", "X=@s.json#none"): "no value 'none'",
    ("--secret", "X=@s.json#l.2"): "no value 'l.2'",
    ("--secret", "X=@s.json#l.0000000001"): "not a single value",
    ("--secret", "X=@s.json#l.-1"): "no value 'l.-1'",
    ("--secret", "X=@s.json#s.s"): "no value 's.s'",
    ("--secret", "X=@raw#a", *CONTEXT): "has no keys",
    ("--secret", "X=@bin"): "has a NUL",
    ("--secret", "X=@two.yaml#a"): "2 documents",
    ("--secret-env", "@two.yaml"): "2 documents",
    ("--secret-env", "@s.json"): "'a' in it is not a single value",
    ("--secret-env", "@raw", *CONTEXT): "has no names",
    ("--secret-env", "@s.env", "--secret", "DB=@text"): "variable DB is given two secrets",
    ("--secret-env", "@s.env", "--secret-file", "DB=@text"): "variable DB is given two secrets",
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_secret_that_cannot_be_given_is_one_error(folder: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(SecretError, match=FAULTS[words]) as raised:
        given(folder, *words)
    assert str(raised.value).startswith("--secret")
    assert "hunter2" not in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize("name", ["NO_PROXY", "1A", "A B"])
def test_a_file_cannot_name_every_variable(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.env").write_bytes(seal(f"{name}=x\n", "dotenv"))
    with pytest.raises(SecretError, match=r"not the name of a variable|is set by the agent"):
        given(tmp_path, "--secret-env", "@s.env")


def test_a_value_too_long_for_a_variable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(seal("x" * 131_070, "binary"))
    with pytest.raises(SecretError, match="too long for a variable"):
        given(tmp_path, "--secret", "X=@long")
    (tmp_path / "long").write_bytes(seal("x" * 131_069, "binary"))
    assert len(given(tmp_path, "--secret", "X=@long").variables["X"]) == 131_069


OPTION_FAULTS: dict[tuple[str, ...], str] = {
    ("--secret", "=@ct"): "--secret: not NAME=FILE",
    ("--secret-file", "=@ct"): "--secret-file: not NAME=FILE",
    ("--secret", "X=@missing"): "cannot read .*missing: No such file",
    ("--secret", "X=@"): "is not a regular file|cannot read",
    ("--secret", "X=@fifo"): "is not a regular file",
    ("--secret", "X=@empty"): "0 bytes",
    ("--secret", "X=@large"): "more than",
    ("--secret", "X=@cut"): "base64 that is cut off",
    ("--secret", "X=@plain"): "text, and neither base64 nor a file of SOPS",
    ("--secret-env", "@plain"): "text, and neither base64 nor a file of SOPS",
    ("--secret", "X=@long"): "6145 bytes; KMS takes 1 to 6144",
    ("--secret", "NO_PROXY=@raw"): "NO_PROXY is set by the agent",
    ("--secret", "A-B=@raw"): "is not the name of a variable",
    ("--secret", "X=@raw", "--secret-file", "X=@raw"): "X is given two secrets",
    ("--secret-context", "a=b"): "without a secret",
    ("--secret", "X=@raw", "--secret-context", "a=b", "--secret-context", "a=c"): "given twice",
}


@pytest.mark.parametrize("words", OPTION_FAULTS)
def test_options_that_cannot_work_are_told_before_anything_starts(
    folder: Path, words: tuple[str, ...]
) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "empty").touch()
    (folder / "large").write_bytes(bytes(1 << 21))
    (folder / "cut").write_bytes(b"AQICA")
    (folder / "plain").write_text("# not sealed yet\nDB=hunter2\n")
    (folder / "long").write_bytes(bytes(6_145))
    with pytest.raises(ConfigurationError, match=OPTION_FAULTS[words]) as raised:
        options(folder, *words)
    assert "hunter2" not in f"{raised.value} {raised.value.hint}"


def test_a_secret_needs_a_program(folder: Path) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    arguments = parser.parse_args(["--secret", f"X={folder}/raw"])
    with pytest.raises(ConfigurationError, match="without a COMMAND"):
        SecretOptions.from_args(arguments, command=False)


def two_keys() -> bytes:
    return seal(
        DOTENV,
        "dotenv",
        keys=[WrappedKey(ARN, b"wrapped", {}), WrappedKey(OTHER_ARN, b"in Ireland", {"a": "b"})],
    )


def ireland() -> Kms:
    return Kms({b"in Ireland": (OTHER_ARN, {"a": "b"}, KEY)})


def test_a_file_opens_by_whichever_of_its_keys_works(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(two_keys())
    for agents in (
        {"us-east-1": kms()},
        {"eu-west-1": ireland()},
        {"us-east-1": Kms({}), "eu-west-1": ireland()},
    ):
        assert given(tmp_path, "--secret-env", "@s", agents=agents).variables["DB"] == "hunter2"


def test_a_file_that_no_key_opens_names_each(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(two_keys())
    with pytest.raises(SecretError, match=f"no key opens it: {ARN}: .*; {OTHER_ARN}: "):
        given(tmp_path, "--secret-env", "@s", agents={"us-east-1": Kms({}), "eu-west-1": Kms({})})
    with pytest.raises(SecretError, match="are in eu-west-1, us-east-1, and this agent serves x"):
        given(tmp_path, "--secret-env", "@s", agents={"x": Kms({})})


def test_a_foreign_data_key_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(seal(DOTENV, "dotenv"))
    for key in (bytes(32), bytes(16), b"x"):
        agents = {"us-east-1": Kms({b"wrapped": (ARN, {}, key)})}
        with pytest.raises(SecretError, match=r"does not open with|its data key has"):
            given(tmp_path, "--secret-env", "@s", agents=agents)


def test_no_call_begins_once_the_time_is_over(folder: Path) -> None:
    times = iter((0.0, 1.0, 121.0))
    found = options(folder, "--secret", "X=@s.env#DB", "--secret", "Y=@text")
    with pytest.raises(SecretError, match=r"Y=.*KMS needed more than 120 s"):
        open_secrets(found, {"us-east-1": kms()}, monotonic=lambda: next(times))


def test_an_error_of_kms_keeps_its_hint(folder: Path) -> None:
    class Unreachable(Kms):
        def decrypt(self, *_: object, **__: object) -> None:  # type: ignore[override]
            raise KmsUnreachableError("no response")

    with pytest.raises(SecretError, match=r"--secret X=.*: no response") as raised:
        given(folder, "--secret", "X=@text", agents={"us-east-1": Unreachable()})
    assert "vsock-proxy" in raised.value.hint


def test_files_in_memory_cannot_be_written_and_end_with_the_block() -> None:
    before = len(list(FDS.iterdir()))
    with memory_files({"A": b"x" * 300_000, "B": b""}, None) as made:
        first, second = (Path(path_of(made[name])) for name in "AB")
        with first.open("rb") as one, first.open("rb") as other:
            assert one.read() == other.read() == b"x" * 300_000
        assert stat.S_ISREG(second.stat().st_mode)
        assert stat.S_IMODE(second.stat().st_mode) == 0o400
        with pytest.raises(OSError, match="not permitted"):
            os.write(made["A"], b"y")
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(made["A"], 1)
    assert len(list(FDS.iterdir())) == before
