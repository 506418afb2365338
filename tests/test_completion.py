"""``--print-completion`` of the four programs, loaded into a real bash."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.service import completion
from vsock_proxy.service.arguments import Parser
from vsock_proxy.service.extras import install_command

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="no bash: apt-get install bash")

FOLDER = Path(sys.executable).parent

# What bash does at a press of the Tab key, without a terminal.
COMPLETE = r"""
set -u
source "$1"
shift
spec=$(complete -p "$1") && [[ $spec =~ -F\ ([^ ]+) ]] || exit 9
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMPREPLY=()
"${BASH_REMATCH[1]}" "$1" "${@: -1}" "${@: -2:1}"
((${#COMPREPLY[@]})) && printf '%s\n' "${COMPREPLY[@]}"
exit 0
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each program."""
    folder = tmp_path_factory.mktemp("completion")
    for program in ("enclave-agent", "enclave-parent", "enclave-simulator", "vsock-proxy"):
        done = subprocess.run(
            [FOLDER / program, "--print-completion", "bash"],
            capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        (folder / program).write_text(done.stdout)
    return folder


def completed(scripts: Path, *words: str, folder: Path | None = None) -> set[str]:
    """Return what bash offers for the last word, which may be empty."""
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", str(scripts / words[0]), *words],
        cwd=folder, capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.splitlines())


def test_commands_are_completed(scripts: Path) -> None:
    assert completed(scripts, "enclave-agent", "generate-d") == {
        "generate-data-key",
        "generate-data-key-pair",
    }
    assert completed(scripts, "enclave-parent", "si") == {"sign-eif"}
    assert completed(scripts, "enclave-parent", "key-policy", "e") == {"explain"}
    assert {"run", "boot", "kms", "setup-machine"} <= completed(scripts, "enclave-simulator", "")


def test_options_of_a_command_are_completed(scripts: Path) -> None:
    assert completed(scripts, "enclave-agent", "decrypt", "--ciph") == {"--ciphertext-blob"}
    assert completed(scripts, "enclave-agent", "decrypt", "--reg") == {"--region"}
    assert completed(scripts, "enclave-parent", "status", "--wa") == {"--watch"}
    assert completed(scripts, "vsock-proxy", "--i") == {"--ipv4", "--ipv6"}


def test_values_are_completed_where_a_few_are_possible(scripts: Path) -> None:
    values = {"json", "text", "table", "yaml", "yaml-stream"}
    assert completed(scripts, "enclave-agent", "describe", "--output", "") == values
    words = ("enclave-agent", "describe", "--no-paginate", "--output", "t")
    assert completed(scripts, *words) == {"text", "table"}


def test_files_and_folders_are_completed(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").touch()
    (tmp_path / "pictures").mkdir()
    words = ("vsock-proxy", "--config", "p")
    assert completed(scripts, *words, folder=tmp_path) == {"proxy.yaml", "pictures"}
    words = ("enclave-parent", "describe-eif", "p")
    assert completed(scripts, *words, folder=tmp_path) == {"proxy.yaml", "pictures"}


def test_the_program_to_run_and_its_files_are_completed(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").touch()
    for words in (
        ("enclave-agent", "serve", "--", "p"),
        ("enclave-agent", "log", "--", "cat", "p"),
        ("enclave-simulator", "run", "--", "enclave-agent", "serve", "p"),
    ):
        assert completed(scripts, *words, folder=tmp_path) == {"proxy.yaml"}
    assert completed(scripts, "enclave-agent", "serve", "--ingress-tls-c") == {
        "--ingress-tls-clients"
    }


def documented(shell: str) -> list[str]:
    """Return README's lines that write a shell's script to where that shell looks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"^    # {shell}\b.*\n((?:    .+\n)+)", text, re.MULTILINE)
    assert block
    return [line.strip() for line in block[1].splitlines()]


class Typed:
    """A shell on a terminal, which someone types into."""

    def __init__(self, home: Path, *shell: str) -> None:
        variables = {
            "HOME": str(home),
            "PATH": f"{FOLDER}:/usr/local/bin:/usr/bin:/bin",
            "TERM": "dumb",
            # Which the echo of what is typed does not contain.
            "PS1": "rea%{%}dy" if shell else "rea\\144y\\n",
        }
        self._fd, terminal = pty.openpty()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *(shell or ("bash", "--norc", "-i"))],
            cwd=home, env=variables, stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip
        os.close(terminal)
        self.shows("ready")

    def types(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def shows(self, expected: str) -> None:
        """Read until it does."""
        seen = ""
        deadline = time.monotonic() + TEST_TIMEOUT
        while expected not in seen:
            readable, _, _ = select.select([self._fd], [], [], deadline - time.monotonic())
            assert readable, f"no {expected!r} in {seen!r}"
            seen += os.read(self._fd, 4096).decode(errors="replace").replace("\a", "")

    def end(self) -> None:
        os.close(self._fd)  # the terminal hangs up
        self._process.wait(TEST_TIMEOUT)


def test_what_readme_says_completes_in_bash_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").touch()
    shell = Typed(tmp_path)
    try:
        for line in documented("bash"):
            shell.types(f"{line}\n")
            shell.shows("ready")
        shell.types("source ~/.local/share/bash-completion/completions/*\n")
        shell.shows("ready")
        shell.types("enclave-agent derive-\t")
        shell.shows("enclave-agent derive-shared-secret ")
        shell.types("--key-ag\t")
        shell.shows("--key-agreement-algorithm ")
        shell.types("\x15enclave-agent serve -- cat pro\t")
        shell.shows("cat proxy.yaml ")
    finally:
        shell.end()


VALUES = [
    ("enclave-agent decrypt --output=ta\t", "--output=table"),
    ("enclave-agent decrypt --output=text --cipher\t", "--output=text --ciphertext-blob"),
    ("enclave-agent decrypt --ciphertext-blob fileb://pro\t", "fileb://proxy.yaml"),
    ("enclave-agent decrypt --ciphertext-blob=fileb://pict\t", "=fileb://pictures/"),
    ("enclave-agent decrypt --ca-bundle=pro\t", "--ca-bundle=proxy.yaml"),
    ("enclave-agent help derive\t", "help derive-shared-secret"),
    ("enclave-parent help key-policy exp\t", "help key-policy explain"),
    ("vsock-proxy --config=pro\t", "--config=proxy.yaml"),
]
"""What is typed, and what the shell makes of it."""


@pytest.mark.parametrize("breaks", ["", 'COMP_WORDBREAKS="${COMP_WORDBREAKS//[=:]/}"; '])
def test_values_after_an_equals_sign_and_files_complete_in_bash(
    scripts: Path, tmp_path: Path, breaks: str
) -> None:
    (tmp_path / "proxy.yaml").touch()
    (tmp_path / "pictures").mkdir()
    shell = Typed(tmp_path)
    try:
        shell.types(f'{breaks}for each in {scripts}/*; do source "$each"; done\n')
        shell.shows("ready")
        for typed, shown in VALUES:
            shell.types(f"\x15{typed}")
            shell.shows(shown)
    finally:
        shell.end()


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh: apt-get install zsh")
def test_values_after_an_equals_sign_and_files_complete_in_zsh(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").touch()
    (tmp_path / "pictures").mkdir()
    functions = tmp_path / ".zfunc"
    functions.mkdir()
    for program in ("enclave-agent", "enclave-parent", "vsock-proxy"):
        with (functions / f"_{program}").open("w") as file:
            subprocess.run(
                [FOLDER / program, "--print-completion", "zsh"],
                stdout=file, timeout=TEST_TIMEOUT, check=True,
            )  # fmt: skip
    shell = Typed(tmp_path, "zsh", "-f", "-i")
    try:
        shell.types("fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit -u; echo lo''aded\n")
        shell.shows("loaded")
        for typed, shown in VALUES:
            shell.types(f"\x15{typed}")
            shell.shows(shown)
    finally:
        shell.end()


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish: apt-get install fish")
def test_values_after_an_equals_sign_and_files_complete_in_fish(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").touch()
    (tmp_path / "pictures").mkdir()
    for program in ("enclave-agent", "enclave-parent", "vsock-proxy"):
        with (tmp_path / f"{program}.fish").open("w") as file:
            subprocess.run(
                [FOLDER / program, "--print-completion", "fish"],
                stdout=file, timeout=TEST_TIMEOUT, check=True,
            )  # fmt: skip
    asked = "; ".join(f'complete -C "{typed.rstrip()}"' for typed, _ in VALUES)
    done = subprocess.run(
        ["fish", "-c", f"for each in *.fish; source $each; end; {asked}"],
        cwd=tmp_path, env={"HOME": str(tmp_path), "PATH": f"{FOLDER}:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=TEST_TIMEOUT, check=True,
    )  # fmt: skip
    offered = {line.partition("\t")[0] for line in done.stdout.splitlines()}
    assert {
        "--output=table", "--ciphertext-blob", "fileb://proxy.yaml",
        "--ciphertext-blob=fileb://pictures/", "--ca-bundle=proxy.yaml", "derive-shared-secret",
        "explain", "--config=proxy.yaml",
    } <= offered  # fmt: skip


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh: apt-get install zsh")
def test_what_readme_says_completes_in_zsh(tmp_path: Path) -> None:
    ask_in_zsh = r"""
    cd ~; fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit -u
    print -r -- ${_comps[enclave-agent]} ${functions[_enclave-agent]:+loaded}
    """
    variables = {"HOME": str(tmp_path), "PATH": f"{FOLDER}:/usr/bin:/bin"}
    for line in [*documented("zsh"), f"zsh -f -c '{ask_in_zsh}'"]:
        done = subprocess.run(
            ["sh", "-c", line], env=variables, capture_output=True, text=True,
            timeout=TEST_TIMEOUT, check=True,
        )  # fmt: skip
    assert done.stdout.split() == ["_enclave-agent", "loaded"]


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish: apt-get install fish")
def test_what_readme_says_completes_in_fish(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "PATH": f"{FOLDER}:/usr/bin:/bin"}
    asked = 'fish -c \'complete -C "enclave-agent derive-"; complete -C "enclave-agent lock"\''
    for line in [*documented("fish"), asked]:
        done = subprocess.run(
            ["sh", "-c", line], env=variables, capture_output=True, text=True,
            timeout=TEST_TIMEOUT, check=True,
        )  # fmt: skip
    assert done.stdout.splitlines() == [
        "derive-shared-secret\ta secret shared between a KMS key and a peer's key",
        "lock-pcr\tlock a PCR until the enclave ends",
    ]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_has_a_script(shell: str) -> None:
    parser = Parser(prog="some-program")
    parser.add_argument("--some-option")
    assert "some-option" in completion.completion_script(parser, shell)


def test_without_the_extra_its_name_is_in_the_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vsock_proxy.service.extras.find_spec", lambda _: None)
    parser = Parser(prog="some-program")
    completion.add_completion(parser)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--print-completion", "bash"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == (
        "some-program: error: not installed: shtab\n"
        f"some-program: hint: {install_command('completion')}\n"
    )


def test_another_shell_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="some-program")
    completion.add_completion(parser)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--print-completion", "bush"])
    assert stopped.value.code == 2
    assert "did you mean bash? see some-program --help" in capsys.readouterr().err
