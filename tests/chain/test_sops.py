"""Files of the real ``sops``, both ways; the endpoint is its KMS.

``make test-clients`` installs it from PyPI (48 MB). The test is skipped where it is not there.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.chain.commands import AGENT, SIMULATOR, run
from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SOPS = ROOT / ".clients/sops/bin/sops"

pytestmark = pytest.mark.skipif(
    not SOPS.exists(), reason="no .clients/sops: `make test-clients` installs it, with pip"
)

SERVE = (*AGENT, "serve", "--no-seed-from-kms", "--listen", "tcp://127.0.0.1:0")

PLAIN = {
    "s.yaml": "a:\n  b: 'yes'\n  c: [1, 2.5, true, null, 2020-01-01T00:00:00Z]\n  d_unencrypted: "
    "[yes, 1e3, 010, .5, 0x1F, '1', 1_000]\n  e: |\n    one\n    two\n  f: \"\"\n---\ng: ü\n",
    "s.json": '{"a": {"b": "x<y", "n": 5, "f": 2.5, "t": true}, "l_unencrypted": [1, "1", 1e21]}',
    "s.env": "DB=hunter2\nURL=postgres://a=b\nMULTI=a\\nb\nEMPTY=\nP_unencrypted=plain\n",
    "binary": "no more than text\n",
}

SCRIPT = r"""
set -e
cd "$1"
sops=$2
cp "$sops" sops && chmod +x sops
key=$("$3" -c 'import boto3; print(
    boto3.client("kms").describe_key(KeyId="alias/app")["KeyMetadata"]["Arn"])')
context=app:demo,stage:test
for name in s.yaml s.json s.env binary; do
    ./sops encrypt --kms "$key" --encryption-context "$context" "$name" > "theirs-$name"
    "$3" -m parent.cli seal --key-id "$key" --context app=demo --output "ours-$name" "$name"
    kind=$(case $name in *.yaml) echo yaml;; *.json) echo json;; *.env) echo dotenv;;
        *) echo binary;; esac)
    ./sops decrypt --input-type "$kind" --output-type "$kind" "theirs-$name" > "expected-$name"
    ./sops decrypt --input-type "$kind" --output-type "$kind" "ours-$name" > "found-$name"
    ./sops --config /dev/null rotate -i --input-type "$kind" --output-type "$kind" "ours-$name"
done
printf 'creation_rules:\n- {mac_only_encrypted: true, kms: "%s"}\n' "$key" > rules.yaml
./sops --config rules.yaml encrypt s.yaml > only.yaml
./sops encrypt --kms "$key" --encrypted-regex '^(b|g)$' s.yaml > regex.yaml
unset AWS_ENDPOINT_URL_KMS
shift 3
"$@"
"""


def test_both_ways(tmp_path: Path) -> None:
    for name, text in PLAIN.items():
        (tmp_path / name).write_text(text)
    sealed = [*(f"theirs-{name}" for name in PLAIN), *(f"ours-{name}" for name in PLAIN)]
    sealed += ["only.yaml", "regex.yaml"]
    options = [
        word
        for number, name in enumerate(sealed)
        for word in ("--secret-file", f"F{number}={name}")
    ]
    show = ";".join(f'cp "$F{number}" opened-{name}' for number, name in enumerate(sealed))
    done = run(
        *SIMULATOR, "--key", "alias/app", "--", *SERVE, "--", "sh", "-c", SCRIPT, "sh",
        str(tmp_path), str(SOPS), sys.executable, *SERVE, *options, "--", "sh", "-ec", show,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in PLAIN:
        # `sops` reads what `seal` wrote as what it wrote itself.
        assert (tmp_path / f"found-{name}").read_text() == (
            tmp_path / f"expected-{name}"
        ).read_text(), name
        ours, theirs = ((tmp_path / f"opened-{by}-{name}").read_text() for by in ("ours", "theirs"))
        assert ours == theirs, name
    assert (tmp_path / "opened-theirs-binary").read_text() == PLAIN["binary"]
    assert (tmp_path / "opened-theirs-s.env").read_text() == PLAIN["s.env"]
    assert json.loads((tmp_path / "opened-theirs-s.json").read_text()) == json.loads(
        PLAIN["s.json"]
    )
    whole = (tmp_path / "opened-theirs-s.yaml").read_text()
    assert (tmp_path / "opened-only.yaml").read_text() == whole
    assert (tmp_path / "opened-regex.yaml").read_text() == whole
