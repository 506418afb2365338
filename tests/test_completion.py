"""``--print-completion`` of the four programs, loaded into a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
