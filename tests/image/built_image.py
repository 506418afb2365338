"""The enclave image, built twice and run: `make test-image`.

Not collected by `make test`: it builds a Debian base (half a minute, kept in .image) and needs
root. The programs in the image run in a chroot, the attested ones under the launcher.
"""

from __future__ import annotations

import base64
import contextlib
import email.parser
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from enclave_simulator.machine import debian, qemu
from enclave_simulator.machine.errors import UnavailableError
from parent.eif.root import source as root_source
from parent.eif.root.notes import Notes
from tests.image.buildah import Storage, make_base, missing, storage
from tests.image.test_dockerfile import ENTERS
from tests.image.test_lock import pins
from tests.parent.eif import archives
from tests.paths import ROOT
from tests.programs import image_bill
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
    pytest.mark.timeout(900),  # The first test that runs builds the image.
]

DATE = 315_532_800
HOME = "/opt/nitro-enclave-agent"
STDLIB = "usr/lib/python3.13"
AGENT = f"{HOME}/bin/enclave-agent"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """The image built here, and again from a copy with other dates, permissions and path."""
    base = ROOT / ".image" / "base.tar"
    if not base.exists():
        try:
            make_base(base)
        except AssertionError as e:
            pytest.skip(f"no base without Debian's packages: {e}")
    folder = tmp_path_factory.mktemp("image")
    copy = folder / "elsewhere"
    for name in (*ENTERS, "Makefile", "Dockerfile.enclave", ".dockerignore"):
        source = ROOT / name
        copy.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    for path in copy.rglob("*"):
        os.utime(path, (0, 1_000_000_000))
        path.chmod(0o700 if path.is_dir() else 0o600)
    (folder / "storage").mkdir()
    (folder / "base").write_text("FROM scratch\nADD base.tar /\n")
    with storage(folder / "storage") as made:
        made.buildah("build", "-t", "localhost/base", "-f", str(folder / "base"), str(base.parent))
        made.make_image(ROOT, "localhost/first", BASE_IMAGE="localhost/base")
        made.make_image(copy, "localhost/second", BASE_IMAGE="localhost/base")
        yield made


@pytest.fixture(scope="module")
def root(images: Storage) -> Path:
    return images.mount("localhost/first")


