"""The same words to the AWS CLI and to us: the same output.

The AWS CLI asks the simulated KMS without attestation. This is version 1, which comes from PyPI;
`make test-aws-cli` compares with version 2, whose blobs, YAML and exit codes are ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from tests.enclave.cli.conftest import CommandLine


PROGRAM = [sys.executable, "-m", "awscli"]


def aws(command_line: CommandLine, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {
        **command_line.environ,
        "PATH": os.environ["PATH"],
        "AWS_DEFAULT_REGION": command_line.environ["AWS_REGION"],
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
    }
    command = [*PROGRAM, "kms", *words, "--endpoint-url", command_line.kms.endpoint_url]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, check=False, timeout=TEST_TIMEOUT
    )


@pytest.mark.parametrize(
    "words",
    [
        "generate-random --number-of-bytes 8",
        "generate-random --number-of-bytes 100 --output table",
        "decrypt --ciphertext-blob fileb://$DIR/ciphertext --key-id alias/mine",
        "decrypt --ciphertext-blob fileb://$DIR/ciphertext --output text",
        "decrypt --ciphertext-blob fileb://$DIR/ciphertext --output table",
        (
            "generate-data-key --key-id alias/mine --key-spec AES_256 --encryption-context a=b,c=d"
            " --query [Plaintext,KeyId] --output table"
        ),
        (
            'generate-data-key --cli-input-json {"KeyId":"alias/mine"} --number-of-bytes 3'
            " --query Plaintext --output text"
        ),
    ],
)
def test_the_same_output(command_line: CommandLine, words: str) -> None:
    typed = words.replace("$DIR", command_line.variables["DIR"]).split()
    ours, theirs = command_line.run(*typed), aws(command_line, *typed)
    assert theirs.returncode == 0, theirs.stderr
    said = [line for line in ours.err.splitlines() if "--key-id ARN names yours" not in line]
    assert (ours.exit_code, said) == (0, [])
    assert ours.out == theirs.stdout


@pytest.mark.parametrize("command", ["generate-random", "derive-shared-secret"])
def test_the_same_form_to_fill_in(command_line: CommandLine, command: str) -> None:
    words = (command, "--generate-cli-skeleton")
    ours, theirs = command_line.run(*words), aws(command_line, *words)
    assert json.loads(ours.out) == json.loads(theirs.stdout)


def test_kmss_refusal_is_shown_in_its_own_words(command_line: CommandLine) -> None:
    words = ("generate-data-key", "--key-id", "alias/none", "--key-spec", "AES_256")
    ours, theirs = command_line.run(*words), aws(command_line, *words)
    _, _, message = theirs.stderr.partition("operation: ")
    assert message.strip()
    assert message.strip() in ours.err
    assert "NotFoundException" in ours.err
    assert ours.exit_code == 254  # version 2's; version 1 ends with 255 whatever happens
    assert theirs.returncode
    assert ours.out == theirs.stdout == ""
