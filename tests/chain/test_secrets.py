"""Secrets sealed on a laptop against the simulated KMS, opened for a program in an enclave."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from tests.chain.commands import AGENT, SIMULATOR, run
from tests.paths import ROOT

SEAL = shlex.join((sys.executable, "-m", "parent.cli", "seal", "--key-id", "alias/app"))
SERVE = shlex.join((*AGENT, "serve", "--no-seed-from-kms", "--listen", "tcp://127.0.0.1:0"))

(DOCUMENTED,) = re.findall(
    r"^    enclave-simulator run --key alias/app -- enclave-agent serve -- sh -c '\n(.*?)'\n",
    (ROOT / "docs/secrets.md").read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)

# The outer `serve` is KMS for the laptop; those in the script are agents of enclaves.
SCRIPT = f"""
cd "$1"
PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH
{DOCUMENTED} | grep -E '^(DB|URL)=' | sort; echo =
{SEAL} --context app=demo --output sealed.env s.env || exit
{SEAL} --context app=demo --format raw key.pem > key.enc || exit
rm s.env key.pem
unset AWS_ENDPOINT_URL_KMS
served() {{ {SERVE} "$@"; echo "= $?"; }}

served --secret-env sealed.env --secret-file KEY=key.enc --secret-context app=demo \
    --secret-key alias/app $2 -- sh -c '
        echo "$DB $URL"; cat "$KEY"; echo; stat -L -c %a "$KEY"; echo "$KEY"
        ls -l /proc/self/fd | grep -c memfd
        cat /proc/$PPID/cmdline /proc/$PPID/environ | grep -c "$DB"'
sed s/map_app=demo/map_app=other/ sealed.env > other.env
served --secret-env other.env -- touch started
"""


def test_from_the_laptop_into_the_program_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "s.env").write_text("DB=hunter2\nURL=postgres://a=b\n")
    (tmp_path / "key.pem").write_text("-----BEGIN hunter2-----")
    user = "--user 0:0" if os.geteuid() == 0 else ""
    done = run(*SIMULATOR, "--key", "alias/app", "--", *shlex.split(SERVE), "--",
               "sh", "-c", SCRIPT, "sh", str(tmp_path), user)  # fmt: skip
    documented, _, told = done.stdout.partition("=\n")
    assert documented == "DB=hunter2\nURL=postgres://a=b\n", done.stderr
    lines = told.splitlines()
    assert lines[:3] == ["hunter2 postgres://a=b", "-----BEGIN hunter2-----", "400"], done.stderr
    assert lines[3].startswith("/proc/self/fd/")
    assert lines[4:] == ["1", "0", "= 1", "= 255"]
    assert not (tmp_path / "started").exists()
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert [each.split(": ")[2] for each in errors] == ["--secret-env other.env"]
    assert "InvalidCiphertextException" in errors[0]
    assert "hunter2" not in done.stderr
    assert "hunter2" not in (tmp_path / "sealed.env").read_text()