def chroot(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["chroot", str(root), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=TEST_TIMEOUT,
    )


def enclave(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the image in a simulated enclave, as PATH and init would find it."""
    bundle = root / "tmp" / "simulated-kms.pem"
    # As the enclave's init mounts /dev: in the launcher's mount namespace, which ends with it.
    script = (
        f'mount --rbind /dev {root / "dev"} && cp "$AWS_CA_BUNDLE" {bundle} && '
        f'AWS_CA_BUNDLE=/tmp/{bundle.name} exec chroot "$@"'
    )
    simulator = [
        sys.executable,
        "-m",
        "enclave_simulator.cli",
        "run",
        "--",
        "sh",
        "-c",
        script,
        "sh",
    ]
    return subprocess.run(
        [*simulator, str(root), *command],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=TEST_TIMEOUT,
    )  # fmt: skip


def test_two_builds_are_one_image(images: Storage) -> None:
    first, second = images.image("localhost/first"), images.image("localhost/second")
    layers = [image["OCIv1"]["rootfs"]["diff_ids"] for image in (first, second)]
    assert len(layers[0]) == 2
    assert layers[0] == layers[1]
    assert first["FromImageDigest"] == second["FromImageDigest"]
    print(f"\nthe image is {first['FromImageID']}, its own layer {layers[0][1]}")


def test_without_a_builders_help_dates_are_the_same(images: Storage, root: Path) -> None:
    """Docker's older builder sets no dates; the recipe sets those of all that it makes."""
    del images
    ours = [root / HOME[1:], *(root / HOME[1:]).rglob("*")]
    assert len(ours) > 1000
    assert {path.lstat().st_mtime for path in ours} == {DATE}
    assert all(path.lstat().st_mode & 0o022 == 0 or path.is_symlink() for path in ours)


def test_of_this_project_only_the_two_packages_are_in_it(root: Path) -> None:
    packages = next((root / HOME[1:]).glob("lib/python3.*/site-packages"))
    for package in ("enclave", "vsock_proxy"):
        inside = {
            path.relative_to(packages).as_posix(): path.read_bytes()
            for path in (packages / package).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        checkout = {
            path.relative_to(ROOT).as_posix(): path.read_bytes()
            for path in (ROOT / package).rglob("*")
            if path.is_file() and path.suffix not in (".pyc", ".so")
        }
        made = {"enclave/kms/roots.pem"} if package == "enclave" else set()  # docs/trust.md
        assert set(inside) - set(checkout) == made
        assert {path: inside.get(path) for path in checkout} == checkout
    python = [path.relative_to(root) for path in root.rglob("*.py") if not path.is_symlink()]
    assert len(python) > 1000, "the test looks where there is nothing"
    strangers = {"enclave_simulator", "parent", "tests", "pytest", "awscli", "boto3", "hypothesis"}
    # A folder of that name anywhere, or a module of that name where imports begin.
    assert not [path for path in python if strangers & {*path.parts[:-1]}]
    assert not [path for path in packages.iterdir() if path.stem in strangers]
    assert sorted(path.name for path in (root / HOME[1:] / "bin").iterdir()) == [
        "enclave-agent", "python", "python3", "python3.13"
    ]  # fmt: skip


def test_the_libraries_are_those_of_the_lock_and_nothing_installs_more(root: Path) -> None:
    packages = next((root / HOME[1:]).glob("lib/python3.*/site-packages"))
    installed = {}
    for metadata in packages.glob("*.dist-info/METADATA"):
        message = email.parser.Parser().parsestr(metadata.read_text())
        installed[message["Name"].lower()] = message["Version"]
    del installed["nitro-enclave-agent"]
    assert installed == {name: pin.version for name, pin in pins("enclave").items()}
    done = chroot(root, "python3", "-c", "import ensurepip")
    assert "No module named 'ensurepip'" in done.stderr
    assert not [path for path in root.glob("**/*-packages/*") if path.name in ("pip", "setuptools")]


def test_the_bill_of_materials_has_all_of_it(root: Path) -> None:
    with contextlib.ExitStack() as stack:
        tree, _ = root_source.read(root, os.uname().machine, Notes(), stack)
        read = json.loads(image_bill.bill_of(tree, "image", image_bill.lock()))
    held = {
        (each["purl"].split("/")[0], each["name"], each["version"]) for each in read["components"]
    }
    debian_has = chroot(
        root, "dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"
    )
    rows = (line.split() for line in debian_has.stdout.splitlines())
    assert {each for each in held if each[0] == "pkg:deb"} == {
        ("pkg:deb", name, version) for state, name, version in rows if state == "installed"
    }
    locked = {("pkg:pypi", name, pin.version) for name, pin in pins("enclave").items()}
    assert locked < held
    assert ("pkg:pypi", "nitro-enclave-agent", VERSION) in held


def test_python_compiles_nothing_when_it_starts(root: Path) -> None:
    """Every .pyc is valid whatever its source's date is (PEP 552: flags 1)."""
    sources = [*(root / HOME[1:] / "lib").rglob("*.py"), *(root / STDLIB).rglob("*.py")]
    assert len(sources) > 1000, "the test looks where there is nothing"
    for source in sources:
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-313.pyc"
        assert compiled.read_bytes()[4:8] == b"\1\0\0\0", compiled


def test_it_is_small(root: Path) -> None:
    sizes = {}
    for folder in (HOME[1:], STDLIB, "."):
        found = (path.lstat() for path in (root / folder).rglob("*") if not path.is_dir())
        sizes[folder] = sum(each.st_size for each in found)
    print("".join(f"\n{size / MEGABYTE:6.1f} MB {name}" for name, size in sizes.items()))
    assert sizes[HOME[1:]] < 40 * MEGABYTE
    assert sizes[STDLIB] < 32 * MEGABYTE


def test_the_program_in_it_starts(root: Path) -> None:
    done = chroot(root, "enclave-agent", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("enclave-agent 0.")


def test_the_main_job_runs_in_it(root: Path) -> None:
    done = enclave(root, "enclave-agent", "generate-random", "--number-of-bytes", "32")
    assert done.returncode == 0, done.stderr
    assert len(base64.b64decode(json.loads(done.stdout)["Plaintext"])) == 32


def test_outside_an_enclave_it_says_so(root: Path) -> None:
    command = ("generate-random", "--region", "eu-central-1", "--number-of-bytes", "32")
    done = chroot(root, "enclave-agent", *command)
    assert done.returncode != 0
    assert "error: cannot open /dev/nsm" in done.stderr


PROGRAM = """#!/usr/bin/python3
import os, urllib.request
url = os.environ["AWS_ENDPOINT_URL_KMS"]
headers = {"X-Amz-Target": "TrentService.GenerateRandom",
           "Content-Type": "application/x-amz-json-1.1"}
asked = urllib.request.Request(url, b'{"NumberOfBytes": 8}', headers)
print(urllib.request.urlopen(asked).read().decode())
"""


@pytest.fixture(scope="module")
def product(images: Storage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An image with a program beside the agent, as the documentation has it; and its CMD."""
    folder = tmp_path_factory.mktemp("product")
    (folder / "my-program").write_text(PROGRAM)
    (folder / "my-program").chmod(0o755)
    text = (ROOT / "docs" / "image.md").read_text()
    dockerfile = text.partition("```dockerfile\n")[2].partition("```")[0]
    assert "FROM nitro-enclave-agent" in dockerfile
    dockerfile = dockerfile.replace("nitro-enclave-agent\n", "localhost/first\n", 1)
    (folder / "Dockerfile").write_text(dockerfile)
    images.buildah("build", "-t", "localhost/program", str(folder))
    command = images.image("localhost/program")["OCIv1"]["config"]["Cmd"]
    assert command[:2] == [AGENT, "serve"]
    return images.mount("localhost/program"), command


def test_a_program_beside_it(product: tuple[Path, list[str]]) -> None:
    root, command = product
    # A port of the test's own, and nothing done to this machine's kernel.
    options = ["--listen", "tcp://127.0.0.1:0", "--no-seed-from-nsm", "--no-seed-from-kms"]
    done = enclave(root, *command[:2], *options, *command[2:])
    assert done.returncode == 0, done.stderr
    assert len(base64.b64decode(json.loads(done.stdout)["Plaintext"])) == 8


def test_it_boots(images: Storage, product: tuple[Path, list[str]], tmp_path: Path) -> None:
    """The commands of docs/image.md for a laptop; buildah in the place of Docker.

    With a real kernel's /dev/nsm, AF_VSOCK, lo and entropy pool, all its duties done; what the
    program prints comes through the parent's log sink.
    """
    _, command = product
    text = (ROOT / "docs" / "image.md").read_text()
    recipe = (
        "enclave-simulator setup-machine"
        + text.partition("```sh\nenclave-simulator setup-machine")[2].partition("```")[0]
    )
    logged = shlex.join(["--", *command[:2], "--log-to", "vsock://3:8003", *command[2:]])
    for documented, here in (
        ("docker build -t app .\n", ""),
        ("docker save app -o app.tar", "buildah push -q localhost/program docker-archive:app.tar"),
        ("--env AWS_REGION=us-east-1", f"--env AWS_REGION=us-east-1 {logged}"),
        ("boot app.eif", "boot app.eif --timeout 600"),
    ):
        assert documented in recipe
        recipe = recipe.replace(documented, here)
    try:
        qemu.set_up(debian.cache_folder())
    except UnavailableError as e:
        pytest.skip(f"{e}: {e.hint}")
    done = subprocess.run(
        ["sh", "-eu", "-c", recipe],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=TEST_TIMEOUT,
        env=os.environ | images.environ
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    print(done.stdout + done.stderr)
    (line,) = (line for line in done.stderr.splitlines() if '"Plaintext"' in line)
    assert len(base64.b64decode(json.loads(line[line.index("{") :])["Plaintext"])) == 8
    assert done.returncode == 0


def test_an_enclave_image_file_without_nitro_cli(images: Storage, tmp_path: Path) -> None:
    """The commands of docs/image.md, over made-up blobs; two images, one measurement."""
    text = (ROOT / "docs" / "image.md").read_text()
    recipe = text.partition("```sh\nimage=")[2].partition("```")[0]
    blobs = {
        "bzImage": archives.bzimage(),
        "cmdline": b"reboot=k panic=30",
        "init": archives.elf(),
        "nsm.ko": archives.elf(kind=1),
    }
    for name, content in blobs.items():
        (tmp_path / name).write_bytes(content)
    measured = []
    for name in ("localhost/first", "localhost/second"):
        recipe_here = f"image={name}\n" + recipe.partition("\n")[2]
        recipe_here = recipe_here.replace("/usr/share/nitro_enclaves/blobs", str(tmp_path))
        done = subprocess.run(
            ["sh", "-eu", "-c", recipe_here],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=TEST_TIMEOUT,
            env=os.environ | images.environ
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(done.args)}: {done.stderr}"
        measured.append(json.loads(done.stdout)["Measurements"])
        (tmp_path / "app.eif").unlink()
    assert measured[0] == measured[1]
    assert {"PCR0", "PCR1", "PCR2"} <= set(measured[0])


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_the_lock_has_wheels_for_graviton(python: str, tmp_path: Path) -> None:
    platforms = ("manylinux_2_28_aarch64", "manylinux2014_aarch64")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
         "--require-hashes", "--only-binary", ":all:", "--implementation", "cp",
         *(f"--platform={each}" for each in platforms), "--python-version", python,
         "--target", str(tmp_path), "-r", str(ROOT / "requirements/enclave.txt")],
        capture_output=True, text=True, check=False, timeout=TEST_TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
