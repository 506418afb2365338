"""Asking for credentials in a process: what hangs is ended, and nobody is asked for anything."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from parent.credentials.model import CredentialsError
from parent.credentials.source_process import SourceProcess
from tests.waiting import TEST_TIMEOUT, eventually

SECRET = "s3cret/key"


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """~/.aws/config, in an environment with no other credentials."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path / "config"


def process(config: Path, program: str, *arguments: object) -> None:
    """Have a profile ask a Python program."""
    path = config.with_name("program.py")
    path.write_text(program)
    command = shlex.join([sys.executable, str(path), *map(str, arguments)])
    config.write_text(f"[profile it]\ncredential_process = {command}\n")


def failure(process: SourceProcess | None = None, profile: str = "it") -> CredentialsError:
    with pytest.raises(CredentialsError) as caught:
        (process or SourceProcess()).load(profile, now=datetime.now(UTC))
    assert SECRET not in str(caught.value)
    return caught.value


def test_credentials_from_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", end.isoformat())
    found = SourceProcess().load(None, now=datetime.now(UTC))
    assert (found.access_key_id, found.secret_access_key, found.session_token) == (
        "ASIAENV",
        SECRET,
        "t0ken",
    )
    assert (found.expiration, found.source) == (end, "env")


def test_a_programs_credentials(config: Path) -> None:
    told = f'{{"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "{SECRET}"}}'
    process(config, f"print({told!r})")
    found = SourceProcess().load("it", now=datetime.now(UTC))
    assert (found.secret_access_key, found.expiration, found.source) == (
        SECRET,
        None,
        "custom-process",
    )


def test_modules_in_the_working_directory_are_not_imported(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "botocore.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    config.write_text("")
    assert failure().kind == "configuration"


def test_failures_keep_their_kind_and_hint(config: Path) -> None:
    config.write_text("")
    error = failure(profile="nobody")
    assert error.kind == "configuration"
    assert "see ~/.aws/config" in error.hint
    assert "nobody" in str(error)


def gone(path: Path) -> bool:
    """Whether the process that wrote its number there is gone, or waits for init to take it."""
    try:
        return ") Z " in Path("/proc", path.read_text(), "stat").read_text()
    except FileNotFoundError:
        return True


HANGS = """\
import os, pathlib, sys, time
new = pathlib.Path(sys.argv[1] + ".new")
new.write_text(str(os.getpid()))
new.rename(sys.argv[1])  # it is killed as soon as this file is there
time.sleep(1000)
"""


def test_a_program_that_hangs_is_killed(config: Path, tmp_path: Path) -> None:
    process(config, HANGS, tmp_path / "pid")
    source = SourceProcess(timeout=2)
    error = failure(source)
    assert error.kind == "timeout"
    assert "credential_process" in error.hint
    eventually(lambda: gone(tmp_path / "pid"))
    config.write_text("")
    source._timeout = TEST_TIMEOUT  # Python and botocore take their time on a busy machine.
    assert failure(source).kind == "configuration", "it can be used again"


def test_cancel_kills_the_process(config: Path, tmp_path: Path) -> None:
    process(config, HANGS, tmp_path / "pid")
    source = SourceProcess()
    errors: list[CredentialsError] = []
    thread = threading.Thread(target=lambda: errors.append(failure(source)))
    thread.start()
    eventually((tmp_path / "pid").exists)
    source.cancel()
    thread.join(TEST_TIMEOUT)
    assert [error.kind for error in errors] == ["internal"]
    eventually(lambda: gone(tmp_path / "pid"))
    assert failure(source).kind == "stopped"


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("input('password: ')", "no-response"),
        (f"print('{SECRET}')", "malformed"),
        ("print('{\"Version\": 1}')", "no-response"),
        ("open('/dev/tty')", "no-response"),
    ],
)
def test_a_program_that_prompts_or_prints_garbage(config: Path, program: str, kind: str) -> None:
    process(config, program)
    assert failure().kind == kind


def test_a_program_that_is_not_there(config: Path) -> None:
    config.write_text("[profile it]\ncredential_process = /no/such/program\n")
    assert failure().kind == "no-response"


MFA = """\
[profile it]
role_arn = arn:aws:iam::111122223333:role/r
source_profile = base
mfa_serial = arn:aws:iam::111122223333:mfa/me
[profile base]
aws_access_key_id = AKIABASE
aws_secret_access_key = base
"""

ON_A_TERMINAL = """\
import fcntl, sys, termios
from datetime import UTC, datetime
fcntl.ioctl(0, termios.TIOCSCTTY)
open("/dev/tty").close()  # It is there.
from parent.credentials.source_process import SourceProcess
from parent.credentials.model import CredentialsError
try:
    SourceProcess().load("it", now=datetime.now(UTC))
except CredentialsError as e:
    print(e.kind, e.hint)
"""


def test_no_prompt_for_an_mfa_code_even_on_a_terminal(config: Path) -> None:
    """A prompt would wait on the terminal for ever."""
    config.write_text(MFA)
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL],
        stdin=theirs,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    os.close(theirs)
    try:
        told, _ = process.communicate(timeout=TEST_TIMEOUT)
        assert told.startswith("interactive use a role without mfa_serial")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


SSO = """\
[profile it]
sso_session = corporation
sso_account_id = 111122223333
sso_role_name = enclave
[sso-session corporation]
sso_region = eu-central-1
sso_start_url = https://corporation.example/start
"""
LEGACY_SSO = """\
[profile it]
sso_region = eu-central-1
sso_start_url = https://corporation.example/start
sso_account_id = 111122223333
sso_role_name = enclave
"""


@pytest.mark.parametrize("text", [SSO, LEGACY_SSO])
def test_a_profile_that_needs_a_login(config: Path, text: str) -> None:
    config.write_text(text)
    error = failure()
    assert error.kind == "interactive"
    assert "give the instance a role" in error.hint


def test_a_loop_of_profiles(config: Path) -> None:
    config.write_text("[profile it]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = no\n")
    assert failure().kind == "configuration"


def test_a_source_process_that_is_killed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process(config, "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    error = failure()
    assert error.kind == "internal"
    assert "status -9" in str(error)
