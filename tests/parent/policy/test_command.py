"""``enclave-parent key-policy`` as a command: files, output, exit codes, errors."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from parent import cli
from tests.parent.eif import eifs
from tests.parent.policy.policies import A0, ADMINISTRATOR, IMAGE, KEY, PCR, ROLE
from tests.parent.policy.test_explain import REFUSAL

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parent.conftest import Identity

PEOPLE = ["--role", ROLE, "--administrator", ADMINISTRATOR]
GENERATE = ["generate", "image.eif", *PEOPLE]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.eif").write_bytes(eifs.eif())
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(["key-policy", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["key-policy", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("enclave-parent: error: ")
    return captured.err


def test_a_policy_of_an_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "policy.json").write_text(run(capsys, *GENERATE, "--deny-outside-enclave"))
    assert run(capsys, "lint", "policy.json") == ""
    allowed = run(capsys, "explain", "policy.json", "--document", "image.eif")
    assert allowed.startswith("kms:Decrypt: allowed by this policy\n")
    denied = run(capsys, "explain", "policy.json", status=1)
    assert "denied by NoUseWithoutAttestation" in denied
    assert "the request has no attestation document" in denied
    (folder / "message").write_text(REFUSAL)
    unknown = run(capsys, "explain", "policy.json", "--access-denied", "message", status=1)
    assert "not known: the attestation document of the request (--document)" in unknown
    told = ["--access-denied", "message", "--document", "image.eif"]
    assert "the policy in force is another" in run(capsys, "explain", "policy.json", *told)


def test_an_iam_policy(capsys: pytest.CaptureFixture[str]) -> None:
    policy = json.loads(run(capsys, *GENERATE[:2], "--iam"))
    assert policy["Statement"][0]["Action"] == "kms:GenerateRandom"


def test_pcrs_of_the_parent(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--condition", "PCR0", "--condition", "PCR3", "--parent-role", ROLE]
    [condition] = [
        s["Condition"]
        for s in json.loads(run(capsys, *GENERATE, *words))["Statement"]
        if "Condition" in s
    ]
    assert set(condition["StringEqualsIgnoreCase"]) == {f"{PCR}0", f"{PCR}3"}


def test_what_describe_eif_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["describe-eif", "image.eif"]) == 0
    (folder / "described.json").write_text(capsys.readouterr().out)
    one = run(capsys, *GENERATE)
    assert one == run(capsys, "generate", "image.eif", "described.json", *PEOPLE)


def test_values_of_pcrs(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "generate", f"PCR17={A0}", "--platform", "sandbox", *PEOPLE)
    assert f'"{PCR}17": "{A0}"' in out


def test_images_of_a_signer(
    folder: Path, identity: Identity, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "certificate.pem").write_bytes(identity.pem)
    assert cli.main(["pcr", "--signing-certificate", "certificate.pem"]) == 0
    (folder / "pcr.json").write_text(capsys.readouterr().out)
    words = [*PEOPLE, "--condition", "PCR8"]
    one = run(capsys, "generate", "certificate.pem", *words)
    assert one == run(capsys, "generate", "pcr.json", *words)
    assert f"{PCR}8" in one
    assert "no ImageSha384" in fail(capsys, "generate", "certificate.pem", *PEOPLE)


def test_a_rollout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "new.eif").write_bytes(
        eifs.eif([*eifs.SECTIONS[:2], (3, b"other"), *eifs.SECTIONS[3:]])
    )
    found = json.loads(run(capsys, "rollout", "image.eif", "new.eif", *PEOPLE))
    during, after = (
        found[name]["Statement"][1]["Condition"]["StringEqualsIgnoreCase"][IMAGE]
        for name in ("During", "After")
    )
    assert during[1] == after
    assert len(set(during)) == 2
    assert "the same" in fail(capsys, "rollout", "image.eif", "image.eif", *PEOPLE)


EXPECTATIONS = f"""\
principal: {ROLE}
expect:
  - name: this image
    document: ../image.eif
    may: [kms:Decrypt]
  - name: outside
    may-not: [kms:Decrypt, kms:ReEncryptFrom]
