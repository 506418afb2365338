"""docs/parent.md: its file is one, and its metrics are those there are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from parent.credentials import CredentialService
from parent.daemon.configuration import SECTIONS, load_configuration
from parent.enclaves.group import Enclaves
from parent.logs.component import LogSink
from parent.logs.settings import LogSettings
from parent.operations.metrics import Metrics
from parent.proxy import ProxyService
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import UnixAddress
from vsock_proxy.proxy.section import ProxySettings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from parent.component import Component

DOCUMENT = ROOT / "docs/parent.md"


def test_its_file_has_every_section_and_is_taken(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    path = tmp_path / "parent.yaml"
    path.write_text(text)
    found = load_configuration(path)
    assert all(getattr(found, section) for section in SECTIONS)
    assert found.credentials
    assert found.credentials.profile == "enclave"


def test_its_metrics_are_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (table,) = re.findall(r"\| metric .*?\n\n", DOCUMENT.read_text(), re.DOTALL)
    documented = {
        name
        for row in table.split("\n")[2:-2]
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    path = tmp_path / "parent.yaml"
    path.write_text(
        "credentials: {cids: any}\n"
        "enclaves: [{name: a, eif: /x.eif, memory_mib: 64, cpus: 1, cid: 16}]\n"
    )
    configuration = load_configuration(path)
    assert configuration.credentials
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "x")
    credentials = CredentialService(configuration.credentials)
    credentials.renew()
    proxy = ProxyService(ProxySettings((), drain_timeout=0.0))
    logs = LogSink(LogSettings(cids=None, listen=UnixAddress(str(tmp_path / "l")), to="stderr"))
    components: list[Component] = [
        proxy, credentials, logs, *Enclaves(configuration.enclaves).components
    ]  # fmt: skip
    for component in (proxy, logs):
        component.start()
    eventually(lambda: proxy.status().healthy)
    text = Metrics(lambda: components).text().decode()
    for component in (proxy, logs):
        component.stop(TEST_TIMEOUT)
    types = re.findall(r"^# TYPE enclave_parent_(\w+) \w+$", text, re.MULTILINE)
    assert documented == set(types)
