"""The Grafana dashboard and the alert rules: what they ask for is what the daemon measures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from parent.credentials import CredentialService, CredentialSettings
from parent.credentials.model import Credentials
from parent.enclaves.component import EnclaveComponent
from parent.enclaves.runner import Subprocess
from parent.enclaves.settings import EnclaveSettings
from parent.http_server import Request
from parent.operations.metrics import Metrics
from tests.parent.operations import daemons
from tests.paths import ROOT
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from parent.component import Component

DEPLOY = ROOT / "parent/deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/enclave-parent.json").read_text())
RULES_FILE = DEPLOY / "prometheus/enclave-parent.rules.yaml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]
]

QUERIES = {
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    },
    **{rule["alert"]: rule["expr"] for rule in RULES},
}

ADDED = {"job", "instance"}
"""Labels that Prometheus adds to what it scrapes."""

WORDS = {"by", "without", "or", "and", "unless", "on", "ignoring", "offset", "bool"}


def measured() -> dict[str, set[str]]:
    """Every series that a daemon has, and its labels."""
    credentials = CredentialService(
        CredentialSettings(cids=frozenset({16})),
        load=lambda now: Credentials("ASIA", "s3cret", "t", now + timedelta(hours=1), "test"),
    )
    credentials.renew()
    credentials.server.respond(Request("GET", "/", cid=17))
    settings = EnclaveSettings("a", Path("/x.eif"), 512, 16, cpu_count=1)
    kinds: dict[str, Any] = {
        "rejected": {"cid": 1},
        "failed": {"timeout": 1},
        "broken": {"reset": 1},
    }
    components: list[Component] = [
        daemons.Proxy([daemons.forward("kms", up=1, down=1, **kinds)]),
        credentials,
        daemons.Logs([("a", 16, ["line"])]),
        EnclaveComponent(settings, Subprocess("nitro-cli"), turn=threading.Lock()),
    ]
    found: dict[str, set[str]] = defaultdict(set)
    found["up"] = set()
    for family in text_string_to_metric_families(Metrics(lambda: components).text().decode()):
        for sample in family.samples:
            found[sample.name] |= set(sample.labels)
    return found


def unknown(expression: str, series: dict[str, set[str]]) -> set[str]:
    """What a PromQL expression names that the daemon does not have: series and labels."""
    text = re.sub(r'"[^"]*"|\[[^]]*\]', " ", expression)
    matched = re.findall(r"\{([^}]*)\}", text)
    text = re.sub(r"\{[^}]*\}", " ", text)
    grouped = re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", text)
    text = re.sub(r"\b(?:by|without)\s*\([^)]*\)", " ", text)
    names = set(re.findall(r"\b[a-z_][a-z0-9_]*\b(?!\s*\()", text)) - WORDS
    labels = set(re.findall(r"[a-z_]+", " ".join([*matched, *grouped])))
    having = set().union(ADDED, *(series.get(name, set()) for name in names))
    assert names, f"no metric in {expression}"
    return (names - set(series)) | (labels - having)


def test_every_metric_and_label_exists() -> None:
    series = measured()
    assert len(QUERIES) > 30
    assert {name: missing for name in QUERIES if (missing := unknown(QUERIES[name], series))} == {}


@pytest.mark.parametrize(
    ("expression", "missing"),
    [
        ("rate(enclave_parent_proxy_bytes[5m])", {"enclave_parent_proxy_bytes"}),
        ('sum by (forwards) (enclave_parent_proxy_waiting{instance="a"})', {"forwards"}),
        ('enclave_parent_enclave_state{sate="running"} == 0', {"sate"}),
        ("enclave_parent_healthy / enclave_parent_health > 0.9", {"enclave_parent_health"}),
    ],
)
def test_the_check_finds_a_wrong_name(expression: str, missing: set[str]) -> None:
    assert unknown(expression, measured()) == missing


def test_annotations_name_labels_that_their_alert_has() -> None:
    series = measured()
    for rule in RULES:
        names = set(re.findall(r"\b(?:enclave_parent|process)_\w+|\bup\b", rule["expr"]))
        having = set.intersection(*(series[name] | ADDED for name in names))
        having -= set(re.findall(r"without \((\w+)\)", rule["expr"]))
        text = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= having, rule["alert"]
        assert set(re.findall(r"enclave_parent_\w+", text)) <= set(series)
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} <= set(rule["annotations"])


def test_the_dashboard_fits_together() -> None:
    panels = DASHBOARD["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(panels)))
    assert used - {"__rate_interval"} <= variables
    assert variables >= {"datasource", "instance"}


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool (apt-get install prometheus)")
@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", str(RULES_FILE)),
        ("test", "rules", str(ROOT / "tests/parent/deploy/alerts.yaml")),
    ],
    ids=["check", "test"],
)
def test_prometheus_takes_the_rules(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *command], capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
