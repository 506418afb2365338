"""``enclave-simulator attack``, as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from enclave_simulator.attack.running import Runner, Target
from enclave_simulator.attack.table import ATTACKS, BEYOND
from enclave_simulator.attack.verdict import Verdict, judge
from enclave_simulator.cli import main
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

AGENT = str(ROOT / "tests/programs/attacked/agent.py")
VULNERABLE = "tests.programs.attacked.vulnerable"

SIMULATOR = [sys.executable, "-m", "enclave_simulator.cli", "attack"]


def with_path() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path}


def attack(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SIMULATOR, *words], cwd=ROOT, env=with_path(),
        capture_output=True, text=True, timeout=10 * TEST_TIMEOUT, check=False,
    )  # fmt: skip


def test_the_agent_refuses_what_it_is_attacked_with() -> None:
    chosen = "wrong-length", "replayed-envelope"
    words = [word for names in chosen for word in ("--only", names)]
    done = attack(*words, "--json", "--jobs", "2", "--", sys.executable, AGENT)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert [each["name"] for each in report["attacks"]] == [
        "replayed-envelope", "wrong-length",
    ]  # fmt: skip
    assert {each["verdict"] for each in report["attacks"]} == {"refused"}
    assert (report["failed"], report["unmet"]) == ([], [])
    assert done.stderr == ""


def test_a_command_line_without_lines_of_the_protocol() -> None:
    done = attack(
        "--only", "plaintext,interim-response,credentials-stall", "--",
        "enclave-agent", "decrypt", "--ciphertext-blob", "fileb://{ciphertext_file}",
        "--key-id", "{key_id}", "--encryption-context", "{context}", "--credentials", "environment",
    )  # fmt: skip
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:-1]}
    assert rows["plaintext"].split()[1] == "refused"
    assert "KMS sent Plaintext in the open" in rows["plaintext"]
    assert rows["interim-response"].split()[1] == "refused"
    # It does not ask the parent for credentials.
    assert rows["credentials-stall"].split()[1] == "unmet"
    assert done.stdout.splitlines()[-1] == "3 attacks: 2 refused, 1 unmet"
    assert done.returncode == 0


def test_a_program_that_names_no_encryption_context() -> None:
    done = attack(
        "--only", "swapped-ciphertext,other-key,plaintext", "--jobs", "2",
        "--no-encryption-context", "--", sys.executable, AGENT,
    )  # fmt: skip
    rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()[1:-1]}
    # Nothing tells one ciphertext of a key from another.
    assert rows == {
        "swapped-ciphertext": "accepted",
        "other-key": "refused",
        "plaintext": "refused",
    }


def test_the_ca_is_where_programs_of_any_language_look_for_it() -> None:
    script = (
        "import os, ssl\n"
        "given = ssl.PEM_cert_to_DER_cert(open(os.environ['AWS_CA_BUNDLE']).read())\n"
        "print(ssl.create_default_context().get_ca_certs(binary_form=True) == [given])\n"
    )
    runner = Runner(Target(argv=[sys.executable, "-c", script], env=with_path()))
    with runner._run(ATTACKS["plaintext"]) as (_, outcome):
        assert outcome.output == b"True\n", outcome.errors


def test_a_call_that_crashes_in_a_shell_is_a_crash() -> None:
    script = "sh -c 'kill -SEGV $$' || echo ATTACK-RESULT exit:$?"
    runner = Runner(Target(argv=["sh", "-c", script]))
    with runner._run(ATTACKS["plaintext"]) as (parent, outcome):
        finding = judge(ATTACKS["plaintext"], outcome, parent.world.secrets())
    assert finding.verdict is Verdict.CRASHED
    assert finding.text.startswith("ended by signal 11 in call 1")


def test_what_a_program_sends_to_the_log_sink_is_its_output() -> None:
    done = attack(
        "--only", "plaintext,log-stall,log-cut", "--jobs", "2", "--",
        "enclave-agent", "log", "--flush", "0.1", "--",
        # More than the kernel's buffers: a program that waits for its log would hang.
        "sh", "-c", f"seq 100000 >&2; exec {sys.executable} {AGENT}",
    )  # fmt: skip
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:-1]}
    assert "KMS sent Plaintext in the open" in rows["plaintext"], done.stdout + done.stderr
    for name in ("log-stall", "log-cut"):
        assert rows[name].split()[1] == "refused"
        assert rows[name].split()[3:] == ["exit", "code", "0"]
    assert done.returncode == 0


def test_why_a_program_refuses_is_taken_from_its_log() -> None:
    script = "echo 'ATTACK-RESULT hex:00'; echo 'prog: error: why'; echo 'prog: hint: how'; exit 3"
    runner = Runner(
        Target(argv=["enclave-agent", "log", "--", "sh", "-c", script], env=with_path())
    )
    with runner._run(ATTACKS["plaintext"]) as (_, outcome):
        assert outcome.complaint == "prog: error: why"
        assert outcome.output.startswith(b"ATTACK-RESULT hex:00\n")


@pytest.mark.long
def test_a_vulnerable_program_is_caught_and_what_it_leaves_behind_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = (
        "import runpy, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "sys.argv[1:] = ['aborts']\n"
        f"runpy.run_module('{VULNERABLE}', run_name='__main__')\n"
    )
    done = attack("--only", "entropy-refused", "--", sys.executable, "-c", script)
    assert done.stdout.splitlines()[1].split()[:2] == ["entropy-refused", "crashed"], done.stderr
    assert done.stdout.splitlines()[-1] == "1 attack: 1 crashed"
    assert done.returncode == 1
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_a_program_that_does_not_end_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(Target(argv=["sleep", "1000"], deadline=0.2))
    monkeypatch.setattr(runner, "_controlled", True)
    assert runner.attack(ATTACKS["tls-expired"]).finding.verdict is Verdict.HUNG


def test_programs_that_run_are_killed_if_the_rest_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = Runner(Target(argv=["sleep", "1000"]))
    monkeypatch.setattr(runner, "_controlled", True)
    runner.stop()
    chosen = [ATTACKS[name] for name in ("tls-expired", "plaintext")]
    verdicts = [each.finding.verdict for each in runner.attack_all(chosen, jobs=2)]
    assert verdicts == [Verdict.CRASHED, Verdict.CRASHED]


def test_a_program_that_fails_without_an_attack_is_not_attacked() -> None:
    done = attack("--", "false")
    assert done.returncode == 2
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("enclave-simulator: error: without an attack the program fails")
    assert "docs/attack.md" in second


def test_a_program_that_does_not_exist() -> None:
    done = attack("--", "no-such-program")
    assert done.returncode == 2
    assert "no-such-program" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no COMMAND to attack"),
        (["--only", "no-such", "--", "true"], "no such attack: 'no-such'"),
    ],
)
def test_errors_of_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_list_has_every_attack_and_what_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", "--list"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for attack_ in ATTACKS.values():
        assert f"{attack_.name} " in printed
        assert attack_.effect in printed
    for name in BEYOND:
        assert name in printed


def test_a_reader_that_has_seen_enough_meets_no_traceback() -> None:
    """As `head -1`: the next row cannot be printed."""
    words = ["--only", "plaintext,no-envelope,empty-body", "--jobs", "2"]
    with subprocess.Popen(
        [*SIMULATOR, *words, "--", sys.executable, AGENT], cwd=ROOT, env=with_path(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("ATTACK ")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(TEST_TIMEOUT) == 1


def test_standard_output_that_is_closed_is_told() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" --list >&-', "-", *SIMULATOR], cwd=ROOT, capture_output=True, text=True,
        timeout=TEST_TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("cli.py: error: cannot print on standard output: ")
