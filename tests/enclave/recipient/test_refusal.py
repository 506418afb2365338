"""The hint of AccessDeniedException, in one step to the answer: its command is run as printed."""

from __future__ import annotations

import errno
import json
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from enclave import KmsRefusedError
from enclave.recipient.refusal import access_denied_hint
from parent import cli
from tests.enclave.nitro import Document

if TYPE_CHECKING:
    from pathlib import Path

    from enclave import Agent
    from enclave_simulator.kms.threaded import KmsSimulator

PCR0 = bytes(range(48))
ARN = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def document(pcr0: bytes) -> bytes:
    return Document(payload={"pcrs": {0: pcr0, 1: pcr0, 2: pcr0}}).encode()


def test_it_names_the_pcr0_and_a_command_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hint = access_denied_hint("Decrypt", {"KeyId": ARN}, document(PCR0))
    assert f"this enclave's PCR0 is {PCR0.hex()}" in hint
    program, *words = shlex.split(hint.rpartition("tells: ")[2])
    assert program == "enclave-parent"
    assert ARN in words
    monkeypatch.chdir(tmp_path)
    (tmp_path / "POLICY.json").write_text(
        json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": {
                    "Effect": "Allow",
                    "Principal": {"AWS": "arn:aws:iam::111122223333:role/r"},
                    "Action": "kms:Decrypt",
                    "Resource": "*",
                    "Condition": {
                        "StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": "ab" * 48}
                    },
                },
            }
        )
    )
    assert cli.main(words) == 1
    explained = capsys.readouterr().out
    assert "kms:RecipientAttestation:PCR0" in explained
    assert PCR0.hex() in explained


def test_debug_mode_is_named() -> None:
    hint = access_denied_hint("Decrypt", {}, document(bytes(48)))
    assert "debug mode" in hint
    assert f"--document PCR0={'0' * 96}" in hint


@pytest.mark.parametrize("key", ["alias/x", "arn:aws:kms:x; rm -rf /", "", None, 5, "$(id)"])
def test_what_is_no_arn_is_not_repeated(key: object) -> None:
    assert "--key" not in access_denied_hint("Decrypt", {"KeyId": key}, document(PCR0))


@pytest.mark.parametrize("raw", [b"", b"no document"])
def test_without_a_document_there_is_no_hint(raw: bytes) -> None:
    assert access_denied_hint("Decrypt", {}, raw) == ""


def test_an_agent_gives_it(agent: Agent, kms_simulator: KmsSimulator) -> None:
    kms_simulator.faults.inject("refuse")
    with pytest.raises(KmsRefusedError) as caught:
        agent.generate_random(8)
    assert caught.value.type == "AccessDeniedException"
    assert "enclave-parent key-policy explain POLICY.json" in caught.value.hint
    assert "PCR0" in str(caught.value.__notes__)


class NoDescriptors:
    """An importer that finds no file descriptor left."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "enclave.recipient.refusal":
            raise OSError(errno.EMFILE, "Too many open files")


def test_without_the_hint_it_is_still_the_error_of_kms(
    agent: Agent, kms_simulator: KmsSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module is loaded when it is needed: there may be no descriptor left by then."""
    kms_simulator.faults.inject("refuse")
    monkeypatch.delitem(sys.modules, "enclave.recipient.refusal")
    monkeypatch.setattr(sys, "meta_path", [NoDescriptors(), *sys.meta_path])
    with pytest.raises(KmsRefusedError) as caught:
        agent.generate_random(8)
    assert caught.value.type == "AccessDeniedException"
    assert "compare the PCRs" in caught.value.hint
