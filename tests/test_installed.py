"""The project as users have it: a wheel, in an environment without this checkout.

The libraries are this environment's own, linked: only those that the extras ask for, so that one
which is missing from pyproject.toml is missing here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.paths import ROOT
from tests.programs.wheel import LOCK, build_wheel, write_bill
from tests.waiting import TEST_TIMEOUT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYRIGHT = ROOT / ".types/bin/pyright"
HOME_VARIABLES = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}

USER = '''\
"""A user's program."""

from enclave import Agent, AgentError, DataKeyResult


def make_key(agent: Agent, name: str) -> bytes:
    """Return a data key."""
    try:
        key: DataKeyResult = agent.generate_data_key(name)
    except AgentError as e:
        raise SystemExit(e.hint) from e
    return key.plaintext
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and its extras, pytest and mypy."""
    folder = tmp_path_factory.mktemp("installed")
    extras = ("parent", "simulator", "yaml")
    wanted = [*PROJECT["dependencies"], "pytest", "mypy", "types-PyYAML"]
    for extra in extras:
        wanted += PROJECT["optional-dependencies"][extra]
    return environment(folder, wanted, str(wheel))


def environment(folder: Path, wanted: list[str], *install: str) -> Path:
    """Make an environment with libraries of this one, install, and return its Python."""
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        check=True,
        timeout=TEST_TIMEOUT,
    )
    assert done.returncode == 0
    (packages,) = folder.glob("lib/python3*/site-packages")
    ours = Path(sysconfig.get_path("purelib"))
    for name in sorted(closure(wanted)):
        # Read-only links: an environment is made in a moment, and needs no index.
        for top in {Path(str(file)).parts[0] for file in metadata.files(name) or ()}:
            if top not in ("..", "__pycache__") and (ours / top).exists():
                link = packages / top
                if not link.exists():
                    link.symlink_to(ours / top)
    python = folder / "bin/python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check",
         "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", *install],
        check=True, timeout=TEST_TIMEOUT,
    )  # fmt: skip
    return python


def closure(wanted: list[str]) -> set[str]:
    """Return the distributions that requirements need, theirs included."""
    found: set[str] = set()
    todo = [(Requirement(text), "") for text in wanted]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = requirement.name
        for each in ("", *requirement.extras):
            key = f"{name}[{each}]" if each else name
            if key not in found:
                found.add(key)
                todo += [(Requirement(text), each) for text in metadata.requires(name) or ()]
    return {re.sub(r"\[.*", "", key) for key in found}


def run(
    python: Path, *command: str, folder: Path, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python.parent / command[0]), *command[1:]],
        cwd=folder,
        env={**HOME_VARIABLES, "HOME": str(folder), **(environ or {})},
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )


def test_two_builds_are_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    again = build_wheel(ROOT, tmp_path)
    assert again.name == wheel.name
    digests = {hashlib.sha256(each.read_bytes()).hexdigest() for each in (wheel, again)}
    assert len(digests) == 1


def test_every_file_of_the_packages_is_in_it(wheel: Path) -> None:
    """Modules, types, units, manifests and declarations; nothing else."""
    left_out = {".pyc", ".so", ".c", ".o"}
    packages = ("enclave", "vsock_proxy", "parent", "enclave_simulator")
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in left_out
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_the_four_programs_run(python: Path, tmp_path: Path) -> None:
    for program in PROJECT["scripts"]:
        done = run(python, program, "--version", folder=tmp_path)
        assert (done.stderr, done.returncode) == ("", 0), program
        assert done.stdout.startswith(f"{program} ")


def test_the_main_job_is_done(python: Path, tmp_path: Path) -> None:
    agent = str(python.parent / "enclave-agent")
    words = ("generate-random", "--number-of-bytes", "32", "--query", "Plaintext")
    done = run(python, "enclave-simulator", "run", "--", agent, *words, folder=tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)
    assert re.fullmatch(r'"[A-Za-z0-9+/]{43}="\n', done.stdout)


def test_data_files_are_found(python: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.resources import files\n"
        "import enclave, parent, vsock_proxy, enclave_simulator\n"
        "print(*(files(p).joinpath('py.typed').is_file()"
        " for p in (enclave, parent, vsock_proxy, enclave_simulator)))\n"
        "print(files('parent').joinpath('deploy').is_dir())\n"
        "print(enclave.__file__)"
    )
    done = run(python, "python", "-c", code, folder=tmp_path)
    typed, deploy, file = done.stdout.splitlines()
    assert (typed, deploy) == ("True True True True", "True")
    assert Path(file).is_relative_to(python.parent.parent)


def test_pytest_finds_the_fixtures(python: Path, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "def test_random(agent):\n    assert len(agent.generate_random(8)) == 8\n"
    )
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    done = run(python, "python", "-W", "error", *words, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "make setup"])
def test_mypy_sees_the_types(
    python: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, *, editable: bool
) -> None:
    """Of the wheel, and of a checkout installed as `make setup` does it."""
    if editable:
        python = checkout(tmp_path_factory.mktemp("editable"))
    program = tmp_path / "program.py"
    program.write_text(USER)
    words = ("-m", "mypy", "--strict", f"--cache-dir={os.devnull}", "program.py")
    done = run(python, "python", *words, folder=tmp_path)
    assert (done.stdout, done.returncode) == ("Success: no issues found in 1 source file\n", 0)

    program.write_text(USER.replace("-> bytes", "-> str"))
    done = run(python, "python", *words, folder=tmp_path)
    assert 'got "bytes", expected "str"' in done.stdout


@pytest.mark.skipif(not PYRIGHT.exists(), reason="no .types/bin/pyright: make test-types")
@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "make setup"])
def test_pyright_sees_the_types(
    python: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, *, editable: bool
) -> None:
    """Of the wheel, and of a checkout installed as `make setup` does it; in its strict mode."""
    if editable:
        python = checkout(tmp_path_factory.mktemp("editable"))
    settings = {"typeCheckingMode": "strict"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    program = tmp_path / "program.py"
    program.write_text(USER)
    words = (str(PYRIGHT), "--pythonpath", str(python), "--outputjson", str(program))
    done = run(python, *words, folder=tmp_path)
    assert json.loads(done.stdout)["generalDiagnostics"] == [], done.stderr

    program.write_text(USER.replace("-> bytes", "-> str"))
    done = run(python, *words, folder=tmp_path)
    (found,) = json.loads(done.stdout)["generalDiagnostics"]
    assert found["rule"] == "reportReturnType"


def checkout(folder: Path) -> Path:
    """Install a copy of the packages editable, with the options of tests/programs/set_up.py."""
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    for name in ("enclave", "vsock_proxy", "parent", "enclave_simulator"):
        (tree / name).symlink_to(ROOT / name)
    wanted = [*PROJECT["dependencies"], "setuptools", "mypy", "types-PyYAML"]
    return environment(
        folder / "env", wanted, "--config-settings", "editable_mode=compat", "-e", str(tree)
    )


def test_an_enclave_needs_no_extra(wheel: Path, tmp_path: Path) -> None:
    """With the libraries of no extra, the public names and the command are there."""
    python = environment(tmp_path / "env", PROJECT["dependencies"], str(wheel))
    code = "import enclave\nprint(len([getattr(enclave, name) for name in enclave.__all__]) > 20)"
    done = run(python, "python", "-W", "error", "-c", code, folder=tmp_path)
    assert (done.stdout, done.stderr) == ("True\n", "")
    done = run(python, "enclave-agent", "generate-random", "--help", folder=tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.long
def test_the_bill_of_materials_names_what_the_image_installs(tmp_path: Path) -> None:
    bill = tmp_path / "bill.cdx.json"
    write_bill(ROOT, bill)
    read = json.loads(bill.read_text(encoding="utf-8"))
    assert read["bomFormat"] == "CycloneDX"
    assert read["metadata"]["component"]["name"] == PROJECT["name"]
    locked = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", (ROOT / LOCK).read_text(), re.MULTILINE))
    assert {each["name"]: each["version"] for each in read["components"]} == locked
    for each in read["components"]:
        assert each["purl"].startswith("pkg:pypi/")
        assert each["externalReferences"][0]["hashes"]

    again = tmp_path / "again.cdx.json"
    write_bill(ROOT, again)
    assert again.read_bytes() == bill.read_bytes()
