"""The main job on each platform, as processes: a sandbox and an instance beside the enclave."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

import pytest

from enclave.errors import ConfigurationError
from enclave_simulator.authority import Authority
from enclave_simulator.launcher import command
from enclave_simulator.nitrotpm import SimulatedNitroTpm
from enclave_simulator.nsm import SANDBOX_POLICY, measure
from parent import cli as parent_cli
from tests.chain.commands import AGENT, OPENED, SIMULATOR, USE_KEY, run, run_contract, run_main_job
from tests.enclave_simulator.launcher.rig import namespaces_refused

if TYPE_CHECKING:
    from pathlib import Path

ROLE = "arn:aws:iam::000000000000:role/simulated"
ADMINISTRATOR = "arn:aws:iam::000000000000:role/administrator"


@pytest.mark.parametrize(
    ("options", "attested", "source"),
    [
        (("--platform", "sandbox"), r"enc[0-9a-f]+, PCR17", "the container credentials service"),
        (("--platform", "instance"), r"tpm[0-9a-f]+, PCR4", "the instance metadata service"),
        (
            ("--platform", "sandbox", "--credentials", "task", "--no-namespaces"),
            r"enc[0-9a-f]+, PCR17",
            "the container credentials service",
        ),
    ],
    ids=["pod", "instance", "task-on-loopback"],
)
def test_the_main_job(options: tuple[str, ...], attested: str, source: str) -> None:
    is_alone = "--no-namespaces" not in options
    if is_alone and namespaces_refused():
        pytest.skip(namespaces_refused())
    host = r"kms\.[a-z0-9-]+\.amazonaws\.com" if is_alone else r"127\.0\.0\.1"
    run_main_job(
        *options,
        hops=[
            f"attested by i-[0-9a-f]+-{attested} [0-9a-f]{{96}}: attestation document of",
            f"credentials from {source}, valid until",
            rf"connected to {host}, TLSv1\.3",
            OPENED,
        ],
    )


def test_serve_on_an_instance_is_quiet() -> None:
    call = "boto3.client('kms').generate_random(NumberOfBytes=9)"
    boto3 = (sys.executable, "-c", f"import boto3; print(len({call}['Plaintext']))")
    served = run(*SIMULATOR, "--platform", "instance", "--", *AGENT, "serve", "--", *boto3)
    assert (served.stdout, served.stderr, served.returncode) == ("9\n", "", 0)


@pytest.mark.parametrize("options", [(), ("--no-namespaces",)], ids=["own", "loopback"])
@pytest.mark.parametrize("platform", ["instance", "sandbox"])
def test_nothing_of_the_developers_comes_before_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, options: tuple[str, ...]
) -> None:
    """Neither credentials in ~/.aws, nor an endpoint of another emulator, nor a proxy."""
    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id = AKIAREAL\naws_secret_access_key = real\n"
    )
    (folder / "config").write_text("[default]\nendpoint_url = http://localhost:4566\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:4566")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    call = "boto3.client('kms').generate_random(NumberOfBytes=9)"
    boto3 = (sys.executable, "-c", f"import boto3; print(len({call}['Plaintext']))")
    done = run(*SIMULATOR, "--platform", platform, *options, "--", *boto3)
    assert (done.stdout, done.stderr, done.returncode) == ("9\n", "", 0)


def test_the_device_keeps_the_attesters_contract() -> None:
    run_contract(
        *("--platform", "instance"),
        suite="tests/contracts/test_attester.py",
        keyword="dev_tpm",
        at_least=5,
    )


def key_policy(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert parent_cli.main(["key-policy", *words]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


@pytest.mark.long
@pytest.mark.parametrize("platform", ["instance", "sandbox"])
def test_a_generated_policy_is_clean_and_kms_honours_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], platform: str
) -> None:
    """AWS's documented shape: PCR4 and PCR12 of an instance, PCR17 of a sandbox."""
    if platform == "instance":
        pcrs = SimulatedNitroTpm(Authority.generate()).pcrs
        measurements = {f"PCR{index}": pcrs[index].hex() for index in (4, 7, 12)}
        computed = tmp_path / "measurements.json"
        computed.write_text(
            json.dumps({"Measurements": {"HashAlgorithm": "SHA384", **measurements}})
        )
        source = [str(computed)]
        conditions = {
            f"kms:RecipientAttestation:NitroTPM{name}": measurements[name]
            for name in ("PCR4", "PCR12")
        }
    else:
        value = measure(SANDBOX_POLICY).hex()
        source = [f"PCR17={value}", "--platform", "sandbox"]
        conditions = {"kms:RecipientAttestation:PCR17": value}
    text = key_policy(
        capsys, "generate", *source, "--role", ROLE, "--administrator", ADMINISTRATOR,
        "--deny-outside-enclave",
    )  # fmt: skip
    policy = json.loads(text)
    assert policy["Statement"][1]["Condition"] == {"StringEqualsIgnoreCase": conditions}
    assert {"kms:Decrypt", "kms:ReEncryptFrom"} <= set(policy["Statement"][2]["Action"])
    path = tmp_path / "policy.json"
    path.write_text(text)
    assert "error" not in key_policy(capsys, "lint", str(path), "--platform", platform)
    options = ("--key=alias/demo", f"--key-policy=alias/demo={path}")
    use = ("--", *USE_KEY)
    allowed = run(*SIMULATOR, "--platform", platform, *options, *use)
    assert (allowed.stdout, allowed.stderr, allowed.returncode) == ("True\n", "", 0)
    if platform == "instance":
        denied = run(*SIMULATOR, *options, *use)
        assert (denied.stdout, denied.stderr) == ("", "AccessDeniedException\n")


def _chosen(platform: str, given: str | None, *, debug_mode: bool = False) -> str:
    return command._credentials(
        Namespace(platform=platform, credentials=given, debug_mode=debug_mode)
    )


def test_options_that_the_platform_has() -> None:
    assert _chosen("sandbox", None) == "pod"
    assert _chosen("instance", None) == "instance"
    assert _chosen("enclave", None) == "environment"
    assert _chosen("enclave", "parent", debug_mode=True) == "parent"


@pytest.mark.parametrize(
    ("platform", "given", "debug_mode", "message"),
    [
        ("sandbox", "parent", False, "--credentials parent with --platform sandbox"),
        ("instance", "pod", False, "--credentials pod with --platform instance"),
        ("enclave", "instance", False, "--credentials instance with --platform enclave"),
        ("sandbox", None, True, "--debug-mode with --platform sandbox"),
    ],
)
def test_options_that_it_does_not_have(
    platform: str, given: str | None, debug_mode: bool, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        _chosen(platform, given, debug_mode=debug_mode)
    assert caught.value.hint
