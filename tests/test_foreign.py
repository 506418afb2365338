"""macOS and Windows: the relying party's half works there, and the rest says that it needs Linux.

Those systems' Python has neither the modules nor the names of Linux's system calls: they are taken
away from a Python here. That shows which of them are used; how another system behaves, it does not.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.enclave.attested_tls.serving import IMAGE, Program, program, served
from tests.enclave.attested_tls.serving import ROOT as SIMULATED_ROOT
from tests.enclave.nitro import NOW, Document
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

# What the standard library loads once it sees sys.platform is not to be had here, so it is loaded
# before.
PRELUDE = """
import asyncio, ctypes, http.client, logging.handlers, multiprocessing, platform, selectors, shutil
import ssl, subprocess, sysconfig, tempfile, urllib.request, uuid, webbrowser, zipfile
import os, select, signal, socket, sys

def without(module, *names):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

without(socket, "AF_VSOCK", "SOCK_NONBLOCK", "SOCK_CLOEXEC", "VMADDR_CID_ANY", "SO_PEERCRED")
without(os, "memfd_create", "eventfd", "EFD_CLOEXEC", "pidfd_open", "sched_getaffinity", "splice")
without(os, "O_TMPFILE", "O_PATH", "getrandom")
without(signal, "pidfd_send_signal", "SIGRTMIN")
without(select, *(name for name in dir(select) if name.lower().startswith("epoll")))
sys.platform = {platform!r}
platform.system = lambda: {system!r}
if {platform!r} == "win32":
    for name in ("fcntl", "resource", "pwd", "grp", "termios", "syslog"):
        sys.modules[name] = None
    without(socket, "AF_UNIX", "MSG_NOSIGNAL")
    without(os, "fork", "register_at_fork", "geteuid", "getuid", "O_NONBLOCK", "O_NOFOLLOW")
    without(os, "O_DIRECTORY", "O_CLOEXEC", "chown", "mkfifo")
    without(signal, "SIGHUP", "SIGKILL", "SIGUSR1", "SIGPIPE", "pthread_sigmask")
    without(select, "poll")
"""

SYSTEMS = [("darwin", "Darwin"), ("win32", "Windows")]

DOCUMENT = Document()


@pytest.fixture(params=SYSTEMS, ids=[name for _, name in SYSTEMS])
def system(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A system as `sys.platform` and as `platform.system` name it."""
    return (str(request.param[0]), str(request.param[1]))


def run(system: tuple[str, str], code: str) -> subprocess.CompletedProcess[str]:
    prelude = PRELUDE.replace("{platform!r}", repr(system[0])).replace(
        "{system!r}", repr(system[1])
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TEST_TIMEOUT,
        check=False,
    )


def command(system: tuple[str, str], module: str, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"""
        sys.argv[1:] = {list(words)!r}
        from {module} import main
        sys.exit(main())
        """
    return run(system, code)


def test_a_document_is_verified(system: tuple[str, str]) -> None:
    code = f"""
        from datetime import datetime
        from enclave import AttestationError, AttestationDocument, parse, verify
        raw = bytes.fromhex("{DOCUMENT.encode().hex()}")
        at = datetime.fromisoformat("{NOW.isoformat()}")
        root = bytes.fromhex("{DOCUMENT.root_fingerprint.hex()}")
        seen = verify(raw, at=at, max_age=None, pcrs=None, root_fingerprint=root)
        print(seen.module_id == parse(raw).module_id)
        try:
            verify(raw, at=at, max_age=None, pcrs=None)
        except AttestationError:
            print("not of AWS")
        """
    done = run(system, code)
    assert (done.stdout, done.stderr) == ("True\nnot of AWS\n", "")


def test_the_command_verifies_it(system: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "document").write_bytes(DOCUMENT.encode())
    root = DOCUMENT.root_fingerprint.hex()
    words = ("verify", str(tmp_path / "document"), "--simulated-root", root, "--help")
    done = command(system, "enclave.cli", *words)
    assert (done.stderr, done.returncode) == ("", 0)
    done = command(system, "enclave.cli", *words[:-1])
    assert "internal" not in done.stderr
    assert "expired" in done.stderr or done.returncode == 0, done.stderr


def test_an_enclave_is_proven_and_talked_to(system: tuple[str, str]) -> None:
    with program(Program()) as behind, served(behind.port) as made:
        url = f"https://127.0.0.1:{made.port}/"
        words = ("fetch", url, "--pcr0", IMAGE.hex(), "--simulated-root", SIMULATED_ROOT.hex())
        done = command(system, "enclave.cli", *words)
        assert (done.stdout, done.returncode) == ("hi", 0), done.stderr
        done = command(system, "enclave.cli", *words, "--connect", "vsock://16:8443")
        assert f"needs Linux; this is {system[1]}" in done.stderr


@pytest.mark.parametrize("name", ["describe-eif", "build-eif", "diff-eif", "pcr", "key-policy"])
def test_commands_for_images_and_policies_load(system: tuple[str, str], name: str) -> None:
    done = command(system, "parent.cli", name, "--help")
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_policy_is_generated_and_an_image_that_is_not_there_named(
    system: tuple[str, str],
) -> None:
    done = command(system, "parent.cli", "describe-eif", "/nonexistent.eif")
    assert done.stderr.startswith("enclave-parent: error: cannot read /nonexistent.eif"), (
        done.stderr
    )
    words = ("PCR0=" + "ab" * 48, "--role", "arn:aws:iam::111122223333:role/r")
    administrator = ("--administrator", "arn:aws:iam::111122223333:role/a")
    done = command(system, "parent.cli", "key-policy", "generate", *words, *administrator)
    assert (done.stderr, done.returncode) == ("", 0)
    assert "kms:RecipientAttestation" in done.stdout


@pytest.mark.parametrize(
    ("module", "words", "what"),
    [
        ("enclave.cli", ("generate-random", "--number-of-bytes", "8"), "enclave-agent generate-"),
        ("enclave.cli", ("serve",), "enclave-agent serve"),
        ("vsock_proxy.__main__", ("8000", "host", "443"), "vsock-proxy"),
        ("enclave_simulator.cli", ("run", "--", "true"), "enclave-simulator"),
        ("parent.cli", ("run", "--config", "x"), "enclave-parent run"),
        ("parent.cli", ("status",), "enclave-parent status"),
    ],
)
def test_what_needs_linux_says_so(
    system: tuple[str, str], module: str, words: tuple[str, ...], what: str
) -> None:
    done = command(system, module, *words)
    error, hint = done.stderr.splitlines()
    assert f": error: {what}" in error
    assert error.endswith(f"needs Linux; this is {system[1]}")
    assert "Linux virtual machine" in hint
    assert done.returncode != 0


def test_names_that_need_linux_say_so(system: tuple[str, str]) -> None:
    code = """
        import enclave
        for name in enclave.__all__:
            try:
                getattr(enclave, name)
            except enclave.ConfigurationError as e:
                print(e)
        """
    done = run(system, code)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(line.endswith(f"needs Linux; this is {system[1]}") for line in lines)
    for name in ("verify", "parse", "AttestationDocument", "AgentError", "Credentials"):
        assert not any(line.startswith(f"enclave.{name} ") for line in lines)


def test_the_pytest_plugin_loads(system: tuple[str, str]) -> None:
    done = run(system, "import enclave_simulator.pytest_plugin")
    assert (done.stderr, done.returncode) == ("", 0)
