"""Inputs out of public bug reports and public policies, reduced, with their right answers.

Written anew here, so that they always run; the originals in the shared folder are read as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parent import cli
from tests.parent.policy.policies import KEY, PCR, ROLE, SESSION, TPM, statement

SHARED = Path(__file__).resolve().parents[4] / "shared" / "cases"

PCR0, OTHER = "287b" * 24, "ab" * 48
IMAGE = "kms:RecipientAttestation:ImageSha384"
ADMIN = "arn:aws:iam::111122223333:role/admin"


def policy(*statements: dict[str, Any]) -> dict[str, Any]:
    administration = statement(
        Sid="Administration",
        Principal={"AWS": ADMIN},
        Action=["kms:PutKeyPolicy", "kms:DescribeKey", "kms:GetKeyPolicy"],
        Condition=None,
    )
    return {"Version": "2012-10-17", "Statement": [administration, *statements]}


def enclave(key: str = f"{PCR}0", value: Any = PCR0, **changes: Any) -> dict[str, Any]:
    condition = {"StringEqualsIgnoreCase": {key: value}}
    return statement(**{"Sid": "Enclave", "Condition": condition, **changes})


POLICIES: dict[str, Any] = {
    "sign-under-pcr0.json": policy(enclave(IMAGE, Action=["kms:Sign"])),
    "encrypt-under-pcr8.json": policy(
        enclave(
            f"{PCR}8",
            OTHER,
            Action=["kms:Encrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:GetKeyPolicy",
                    "kms:Decrypt"],
        )
    ),
    "generate-random-in-key-policy.json": policy(enclave(Action=["kms:GenerateRandom"])),
    "deny-null-of-no-such-key.json": policy(
        enclave(),
        statement(
            Sid="DenyOutside",
            Effect="Deny",
            Principal={"AWS": "*"},
            Condition={"Null": {"kms:RecipientAttestation": "true"}},
        ),
    ),
    "pcr32.json": policy(enclave(f"{PCR}32")),
    "operator-in-wrong-case.json": policy(
        enclave(Condition={"StringEqualsIgnorecase": {f"{PCR}0": PCR0}})
    ),
    "no-value.json": policy(enclave(value=[])),
    "anyone-with-this-image.json": policy(enclave(Principal="*")),
    "deleted-role.json": policy(enclave(Principal={"AWS": "AROAEXAMPLEEXAMPLEID"})),
    "role-wildcard.json": policy(enclave(Principal={"AWS": "arn:aws:iam::111122223333:role/*"})),
    "get-key-policy-query-policy.json": json.dumps(policy(enclave())),
    "one-statement.json": {"Version": "2012-10-17", "Statement": enclave()},
    "nitrotpm-documented-shape.json": policy(
        enclave(Condition={"StringEqualsIgnoreCase": {f"{TPM}4": PCR0, f"{TPM}12": OTHER}})
    ),
    "nitrotpm-pcr4-alone.json": policy(enclave(f"{TPM}4")),
    "sandbox-pcr17.json": policy(
        enclave(f"{PCR}17"),
        statement(
            Sid="NobodyElse",
            Effect="Deny",
            Principal={"AWS": "*"},
            Action=["kms:Decrypt", "kms:ReEncryptFrom"],
            Condition={"StringNotEqualsIgnoreCase": {f"{PCR}17": PCR0}},
        ),
    ),
}  # fmt: skip

MEASUREMENTS = {"HashAlgorithm": "Sha384 { ... }", "PCR0": PCR0, "PCR1": OTHER, "PCR2": OTHER}


def running(name: str, flags: str = "NONE") -> dict[str, Any]:
    return {
        "EnclaveName": name, "EnclaveID": f"i-0-{name}", "State": "RUNNING", "Flags": flags,
        "Measurements": MEASUREMENTS,
    }  # fmt: skip


INPUTS: dict[str, Any] = {
    "build.json": {"Measurements": MEASUREMENTS},
    "describe-enclaves-debug.json": [running("app", "DEBUG_MODE")],
    "describe-enclaves-two.json": [running("app"), running("other")],
    "nitro-tpm-pcr-compute.json": {
        "Measurements": {"HashAlgorithm": "SHA384", "PCR4": PCR0, "PCR7": OTHER, "PCR12": OTHER}
    },
    "access-denied-sign.txt": (
        f"AccessDeniedException: User: {SESSION} is not authorized to perform: kms:Sign on "
        f"resource: {KEY} because no resource-based policy allows the kms:Sign action"
    ),
    "access-denied-explicit.txt": (
        f"User: {SESSION} is not authorized to perform: kms:Decrypt on resource: {KEY} with an "
        "explicit deny in a resource-based policy"
    ),
}


@pytest.fixture(params=["written anew", "shared"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with all of the inputs."""
    if request.param == "shared":
        if not SHARED.is_dir():
            pytest.skip("no shared cases: cases/ of the shared folder is not beside us")
        for kind in ("policies", "measurements"):
            for path in (SHARED / kind).iterdir():
                (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path
    for name, value in {**POLICIES, **INPUTS}.items():
        text = value if name.endswith(".txt") else json.dumps(value, indent=1)
        (tmp_path / name).write_text(text)
    return tmp_path


def key_policy(
    capsys: pytest.CaptureFixture[str], folder: Path, *words: str
) -> tuple[int, str, str]:
    paths = [str(folder / word) if (folder / word).is_file() else word for word in words]
    status = cli.main(["key-policy", *paths])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("name", "options", "rules"),
    [
        ("sign-under-pcr0.json", [], ["no-recipient"]),
        ("encrypt-under-pcr8.json", [], ["no-recipient"]),
        ("generate-random-in-key-policy.json", [], ["no-key"]),
        ("deny-null-of-no-such-key.json", [], ["key", "always-denied"]),
        ("pcr32.json", [], ["key"]),
        ("operator-in-wrong-case.json", [], ["operator"]),
        ("no-value.json", [], ["no-value"]),
        ("anyone-with-this-image.json", [], ["anyone"]),
        ("deleted-role.json", [], ["deleted-principal"]),
        ("role-wildcard.json", [], ["principal-wildcard"]),
        ("get-key-policy-query-policy.json", [], []),
        ("one-statement.json", ["--immutable"], []),
        ("nitrotpm-documented-shape.json", [], []),
        ("nitrotpm-documented-shape.json", ["--platform", "instance"], []),
        ("nitrotpm-pcr4-alone.json", [], ["command-line"]),
        ("sandbox-pcr17.json", ["--platform", "sandbox"], []),
        ("sandbox-pcr17.json", [], ["any-image"]),
    ],
)
def test_lint(
    name: str,
    options: list[str],
    rules: list[str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = key_policy(capsys, folder, "lint", name, *options, "--json")
    findings = json.loads(out)
    assert [finding["Rule"] for finding in findings] == rules
    assert (status, err) == (int(bool(rules)), "")
    lines = (folder / name).read_text().splitlines()
    for finding in findings:
        assert lines[finding["Line"] - 1].strip() == "{"
        assert finding["Severity"] == "error"
        assert finding["Change"]


@pytest.mark.parametrize(
    ("name", "words", "texts"),
    [
        (
            "sign-under-pcr0.json",
            ["--access-denied", "access-denied-sign.txt"],
            ["kms:Sign by arn:aws:sts:", "not allowed", "requests for kms:Sign take no Recipient"],
        ),
        *(
            (
                "encrypt-under-pcr8.json",
                ["--document", "build.json", "--action", action, "--principal", ROLE],
                ["not allowed", f"requests for {action} take no Recipient"],
            )
            for action in ("kms:Encrypt", "kms:GenerateDataKeyWithoutPlaintext", "kms:GetKeyPolicy")
        ),
        (
            "encrypt-under-pcr8.json",
            ["--document", "build.json", "--action", "kms:GetKeyPolicy"],
            ["cannot be told", "not known: who calls"],
        ),
        (
            "encrypt-under-pcr8.json",
            ["--document", "build.json"],
            ["not allowed", "the image is not signed: PCR8 is zero"],
        ),
        (
            "generate-random-in-key-policy.json",
            ["--document", "build.json", "--action", "kms:GenerateRandom"],
            ["governed by IAM policies"],
        ),
        (
            "deny-null-of-no-such-key.json",
            ["--access-denied", "access-denied-explicit.txt"],
            ["denied by DenyOutside", "KMS has no such condition key"],
        ),
        (
            "deny-null-of-no-such-key.json",
            ["--document", "build.json"],
            ["denied by DenyOutside", "KMS has no such condition key"],
        ),
        ("pcr32.json", ["--document", "build.json"], ["not allowed", "no such condition key"]),
        (
            "operator-in-wrong-case.json",
            ["--document", "build.json"],
            ["not allowed", "write StringEqualsIgnoreCase"],
        ),
        ("no-value.json", ["--document", "build.json"], ["not allowed", "no value is listed"]),
        ("deleted-role.json", ["--document", "build.json"], ["not allowed"]),
        ("role-wildcard.json", ["--document", "build.json"], ["not allowed"]),
        (
            "one-statement.json",
            ["--document", "describe-enclaves-debug.json"],
            ["not allowed", "debug mode", f"    wanted {PCR0[:4]}", f"    got    {'0' * 96}"],
        ),
    ],
)
def test_explain_refuses(
    name: str,
    words: list[str],
    texts: list[str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = key_policy(capsys, folder, "explain", name, *words)
    assert (status, err) == (1, "")
    assert "allowed by this policy" not in out
    for text in texts:
        assert text in out


@pytest.mark.parametrize(
    "name",
    ["one-statement.json", "get-key-policy-query-policy.json", "anyone-with-this-image.json"],
)
def test_explain_allows(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [name, "--document", "build.json", "--principal", ROLE]
    status, out, _ = key_policy(capsys, folder, "explain", *words)
    assert status == 0
    assert out.startswith(f"kms:Decrypt by {ROLE}: allowed by this policy\n")


PEOPLE = ["--role", ROLE, "--administrator", ADMIN]


def test_zeros_of_debug_mode_are_not_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "describe-enclaves-debug.json", *PEOPLE]
    status, out, err = key_policy(capsys, folder, *words)
    assert (status, out) == (1, "")
    assert "debug mode" in err


def test_one_of_two_enclaves_is_chosen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["generate", *PEOPLE], ["explain", "one-statement.json", "--document"]):
        status, out, err = key_policy(capsys, folder, *words, "describe-enclaves-two.json")
        assert (status, out) == (1, "")
        assert "which enclave? nitro-cli lists app (i-0" in err
        assert ", other (i-0" in err
        assert "--enclave" in err
    words = ["generate", "describe-enclaves-two.json", "--enclave", "app", *PEOPLE]
    status, out, _ = key_policy(capsys, folder, *words)
    assert status == 0
    assert IMAGE in out


def test_a_policy_for_a_nitro_tpm(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "nitro-tpm-pcr-compute.json", *PEOPLE]
    status, out, _ = key_policy(capsys, folder, *words)
    assert status == 0
    [condition] = [s["Condition"] for s in json.loads(out)["Statement"] if "Condition" in s]
    assert set(condition["StringEqualsIgnoreCase"]) == {f"{TPM}4", f"{TPM}12"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared cases: cases/ is not beside us")
def test_every_shared_document(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy_path = tmp_path / "policy.json"
    printed = set()
    for path in sorted((SHARED / "documents").iterdir()):
        assert cli.main(["key-policy", "generate", str(path), *PEOPLE]) == 0
        policy_path.write_text(capsys.readouterr().out)
        printed.add(policy_path.read_text())
        assert cli.main(["key-policy", "explain", str(policy_path), "--document", str(path)]) == 0
        capsys.readouterr()
    assert len(printed) == 1
