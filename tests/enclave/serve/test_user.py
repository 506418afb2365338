"""``serve --user``: who is found, and that COMMAND runs as that user and no other."""

from __future__ import annotations

import os
import pwd

import pytest

from enclave.errors import ConfigurationError
from enclave.serve.user import find_user
from tests.chain.commands import AGENT, SIMULATOR, run


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_a_user_by_name_has_its_groups_and_variables(as_root: None) -> None:
    entry = pwd.getpwuid(os.getuid())
    user = find_user(entry.pw_name)
    assert (user.uid, user.gid) == (entry.pw_uid, entry.pw_gid)
    assert user.gid in user.groups
    assert user.environ == {
        "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name,
    }  # fmt: skip


def test_numbers_need_not_be_known_to_the_system(as_root: None) -> None:
    user = find_user("4294967294:12345")
    assert (user.uid, user.gid, user.groups, user.environ) == (4294967294, 12345, (12345,), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody-of-this-name", "there is no user 'nobody-of-this-name'"),
        ("", "there is no user ''"),
        ("a\0b", "there is no user"),
        ("12345", "there is no user '12345'"),
        ("1:2:3", "there is no user"),
        ("-1:0", "there is no user"),
        ("\u0663:\u0663", "there is no user"),
        ("4294967295:0", "ids end at 4294967294"),
        ("0:9999999999", "ids end at 4294967294"),
    ],
)
def test_users_that_are_rejected(as_root: None, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        find_user(text)
    assert "UID:GID" in caught.value.hint


@pytest.mark.parametrize("text", ["root", "0:12"])
def test_root_is_warned_of(as_root: None, text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert find_user(text).uid == 0
    assert f"--user {text} is root, who can read the agent's memory" in caplog.text


def test_only_root_may_run_a_program_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigurationError, match="only root"):
        find_user("0:0")


def test_a_user_without_a_command_is_rejected() -> None:
    done = run(*AGENT, "serve", "--user", "0:0")
    assert "--user without a COMMAND" in done.stderr
    assert done.returncode == 252


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run a program as another user")
def test_the_command_runs_as_the_user_and_the_agent_does_not() -> None:
    script = "id -u; id -g; id -G; stat -c %u /proc/$PPID; echo $AWS_ENDPOINT_URL_KMS"
    command = (*AGENT, "serve", "--listen", "tcp://127.0.0.1:0", "--user", "65534:65533", "--")
    done = run(*SIMULATOR, "--", *command, "sh", "-c", script)
    assert (done.stderr, done.returncode) == ("", 0)
    *ids, url = done.stdout.split()
    assert ids == ["65534", "65533", "65533", "0"]
    assert url.startswith("http://127.0.0.1:")