"""


def test_expectations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths in the file are relative to the file."""
    (folder / "ci").mkdir()
    (folder / "ci/expect.yaml").write_text(EXPECTATIONS)
    (folder / "policy.json").write_text(run(capsys, *GENERATE))
    out = run(capsys, "test", "policy.json", "ci/expect.yaml")
    assert out.splitlines()[0] == "ok: this image: may kms:Decrypt"
    open_to_all = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
    (folder / "policy.json").write_text(json.dumps({"Statement": open_to_all}))
    out = run(capsys, "test", "policy.json", "ci/expect.yaml", status=1)
    assert "FAILED: line 6: outside: may not kms:Decrypt\n" in out
    (folder / "ci/expect.yaml").write_text("expect: [{may: [Decrypt], document: none.eif}]")
    assert "cannot read ci/none.eif" in fail(capsys, "test", "policy.json", "ci/expect.yaml")


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_to_all = {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
    (folder / "policy.json").write_text(json.dumps({"Statement": open_to_all}))
    findings = json.loads(run(capsys, "lint", "--json", "policy.json", status=1))
    assert [(f["Rule"], f["Severity"], f["Line"]) for f in findings] == [
        ("unattested", "error", 1),
        ("grant", "warning", 1),
    ]
    explained = json.loads(run(capsys, "explain", "--json", "policy.json"))
    assert explained["Outcome"] == "ALLOWED"
    text = run(capsys, "lint", "policy.json", status=1)
    assert text.startswith("error: line 1, statement 1: anyone may do kms:Decrypt, ")
    assert "\n  change: " in text


def test_warnings_alone_are_no_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = json.loads(run(capsys, *GENERATE))
    policy["Statement"][1]["Action"].append("kms:GenerateRandom")
    (folder / "policy.json").write_text(json.dumps(policy))
    assert run(capsys, "lint", "policy.json").startswith("warning: ")


def test_what_else_a_request_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = json.loads(run(capsys, *GENERATE))
    use = policy["Statement"][1]
    use["Resource"] = KEY
    use["Condition"]["StringEquals"] = {"aws:SourceVpc": ["vpc-1"]}
    (folder / "policy.json").write_text(json.dumps(policy))
    explain = ["explain", "policy.json", "--document", "image.eif"]
    out = run(capsys, *explain, status=1)
    assert "not known: which key (--key)\n" in out
    assert "not known: the value of aws:SourceVpc" in out
    run(capsys, *explain, "--key", KEY, "--context", "aws:SourceVpc=vpc-1")
    run(capsys, *explain, "--key", KEY, "--context", "aws:SourceVpc=vpc-2", status=1)
    assert "is not KEY=VALUE" in fail(capsys, *explain, "--context", "vpc-1")


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("--principal", "enclave", "is not the ARN of a caller"),
        ("--principal", "111122223333", "is not the ARN of a caller"),
        ("--principal", "arn:aws:iam::111122223333:role/enclave ", "is not the ARN of a caller"),
        ("--principal", "arn:aws:iam::111122223333:role/*", "is not the ARN of a caller"),
        ("--principal", "arn:aws:iam::1111:role/enclave", "is not the ARN of a caller"),
        ("--principal", "*", "is not the ARN of a caller"),
        ("--key", "alias/x", "is not the ARN of a key"),
        ("--key", KEY.rpartition("/")[2], "is not the ARN of a key"),
        ("--key", KEY.replace(":key/", ":alias/"), "is not the ARN of a key"),
        ("--key", KEY + " ", "is not the ARN of a key"),
        ("--context", "a=b", "is no condition key"),
    ],
)
def test_what_no_request_has_is_no_denial(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, error: str
) -> None:
    """No statement is about a caller or a key of another name: the result would be wrong."""
    (folder / "policy.json").write_text(run(capsys, *GENERATE))
    told = fail(capsys, "explain", "policy.json", "--document", "image.eif", option, value)
    assert error in told
    assert "hint: " in told


@pytest.mark.parametrize(
    "name",
    [
        "arn:aws:iam::111122223333:root",
        "arn:aws-us-gov:iam::111122223333:user/path/name",
        "arn:aws:sts::111122223333:assumed-role/enclave/i-0123456789abcdef0",
        "s3.amazonaws.com",
    ],
)
def test_callers(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (folder / "policy.json").write_text(run(capsys, *GENERATE))
    explain = ["explain", "policy.json", "--document", "image.eif", "--principal", name]
    cli.main(["key-policy", *explain])
    assert f"by {name}: " in capsys.readouterr().out


def test_a_claim_about_the_request_is_made_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last of two documents was taken, and the first of no account."""
    (folder / "policy.json").write_text(run(capsys, *GENERATE))
    for option, value in (("--document", "image.eif"), ("--key", KEY), ("--principal", ROLE)):
        with pytest.raises(SystemExit) as caught:
            cli.main(["key-policy", "explain", "policy.json", option, value, option, value])
        assert caught.value.code == 2
        assert f"argument {option}: given twice" in capsys.readouterr().err


def test_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = run(capsys, *GENERATE)

    class Input:
        buffer = io.BytesIO(json.dumps({"Policy": policy}).encode())

    monkeypatch.setattr(sys, "stdin", Input())
    assert run(capsys, "lint", "-") == ""
    Input.buffer = io.BytesIO(b" " * 1_000_000)
    assert "standard input has more than" in fail(capsys, "lint", "-")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n  "Statement": [,]\n}', "policy.json:2:17: not JSON: "),
        (b"", "policy.json:1:1: not JSON"),
        (b"\xff\xfe{", "policy.json: not text"),
        (b" " * 1_000_000, "policy.json is larger than"),
    ],
)
def test_what_is_not_a_policy(
    folder: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "policy.json").write_bytes(content)
    assert message in fail(capsys, "lint", "policy.json")


def test_names_of_files_are_shown_without_control_characters(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a\x1b[2J").write_bytes(b"x")
    assert "\x1b" not in fail(capsys, "lint", "a\x1b[2J")
    assert "\x1b" not in fail(capsys, "generate", "a\x1b[2J", *PEOPLE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "image.eif"], "needs --role and --administrator"),
        (["rollout", "image.eif", "image.eif"], "needs --role and --administrator"),
        (["generate", "text", *PEOPLE], "text: neither an attestation document"),
        (["generate", "none", *PEOPLE], "cannot read none"),
        ([*GENERATE, "--platform", "instance"], "and --platform says instance"),
        ([*GENERATE, "--condition", "PCR2"], "rejected by lint"),
        (["explain", "image.eif", "--action", "kms:Decypt"], "KMS has no action 'kms:Decypt'"),
    ],
)
def test_what_cannot_be_done(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "text").write_bytes(b"in it")
    assert message in fail(capsys, *words)


def test_a_damaged_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "image.eif").write_bytes(eifs.eif()[:-1] + b"\0")
    assert "the CRC is wrong" in fail(capsys, *GENERATE)


def test_help_names_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["generate"], ["lint"], ["explain"], ["test"], ["rollout"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["key-policy", *words, "--help"])
        assert caught.value.code == 0
        assert capsys.readouterr().out
