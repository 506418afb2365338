"""What goes into the enclave image, by its recipe. `make test-image` looks into a built one."""

from __future__ import annotations

import json
import re

from tests.image.recipe import instructions
from tests.paths import ROOT

ENTERS = {"enclave", "vsock_proxy", "requirements", "pyproject.toml", "README.md", "LICENSE"}
"""The last three are what a wheel is made with; of them only README and LICENSE's text stays."""


def named(name: str) -> list[str]:
    return [each.text for each in instructions() if each.name == name]


def test_only_the_two_packages_and_what_builds_them_are_copied() -> None:
    copied = {
        source.rstrip("/")
        for each in instructions()
        if each.name == "COPY" and "--from=" not in each.text
        for source in each.sources
    }
    assert copied == ENTERS
    assert not named("ADD")


def test_the_builder_is_shown_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    shown = {rule[1:].partition("/")[0] for rule in rules if rule.startswith("!")}
    assert shown == ENTERS
    # Of no use, and of whatever machine they were made on.
    assert {"**/__pycache__", "**/*.py[co]", "**/*.so"} < set(rules)
    last_shown = max(number for number, rule in enumerate(rules) if rule.startswith("!"))
    assert rules.index("**/__pycache__") > last_shown, "the last rule that matches decides"


def test_from_the_build_only_the_finished_folder_is_taken() -> None:
    last = instructions()[-1].stage
    copies = [each for each in instructions() if each.stage == last and each.name == "COPY"]
    assert [each.text for each in copies] == [
        "--from=build /opt/nitro-enclave-agent /opt/nitro-enclave-agent"
    ]


def test_the_base_is_pinned_and_an_argument() -> None:
    (base,) = (text for text in named("ARG") if text.startswith("BASE_IMAGE="))
    assert re.search(r":3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", base)
    assert named("FROM") == [
        "${SDK_IMAGE} AS sdk",
        "${BUILD_IMAGE} AS build",
        "${BASE_IMAGE} AS enclave",
    ]


def test_whatever_is_installed_is_checked_against_the_lock() -> None:
    ran = " && ".join(named("RUN"))
    commands = re.findall(r"tools/bin/pip .*?(?=&&|$)", ran)
    assert len(commands) == 4, ran
    for command in commands:
        locked = {"--require-hashes", "--only-binary", "--requirement"}
        assert locked <= set(command.split()) or "--no-index" in command, command
    assert not re.search(r"\b(curl|wget|apt-get|apk|git)\b", ran)


def test_it_starts_under_nitro_cli_as_under_docker() -> None:
    # nitro-cli takes CMD alone (aws-nitro-enclaves-cli 1.5.0, enclave_build/src/docker.rs,
    # extract_image): half a command in ENTRYPOINT would be lost.
    assert named("ENTRYPOINT") == ["[]"]
    (command,) = named("CMD")
    assert json.loads(command) == ["/opt/nitro-enclave-agent/bin/enclave-agent", "serve"]
    assert not named("USER")
    assert instructions()[-1].name == "CMD"


def test_amazons_roots_lie_ready_before_dates_are_set() -> None:
    (run,) = [
        each.text
        for each in instructions()
        if each.name == "RUN" and "-m enclave.kms.roots" in each.text
    ]
    assert run.index("-m enclave.kms.roots") < run.index("touch --no-dereference")
